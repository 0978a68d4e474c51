package hive_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/client"
	"rbee/models"
)

// compatible is a small server of OpenAI's API, as others write them: lines end
// with CR and LF, there is no health path of ours, and it wants a key.
type compatible struct {
	*httptest.Server
	mu     sync.Mutex
	key    string
	models []string
	bodies []map[string]json.RawMessage // of the requests to compute
	heads  []http.Header
	left   chan struct{} // a client that went away in the middle
}

func compatibleServer(t *testing.T, models ...string) *compatible {
	t.Helper()
	c := &compatible{key: "sesame", models: models, left: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", c.keyed(func(w http.ResponseWriter, _ *http.Request) {
		list := []map[string]string{}
		for _, m := range c.served() {
			list = append(list, map[string]string{"id": m, "object": "model", "owned_by": "somebody"})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": list})
	}))
	mux.HandleFunc("POST /v1/chat/completions", c.keyed(c.chat))
	mux.HandleFunc("POST /v1/embeddings", c.keyed(func(w http.ResponseWriter, r *http.Request) {
		c.note(r)
		_, _ = io.WriteString(w, `{"object":"list","data":[{"embedding":[0.5]}]}`)
	}))
	c.Server = httptest.NewServer(mux)
	t.Cleanup(c.Close)
	return c
}

