package external

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/hive/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a server that tests change while it is watched. It is reached
// without a network, so that its time is the test's.
type place struct {
	mu     sync.Mutex
	models []string
	key    string
	down   bool
	asked  int // for its models
}

func (p *place) set(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

// RoundTrip implements http.RoundTripper.
func (p *place) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := httptest.NewRecorder()
	switch {
	case p.down:
		return nil, errors.New("connection refused")
	case r.Header.Get("Authorization") != p.key:
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/v1/models":
		p.asked++
		list := []listed{}
		for _, m := range p.models {
			list = append(list, listed{ID: m})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": list})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
	return w.Result(), nil
}

// watched is a watcher of one server named srv, with a pool, in a bubble.
type watched struct {
	*Watcher
	t    *testing.T
	pool *pool.Pool
	stop func()
}

func watch(t *testing.T, s Server, at http.RoundTripper) *watched {
	t.Helper()
	p := pool.New(pool.Config{
		URL: func(id rbee.WorkerID) string { return "http://hive/" + string(id) }, LoadStall: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	s.Name = "srv"
	w := &watched{t: t, pool: p, Watcher: New([]Server{s}, p, slog.New(slog.DiscardHandler))}
	w.servers["srv"].http = &http.Client{Transport: at}
	w.servers["srv"].port = 0
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { w.Run(ctx) })
	all.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	w.stop = func() { cancel(); all.Wait() }
	t.Cleanup(w.stop)
	synctest.Wait()
	return w
}

func (w *watched) has(models ...string) {
	w.t.Helper()
	synctest.Wait()
	listed := map[string]bool{}
	for _, x := range w.pool.Workers() {
		ref, ok := x.ModelRef.External()
		if !ok || ref.Server != "srv" || !x.External || x.State != rbee.WorkerIdle {
			w.t.Errorf("worker: %+v", x)
		}
		listed[ref.Model] = true
	}
	for _, m := range models {
		if !listed[m] {
			w.t.Errorf("%s is not listed: %v", m, listed)
		}
	}
	if len(listed) != len(models) {
		w.t.Errorf("listed are %v, want %v", listed, models)
	}
}

func TestModelsComeAndGoAsTheServerHasThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{models: []string{"a", "org/b:4b", "a", "no {such} name", ".."}, key: "Bearer sesame"}
		w := watch(t, Server{URL: "http://127.0.0.1:1/v1/", Key: "sesame"}, p)
		w.has("a", "org/b:4b")
		p.set(func() { p.models = []string{"a", "c"} })
		time.Sleep(Every)
		w.has("a", "c")
		p.set(func() { p.models = nil })
		time.Sleep(Every)
		w.has()
		p.set(func() { p.models = []string{"a"} })
		time.Sleep(Every)
		w.has("a")
		w.stop()
		w.has()
	})
}

func TestAServerThatFailsThreeTimesIsOffTheListUntilItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{models: []string{"a"}}
		w := watch(t, Server{URL: "http://127.0.0.1:1"}, p)
		id := w.pool.Workers()[0].ID
		p.set(func() { p.down = true })
		time.Sleep(2 * Every)
		w.has("a")
		for range 5 { // who looks does not hasten its end
			time.Sleep(2 * time.Second)
			if _, err := w.Look(t.Context(), "srv"); rbee.CodeOf(err) != rbee.CodeBackendUnavailable {
				t.Errorf("looked: %v", err)
			}
		}
		w.has("a")
		time.Sleep(Every)
		w.has()
		gone, err := w.pool.Worker(id)
		if err != nil || gone.State != rbee.WorkerFailed || rbee.CodeOf(gone.Failure) != rbee.CodeWorkerCrashed {
			t.Errorf("worker: %+v, %v", gone, err)
		}
		p.set(func() { p.down = false })
		time.Sleep(Every)
		w.has("a")
		if got := w.pool.Workers()[0].ID; got != id {
			t.Errorf("it is back as %s, was %s", got, id)
		}
	})
}

