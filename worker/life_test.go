package worker_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/worker"
	"rbee/worker/engine"
	"rbee/worker/engine/fake"
)

func TestAWorkerAnswersBeforeItIsLoaded(t *testing.T) {
	steps := make(chan rbee.LoadProgress)
	w := start(t, worker.Config{Load: gated(steps)})
	get := func(path string) (int, string) {
		resp := w.do(t, http.MethodGet, path, "")
		return resp.StatusCode, strings.TrimSpace(read(t, resp))
	}
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/v1/health", 200, `{"status":"alive","version":"` + rbee.Version + `","api_version":"v1"}`},
		{"/health", 200, `{"status":"alive","version":"` + rbee.Version + `","api_version":"v1"}`},
		{"/v1/ready", 503, `{"ready":false,"state":"loading","progress_url":"/v1/loading/progress"}`},
	} {
		if status, body := get(c.path); status != c.status || body != c.body {
			t.Errorf("%s while loading: %d %s, want %d %s", c.path, status, body, c.status, c.body)
		}
	}
	failure(t, w.post(t, "/v1/inference", `{"prompt":"a"}`), rbee.CodeWorkerNotReady)
	failure(t, w.post(t, "/v1/tokenize", `{"text":"a"}`), rbee.CodeWorkerNotReady)
	failure(t, w.post(t, "/v1/detokenize", `{"tokens":[1]}`), rbee.CodeWorkerNotReady)
	if got := w.metric(t, "rbee_worker_slots"); got != "0" {
		t.Errorf("%q slots while loading, want 0", got)
	}

	close(steps)
	w.ready(t)
	if status, body := get("/v1/ready"); status != 200 || body != `{"ready":true,"state":"idle","model_loaded":true,"slots_total":4,"context_tokens":1024}` {
		t.Errorf("ready: %d %s", status, body)
	}
	if got := w.metric(t, "rbee_worker_slots"); got != "4" {
		t.Errorf("%q slots, want 4", got)
	}
}

func TestALateWatcherOfTheLoadHasThePresentStateAtOnce(t *testing.T) {
	steps := make(chan rbee.LoadProgress)
	w := start(t, worker.Config{Load: gated(steps)})
	steps <- rbee.LoadProgress{LayersLoaded: 3, LayersTotal: 12, VRAMMB: 1.5}
	steps <- rbee.LoadProgress{LayersLoaded: 4, LayersTotal: 12, VRAMMB: 2}
	var seen []rbee.LoadProgress
	for p, err := range w.LoadProgress(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if seen = append(seen, p); p.LayersLoaded == 4 && p.Stage == rbee.LoadToVRAM {
			close(steps)
			steps = nil
		}
	}
	if first := seen[0]; first.LayersLoaded < 3 || first.LayersTotal != 12 || first.Stage != rbee.LoadToVRAM {
		t.Errorf("the first state is %+v", first)
	}
	if last := seen[len(seen)-1]; last.Stage != rbee.LoadReady || last.LayersLoaded != 4 {
		t.Errorf("the last state is %+v", last)
	}
	resp := w.do(t, http.MethodGet, "/v1/loading/progress", "")
	if got := events(t, resp); len(got) != 2 || got[0] != `{"stage":"ready","layers_loaded":4,"layers_total":12,"vram_mb":2}` || got[1] != "[DONE]" {
		t.Errorf("a watcher after the end sees %q", got)
	}
}

func TestAFailedLoadIsToldAndEndsTheWorker(t *testing.T) {
	hive := newHive(t, nil)
	w := start(t, worker.Config{Load: fake.Loader(fake.Script{Refuse: "it is too green"}), CallbackURL: hive.url})
	var last rbee.LoadProgress
	for p, err := range w.LoadProgress(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		last = p
	}
	if last.Stage != rbee.LoadError || last.Error == nil || !strings.Contains(last.Error.Message, "too green") {
		t.Errorf("the last state is %+v", last)
	}
	if err := w.wait(t); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("the worker ends with %v", err)
	}
}

func TestALoadThatStandsStillIsGivenUp(t *testing.T) {
	w := start(t, worker.Config{Load: fake.Loader(fake.Script{LoadStallAt: 5, Layers: 12}), LoadTimeout: 50 * time.Millisecond})
	err := w.wait(t)
	if rbee.CodeOf(err) != rbee.CodeLoadingTimeout || !strings.Contains(err.Error(), "layer 5 of 12") {
		t.Errorf("the worker ends with %v, want %s at layer 5 of 12", err, rbee.CodeLoadingTimeout)
	}
}

