package hive

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/forward"
)

// relayRig is a hive that never runs and a target that is an external worker
// which nobody dials.
func relayRig(t testing.TB) (*metrics, pool.Target) {
	t.Helper()
	p := pool.New(pool.Config{
		Dial:      func(string, string) pool.Link { return silent{} },
		URL:       func(rbee.WorkerID) string { return "http://hive" },
		LoadStall: time.Hour,
		Log:       slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	err := p.Ready(ctx, rbee.ReadyRequest{WorkerID: "x", URL: "http://127.0.0.1:1", ModelRef: "hf:a/b"})
	if err != nil {
		t.Fatal(err)
	}
	target, err := p.Reach(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	return newMetrics(&Hive{pool: p}), target
}

// silent is a link whose other side never answers.
type silent struct{ pool.Link }

func (silent) LoadProgress(ctx context.Context) iter.Seq2[rbee.LoadProgress, error] {
	return func(func(rbee.LoadProgress, error) bool) { <-ctx.Done() }
}

func (silent) Ready(ctx context.Context) (rbee.Readiness, error) {
	<-ctx.Done()
	return rbee.Readiness{}, ctx.Err()
}

func (silent) Close() {}

func TestTheRelayAddsAnEndToAStreamThatBreaks(t *testing.T) {
	const a, b, end = "data: {\"token\":\"a\"}\n\n", "data: {\"token\":\"b\"}\n\n", "data: [DONE]\n\n"
	broken := errors.New("connection reset by peer")
	for name, c := range map[string]struct {
		says     string
		fails    error
		passes   string
		obituary bool
	}{
		"a whole stream":               {a + b + end, io.EOF, a + b + end, false},
		"whole, then the link breaks":  {a + end, broken, a + end, false},
		"cut between events":           {a + b, io.EOF, a + b, true},
		"reset between events":         {a + b, broken, a + b, true},
		"cut in an event":              {a + `data: {"tok`, io.EOF, a, true},
		"reset in the end mark":        {a + "data: [DO", broken, a, true},
		"nothing at all":               {"", io.EOF, "", true},
		"half of the end of an event":  {a + "data: {\"token\":\"b\"}\n", io.EOF, a, true},
		"events of a foreign server":   {"data: a\r\n\r\ndata: [DONE]\r\n\r\n", broken, "data: a\r\n\r\ndata: [DONE]\r\n\r\n", false},
		"its end mark without a space": {"data:a\r\n\r\ndata:[DONE]\r\n\r\n", io.EOF, "data:a\r\n\r\ndata:[DONE]\r\n\r\n", false},
		"its stream, cut":              {"data: a\r\n\r\ndata: b\r\n", io.EOF, "data: a\r\n\r\n", true},
		"the end mark inside a string": {`data: {"token":"data: [DONE]"}` + "\n\n", io.EOF, `data: {"token":"data: [DONE]"}` + "\n\n", true},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "the error with the data": iotest.DataErrReader,
		} {
			t.Run(name+", "+how, bubble(func(t *testing.T) {
				m, target := relayRig(t)
				body := wrap(io.MultiReader(strings.NewReader(c.says), iotest.ErrReader(c.fails)))
				e := forward.NewEvents(t.Context(), io.NopCloser(body), &relayed{target: target, path: "/v1/inference", ctx: t.Context(), metrics: m})
				got, err := io.ReadAll(e)
				if err != nil {
					t.Fatal(err)
				}
				rest, ok := strings.CutPrefix(string(got), c.passes)
				if !ok || (rest != "") != c.obituary {
					t.Fatalf("passed on %q", got)
				}
				if c.obituary && (!strings.Contains(rest, `"WORKER_CRASHED"`) || !strings.HasSuffix(rest, end) || strings.Count(rest, "\n\n") != 2) {
					t.Errorf("the end is %q", rest)
				}
			}))
		}
	}
}

// bubble runs a test in virtual time: the relay waits a moment for the end of a
// worker whose stream broke.
func bubble(test func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

// BenchmarkRelayedEvent shows what the relay does to one event: the figures
// have to be small beside 100 µs, and without allocations.
func BenchmarkRelayedEvent(b *testing.B) {
	m, target := relayRig(b)
	event := []byte("data: {\"token\":\" word\",\"index\":123}\n\n")
	r, w := &repeat{event: event}, make([]byte, forward.BufferBytes)
	e := forward.NewEvents(b.Context(), io.NopCloser(r), &relayed{target: target, ctx: b.Context(), metrics: m})
	b.ReportAllocs()
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		if _, err := e.Read(w); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAnEventIsRelayedWithoutAllocations(t *testing.T) {
	bubble(func(t *testing.T) {
		m, target := relayRig(t)
		e := forward.NewEvents(t.Context(), io.NopCloser(&repeat{event: []byte("data: {\"token\":\" word\"}\n\n")}), &relayed{target: target, ctx: t.Context(), metrics: m})
		w := make([]byte, forward.BufferBytes)
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := e.Read(w); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%g allocations for one event", n)
		}
	})(t)
}

// repeat says one event at each read.
type repeat struct{ event []byte }

func (r *repeat) Read(p []byte) (int, error) { return copy(p, r.event), nil }

func TestSecretsDoNotReachChildren(t *testing.T) {
	for _, name := range []string{"RBEE_HIVE_KEY", "RBEE_QUEEN_KEY", "RBEE_NODES", "RBEE_NODES_BIG_KEY", "RBEE_EXTERNAL", "RBEE_EXTERNAL_GPU_KEY", "HF_TOKEN", "RBEE_WORKER_KEY"} {
		t.Setenv(name, "secret-value")
	}
	for _, kv := range childEnv() {
		if strings.Contains(kv, "secret-value") {
			t.Errorf("the child gets %s", kv)
		}
	}
}

func TestTheWorkerProgramIsFoundOrNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, configured := range []string{"", "/nowhere/worker"} {
		if _, err := workerProgram(configured); rbee.CodeOf(err) != rbee.CodeInvalidRequest || rbee.AsError(err).Suggestion() == "" {
			t.Errorf("error is %v", err)
		}
	}
}

func TestABodyThatWasReadGoesToTheWorkerInOnePiece(t *testing.T) {
	const body = `{"model":"a"}`
	in := httptest.NewRequest(http.MethodPost, "/v1/completions", strings.NewReader(body))
	forward.SetBody(in, []byte(body))
	in = in.WithContext(context.WithValue(in.Context(), relayedKey{}, &relayed{url: &url.URL{Scheme: "http", Host: "worker"}, path: "/v1/completions"}))
	out := in.Clone(in.Context())
	out.Body = struct{ io.ReadCloser }{in.Body} // as the proxy wraps it
	rewrite(&httputil.ProxyRequest{In: in, Out: out})
	var sent pieces
	if err := out.Write(bufio.NewWriter(&sent)); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 0 {
		t.Errorf("sent ahead: %q", sent)
	}
	if got, err := io.ReadAll(in.Body); err != nil || string(got) != body {
		t.Errorf("the request has lost its body: %q, %v", got, err)
	}
}

// pieces are what was written at a time.
type pieces []string

// Write implements io.Writer.
func (p *pieces) Write(b []byte) (int, error) {
	*p = append(*p, string(b))
	return len(b), nil
}