func (c *compatible) set(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

func (c *compatible) served() (models []string) {
	c.set(func() { models = c.models })
	return models
}

func (c *compatible) keyed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var key string
		if c.set(func() { key = c.key }); r.Header.Get("Authorization") != "Bearer "+key {
			http.Error(w, `{"error":{"message":"no"}}`, http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (c *compatible) note(r *http.Request) map[string]json.RawMessage {
	body := map[string]json.RawMessage{}
	_ = json.NewDecoder(r.Body).Decode(&body)
	c.set(func() { c.bodies, c.heads = append(c.bodies, body), append(c.heads, r.Header.Clone()) })
	return body
}

// last is what was asked for last.
func (c *compatible) last() (body map[string]json.RawMessage, head http.Header) {
	c.set(func() { body, head = c.bodies[len(c.bodies)-1], c.heads[len(c.heads)-1] })
	return body, head
}

const (
	chunkA = "data: {\"choices\":[{\"delta\":{\"content\":\"Bees\"}}]}\r\n\r\n"
	chunkB = "data: {\"choices\":[{\"delta\":{\"content\":\" dance\"},\"finish_reason\":\"stop\"}]}\r\n\r\n"
)

func (c *compatible) chat(w http.ResponseWriter, r *http.Request) {
	body := c.note(r)
	rc := http.NewResponseController(w)
	say := func(s string) {
		_, _ = io.WriteString(w, s)
		_ = rc.Flush()
	}
	if string(body["stream"]) != "true" {
		w.Header().Set("Content-Type", "application/json")
		say(`{"choices":[{"message":{"content":"Bees dance"}}]}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	say(chunkA)
	switch string(body["user"]) {
	case `"die"`:
		say(chunkB[:20])
		panic(http.ErrAbortHandler)
	case `"hang"`:
		<-r.Context().Done()
		c.left <- struct{}{}
		return
	}
	say(chunkB + "data: [DONE]\r\n\r\n")
}

// beside starts a hive that knows a server by a name, and waits for its workers.
func beside(t *testing.T, workers int, name, url string, more ...string) *running {
	t.Helper()
	r := start(t, append([]string{
		"RBEE_EXTERNAL=" + name + "=" + url, "RBEE_EXTERNAL_" + strings.ToUpper(name) + "_KEY=sesame", "RBEE_ALIASES=ours=external:" + name + "/bee:3b",
	}, more...)...)
	r.eventually("the workers of the server", func() bool { return len(r.workers()) == workers })
	return r
}

func TestAServerBesideTheHiveIsAWorkerAndAnswersThroughIt(t *testing.T) {
	c := compatibleServer(t, "bee:3b", "org/wasp")
	r := beside(t, 2, "srv", c.URL+"/v1")
	list := r.workers()
	if len(list) != 2 {
		t.Fatalf("workers: %+v", list)
	}
	for _, w := range list {
		if !w.External || w.State != rbee.WorkerIdle || w.PID != 0 || w.SlotsTotal != 1 || w.ModelRef.Provider != rbee.ProviderExternal {
			t.Errorf("worker: %+v", w)
		}
	}
	id := string(r.of("external:srv/bee:3b").ID)
	request := func(model string) string {
		return `{"n":1e400,"model":` + model + `,"stream":true,"messages":[{"role":"user","content":"model"}]}`
	}
	for path, model := range map[string]string{
		"/v1/chat/completions":                       `"external:srv\/bee:3b"`,
		"/v1/workers/" + id + "/v1/chat/completions": `"whatever"`,
	} {
		status, body, head := r.raw(http.MethodPost, path, request(model))
		if status != http.StatusOK || body != chunkA+chunkB+"data: [DONE]\r\n\r\n" {
			t.Errorf("%s: %d %q", path, status, body)
		}
		if head.Get(rbee.RequestIDHeader) == "" || head.Get(rbee.VersionHeader) != rbee.Version {
			t.Errorf("%s: head %v", path, head)
		}
		asked, with := c.last()
		if string(asked["model"]) != `"bee:3b"` || string(asked["n"]) != "1e400" || string(asked["messages"]) != `[{"role":"user","content":"model"}]` {
			t.Errorf("%s: the server was asked for %s", path, asked)
		}
		if with.Get("Authorization") != "Bearer sesame" || with.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: the server was asked with %v", path, with)
		}
	}
	if status, body, _ := r.raw(http.MethodPost, "/v1/embeddings", `{"input":"x","model":"ours"}`); status != http.StatusOK || !strings.Contains(body, "0.5") {
		t.Errorf("embeddings by an alias: %d %s", status, body)
	}
	if asked, _ := c.last(); string(asked["model"]) != `"bee:3b"` {
		t.Errorf("by an alias the server was asked for %s", asked)
	}
	text := ""
	for ev, err := range r.At(r.Base()+"/v1/workers/"+id).Chat(t.Context(), client.ChatRequest{Model: "external:srv/bee:3b"}) {
		must(t, err)
		text += ev.Content
	}
	if w := r.wait(rbee.WorkerID(id), rbee.WorkerIdle); text != "Bees dance" || w.Requests != 4 {
		t.Errorf("text %q, worker %+v", text, w)
	}
}

// of is the worker of a model.
func (r *running) of(model string) rbee.Worker {
	r.t.Helper()
	for _, w := range r.workers() {
		if w.ModelRef.String() == model {
			return w
		}
	}
	r.t.Fatalf("there is no worker of %s: %+v", model, r.workers())
	return rbee.Worker{}
}

func TestASecondWorkerProgramIsAnExternalWorker(t *testing.T) {
	model := filepath.Join(t.TempDir(), "a.gguf")
	must(t, os.WriteFile(model, models.BeeTiny(), 0o600))
	cmd := exec.CommandContext(t.Context(), workerProgram, "--model", model, "--model-ref", "builtin:bee-tiny", "--log-format", "json")
	cmd.Env = append(os.Environ(), "RBEE_WORKER_KEY=sesame")
	in, err := cmd.StdinPipe() // it ends when this closes
	must(t, err)
	out, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	var url string
	for lines := bufio.NewScanner(out); url == "" && lines.Scan(); {
		if m := regexp.MustCompile(`"msg":"listening".*"addr":"([^"]+)"`).FindStringSubmatch(lines.Text()); m != nil {
			url = m[1]
		}
	}
	if url == "" {
		t.Fatal("the worker does not say where it listens")
	}
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(io.Discard, out) })
	t.Cleanup(reading.Wait)
	ready := client.New(url)
	defer ready.Close()
	eventually(t, "the worker", func() bool {
		now, err := ready.Ready(t.Context())
		return err == nil && now.Ready
	})
	r := beside(t, 1, "second", url)
	status, body, _ := r.raw(http.MethodPost, "/v1/chat/completions",
		`{"model":"external:second/builtin:bee-tiny","max_tokens":3,"messages":[{"role":"user","content":"x"}]}`)
	if status != http.StatusOK || !strings.Contains(body, `"finish_reason":"length"`) {
		t.Errorf("chat: %d %s", status, body)
	}
	must(t, r.end())
	if now, err := ready.Ready(t.Context()); err != nil || !now.Ready {
		t.Errorf("the hive ended, and its external worker is %+v, %v", now, err)
	}
}