func TestALoadThatMovesMayTakeLongerThanTheTimeout(t *testing.T) {
	steps := make(chan rbee.LoadProgress)
	w := start(t, worker.Config{Load: gated(steps), LoadTimeout: 500 * time.Millisecond})
	for i := range 60 { // 1.2 s in all
		select {
		case <-time.After(20 * time.Millisecond):
			steps <- rbee.LoadProgress{LayersLoaded: i, LayersTotal: 60}
		case <-w.ended:
			t.Fatalf("the worker ended with %v", w.err)
		}
	}
	close(steps)
	w.ready(t)
}

func TestTheHiveIsToldBeforeTheLoad(t *testing.T) {
	hive := newHive(t, func(n int, r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer sesame" {
			return rbee.Errorf(rbee.CodeMissingAPIKey, "no key")
		}
		if n <= 2 {
			return rbee.Errorf(rbee.CodeInternalError, "not yet")
		}
		return nil
	})
	steps := make(chan rbee.LoadProgress)
	w := start(t, worker.Config{
		Load: gated(steps), CallbackURL: hive.url, CallbackKey: "sesame",
		Options: engine.Options{Backend: "cpu", Device: "cpu"},
	})
	got := <-hive.called
	want := rbee.ReadyRequest{WorkerID: "w1", URL: w.base, ModelRef: "builtin:bee-tiny", Backend: "cpu", Device: "cpu"}
	if got != want {
		t.Errorf("the callback says %+v, want %+v", got, want)
	}
	close(steps)
	w.ready(t)
}

func TestAWorkerWhoseHiveRefusesItEndsWithTheReason(t *testing.T) {
	tries := 0
	hive := newHive(t, func(n int, _ *http.Request) error {
		tries = n
		return rbee.Errorf(rbee.CodeInvalidAPIKey, "the key is wrong")
	})
	w := start(t, worker.Config{CallbackURL: hive.url})
	err := w.wait(t)
	if rbee.CodeOf(err) != rbee.CodeInvalidAPIKey || !strings.Contains(err.Error(), "the key is wrong") || tries != 1 {
		t.Errorf("after %d tries the worker ends with %v", tries, err)
	}
}

func TestAWorkerWithoutItsHiveEndsWithTheReason(t *testing.T) {
	hive := newHive(t, func(int, *http.Request) error { return rbee.Errorf(rbee.CodeInternalError, "broken") })
	w := start(t, worker.Config{CallbackURL: hive.url})
	if err := w.wait(t); rbee.CodeOf(err) != rbee.CodeInternalError || !strings.Contains(err.Error(), "cannot tell the hive") {
		t.Errorf("the worker ends with %v", err)
	}
}

func TestAKeyIsDemandedButForLiveness(t *testing.T) {
	w := start(t, worker.Config{Key: "sesame"})
	w.ready(t)
	for _, path := range []string{"/v1/loading/progress", "/metrics", "/openapi.json"} {
		failure(t, w.do(t, http.MethodGet, path, ""), rbee.CodeMissingAPIKey)
	}
	for _, path := range []string{"/v1/inference", "/v1/tokenize", "/v1/detokenize", "/v1/shutdown", "/v1/admin/shutdown", "/v1/admin/rest"} {
		failure(t, w.post(t, path, `{}`), rbee.CodeMissingAPIKey)
	}
	failure(t, w.do(t, http.MethodDelete, "/v1/inference/a", ""), rbee.CodeMissingAPIKey)
	for _, path := range []string{"/v1/health", "/v1/ready"} {
		if resp := w.do(t, http.MethodGet, path, ""); resp.StatusCode != 200 {
			t.Errorf("%s without a key: %d", path, resp.StatusCode)
		}
	}
}

// endless starts a stream that has begun and goes on until something ends it.
func endless(t *testing.T, w *running, id string) answer {
	t.Helper()
	resp := w.post(t, "/v1/inference", `{"prompt":"a","max_tokens":1000000,"ignore_eos":true,"request_id":"`+id+`"}`)
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, read(t, resp))
	}
	return resp
}

func TestShutdownEndsStreamsWithALastEvent(t *testing.T) {
	orders := map[string]func(*testing.T, *running){
		"request": func(t *testing.T, w *running) {
			if _, err := w.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"signal": func(_ *testing.T, w *running) { w.end() },
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			w := script(t, fake.Script{Hold: make(chan struct{})})
			resp := endless(t, w, "r1")
			order(t, w)
			got := events(t, resp)
			if len(got) != 2 || !strings.Contains(got[0], `"stop_reason":"shutdown"`) || !strings.HasPrefix(got[0], `{"done":true,`) || got[1] != "[DONE]" {
				t.Errorf("the stream ends with %q", got)
			}
			if err := w.wait(t); err != nil {
				t.Errorf("the worker ends with %v", err)
			}
		})
	}
}

