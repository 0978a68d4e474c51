//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/engines/enginestest"
	"rbee/internal/netns"
)

// colony is one state directory and all processes that use it.
type colony struct {
	t     *testing.T
	bin   string // directory of the programs
	home  string
	work  string // working directory of the programs
	tmp   string // TMPDIR of the programs
	notes string // what the programs wrote, and reports of the race detector
	env   []string
	place netns.Place // where the programs run

	mu      sync.Mutex
	ports   map[string]bool // inodes of all listening sockets that were seen
	seen    map[int]string  // processes that were seen, and when they started
	shared  map[string]bool // shared memory that was seen
	callers []*client.Client
	started []*running
	killed  time.Time // when the test had killed what it kills
}

// newColony makes a colony whose programs are in programs.dir, and has the
// traces of it looked for when the test ends.
func newColony(t *testing.T, env ...string) *colony {
	t.Helper()
	base := t.TempDir()
	c := &colony{
		t:     t,
		bin:   programs.dir,
		home:  filepath.Join(base, "home"),
		work:  filepath.Join(base, "work"),
		tmp:   filepath.Join(base, "tmp"),
		notes: filepath.Join(base, "notes"),
		ports: map[string]bool{}, seen: map[int]string{}, shared: map[string]bool{},
	}
	for _, dir := range []string{c.work, c.tmp, c.notes} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); !strings.HasPrefix(name, "RBEE_") && name != "TMPDIR" {
			c.env = append(c.env, kv)
		}
	}
	c.env = append(c.env,
		"RBEE_HOME="+c.home, "RBEE_ENGINE_DIR="+enginestest.Dir(t), "RBEE_WORKER_THREADS=1",
		"TMPDIR="+c.tmp, "E2E_NOTES="+c.notes, "GORACE=log_path="+filepath.Join(c.notes, "race"))
	c.env = append(c.env, env...)
	t.Cleanup(c.verify)
	return c
}

// fake makes the colony's workers run the fake engine as script says.
func (c *colony) fake(script string) {
	c.noted(programs.fake)
	c.env = append(c.env, "RBEE_FAKE_ENGINE="+script)
}

// noted makes hives and workers note what they write on standard error, where
// nobody else would see the panic of a private hive. It also makes worker the
// program of the workers.
func (c *colony) noted(worker string) {
	c.bin = programs.noted
	c.env = append(c.env, "RBEE_WORKER_PROGRAM="+programs.notedWorker, "E2E_WORKER="+worker)
}

// running is a program that the test started.
type running struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err string // files
	done     chan struct{}
}

// start starts a program with nothing on standard input.
func (c *colony) start(program string, args ...string) *running {
	c.t.Helper()
	return c.startWith(nil, program, args...)
}

func (c *colony) startWith(stdin *os.File, program string, args ...string) *running {
	c.t.Helper()
	out, err := os.CreateTemp(c.notes, program+".out.")
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	errOut, err := os.CreateTemp(c.notes, program+".err.")
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = errOut.Close() }()
	cmd := c.place.Command(filepath.Join(c.bin, program), args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env, c.work, out, errOut
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	r := &running{t: c.t, cmd: cmd, out: out.Name(), err: errOut.Name(), done: make(chan struct{})}
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = cmd.Wait()
		close(r.done)
	})
	c.started = append(c.started, r)
	return r
}

// run runs a program to its end.
func (c *colony) run(program string, args ...string) *running {
	c.t.Helper()
	r := c.start(program, args...)
	r.wait()
	return r
}

func (r *running) pid() int { return r.cmd.Process.Pid }

// wait blocks until the program has ended and says how: "exit status 1" or "signal: killed".
func (r *running) wait() string {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("%v has not ended after %v\n%s", r.cmd.Args, patience, r.stderr())
	}
	return r.cmd.ProcessState.String()
}