func TestWhatAForeignServerDoesNotSpeakIsRefusedWithAnAlternative(t *testing.T) {
	c := compatibleServer(t, "bee:3b")
	r := beside(t, 1, "srv", c.URL)
	base := "/v1/workers/" + string(r.workers()[0].ID) + "/v1/"
	for _, at := range []string{"POST inference", "POST tokenize", "POST chat/template", "DELETE inference/r1", "GET slots", "POST load_lora_adapter"} {
		method, path, _ := strings.Cut(at, " ")
		status, body, _ := r.raw(method, base+path, `{"prompt":"x"}`)
		if status != http.StatusBadRequest || !strings.Contains(body, `"INVALID_REQUEST"`) || !strings.Contains(body, "/v1/chat/completions") {
			t.Errorf("%s: %d %s", at, status, body)
		}
	}
	if len(c.bodies) > 0 {
		t.Error("the server was asked for it")
	}
	w := r.At(r.workers()[0].URL)
	if _, _, err := infer(t.Context(), w, 3); rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(rbee.AsError(err).Suggestion(), "rbee chat") {
		t.Errorf("infer: %v", err)
	}
	if h, err := w.Health(t.Context()); err != nil || h.Status != "alive" {
		t.Errorf("health: %+v, %v", h, err)
	}
	if now, err := w.Ready(t.Context()); err != nil || !now.Ready || now.SlotsTotal != 1 || now.SlotsBusy != 0 {
		t.Errorf("ready: %+v, %v", now, err)
	}
	for p, err := range w.LoadProgress(t.Context()) {
		if err != nil || p.Stage != rbee.LoadReady {
			t.Errorf("loading: %+v, %v", p, err)
		}
	}
	if status, body, _ := r.raw(http.MethodGet, base+"models", ""); status != http.StatusOK || !strings.Contains(body, `"bee:3b"`) {
		t.Errorf("models: %d %s", status, body)
	}
	if status, body, _ := r.raw(http.MethodPost, base+"chat/completions", `{"messages":[]}`); status != http.StatusBadRequest {
		t.Errorf("no model: %d %s", status, body)
	}
}

func TestNoWorkerIsStartedAndNothingFetchedOfAModelElsewhere(t *testing.T) {
	c := compatibleServer(t, "bee:3b")
	r := beside(t, 1, "srv", c.URL, "RBEE_HIVE_PRELOAD=external:srv/none")
	spawn := func(model string, reuse bool) (rbee.SpawnReply, error) {
		return r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: model, Reuse: reuse, Slots: 8, Context: 4096})
	}
	if reply, err := spawn("external:srv/bee:3b", true); err != nil || !reply.Reused || reply.WorkerID != r.workers()[0].ID || reply.State != rbee.WorkerIdle {
		t.Errorf("a worker to be used again: %+v, %v", reply, err)
	}
	for name, fails := range map[string]func() error{
		"a fresh worker": func() error { _, err := spawn("external:srv/bee:3b", false); return err },
		"a download": func() error {
			_, err := r.Download(t.Context(), rbee.DownloadRequest{ModelRef: "external:srv/bee:3b"})
			return err
		},
	} {
		if err := fails(); rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(rbee.AsError(err).Suggestion(), "rbee chat --model external:srv/bee:3b") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for model, want := range map[string]rbee.Code{
		"external:other/bee:3b": rbee.CodeModelNotFound, "external:srv/wasp": rbee.CodeModelNotFound, "external:srv": rbee.CodeInvalidRequest,
	} {
		_, err := spawn(model, true)
		if e := rbee.AsError(err); rbee.CodeOf(err) != want || e.Suggestion() == "" {
			t.Errorf("%s: %v", model, err)
		}
		status, body, _ := r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"`+model+`"}`)
		if status != http.StatusNotFound || !strings.Contains(body, `"code":"MODEL_NOT_FOUND"`) {
			t.Errorf("%s: %d %s", model, status, body)
		}
	}
	if list := r.workers(); len(list) != 1 {
		t.Errorf("workers: %+v", list)
	}
}

func TestAModelThatAServerHasSinceAMomentIsFoundWhenItIsAskedFor(t *testing.T) {
	c := compatibleServer(t, "bee:3b")
	r := beside(t, 1, "srv", c.URL)
	c.set(func() { c.models = []string{"wasp"} })
	r.eventually("the new model", func() bool { // the server is asked at most once a second
		status, _, _ := r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"external:srv/wasp"}`)
		return status == http.StatusOK
	})
	if list := r.workers(); len(list) != 1 || list[0].ModelRef.String() != "external:srv/wasp" {
		t.Errorf("workers: %+v", list)
	}
	gone, err := r.Worker(t.Context(), "x-none")
	if rbee.CodeOf(err) != rbee.CodeWorkerNotFound {
		t.Errorf("worker %+v, %v", gone, err)
	}
}

