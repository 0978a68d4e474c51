package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"rbee"
	"rbee/client"
	"rbee/internal/bus"
	"rbee/internal/conf"
	"rbee/internal/httpapi"
	"rbee/queen/dispatch"
	"rbee/queen/registry"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

const model = "builtin:bee-tiny"

func TestMain(m *testing.M) {
	if at := os.Getenv(queenEnv); at != "" {
		os.Exit(queenProgram(at))
	}
	goleak.VerifyTestMain(m)
}

// wire is what the registry hears of, as a test says it. It stands for a
// connection to the bus.
type wire struct {
	updates chan bus.Update
	gone    chan struct{} // closed with the rig
}

func (w *wire) Watch(ctx context.Context, f func(bus.Update)) error {
	for {
		select {
		case u := <-w.updates:
			f(u)
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *wire) Connected() (bool, error) { return true, nil }

func (w *wire) tell(u bus.Update) {
	select {
	case w.updates <- u:
	case <-w.gone:
	}
}

// colony is the registry as the queen gives it to the dispatcher.
type colony struct{ *registry.Registry }

func (c colony) Reach(id rbee.HiveID) (dispatch.Target, error) {
	t, err := c.Registry.Reach(id)
	return dispatch.Target(t), err
}

// rig is a queen's dispatcher with its API, the real registry, and hives that are
// servers of the test.
type rig struct {
	testing.TB
	*client.Client
	url      string
	end      context.CancelCauseFunc // of the contexts of its requests
	wire     *wire
	registry *registry.Registry
	figures  *prometheus.Registry
	hives    []*hive
}

// start runs a dispatcher with a queue of some places.
func start(tb testing.TB, queue int) *rig {
	tb.Helper()
	settings := conf.Defaults()
	settings.Queen.Queue = queue
	settings.Aliases = map[string]string{"tiny": model}
	w := &wire{updates: make(chan bus.Update), gone: make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	reg := registry.New(registry.Config{Machine: "here", Log: log})
	r := &rig{TB: tb, wire: w, registry: reg, figures: prometheus.NewRegistry()}
	d := dispatch.New(dispatch.Config{Settings: settings, Colony: colony{reg}, Flights: reg.Flights(), Metrics: r.figures, Log: log})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = reg.Run(ctx, w) })
	running.Go(func() { _ = d.Run(ctx) })
	server := httptest.NewUnstartedServer(api(d).Handler())
	base, end := context.WithCancelCause(context.Background())
	server.Config.BaseContext = func(net.Listener) context.Context { return base }
	server.Start()
	r.end = end
	r.url = server.URL
	r.Client = client.New(server.URL)
	tb.Cleanup(func() {
		r.Close()
		server.Close()
		end(nil)
		close(w.gone)
		stop()
		running.Wait()
	})
	return r
}

func api(d *dispatch.Dispatcher) *httpapi.API {
	return httpapi.New(httpapi.Config{Role: "queen", Log: slog.New(slog.DiscardHandler), Routes: []httpapi.Route{
		{Method: "POST", Path: "/v1/chat/completions", OpenAI: true, Summary: "s", Handler: httpapi.RawFunc(d.OpenAI)},
		{Method: "POST", Path: "/v1/completions", OpenAI: true, Summary: "s", Handler: httpapi.RawFunc(d.OpenAI)},
		{Method: "POST", Path: "/v1/embeddings", OpenAI: true, Summary: "s", Handler: httpapi.RawFunc(d.OpenAI)},
		{Method: "GET", Path: "/v1/models", OpenAI: true, Summary: "s", Handler: httpapi.JSON(d.ListModels)},
		{Method: "GET", Path: "/v1/models/{model...}", OpenAI: true, Summary: "s", Handler: httpapi.RawFunc(d.ShowModel)},
		{Method: "POST", Path: "/v1/plan", Summary: "s", Handler: httpapi.JSON(d.Plan)},
		{Method: "GET", Path: "/v1/decisions", Summary: "s", Handler: httpapi.JSON(d.ListDecisions)},
		{Method: "GET", Path: "/v1/decisions/{id}", Summary: "s", Handler: httpapi.JSON(d.ShowDecision)},
	}})
}

// hive is a server that answers as a test wants, and what its hive tells of itself.
type hive struct {
	rig    *rig
	id     rbee.HiveID
	server *httptest.Server
	silent chan struct{} // closed to end its words

	mu     sync.Mutex
	answer http.HandlerFunc
	calls  []call
	about  rbee.HiveAbout
	now    rbee.HiveNow
}

// call is a request that a hive got.
type call struct {
	path, body string
	header     http.Header
}

// hive adds a hive with a ready worker of the model. The earlier it is added, the
// sooner it gets requests.
func (r *rig) hive(name string, answer http.HandlerFunc) *hive {
	r.Helper()
	n := len(r.hives) + 1
	h := &hive{rig: r, id: rbee.HiveID(fmt.Sprintf("%016x", n)), answer: answer, silent: make(chan struct{})}
	h.server = httptest.NewServer(http.HandlerFunc(h.serve))
	ref := rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "bee-tiny"}
	h.about = rbee.HiveAbout{
		ID: h.id, Name: name, Version: rbee.Version, APIVersion: rbee.APIVersion, URL: h.server.URL, Machine: "here", Key: "key of " + name, StartedAt: time.Now(),
		Models: []rbee.ColonyModel{{ModelRef: ref, SizeBytes: 1 << 20, Digest: "abc", Verdict: rbee.VerdictStart, LoadMS: 100 * int64(n)}},
	}
	h.now = rbee.HiveNow{ID: h.id, Standing: rbee.HiveStanding{State: rbee.HiveOpen}, Workers: []rbee.ColonyWorker{{
		ID: rbee.WorkerID("w-" + name), ModelRef: ref, Backend: rbee.BackendCPU, Device: "cpu", State: rbee.WorkerIdle,
		SlotsTotal: 4, QueueCapacity: 64, PrefillPerSec: 10000 / float64(n*n), TokenMS: float64(n * n), RequestMS: 10,
	}}}
	r.hives = append(r.hives, h)
	h.tell()
	var talking sync.WaitGroup
	talking.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				h.change(func() {})
			case <-h.silent:
				return
			}
		}
	})
	r.Cleanup(func() {
		h.hush()
		talking.Wait()
		h.server.CloseClientConnections()
		h.server.Close()
	})
	r.until("the registry knows "+name, func() bool {
		for _, known := range r.registry.Hives() {
			if known.ID == h.id {
				return r.picks(name)
			}
		}
		return false
	})
	return h
}

