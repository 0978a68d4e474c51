package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/engines"
	"rbee/internal/engines/enginestest"
	"rbee/internal/supervise"
	"rbee/worker"
	"rbee/worker/engine"
	"rbee/worker/engine/fake"
	"rbee/worker/engine/llamacpp"
)

// programEnv makes the test binary a worker: "fake", "hangs in close" or "hangs in load".
const programEnv = "RBEE_TEST_WORKER"

func fakeEngine(s fake.Script) worker.Engine {
	return worker.Engine{
		Load:    fake.Loader(s),
		Devices: func(string, *slog.Logger) (rbee.DeviceList, error) { return fake.Devices(), nil },
	}
}

// program is the main of the test binary as a worker.
func program() {
	e := fakeEngine(fake.Script{Token: 5 * time.Millisecond, EOSAt: 1 << 30})
	load := e.Load
	switch os.Getenv(programEnv) {
	case "hangs in close":
		e.Load = func(ctx context.Context, o engine.Options, p func(rbee.LoadProgress)) (engine.Engine, error) {
			e, err := load(ctx, o, p)
			return hanging{e}, err
		}
	case "hangs in load":
		e.Load = func(context.Context, engine.Options, func(rbee.LoadProgress)) (engine.Engine, error) {
			time.Sleep(time.Hour)
			return nil, errors.New("too late")
		}
	}
	ctx, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, release)
	os.Exit(worker.Main(ctx, worker.Process{Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}, e))
}

type hanging struct{ engine.Engine }

func (hanging) Close() error {
	time.Sleep(time.Hour)
	return nil
}

// output may be written and read at once.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// command runs Main in this process until it returns.
func command(ctx context.Context, e worker.Engine, environ []string, args ...string) (code int, stdout, stderr string) {
	var out, errs output
	code = worker.Main(ctx, worker.Process{Args: args, Environ: environ, Stdout: &out, Stderr: &errs}, e)
	return code, out.String(), errs.String()
}

func modelFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrongUseIsExplained(t *testing.T) {
	model := modelFile(t)
	loose := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(loose, []byte("sesame"), 0o644); err != nil { //nolint:gosec // loose on purpose
		t.Fatal(err)
	}
	cases := []struct {
		name string
		args []string
		says []string // in stderr
	}{
		{"no model", nil, []string{"--model is missing"}},
		{
			"all faults at once",
			[]string{"--slots", "0", "--backend", "abacus", "--port", "70000", "--queue", "-1", "--load-timeout", "0s", "--callback-url", "x", "--worker-id", "a b"},
			[]string{"--model", "--slots", "--backend", "--port", "--queue", "--load-timeout", "--callback-url", "--worker-id"},
		},
		{"adapters and shares", []string{"--model", model, "--tensor-split", "1,x", "--lora", ""}, []string{"--tensor-split", "--lora"}},
		{"unknown flag", []string{"--speed", "9"}, []string{"unknown flag: --speed"}},
		{"no number", []string{"--slots", "many"}, []string{"--slots"}},
		{"unknown command", []string{"dance"}, []string{"dance"}},
		{"arguments after devices", []string{"devices", "all"}, []string{"all"}},
		{"loose key file", []string{"--model", model, "--key-file", loose}, []string{"key"}},
		{"no key file", []string{"--model", model, "--key-file", loose + "x"}, []string{"does not exist"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := command(t.Context(), fakeEngine(fake.Script{}), nil, c.args...)
			if code != rbee.ExitUsage || stdout != "" || !strings.HasPrefix(stderr, "Error: ") || !strings.Contains(stderr, "\nSuggestion: ") {
				t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			for _, s := range c.says {
				if !strings.Contains(stderr, s) {
					t.Errorf("stderr does not say %q: %s", s, stderr)
				}
			}
			if strings.Contains(stderr, "sesame") {
				t.Errorf("stderr tells the key: %s", stderr)
			}
		})
	}
}

func TestWhatCannotWorkExits1WithASuggestion(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, taken, _ := net.SplitHostPort(ln.Addr().String())
	nowhere := t.TempDir()
	llama := worker.Engine{Load: llamacpp.Load, Devices: llamacpp.Devices, Find: engines.Find}
	cases := []struct {
		name   string
		engine worker.Engine
		args   []string
		says   string
	}{
		{"port taken", fakeEngine(fake.Script{}), []string{"--model", modelFile(t), "--port", taken}, "--port"},
		{"no such model", fakeEngine(fake.Script{}), []string{"--model", filepath.Join(nowhere, "none.gguf")}, "none.gguf"},
		{"no engine", llama, []string{"--model", modelFile(t), "--engine-dir", nowhere}, "rbee engine install"},
		{"no engine for devices", llama, []string{"devices", "--engine-dir", nowhere}, "rbee engine install"},
		{"profiles for all", fakeEngine(fake.Script{}), []string{"--model", modelFile(t), "--debug-addr", "0.0.0.0:0"}, "loopback"},
		{"unknown type of KV", fakeEngine(fake.Script{}), []string{"--model", modelFile(t), "--kv-type", "q1"}, "kv_type"},
		{"no hive", fakeEngine(fake.Script{}), []string{"--model", modelFile(t), "--callback-url", "http://" + closedAddr(t) + "/v1/workers/ready"}, "rbee-hive"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := command(t.Context(), c.engine, nil, c.args...)
			if code != rbee.ExitFailed || stdout != "" || !strings.Contains(stderr, "Error: ") || !strings.Contains(stderr, c.says) {
				t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}

func closedAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestHelpAndVersionGoToStdout(t *testing.T) {
	code, stdout, _ := command(t.Context(), fakeEngine(fake.Script{}), nil, "--help")
	for _, flag := range []string{"--worker-id", "--model", "--backend", "--device", "--port", "--callback-url", "--key-file", "devices"} {
		if code != rbee.ExitDone || !strings.Contains(stdout, flag) {
			t.Errorf("exit %d, the help does not name %s", code, flag)
		}
	}
	if code, stdout, _ := command(t.Context(), fakeEngine(fake.Script{}), nil, "--version"); code != rbee.ExitDone || !strings.Contains(stdout, rbee.Version) {
		t.Errorf("exit %d, version %q", code, stdout)
	}
}

func TestDevicesPrintsTheListOfTheEngine(t *testing.T) {
	lib := enginestest.Dir(t)
	for name, e := range map[string]worker.Engine{
		"fake": fakeEngine(fake.Script{}), "real": {Devices: llamacpp.Devices, Find: engines.Find},
	} {
		code, stdout, stderr := command(t.Context(), e, nil, "devices", "--engine-dir", lib)
		var list rbee.DeviceList
		if err := json.Unmarshal([]byte(stdout), &list); err != nil || code != rbee.ExitDone {
			t.Errorf("%s: exit %d, %v, stderr %s", name, code, err, stderr)
		}
		if len(list.Devices) == 0 || len(list.Backends) != len(rbee.Backends()) {
			t.Errorf("%s: the list is %+v", name, list)
		}
	}
}

// byHive runs Main as a hive does, and returns a client once the worker called back.
func byHive(t *testing.T, e worker.Engine, args ...string) (c *client.Client, end func() (int, string)) {
	t.Helper()
	hive := newHive(t, func(_ int, r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer open" {
			return rbee.Errorf(rbee.CodeInvalidAPIKey, "wrong key")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	var errs output
	code := 0
	var group sync.WaitGroup
	group.Go(func() {
		code = worker.Main(ctx, worker.Process{
			Args:    append([]string{"--worker-id", "w1", "--model-ref", "builtin:bee-tiny", "--callback-url", hive.url}, args...),
			Environ: []string{worker.KeyEnv + "=sesame", worker.CallbackKeyEnv + "=open"},
			Stdout:  io.Discard, Stderr: &errs,
		}, e)
	})
	end = sync.OnceValues(func() (int, string) {
		cancel()
		group.Wait()
		return code, errs.String()
	})
	t.Cleanup(func() { end() })
	select {
	case req := <-hive.called:
		c = client.New(req.URL, client.Key("sesame"))
		t.Cleanup(c.Close)
	case <-time.After(patience):
		t.Fatalf("no callback; stderr: %s", errs.String())
	}
	for p, err := range c.LoadProgress(t.Context()) {
		if err != nil || p.Stage == rbee.LoadError {
			t.Fatalf("%+v %v; stderr: %s", p, err, errs.String())
		}
	}
	return c, end
}

func TestTheProgramServesWhatAHiveStarts(t *testing.T) {
	c, end := byHive(t, fakeEngine(fake.Script{}), "--model", modelFile(t), "--slots", "2")
	if _, err := client.New(c.Base(), client.Key("wrong")).InferWhole(t.Context(), prompt(1)); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey {
		t.Errorf("with a wrong key: %v", err)
	}
	if got, err := c.InferWhole(t.Context(), prompt(3)); err != nil || got.TotalTokens != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	code, stderr := end()
	if code != rbee.ExitDone || strings.Contains(stderr, "Error:") {
		t.Errorf("exit %d, stderr %s", code, stderr)
	}
	for _, secret := range []string{"sesame", "open", "Once upon"} {
		if strings.Contains(stderr, `"`+secret) || strings.Contains(stderr, secret+`"`) {
			t.Errorf("the log tells %q: %s", secret, stderr)
		}
	}
}

func TestTheProgramServesBeeTiny(t *testing.T) {
	e := worker.Engine{Load: llamacpp.Load, Devices: llamacpp.Devices, Find: engines.Find}
	c, end := byHive(t, e, "--model", "../models/bee-tiny.gguf", "--engine-dir", enginestest.Dir(t), "--threads", "1", "--slots", "2", "--queue", "8", "--kv-tokens", "2048")

	req := rbee.InferRequest{Prompt: "Once upon a time", MaxTokens: ptr(40), Seed: ptr(uint64(7))}
	alone, err := c.InferWhole(t.Context(), req)
	if err != nil || alone.TotalTokens == 0 || alone.PromptTokens == 0 || len(strings.Fields(alone.Text)) < 10 {
		t.Fatalf("%+v, %v", alone, err)
	}
	if again, err := c.InferWhole(t.Context(), req); err != nil || again.Text != alone.Text {
		t.Errorf("the same seed gives %q and %q, %v", alone.Text, again.Text, err)
	}
	// Beside others rounding may decide between two tokens that are almost
	// equally likely (see the engine's package comment), so only the shape counts.
	ends := make(chan rbee.InferEvent, 4)
	for range cap(ends) {
		go func() {
			var last rbee.InferEvent
			for ev, err := range c.Infer(t.Context(), req) {
				if err != nil {
					t.Error(err)
				}
				last = ev
			}
			ends <- last
		}()
	}
	for range cap(ends) {
		if end := <-ends; end.InferDone == nil || end.TotalTokens != alone.TotalTokens {
			t.Errorf("beside others a request ends with %+v", end)
		}
	}

	stopping := req
	stopping.Stop = []string{strings.Fields(alone.Text)[5]}
	if got, err := c.InferWhole(t.Context(), stopping); err != nil || got.StopReason != rbee.StopString || !strings.HasPrefix(alone.Text, got.Text) || strings.Contains(got.Text, stopping.Stop[0]) {
		t.Errorf("with the stop string %q: %+v, %v", stopping.Stop, got, err)
	}

	long := rbee.InferRequest{Prompt: strings.Repeat("Once upon a time ", 2000)}
	if _, err := c.InferWhole(t.Context(), long); rbee.CodeOf(err) != rbee.CodeContextLengthExceeded {
		t.Errorf("a prompt that is too long: %v", err)
	}

	tokens, err := c.Tokenize(t.Context(), rbee.TokenizeRequest{Text: "Once upon a time 🐝"})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := c.Detokenize(t.Context(), rbee.DetokenizeRequest{Tokens: tokens}); err != nil || strings.TrimSpace(text) != "Once upon a time 🐝" {
		t.Errorf("back comes %q, %v", text, err)
	}

	endless := rbee.InferRequest{Prompt: "a", MaxTokens: ptr(1000), IgnoreEOS: true, RequestID: "r1"}
	seen := 0
	for ev, err := range c.Infer(t.Context(), endless) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.InferDone != nil {
			if ev.StopReason != rbee.StopCanceled {
				t.Errorf("canceled after %d tokens: %+v", seen, ev.InferDone)
			}
			break
		}
		if seen++; seen == 5 {
			if err := c.CancelInfer(t.Context(), "r1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if code, stderr := end(); code != rbee.ExitDone {
		t.Errorf("exit %d, stderr %s", code, stderr)
	}
}

func ptr[T any](v T) *T { return &v }

// process starts the test binary as a worker.
func process(t *testing.T, kind string, args ...string) (*exec.Cmd, io.Closer, *output) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--model", modelFile(t)}, args...)...) //nolint:gosec // itself
	cmd.Env = append(os.Environ(), programEnv+"="+kind, supervise.DeathPipeEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs output
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, stdin, &errs
}

// exit waits for the end of a process.
func exit(t *testing.T, cmd *exec.Cmd, errs *output) int {
	t.Helper()
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatalf("%v, stderr %s", err, errs)
	}
	return cmd.ProcessState.ExitCode()
}

func ready(t *testing.T, errs *output) {
	t.Helper()
	eventually(t, "the worker is ready", func() bool { return strings.Contains(errs.String(), `"msg":"ready"`) })
}

func TestTheProcessEnds(t *testing.T) {
	t.Run("with its parent", func(t *testing.T) {
		cmd, stdin, errs := process(t, "fake")
		ready(t, errs)
		stdin.Close()
		if code := exit(t, cmd, errs); code != rbee.ExitFailed || !strings.Contains(errs.String(), "is gone") {
			t.Errorf("exit %d, stderr %s", code, errs)
		}
	})
	t.Run("with its parent, while the load hangs", func(t *testing.T) {
		cmd, stdin, errs := process(t, "hangs in load")
		eventually(t, "it loads", func() bool { return strings.Contains(errs.String(), "loading") })
		stdin.Close()
		if code := exit(t, cmd, errs); code != rbee.ExitFailed {
			t.Errorf("exit %d, stderr %s", code, errs)
		}
	})
	t.Run("when told to, while the engine hangs", func(t *testing.T) {
		cmd, _, errs := process(t, "hangs in close")
		ready(t, errs)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := exit(t, cmd, errs); code != rbee.ExitDone {
			t.Errorf("exit %d, stderr %s", code, errs)
		}
	})
	t.Run("at the second signal at once", func(t *testing.T) {
		cmd, _, errs := process(t, "hangs in close")
		ready(t, errs)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it drains", func() bool { return strings.Contains(errs.String(), "draining") })
		// The program lets go of signals at about the time of that line.
		stop := make(chan struct{})
		var again sync.WaitGroup
		again.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone
				case <-stop:
					return
				}
			}
		})
		code := exit(t, cmd, errs)
		close(stop)
		again.Wait()
		if code != -1 {
			t.Errorf("exit %d, want the end by the signal; stderr %s", code, errs)
		}
	})
	t.Run("when a load that hangs is given up", func(t *testing.T) {
		cmd, _, errs := process(t, "hangs in load", "--load-timeout", "50ms")
		if code := exit(t, cmd, errs); code != rbee.ExitFailed || !strings.Contains(errs.String(), "no progress for 50ms") {
			t.Errorf("exit %d, stderr %s", code, errs)
		}
	})
}

func TestProfilesAreServedWhenAskedFor(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errs output
	done := make(chan int, 1)
	go func() {
		done <- worker.Main(ctx, worker.Process{
			Args: []string{"--model", modelFile(t), "--debug-addr", "127.0.0.1:0", "--log-format", "json"}, Stdout: io.Discard, Stderr: &errs,
		}, fakeEngine(fake.Script{}))
	}()
	addr := ""
	eventually(t, "the address is told", func() bool {
		_, rest, found := strings.Cut(errs.String(), `"addr":"http://127.0.0.1:`)
		addr, _, _ = strings.Cut(rest, `/debug/pprof/"`)
		return found && strings.Contains(rest, "/debug/pprof/")
	})
	tr := &http.Transport{DisableKeepAlives: true}
	for path, want := range map[string]string{"": "goroutine", "goroutine?debug=1": "goroutine profile", "cmdline": "worker.test"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+addr+"/debug/pprof/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%q: %d, %v", path, resp.StatusCode, err)
		}
	}
	cancel()
	if code := <-done; code != rbee.ExitDone {
		t.Errorf("exit %d", code)
	}
}