func TestAServerThatDiesInAReplyEndsTheStreamWithWhatCameBefore(t *testing.T) {
	c := compatibleServer(t, "bee:3b")
	r := beside(t, 1, "srv", c.URL)
	status, body, _ := r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"ours","stream":true,"user":"die"}`)
	rest, ok := strings.CutPrefix(body, chunkA)
	if status != http.StatusOK || !ok || !strings.Contains(rest, `"WORKER_CRASHED"`) || !strings.HasSuffix(rest, "data: [DONE]\n\n") || strings.Contains(rest, "dance") {
		t.Errorf("reply %d %q", status, body)
	}
	c.CloseClientConnections()
	c.Listener.Close() //nolint:errcheck // nobody is to reach it any more
	status, body, _ = r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"ours"}`)
	if status != http.StatusInternalServerError || !strings.Contains(body, `"WORKER_CRASHED"`) {
		t.Errorf("reply of nobody: %d %s", status, body)
	}
	r.eventually("the end of the requests", func() bool { return r.workers()[0].State == rbee.WorkerIdle })
	w := r.At(r.workers()[0].URL)
	r.eventually("a server that is down", func() bool { // it was asked a moment ago
		_, err := w.Health(t.Context())
		return rbee.CodeOf(err) == rbee.CodeBackendUnavailable
	})
}

func TestAClientThatLeavesEndsTheRequestOfAForeignServer(t *testing.T) {
	c := compatibleServer(t, "bee:3b")
	r := beside(t, 1, "srv", c.URL)
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Base()+"/v1/chat/completions", strings.NewReader(`{"model":"ours","stream":true,"user":"hang"}`))
	must(t, err)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	first := make([]byte, len(chunkA))
	_, err = io.ReadFull(resp.Body, first)
	must(t, err)
	if w := r.workers()[0]; w.State != rbee.WorkerBusy || w.SlotsAvailable != 0 {
		t.Errorf("worker: %+v", w)
	}
	leave()
	_ = resp.Body.Close()
	<-c.left
	r.eventually("an idle worker", func() bool { return r.workers()[0].State == rbee.WorkerIdle })
}

func TestAKeyThatAServerRefusesIsNoFaultOfTheCaller(t *testing.T) {
	c := compatibleServer(t, "bee:3b")
	r := beside(t, 1, "srv", c.URL)
	c.set(func() { c.key = "another" })
	status, body, head := r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"ours","stream":true}`)
	if status != http.StatusServiceUnavailable || !strings.Contains(body, `"BACKEND_UNAVAILABLE"`) || strings.Contains(body, "sesame") || head.Get(rbee.RequestIDHeader) == "" {
		t.Errorf("reply %d %s %v", status, body, head)
	}
	if strings.Contains(r.log.String(), "sesame") {
		t.Error("the key is in the log")
	}
}

func TestAForeignServerIsForgottenAndNeverEnded(t *testing.T) {
	c := compatibleServer(t, "bee:3b", "wasp")
	r := beside(t, 2, "srv", c.URL)
	_, err := r.Drain(t.Context())
	must(t, err)
	if list := r.workers(); len(list) != 2 {
		t.Errorf("a hive that drains has %+v", list)
	}
	if s, err := r.Status(t.Context()); err != nil || len(s.Workers) != 0 || s.External != 2 {
		t.Errorf("who waits for the end of the workers hears %v and %d, %v", s.Workers, s.External, err)
	}
	status, body, _ := r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"ours"}`)
	if status != http.StatusServiceUnavailable {
		t.Errorf("a hive that drains answers %d %s", status, body)
	}
	_, err = r.Uncordon(t.Context())
	must(t, err)
	must(t, r.StopWorker(t.Context(), r.of("external:srv/bee:3b").ID))
	status, body, _ = r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"ours"}`)
	if status != http.StatusNotFound || !strings.Contains(body, "taken off the list") {
		t.Errorf("after it was forgotten: %d %s", status, body)
	}
	wasp := r.of("external:srv/wasp").ID
	if status, body, _ := r.raw(http.MethodPost, "/v1/workers/"+string(wasp)+"/v1/shutdown", ""); status != http.StatusOK {
		t.Errorf("an order to end: %d %s", status, body)
	}
	r.eventually("an empty list", func() bool { return len(r.workers()) == 0 })
	must(t, r.end())
	if len(c.bodies) > 0 {
		t.Errorf("the server was told %v", c.bodies)
	}
}

func TestTheMemoryOfAServerBesideIsCounted(t *testing.T) {
	c := compatibleServer(t, "bee:3b", "wasp")
	r := beside(t, 2, "srv", c.URL)
	r.ready()
	decisions, err := r.Decisions(t.Context())
	must(t, err)
	var held int64
	externals := 0
	for _, w := range decisions[0].Holding.Workers {
		if w.External {
			externals++
			held += w.Memory[rbee.MainMemory]
			if w.Promised[rbee.MainMemory] > w.Memory[rbee.MainMemory] {
				t.Errorf("held: %+v", w)
			}
		}
	}
	if externals != 2 || held < 16<<20 { // of this process
		t.Errorf("%d external workers hold %d bytes", externals, held)
	}
}