// picks says whether a hive is part of decisions.
func (r *rig) picks(name string) bool {
	plan, err := r.Plan(r.Context(), json.RawMessage(`{"model":"tiny","prompt":"a"}`), name)
	return err == nil && plan.Chosen != nil
}

// tell says all of the hive.
func (h *hive) tell() {
	h.mu.Lock()
	about := h.about
	h.mu.Unlock()
	h.rig.wire.tell(bus.Update{About: &about})
	h.change(func() {})
}

// change changes what the hive tells of its state, and tells it.
func (h *hive) change(f func()) {
	h.mu.Lock()
	f()
	h.now.Seq++
	now := h.now
	now.Workers = append([]rbee.ColonyWorker(nil), now.Workers...)
	h.mu.Unlock()
	h.rig.wire.tell(bus.Update{Now: &now})
}

// hush ends its words.
func (h *hive) hush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.silent:
	default:
		close(h.silent)
	}
}

func (h *hive) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	answer := h.answer
	h.calls = append(h.calls, call{r.URL.Path, string(body), r.Header.Clone()})
	h.mu.Unlock()
	answer(w, r)
}

func (h *hive) called() []call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]call(nil), h.calls...)
}

// until polls.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("it never was so that %s", what)
		}
	}
}

// got is a reply to the client.
type got struct {
	status int
	header http.Header
	body   string
}

// post sends a request and reads the reply to its end.
func (r *rig) post(path, body string, header ...string) got {
	r.Helper()
	resp := r.send(r.Context(), path, body, header...)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Errorf("the reply was cut: %v after %q", err, b)
	}
	return got{resp.StatusCode, resp.Header, string(b)}
}

func (r *rig) send(ctx context.Context, path, body string, header ...string) *http.Response {
	r.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	t := &http.Transport{DisableKeepAlives: true}
	resp, err := t.RoundTrip(req)
	if err != nil {
		r.Fatal(err)
	}
	return resp
}

// The pieces of a stream.
const (
	role  = `data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}` + "\n\n"
	end   = "data: [DONE]\n\n"
	asks  = `{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hi"}]}`
	chats = "/v1/chat/completions"
)

func token(text string) string {
	return fmt.Sprintf(`data: {"choices":[{"index":0,"delta":{"content":%q},"finish_reason":null}]}`+"\n\n", text)
}

// says answers with events, flushed one by one.
func says(events ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// then goes on after another answer.
func then(first, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		first(w, r)
		next(w, r)
	}
}

// cut ends the connection.
func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// hang waits until the client leaves.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// refuses answers with an error as a worker does, in the shape of OpenAI's API.
func refuses(code rbee.Code) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code.Status())
		_ = json.NewEncoder(w).Encode(httpapi.OpenAI(rbee.Errorf(code, "as the worker says").Suggest("this")))
	}
}

// once answers the first request in one way, others in another.
func once(first, others http.HandlerFunc) http.HandlerFunc {
	var one sync.Once
	return func(w http.ResponseWriter, r *http.Request) {
		answer := others
		one.Do(func() { answer = first })
		answer(w, r)
	}
}