func TestShutdownDuringTheLoadEndsTheWorker(t *testing.T) {
	for name, order := range map[string]func(context.Context, *client.Client) (rbee.Message, error){
		"now":           func(ctx context.Context, c *client.Client) (rbee.Message, error) { return c.Shutdown(ctx) },
		"in good order": func(ctx context.Context, c *client.Client) (rbee.Message, error) { return c.AdminShutdown(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			steps := make(chan rbee.LoadProgress)
			w := start(t, worker.Config{Load: gated(steps)})
			steps <- rbee.LoadProgress{LayersLoaded: 1, LayersTotal: 2}
			if _, err := order(t.Context(), w.Client); err != nil {
				t.Error(err)
			}
			if err := w.wait(t); err != nil {
				t.Errorf("the worker ends with %v", err)
			}
		})
	}
}

func TestDrainFinishesWhatRunsAndTakesNothingNew(t *testing.T) {
	hold := make(chan struct{})
	w := script(t, fake.Script{Hold: hold, EOSAt: 3})
	resp := w.post(t, "/v1/inference", `{"prompt":"a"}`)
	if _, err := w.AdminShutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker drains", func() bool { return w.state(t) == rbee.WorkerDraining })
	if e := failure(t, w.post(t, "/v1/inference", `{"prompt":"a"}`), rbee.CodeWorkerNotReady); !strings.Contains(e.Message, "drains") {
		t.Errorf("a new request hears %q", e.Message)
	}
	if r, err := w.Ready(t.Context()); err != nil || r.Ready {
		t.Errorf("a draining worker is %+v, %v", r, err)
	}
	close(hold)
	if got := events(t, resp); len(got) < 2 || !strings.Contains(got[len(got)-2], `"total_tokens":3`) || !strings.Contains(got[len(got)-2], `"stop_reason":"eos"`) {
		t.Errorf("the running stream ends with %q", got)
	}
	if err := w.wait(t); err != nil {
		t.Errorf("the worker ends with %v", err)
	}
}

func TestADrainHasItsTime(t *testing.T) {
	w := script(t, fake.Script{Hold: make(chan struct{})}, func(c *worker.Config) { c.DrainTime = 20 * time.Millisecond })
	resp := endless(t, w, "r1")
	if _, err := w.AdminShutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := events(t, resp); len(got) == 0 || !strings.Contains(got[0], `"stop_reason":"shutdown"`) {
		t.Errorf("the stream ends with %q", got)
	}
	if err := w.wait(t); err != nil {
		t.Errorf("the worker ends with %v", err)
	}
}

func TestAClientThatDoesNotReadDoesNotHoldUpTheEnd(t *testing.T) {
	w := script(t, fake.Script{EOSAt: 1 << 30}, func(c *worker.Config) {
		c.Load = func(ctx context.Context, o engine.Options, p func(rbee.LoadProgress)) (engine.Engine, error) {
			e, err := fake.Loader(fake.Script{})(ctx, o, p)
			return flood{e}, err
		}
	})
	endless(t, w, "r1") // and read nothing of it
	eventually(t, "the worker is busy", func() bool { return w.state(t) == rbee.WorkerBusy })
	w.end()
	if err := w.wait(t); err != nil {
		t.Errorf("the worker ends with %v", err)
	}
}

// flood generates long tokens for ever, more than any buffer holds.
type flood struct{ engine.Engine }

func (flood) Generate(ctx context.Context, _ engine.Request, emit func(engine.Piece) bool) (engine.Result, error) {
	text := []byte(strings.Repeat("flood ", 1<<14))
	for ctx.Err() == nil && emit(engine.Piece{Bytes: text}) {
	}
	return engine.Result{Reason: rbee.StopCanceled}, nil
}

func TestAPortThatFailsEndsTheWorker(t *testing.T) {
	ln := brokenListener{errors.New("the network is gone")}
	err := worker.New(worker.Config{Load: gated(make(chan rbee.LoadProgress))}).Run(t.Context(), ln)
	if err == nil || !strings.Contains(err.Error(), "the network is gone") {
		t.Errorf("the worker ends with %v", err)
	}
}