// mustExit fails the test unless the program ends as it should.
func (r *running) mustExit(want string) {
	r.t.Helper()
	if got := r.wait(); got != want {
		r.t.Errorf("%v: %s, want %s\nstdout: %.2000s\nstderr: %.4000s", r.cmd.Args, got, want, r.stdout(), r.stderr())
	}
}

func (r *running) stdout() string { return readText(r.t, r.out) }
func (r *running) stderr() string { return readText(r.t, r.err) }

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// procs lists the processes of the colony and remembers their ports.
func (c *colony) procs() []proc {
	c.t.Helper()
	found := procsOf(c.t, c.home)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range found {
		for _, inode := range listeners(p.pid) {
			c.ports[inode] = true
		}
		for _, path := range sharedMemory(p.pid) {
			c.shared[path] = true
		}
		if _, start := stat(p.pid); start != "" {
			c.seen[p.pid] = start
		}
	}
	return found
}

// find waits until exactly one process matches.
func (c *colony) find(what string, match func(proc) bool) proc {
	c.t.Helper()
	var found []proc
	eventually(c.t, what+" runs", func() bool {
		found = slices.DeleteFunc(c.procs(), func(p proc) bool { return !match(p) })
		return len(found) == 1
	})
	return found[0]
}

func isWorker(p proc) bool { return p.flag("--worker-id") != "" }

// isHive leaves the shell out that becomes the hive.
func isHive(p proc) bool { return filepath.Base(p.argv[0]) == "rbee-hive" }

// daemon starts a hive on a free port and waits until it answers.
func (c *colony) daemon(args ...string) (*running, *client.Client) {
	c.t.Helper()
	r := c.start("rbee-hive", append([]string{"daemon", "--addr", "127.0.0.1:0"}, args...)...)
	var calls *client.Client
	eventually(c.t, "the hive answers", func() bool {
		select {
		case <-r.done:
			c.t.Fatalf("the hive ended: %s\n%s", r.wait(), r.stderr())
		default:
		}
		calls = c.hive()
		return calls != nil
	})
	return r, calls
}

// caller makes a client that is closed with the test.
func (c *colony) caller(base string, opts ...client.Option) *client.Client {
	calls := client.New(base, opts...)
	c.callers = append(c.callers, calls)
	c.t.Cleanup(calls.Close)
	return calls
}

// spawn starts a worker and waits until it is idle.
func (c *colony) spawn(hive *client.Client, req rbee.SpawnRequest) rbee.Worker {
	c.t.Helper()
	reply, err := hive.Spawn(c.t.Context(), req)
	if err != nil {
		c.t.Fatalf("cannot spawn: %v", err)
	}
	return c.awaitState(hive, reply.WorkerID, rbee.WorkerIdle)
}

// awaitState waits until a worker is in a state.
func (c *colony) awaitState(hive *client.Client, id rbee.WorkerID, want rbee.WorkerState) rbee.Worker {
	c.t.Helper()
	var w rbee.Worker
	eventually(c.t, "the worker is "+string(want), func() bool {
		var err error
		w, err = hive.Worker(c.t.Context(), id)
		if err != nil {
			c.t.Fatalf("cannot ask for worker %s: %v", id, err)
		}
		if w.State != want && w.State.Final() {
			c.t.Fatalf("worker %s is %s: %s %s %q", id, w.State, w.Reason, w.ExitCause, w.LastLogs)
		}
		return w.State == want
	})
	return w
}

// verify fails the test for every trace that the colony left, and removes it.
// Until then it gives the kernel time: a process that was killed is a zombie
// before the last of its threads has closed its sockets.
func (c *colony) verify() {
	t := c.t
	if !t.Failed() {
		c.awaitNothing()
	}
	for _, p := range c.procs() {
		t.Errorf("left: process %s", p)
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	for _, r := range c.started {
		<-r.done
	}
	if left := c.leftListening(); len(left) > 0 && !t.Failed() {
		t.Errorf("left: listening sockets %v", left)
	}
	if left := c.zombies(); len(left) > 0 && !t.Failed() {
		t.Errorf("left: zombies %v", left)
	}
	for path := range c.shared {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("left: shared memory %s", path)
		}
	}
	c.verifyFiles()
	c.verifyNotes()
}