func TestTwoFailuresAreForgottenWhenTheServerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{models: []string{"a"}}
		w := watch(t, Server{URL: "http://127.0.0.1:1"}, p)
		for range 4 {
			p.set(func() { p.down = true })
			time.Sleep(2 * Every)
			p.set(func() { p.down = false })
			time.Sleep(Every)
		}
		w.has("a")
	})
}

func TestAWorkerThatWasTakenOffTheListStaysAwayUntilItsServerStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{models: []string{"a", "b"}}
		w := watch(t, Server{URL: "http://127.0.0.1:1"}, p)
		if err := w.pool.Stop(t.Context(), idOf(rbee.ModelRef{Provider: rbee.ProviderExternal, Reference: "srv/a"})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * Every)
		w.has("b")
		p.set(func() { p.down = true })
		time.Sleep(Failures * Every)
		w.has()
		p.set(func() { p.down = false })
		time.Sleep(Every)
		w.has("a", "b")
	})
}

func TestWhoLooksNeedNotWaitForTheNextQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{down: true}
		w := watch(t, Server{URL: "http://127.0.0.1:1"}, p)
		p.set(func() { p.down, p.models = false, []string{"a"} })
		time.Sleep(lookAgain)
		for range 100 {
			if watched, err := w.Look(t.Context(), "srv"); !watched || err != nil {
				t.Fatalf("looked: %v, %v", watched, err)
			}
		}
		w.has("a")
		if p.asked != 1 {
			t.Errorf("it was asked %d times within a second", p.asked)
		}
		if watched, err := w.Look(t.Context(), "other"); watched || err != nil {
			t.Errorf("a name that nobody knows: %v, %v", watched, err)
		}
		w.stop()
		if _, err := w.Look(context.WithoutCancel(t.Context()), "srv"); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("looked after the end: %v", err)
		}
	})
}

func TestAServerThatIsSilentIsAskedNoLongerThanFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		})
		w := watch(t, Server{URL: "http://127.0.0.1:1"}, silent)
		begun := time.Now()
		_, err := w.Look(t.Context(), "srv")
		if took := time.Since(begun); rbee.CodeOf(err) != rbee.CodeBackendUnavailable || took > 2*Timeout {
			t.Errorf("looked for %s: %v", took, err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (fn roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return fn(r) }

// answers is a server that gives each path one answer.
func answers(paths map[string]string) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		if answer, ok := paths[r.Method+" "+r.URL.Path]; ok {
			_, _ = io.WriteString(w, answer)
		} else {
			w.WriteHeader(http.StatusNotFound)
		}
		return w.Result(), nil
	})
}

func TestSlotsAndContextAreWhatTheServerTellsOfThem(t *testing.T) {
	const list = "GET /v1/models"
	for name, c := range map[string]struct {
		says           map[string]string
		slots, context int
	}{
		"llama-server": {map[string]string{
			list:         `{"models":[{"name":"m"}],"object":"list","data":[{"id":"m","object":"model","owned_by":"llamacpp","meta":{"n_ctx_train":131072}}]}`,
			"GET /props": `{"default_generation_settings":{"n_ctx":8192,"params":{}},"total_slots":4,"model_path":"/m"}`,
		}, 4, 8192},
		"llama-server that hides its properties": {map[string]string{
			list: `{"object":"list","data":[{"id":"m","owned_by":"llamacpp"}]}`,
		}, 1, 0},
		"vLLM": {map[string]string{
			list: `{"object":"list","data":[{"id":"m","owned_by":"vllm","root":"m","parent":null,"max_model_len":32768}]}`,
		}, 1, 32768},
		"Ollama": {map[string]string{
			list:             `{"object":"list","data":[{"id":"m","owned_by":"library"}]}`,
			"POST /api/show": `{"model_info":{"general.architecture":"llama","llama.context_length":40960,"llama.block_count":8}}`,
		}, 1, 40960},
		"LM Studio":           {map[string]string{list: `{"data":[{"id":"m","object":"model","owned_by":"organization_owner"}],"object":"list"}`}, 1, 0},
		"figures of any kind": {map[string]string{list: `{"data":[{"id":"m","max_model_len":"many"}]}`}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, Server{URL: "http://127.0.0.1:1"}, answers(c.says))
				w.has("m")
				if got := w.pool.Workers()[0]; got.SlotsTotal != c.slots || got.ContextTokens != c.context {
					t.Errorf("%d slots, context of %d", got.SlotsTotal, got.ContextTokens)
				}
			})
		})
	}
}

