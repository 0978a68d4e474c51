package hive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/client"
	"rbee/hive"
	"rbee/internal/conf"
	"rbee/internal/engines/enginestest"
)

// The programs that the tests run, built once: the hive, and a worker with the
// fake engine.
var hiveProgram, workerProgram string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "rbee-hive-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
		cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "rbee/cmd/rbee-hive", "rbee/worker/workertest/fakeworker")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build the programs: %v\n%s", err, out)
			return 1
		}
		hiveProgram, workerProgram = filepath.Join(dir, "rbee-hive"), filepath.Join(dir, "fakeworker")
		return m.Run()
	}())
}

// patience bounds what should happen at once; a test that waits longer has failed.
const patience = 30 * time.Second

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// running is a hive in this process.
type running struct {
	*client.Client
	t    testing.TB
	home string
	log  logBuffer
	end  func() error // ends the hive and waits
}

// environ is the environment of a hive on a free port with a state directory
// of its own and the fake worker. NAME=value in more comes last and wins.
func environ(t testing.TB, home string, more ...string) []string {
	return append([]string{
		"HF_HOME=" + filepath.Join(home, "hf"), "RBEE_HOME=" + home, "RBEE_HIVE_ADDR=127.0.0.1:0", "RBEE_WORKER_PROGRAM=" + workerProgram, "RBEE_ENGINE_DIR=" + enginestest.Dir(t),
	}, more...)
}

// start runs a hive until the test ends.
func start(t testing.TB, env ...string) *running {
	t.Helper()
	return startAt(t, t.TempDir(), env...)
}

func startAt(t testing.TB, home string, env ...string) *running {
	t.Helper()
	return startTuned(t, home, func(*hive.Hive) {}, env...)
}

// startTuned is startAt for a hive that is changed before it runs.
func startTuned(t testing.TB, home string, tune func(*hive.Hive), env ...string) *running {
	t.Helper()
	before := goleak.IgnoreCurrent()
	env = environ(t, home, env...)
	settings, err := conf.Load(conf.Options{Home: home, Environ: env})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, home: home}
	h, err := hive.New(hive.Config{Settings: settings, Environ: env, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	tune(h)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	key, err := settings.Hive.ReadKey()
	if err != nil {
		t.Fatal(err)
	}
	r.Client = client.New(r.address(ended), client.Key(key.Reveal()))
	r.end = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		r.Close()
		goleak.VerifyNone(t, before)
		return err
	})
	t.Cleanup(func() {
		if err := r.end(); err != nil {
			t.Errorf("the hive ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of the hive:\n%s", r.log.String())
		}
	})
	return r
}

// address waits until the hive says where it is.
func (r *running) address(ended <-chan error) string {
	r.t.Helper()
	var note struct{ URL string }
	r.eventually("run/hive.json", func() bool {
		select {
		case err := <-ended:
			r.t.Fatalf("the hive ended: %v\n%s", err, r.log.String())
		default:
		}
		b, err := os.ReadFile(filepath.Join(r.home, "run", "hive.json"))
		return err == nil && json.Unmarshal(b, &note) == nil
	})
	return note.URL
}

func (r *running) eventually(what string, is func() bool) {
	r.t.Helper()
	eventually(r.t, what, is)
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// spawn starts a worker for bee-tiny.
func (r *running) spawn(change ...func(*rbee.SpawnRequest)) rbee.SpawnReply {
	r.t.Helper()
	req := rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"}
	for _, c := range change {
		c(&req)
	}
	reply, err := r.Spawn(r.t.Context(), req)
	if err != nil {
		r.t.Fatalf("Spawn: %v (%v)", err, rbee.AsError(err).Details)
	}
	return reply
}

// ready starts a worker and waits until it takes requests.
func (r *running) ready(change ...func(*rbee.SpawnRequest)) (rbee.WorkerID, *client.Client) {
	r.t.Helper()
	reply := r.spawn(change...)
	r.wait(reply.WorkerID, rbee.WorkerIdle)
	return reply.WorkerID, r.At(reply.URL)
}

// imported takes one file into the store.
func (r *running) imported(req rbee.ImportRequest) (m rbee.Model) {
	r.t.Helper()
	for step, err := range r.ImportModels(r.t.Context(), req) {
		must(r.t, err)
		if step.Error != nil {
			r.t.Fatal(step.Error)
		}
		if step.Stage == rbee.StoreImported {
			m = *step.Model
		}
	}
	return m
}

// wait waits for a state of a worker.
func (r *running) wait(id rbee.WorkerID, state rbee.WorkerState) rbee.Worker {
	r.t.Helper()
	var w rbee.Worker
	r.eventually("worker "+string(state), func() bool {
		var err error
		if w, err = r.Worker(r.t.Context(), id); err != nil {
			r.t.Fatal(err)
		}
		if w.State.Final() && w.State != state {
			r.t.Fatalf("worker is %s: %s %s %v", w.State, w.Reason, w.ExitCause, w.LastLogs)
		}
		return w.State == state
	})
	return w
}

func (r *running) workers() []rbee.Worker {
	r.t.Helper()
	list, err := r.Workers(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

// raw is the body of a request without our client in between.
func (r *running) raw(method, path, body string) (int, string, http.Header) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.Base()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// infer collects the tokens of a stream and how it ended.
func infer(ctx context.Context, w *client.Client, tokens int) (text string, done *rbee.InferDone, err error) {
	for ev, err := range w.Infer(ctx, rbee.InferRequest{Prompt: "Once upon a time", MaxTokens: &tokens}) {
		if err != nil {
			return text, nil, err
		}
		text += ev.Token
		if ev.InferDone != nil {
			done = ev.InferDone
		}
	}
	return text, done, nil
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return len(fields) > 0 && fields[0] != "Z"
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// logged says whether the log has a line with the message; slog's text quotes it.
func (r *running) logged(message string) bool {
	return slices.ContainsFunc(strings.Split(r.log.String(), "\n"), func(line string) bool {
		return strings.Contains(line, fmt.Sprintf("msg=%q", message))
	})
}