// awaitNothing waits until nothing is left, or for as long as it may take.
func (c *colony) awaitNothing() {
	for deadline := time.Now().Add(mayTake()); c.left() > 0 && time.Now().Before(deadline); {
		<-time.After(20 * time.Millisecond)
	}
	if c.left() > 0 {
		c.t.Errorf("%d processes, ports and zombies are left after %v", c.left(), mayTake())
	} else if !c.killed.IsZero() {
		c.t.Logf("nothing was left %v after the kill", time.Since(c.killed).Round(time.Millisecond))
		c.killed = time.Time{}
	}
}

// left counts what may still go by itself.
func (c *colony) left() int { return len(c.procs()) + len(c.leftListening()) + len(c.zombies()) }

// zombies are the processes of the colony that have ended and that nobody
// collected. Those that the test started are its own to collect.
func (c *colony) zombies() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var left []int
	for pid, start := range c.seen {
		own := slices.ContainsFunc(c.started, func(r *running) bool { return r.pid() == pid })
		if state, now := stat(pid); state == 'Z' && now == start && !own {
			left = append(left, pid)
		}
	}
	return left
}

// leftListening returns the addresses of sockets of the colony that still listen.
func (c *colony) leftListening() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var left []string
	for inode, addr := range allListeners() {
		if c.ports[inode] {
			left = append(left, addr)
		}
	}
	return left
}

// verifyFiles looks for files that are no part of a state directory at rest.
func (c *colony) verifyFiles() {
	if left, _ := os.ReadDir(c.tmp); len(left) > 0 {
		c.t.Errorf("left in the temporary directory: %v", left)
	}
	_ = filepath.WalkDir(c.home, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no program came so far that it made one
		}
		if err != nil {
			c.t.Error(err)
			return nil
		}
		name := d.Name()
		if !d.IsDir() && (strings.Contains(name, ".tmp") || strings.Contains(name, ".part") || strings.HasSuffix(name, ".new") || strings.HasPrefix(name, "tmp")) {
			c.t.Errorf("left in the state directory: %s", path)
		}
		if !d.IsDir() && strings.HasSuffix(name, ".db") && path != filepath.Join(c.home, "models.db") {
			c.t.Errorf("a database besides models.db: %s", path)
		}
		return nil
	})
}

// log is what the hives wrote that note it.
func (c *colony) log() string {
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(c.notes, "hive.*"))
	for _, file := range files {
		all.WriteString(readText(c.t, file))
	}
	return all.String()
}

// verifyNotes looks for races and panics in what the programs wrote.
func (c *colony) verifyNotes() {
	files, err := filepath.Glob(filepath.Join(c.notes, "*"))
	if err != nil || len(c.started) > 0 && len(files) == 0 {
		c.t.Errorf("nothing is noted: %v", err)
	}
	for _, logs := range []string{"*.log*", "workers/*"} {
		if found, err := filepath.Glob(filepath.Join(c.home, "logs", logs)); err == nil {
			files = append(files, found...)
		}
	}
	for _, file := range files {
		text := readText(c.t, file)
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:", "panic recovered"} {
			if strings.Contains(text, bad) {
				c.t.Errorf("%s in %s:\n%.6000s", bad, filepath.Base(file), text)
				break
			}
		}
	}
}

// hive is a client for the daemon of run/hive.json, nil until it answers.
func (c *colony) hive() *client.Client {
	url := hiveURL(filepath.Join(c.home, "run", "hive.json"))
	if url == "" {
		return nil
	}
	calls := c.caller(url)
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	if _, err := calls.Health(ctx); err != nil {
		return nil
	}
	return calls
}

func hiveURL(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var said struct {
		URL string `json:"url"`
	}
	if json.Unmarshal(text, &said) != nil {
		return ""
	}
	return said.URL
}
