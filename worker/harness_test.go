package worker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/client"
	"rbee/worker"
	"rbee/worker/engine"
	"rbee/worker/engine/fake"
)

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		program()
	}
	goleak.VerifyTestMain(m)
}

// patience bounds waits whose end is certain unless something is broken.
const patience = 30 * time.Second

// hiveStub is what a worker needs of a hive.
type hiveStub struct {
	url    string
	called chan rbee.ReadyRequest
}

// newHive answers the ready callback with what reply returns, by default success.
func newHive(t *testing.T, reply func(n int, r *http.Request) error) *hiveStub {
	t.Helper()
	h := &hiveStub{called: make(chan rbee.ReadyRequest, 16)}
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		if reply != nil {
			if err := reply(n, r); err != nil {
				e := rbee.AsError(err)
				w.WriteHeader(e.Code.Status())
				_ = json.NewEncoder(w).Encode(rbee.ErrorBody{Error: e})
				return
			}
		}
		var req rbee.ReadyRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.URL.Path != "/v1/workers/ready" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		h.called <- req
		_ = json.NewEncoder(w).Encode(rbee.Message{Message: "Worker registered as ready"})
	}))
	t.Cleanup(srv.Close)
	h.url = srv.URL + "/v1/workers/ready"
	return h
}

// running is a worker in this process.
type running struct {
	*client.Client
	base  string
	end   context.CancelFunc
	err   error
	ended chan struct{} // closed when Run returned
}

// start runs a worker and ends it with the test.
func start(t *testing.T, cfg worker.Config) *running {
	t.Helper()
	if cfg.Options.ModelPath == "" {
		cfg.Options.ModelPath = filepath.Join(t.TempDir(), "model.gguf")
		if err := os.WriteFile(cfg.Options.ModelPath, make([]byte, 1<<16), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cfg.Load == nil {
		cfg.Load = fake.Loader(fake.Script{})
	}
	cfg.ID, cfg.ModelRef = "w1", "builtin:bee-tiny"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{base: "http://" + ln.Addr().String(), end: cancel, ended: make(chan struct{})}
	r.Client = client.New(r.base, client.Key(cfg.Key))
	w := worker.New(cfg)
	var group sync.WaitGroup
	group.Go(func() {
		defer close(r.ended)
		r.err = w.Run(ctx, ln)
	})
	t.Cleanup(func() {
		cancel()
		r.Close()
		_ = r.wait(t) // the test looked at it, if it matters
		group.Wait()
	})
	return r
}

// script starts a worker with a fake engine and waits until it is ready.
func script(t *testing.T, s fake.Script, change ...func(*worker.Config)) *running {
	t.Helper()
	cfg := worker.Config{Load: fake.Loader(s)}
	for _, c := range change {
		c(&cfg)
	}
	r := start(t, cfg)
	r.ready(t)
	return r
}

func (r *running) ready(t *testing.T) {
	t.Helper()
	for p, err := range r.LoadProgress(t.Context()) {
		if err != nil || p.Stage == rbee.LoadError {
			t.Fatalf("the worker does not become ready: %v %v", p, err)
		}
	}
}

// wait returns what Run returned.
func (r *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-r.ended:
		return r.err
	case <-time.After(patience):
		t.Fatal("the worker does not end")
		return nil
	}
}

func (r *running) state(t *testing.T) rbee.WorkerState {
	t.Helper()
	s, err := r.Ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.State
}

// metric is the value of a line of /metrics.
func (r *running) metric(t *testing.T, name string) string {
	t.Helper()
	all, err := r.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(all) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		<-tick.C
	}
}

// answer is the reply to a request as it came over the wire; its body is
// closed with the test.
type answer struct {
	StatusCode int
	Header     http.Header
	body       io.Reader
}

// post sends a body as it is.
func (r *running) post(t *testing.T, path, body string, header ...string) answer {
	t.Helper()
	return r.do(t, http.MethodPost, path, body, header...)
}

func (r *running) do(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return answer{resp.StatusCode, resp.Header, resp.Body}
}

func read(t *testing.T, resp answer) string {
	t.Helper()
	b, err := io.ReadAll(resp.body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// failure reads an error reply and checks what all have in common.
func failure(t *testing.T, resp answer, want rbee.Code) rbee.Error {
	t.Helper()
	text := read(t, resp)
	var b rbee.ErrorBody
	if err := json.Unmarshal([]byte(text), &b); err != nil || b.Error == nil {
		t.Fatalf("%d %q, want an error of ours", resp.StatusCode, text)
	}
	if b.Error.Code != want || resp.StatusCode != want.Status() {
		t.Errorf("got %d %v, want %s", resp.StatusCode, b.Error, want)
	}
	if b.Error.RequestID == "" || b.Error.RequestID != resp.Header.Get(rbee.RequestIDHeader) {
		t.Errorf("request id %q in the body, %q in the header", b.Error.RequestID, resp.Header.Get(rbee.RequestIDHeader))
	}
	return *b.Error
}

// events reads a stream to its end: the data of each event.
func events(t *testing.T, resp answer) []string {
	t.Helper()
	var all []string
	lines := bufio.NewScanner(resp.body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			all = append(all, data)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("after %q: %v", all, err)
	}
	return all
}

// infer collects a stream through the client.
func (r *running) infer(t *testing.T, req rbee.InferRequest) (string, *rbee.InferDone, error) {
	t.Helper()
	var text strings.Builder
	for ev, err := range r.Infer(t.Context(), req) {
		switch {
		case err != nil:
			return text.String(), nil, err
		case ev.InferDone != nil:
			return text.String(), ev.InferDone, nil
		}
		text.WriteString(ev.Token)
	}
	return text.String(), nil, errors.New("the stream ended without an end")
}

func prompt(tokens int) rbee.InferRequest {
	zero := 0.0
	return rbee.InferRequest{Prompt: "Once upon a time", MaxTokens: &tokens, Temperature: &zero}
}

// gated is a loader that waits for the gate, and reports what is sent to it.
func gated(steps <-chan rbee.LoadProgress) engine.Loader {
	return func(ctx context.Context, o engine.Options, progress func(rbee.LoadProgress)) (engine.Engine, error) {
		for {
			select {
			case p, open := <-steps:
				if !open {
					return fake.Loader(fake.Script{})(ctx, o, func(rbee.LoadProgress) {})
				}
				progress(p)
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
}

type brokenListener struct{ err error }

func (l brokenListener) Accept() (net.Conn, error) { return nil, l.err }
func (l brokenListener) Close() error              { return nil }
func (l brokenListener) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