func TestWhatDoesNotSpeakOpenAIsAPIIsNoServer(t *testing.T) {
	const list = "GET /v1/models"
	for name, says := range map[string]string{
		"a page":             "<html>",
		"nothing":            "",
		"a list of a hive":   `{"models":[{"reference":"a"}]}`,
		"another kind":       `{"data":{"id":"m"}}`,
		"half of an answer":  `{"object":"list","data":[{"id":"m"}`,
		"more than is read":  `{"object":"list","data":[],"x":"` + strings.Repeat("x", maxAnswer) + `"}`,
		"not even an object": `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, Server{URL: "http://127.0.0.1:1"}, answers(map[string]string{list: says}))
				w.has()
				if _, err := w.Look(t.Context(), "srv"); rbee.CodeOf(err) != rbee.CodeBackendUnavailable {
					t.Errorf("looked: %v", err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Server{URL: "http://127.0.0.1:1"}, answers(map[string]string{list: `{"object":"list","data":null}`}))
		if _, err := w.Look(t.Context(), "srv"); err != nil {
			t.Errorf("a server without models: %v", err)
		}
	})
}

func TestAKeyThatIsWrongIsSaidAndNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Server{URL: "http://127.0.0.1:1", Key: "topsecret"}, &place{key: "Bearer sesame", models: []string{"a"}})
		w.has()
		_, err := w.Look(t.Context(), "srv")
		if e := rbee.AsError(err); e.Code != rbee.CodeBackendUnavailable || !strings.Contains(e.Message, "key") || strings.Contains(e.Error(), "topsecret") {
			t.Errorf("looked: %v", err)
		}
	})
}

func TestTheKeyDoesNotFollowARedirect(t *testing.T) {
	seen := make(chan string, 4)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Authorization") }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	w := New([]Server{{Name: "srv", URL: server.URL, Key: "topsecret"}}, nil, slog.New(slog.DiscardHandler))
	if _, err := w.servers["srv"].list(t.Context()); rbee.CodeOf(err) != rbee.CodeBackendUnavailable {
		t.Errorf("asked: %v", err)
	}
	if len(seen) > 0 {
		t.Error("the redirect was followed")
	}
}

func TestIDsAreStableAndDifferWhereNamesLookAlike(t *testing.T) {
	id := func(reference string) rbee.WorkerID {
		return idOf(rbee.ModelRef{Provider: rbee.ProviderExternal, Reference: reference})
	}
	if a, b := id("ollama/llama3.2:3b"), id("ollama/llama3.2-3b"); a == b || a != id("ollama/llama3.2:3b") || !strings.HasPrefix(string(a), "x-ollama-llama3.2-3b-") {
		t.Errorf("%s, %s", a, b)
	}
	if long := id("a/" + strings.Repeat("ä", 400)); len(long) > 128 || !rbee.ValidRequestID(string(long)) {
		t.Errorf("%s", long)
	}
}

func TestOnlyServersOnLoopbackAreWeighed(t *testing.T) {
	for base, port := range map[string]int{
		"http://127.0.0.1:8000": 8000, "http://localhost:1234/x": 1234, "http://[::1]:80": 80, "http://192.168.1.20:8000": 0, "https://example.org": 0, "http://127.0.0.1": 0,
	} {
		if got := localPort(base); got != port {
			t.Errorf("%s: port %d, want %d", base, got, port)
		}
	}
	for _, s := range Usual() {
		if localPort(s.URL) == 0 || !s.Guess {
			t.Errorf("%+v is not on loopback", s)
		}
	}
}
