package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/netns"
)

// fleet is a queen and hives, each in a state directory of its own, whose workers
// run an engine without a model: what they take is a script, so that machines of
// different speeds fit into one.
type fleet struct {
	cfg    config
	net    *netns.Network // its places are those of the hives
	key    string         // of the hives, which may listen on more than loopback
	dir    string
	worker string // program of the workers
	model  string // file that they take for a model
	queen  *daemon
	hives  []*daemon
}

// daemon is a program that answers.
type daemon struct {
	cmd   *exec.Cmd // its standard input is a pipe: it ends when that closes
	calls *client.Client
}

// patience bounds what a program may take to do what it must.
const patience = 30 * time.Second

// startFleet starts one on loopback, where one more hive may come.
func startFleet(ctx context.Context, cfg config, scripts []string, slots, space int) (*fleet, error) {
	return startFleetIn(ctx, cfg, netns.Loopback(len(scripts)+1), scripts, slots, space)
}

// startFleetIn starts a queen and as many hives as there are scripts, each at a place
// of a network, which ends with them. Each has a worker of so many slots, that has
// room for so many tokens in each.
func startFleetIn(ctx context.Context, cfg config, network *netns.Network, scripts []string, slots, space int) (f *fleet, err error) {
	f = &fleet{cfg: cfg, net: network, key: rand.Text()}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.dir, err = os.MkdirTemp("", "rbee-bench-"); err != nil {
		return f, err
	}
	if f.model, err = cfg.model("small"); err != nil {
		return f, err
	}
	f.worker = filepath.Join(f.dir, "fakeworker")
	build := exec.CommandContext(ctx, "go", "build", "-o", f.worker, "rbee/worker/workertest/fakeworker")
	if text, err := build.CombinedOutput(); err != nil {
		return f, fmt.Errorf("cannot build the worker: %w\n%s", err, text)
	}
	if f.queen, err = f.start(ctx, netns.Place{}, "queen-rbee", "queen", []string{"RBEE_QUEEN_NAMES=" + f.net.Gate},
		"daemon", "--addr", "127.0.0.1:0", "--bus-addr", f.net.Gate+":0", "--no-hive"); err != nil {
		return f, err
	}
	for _, script := range scripts {
		if err := f.addHive(ctx, script, slots, space); err != nil {
			return f, err
		}
	}
	return f, f.await(ctx, "the queen knows all workers", func() bool {
		workers, err := f.queen.calls.ColonyWorkers(ctx)
		return err == nil && len(workers) == len(scripts)
	})
}

// addHive starts a hive that joins, and its worker where it has a script.
func (f *fleet) addHive(ctx context.Context, script string, slots, space int, env ...string) error {
	token, err := f.queen.calls.NewToken(ctx, rbee.TokenRequest{Name: "bench"})
	if err != nil {
		return err
	}
	place, name := f.net.Places[len(f.hives)], fmt.Sprintf("hive-%d", len(f.hives))
	h, err := f.start(ctx, place, "rbee-hive", name, append(env, "RBEE_HIVE_JOIN="+token.Token, "RBEE_HIVE_KEY="+f.key,
		"RBEE_WORKER_PROGRAM="+f.worker, "RBEE_FAKE_ENGINE="+script), "daemon", "--addr", place.Addr+":0")
	if h != nil {
		f.hives = append(f.hives, h)
	}
	if err != nil || script == "" {
		return err
	}
	queue := 1024 // nothing is refused that could wait
	reply, err := h.calls.Spawn(ctx, rbee.SpawnRequest{ModelRef: "file:" + f.model, Slots: slots, Context: space, Queue: &queue, KeepAlive: "forever"})
	if err != nil {
		return err
	}
	return f.await(ctx, "the worker is ready", func() bool {
		w, err := h.calls.Worker(ctx, reply.WorkerID)
		return err == nil && w.State == rbee.WorkerIdle
	})
}

// start starts a program at a place and waits until it answers.
func (f *fleet) start(ctx context.Context, place netns.Place, program, name string, env []string, args ...string) (*daemon, error) {
	home := filepath.Join(f.dir, name)
	d := &daemon{cmd: place.Command(filepath.Join(f.cfg.bin, program), args...)}
	d.cmd.Env = append(append(os.Environ(), env...), "RBEE_HOME="+home, "RBEE_ENGINE_DIR="+f.cfg.engineDir, "RBEE_DEATH_PIPE=1", "RBEE_LOG_LEVEL=warn")
	if _, err := d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s (run 'make build'): %w", program, err)
	}
	role := "hive"
	if program == "queen-rbee" {
		role = "queen"
	}
	return d, f.await(ctx, "the "+name+" answers", func() bool {
		var said struct{ URL string }
		text, err := os.ReadFile(filepath.Join(home, "run", role+".json"))
		if err != nil || json.Unmarshal(text, &said) != nil {
			return false
		}
		d.calls = client.New(said.URL, client.Key(f.key))
		_, err = d.calls.Health(ctx)
		return err == nil
	})
}

// await polls until ok.
func (f *fleet) await(ctx context.Context, what string, ok func() bool) error {
	for deadline := time.Now().Add(patience); ctx.Err() == nil; wait(ctx, 20*time.Millisecond) {
		if ok() {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("still not so: " + what)
		}
	}
	return context.Cause(ctx)
}

// close ends all programs, and the network.
func (f *fleet) close() error {
	var errs []error
	all := f.hives
	if f.queen != nil {
		all = append(all, f.queen)
	}
	for _, d := range all {
		errs = append(errs, d.close())
	}
	if f.dir != "" {
		errs = append(errs, os.RemoveAll(f.dir))
	}
	errs = append(errs, f.net.Remove())
	return errors.Join(errs...)
}

func (d *daemon) close() error {
	err := d.cmd.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	return errors.Join(err, d.cmd.Wait()) // which closes the pipe
}

// alone starts a worker without a hive.
func (f *fleet) alone(ctx context.Context, script string, slots, space int) (*daemon, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(listener.Addr().String(), ":")
	if err := listener.Close(); err != nil {
		return nil, err
	}
	w := &daemon{cmd: exec.Command(f.worker, "--model", f.model, "--port", port, "--slots", fmt.Sprint(slots), //nolint:gosec // a program of ours
		"--context", fmt.Sprint(space), "--kv-tokens", fmt.Sprint(slots*space), "--queue", "1024", "--log-level", "warn")}
	w.cmd.Env = append(os.Environ(), "RBEE_FAKE_ENGINE="+script, "RBEE_DEATH_PIPE=1")
	if _, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	w.calls = client.New("http://127.0.0.1:" + port)
	return w, f.await(ctx, "the worker answers", func() bool {
		r, err := w.calls.Ready(ctx)
		return err == nil && r.Ready
	})
}

// resident is what a process has in memory, in bytes.
func resident(pid int) (bytes int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	_, err = fmt.Sscanf(rest, "%d kB", &bytes)
	return bytes << 10, err
}
