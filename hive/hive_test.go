package hive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
	"rbee/client"
	"rbee/hive"
	"rbee/internal/conf"
	"rbee/internal/httpapi"
)

var update = flag.Bool("update", false, "write docs/openapi-hive.json anew")

// listen serves a handler on loopback until the test ends.
func listen(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestTheOpenAPIDocumentIsCheckedIn(t *testing.T) {
	home := t.TempDir()
	settings, err := conf.Load(conf.Options{Home: home, Environ: environ(t, home)})
	must(t, err)
	h, err := hive.New(hive.Config{Settings: settings})
	must(t, err)
	got, err := h.OpenAPI()
	must(t, err)
	const path = "../docs/openapi-hive.json"
	if *update {
		must(t, os.WriteFile(path, got, 0o600))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the code says; run 'make generate'", path)
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]any
	}
	must(t, json.Unmarshal(got, &doc))
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Paths["/v1/workers/spawn"] == nil {
		t.Errorf("version %q, paths %v", doc.OpenAPI, doc.Paths)
	}
}

func TestTokensComeThroughTheRelay(t *testing.T) {
	r := start(t)
	id, w := r.ready()
	text, done, err := infer(t.Context(), w, 12)
	if err != nil || done == nil || done.TotalTokens != 12 || text == "" {
		t.Fatalf("%q, %+v, %v", text, done, err)
	}
	whole, err := w.InferWhole(t.Context(), rbee.InferRequest{Prompt: "Once upon a time"})
	if err != nil || whole.Text == "" || whole.RequestID == "" {
		t.Errorf("%+v, %v", whole, err)
	}
	status, body, header := r.raw(http.MethodPost, "/v1/workers/"+string(id)+"/v1/inference", `{"prompt":"a","max_tokens":1,"request_id":"my-own"}`)
	if status != http.StatusOK || header.Get(rbee.RequestIDHeader) != "my-own" || len(header.Values(rbee.RequestIDHeader)) != 1 ||
		len(header.Values(rbee.VersionHeader)) != 1 || !strings.HasSuffix(body, "data: [DONE]\n\n") {
		t.Errorf("%d %v %q", status, header, body)
	}
	status, body, _ = r.raw(http.MethodPost, "/v1/workers/"+string(id)+"/v1/inference", `{"prompt":""}`)
	if status != http.StatusBadRequest || !strings.Contains(body, "INVALID_REQUEST") {
		t.Errorf("a refusal of the worker: %d %s", status, body)
	}
	if _, err := w.Tokenize(t.Context(), rbee.TokenizeRequest{Text: "bee"}); err != nil {
		t.Errorf("tokenize: %v", err)
	}
	figures, err := w.Metrics(t.Context())
	if err != nil || !strings.Contains(figures, "rbee_worker_") {
		t.Errorf("the worker's metrics: %v", err)
	}
}

func TestAWorkerThatDiesInAStreamIsExplained(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "crash_at=5,crash_code=7")
	r := start(t)
	id, w := r.ready()
	text, _, err := infer(t.Context(), w, 20)
	e := rbee.AsError(err)
	if e == nil || e.Code != rbee.CodeWorkerCrashed || !strings.Contains(e.Message, "exit status 7") || e.RequestID == "" {
		t.Fatalf("after %q: %v", text, err)
	}
	if text == "" {
		t.Error("the tokens before the crash are lost")
	}
	got := r.wait(id, rbee.WorkerFailed)
	if got.ExitCause != "exit status 7" || len(got.LastLogs) == 0 || rbee.CodeOf(got.Failure) != rbee.CodeWorkerCrashed {
		t.Errorf("worker: %+v", got)
	}
	if list := r.workers(); len(list) != 0 {
		t.Errorf("list: %+v", list)
	}
	if !strings.Contains(r.log.String(), "worker failed") || !strings.Contains(r.log.String(), "exit status 7") {
		t.Error("the log does not tell of it")
	}
	if _, _, err := infer(t.Context(), w, 20); rbee.CodeOf(err) != rbee.CodeWorkerCrashed {
		t.Errorf("the next request: %v", err)
	}
}

func TestAClientThatLeavesFreesTheWorker(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=20ms,eos_at=100000")
	r := start(t)
	id, w := r.ready()
	ctx, leave := context.WithCancel(t.Context())
	tokens, seen := 100_000, false
	for ev, err := range w.Infer(ctx, rbee.InferRequest{Prompt: "a", MaxTokens: &tokens}) {
		if err != nil {
			break
		}
		if !seen {
			seen = true
			if busy := r.wait(id, rbee.WorkerBusy); busy.SlotsAvailable != busy.SlotsTotal-1 {
				t.Errorf("busy: %+v", busy)
			}
		}
		if ev.Index >= 2 {
			leave()
		}
	}
	leave()
	if idle := r.wait(id, rbee.WorkerIdle); idle.SlotsAvailable != idle.SlotsTotal {
		t.Errorf("idle: %+v", idle)
	}
}

func TestDeleteFinishesWhatRuns(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=20ms")
	r := start(t)
	id, w := r.ready()
	pid := r.wait(id, rbee.WorkerIdle).PID
	stopped := make(chan error, 1)
	tokens, got := 15, 0
	asked := false
	for ev, err := range w.Infer(t.Context(), rbee.InferRequest{Prompt: "a", MaxTokens: &tokens}) {
		must(t, err)
		if ev.Index > 0 && !asked {
			asked = true
			go func() { stopped <- r.StopWorker(t.Context(), id) }()
		}
		if ev.InferDone != nil {
			got = ev.TotalTokens
			if ev.StopReason != rbee.StopLength {
				t.Errorf("the stream ended with %+v", ev.InferDone)
			}
		}
	}
	must(t, <-stopped)
	if got != 15 || alive(pid) {
		t.Errorf("%d tokens came; the process is left: %t", got, alive(pid))
	}
	must(t, r.StopWorker(t.Context(), id))
	must(t, r.StopWorker(t.Context(), "nobody"))
	r.wait(id, rbee.WorkerStopped)
}

func TestAnOrderToTheWorkerIsNoCrash(t *testing.T) {
	r := start(t)
	id, w := r.ready()
	if _, err := w.AdminShutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wait(id, rbee.WorkerStopped)
	if _, _, err := infer(t.Context(), w, 1); rbee.CodeOf(err) != rbee.CodeWorkerNotFound {
		t.Errorf("a request after the end: %v", err)
	}
}

func TestKeepAliveOfASpawn(t *testing.T) {
	r := start(t)
	id, w := r.ready(func(s *rbee.SpawnRequest) { s.KeepAlive = "0" })
	if _, _, err := infer(t.Context(), w, 3); err != nil {
		t.Fatal(err)
	}
	if got := r.wait(id, rbee.WorkerStopped); !strings.Contains(got.Reason, "idle") {
		t.Errorf("reason %q", got.Reason)
	}
	_, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "soon"})
	if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), "keep_alive") {
		t.Errorf("error is %v", err)
	}
}

func TestALoadThatSticksSaysWhere(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "load=100ms,load_stall_at=3")
	r := start(t, "RBEE_WORKER_LOAD_TIMEOUT=1s")
	reply := r.spawn()
	got := r.wait(reply.WorkerID, rbee.WorkerFailed)
	if rbee.CodeOf(got.Failure) != rbee.CodeLoadingTimeout || !strings.Contains(got.Reason, "3") {
		t.Errorf("worker: %+v", got.Failure)
	}
}

func TestALoadThatIsRefusedSaysWhy(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "refuse=the moon is full")
	r := start(t)
	reply := r.spawn()
	var heard error // in the stream, or instead of it if the worker is gone by then
	for p, err := range r.At(reply.URL).LoadProgress(t.Context()) {
		if heard = err; p.Error != nil {
			heard = p.Error
		}
	}
	if heard == nil || !strings.Contains(heard.Error(), "the moon is full") {
		t.Errorf("who follows the loading hears %v", heard)
	}
	if got := r.wait(reply.WorkerID, rbee.WorkerFailed); !strings.Contains(got.Reason, "the moon is full") {
		t.Errorf("reason %q", got.Reason)
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	r := start(t, "RBEE_HIVE_MEMORY_LIMIT_MB=1")
	_, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	e := rbee.AsError(err)
	if e == nil || e.Code != rbee.CodeInsufficientRAM || !strings.Contains(e.Suggestion(), "try a smaller quantisation") {
		t.Fatalf("error is %v", err)
	}
	required, _ := e.Details["required"].(float64)
	available, _ := e.Details["available"].(float64)
	if required <= available || available != 1 {
		t.Errorf("details: %v", e.Details)
	}
	for name, c := range map[string]struct {
		req  rbee.SpawnRequest
		code rbee.Code
	}{
		"a backend that is not there": {rbee.SpawnRequest{Backend: rbee.BackendMetal}, rbee.CodeBackendUnavailable},
		"a device of another backend": {rbee.SpawnRequest{Backend: rbee.BackendCPU, Device: "cuda0"}, rbee.CodeInvalidRequest},
		"no backend":                  {rbee.SpawnRequest{Backend: "abacus"}, rbee.CodeInvalidRequest},
		"more context than trained":   {rbee.SpawnRequest{Context: 4096}, rbee.CodeInvalidRequest},
		"too many slots":              {rbee.SpawnRequest{Slots: 1000}, rbee.CodeInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			c.req.ModelRef = "builtin:bee-tiny"
			if _, err := r.Spawn(t.Context(), c.req); rbee.CodeOf(err) != c.code {
				t.Errorf("error is %v", err)
			}
		})
	}
	if list := r.workers(); len(list) != 0 {
		t.Errorf("list: %+v", list)
	}
}

func TestDevicesAndBackends(t *testing.T) {
	r := start(t)
	list, err := r.Devices(t.Context())
	must(t, err)
	if len(list.Devices) == 0 || list.Devices[0].MemoryTotal <= 0 || len(list.Backends) != len(rbee.Backends()) {
		t.Errorf("devices: %+v", list)
	}
	for _, b := range list.Backends {
		if !b.Available && b.Reason == "" {
			t.Errorf("%s is not available for no reason", b.Backend)
		}
	}
}

func TestLogsAndFollow(t *testing.T) {
	r := start(t)
	id, _ := r.ready()
	logs, err := r.WorkerLogs(t.Context(), id, true)
	must(t, err)
	defer logs.Close() //nolint:errcheck // only read
	must(t, r.StopWorker(t.Context(), id))
	text, err := io.ReadAll(logs) // ends with the worker
	if err != nil || !strings.Contains(string(text), "ready") {
		t.Errorf("%q, %v", text, err)
	}
	again, err := r.WorkerLogs(t.Context(), id, false)
	must(t, err)
	defer again.Close() //nolint:errcheck // only read
	if kept, err := io.ReadAll(again); err != nil || len(kept) == 0 {
		t.Errorf("of an ended worker: %q, %v", kept, err)
	}
	if _, err := r.WorkerLogs(t.Context(), "nobody", false); rbee.CodeOf(err) != rbee.CodeWorkerNotFound {
		t.Errorf("error is %v", err)
	}
}

func TestModelsAreImportedListedAndRemoved(t *testing.T) {
	r := start(t)
	bee, err := os.ReadFile("../models/bee-tiny.gguf")
	must(t, err)
	path := filepath.Join(t.TempDir(), "my bee.gguf")
	must(t, os.WriteFile(path, bee, 0o600))
	m := r.imported(rbee.ImportRequest{Path: path})
	if m.Ref().String() != "file:"+path || m.Architecture != "llama" || m.ContextLength != 1024 || m.SizeBytes != int64(len(bee)) {
		t.Errorf("imported: %+v", m)
	}
	reply := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = "file:" + path })
	r.wait(reply.WorkerID, rbee.WorkerIdle)
	if err := r.RemoveModel(t.Context(), "file:"+path); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("a model in use: %v", err)
	}
	must(t, r.StopWorker(t.Context(), reply.WorkerID))
	if list, err := r.Models(t.Context()); err != nil || len(list) != 1 || list[0].UseCount != 1 {
		t.Errorf("models: %+v, %v", list, err)
	}
	must(t, r.RemoveModel(t.Context(), "file:"+path))
	must(t, r.RemoveModel(t.Context(), "file:"+path))
	if _, body, _ := r.raw(http.MethodGet, "/v1/models", ""); strings.TrimSpace(body) != `{"models":[]}` {
		t.Errorf("models: %s", body)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the user's own file is gone: %v", err)
	}
}

func TestEverythingWorksWithAKey(t *testing.T) {
	r := start(t, "RBEE_HIVE_KEY=0123456789abcdef0123456789abcdef")
	_, w := r.ready() // the worker's callback knows the key
	if _, _, err := infer(t.Context(), w, 3); err != nil {
		t.Error(err)
	}
	stranger := client.New(r.Base())
	defer stranger.Close()
	if _, err := stranger.Workers(t.Context()); rbee.CodeOf(err) != rbee.CodeMissingAPIKey {
		t.Errorf("without a key: %v", err)
	}
	if _, _, err := infer(t.Context(), stranger.At(w.Base()), 3); rbee.CodeOf(err) != rbee.CodeMissingAPIKey {
		t.Errorf("the relay without a key: %v", err)
	}
	if _, err := stranger.Health(t.Context()); err != nil {
		t.Errorf("health without a key: %v", err)
	}
}

func TestOneDaemonPerStateDirectory(t *testing.T) {
	r := start(t)
	settings, err := conf.Load(conf.Options{Home: r.home, Environ: environ(t, r.home)})
	must(t, err)
	second, err := hive.New(hive.Config{Settings: settings})
	must(t, err)
	if err := second.Run(t.Context()); rbee.CodeOf(err) != rbee.CodeConflict || !strings.Contains(err.Error(), r.Base()) {
		t.Errorf("error is %v", err)
	}
	if _, err := r.Health(t.Context()); err != nil {
		t.Errorf("the first is gone: %v", err)
	}
}

func TestAShutdownEndsStreamsWithAWord(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=20ms,eos_at=100000")
	r := start(t)
	_, w := r.ready()
	tokens := 100_000
	var last rbee.InferEvent
	asked := false
	ended := make(chan error, 1)
	for ev, err := range w.Infer(t.Context(), rbee.InferRequest{Prompt: "a", MaxTokens: &tokens}) {
		if err != nil {
			t.Fatalf("the stream broke: %v", err)
		}
		last = ev
		if ev.Index >= 3 && !asked { // a token may be no event: its character may go on in the next
			asked = true
			go func() { ended <- r.end() }()
		}
	}
	must(t, <-ended)
	if last.InferDone == nil || last.StopReason != rbee.StopShutdown {
		t.Errorf("the last event is %+v", last)
	}
}

func TestAPrivateHiveLivesByItsKeeper(t *testing.T) {
	home := t.TempDir()
	daemon := startAt(t, home) // a private hive does not mind
	cmd := exec.Command(hiveProgram, "daemon", "--private", "--addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), environ(t, home, "RBEE_DEATH_PIPE=1")...)
	pipe, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var note struct{ URL string }
	must(t, json.NewDecoder(out).Decode(&note))
	c := client.New(note.URL)
	defer c.Close()
	reply, err := c.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	must(t, err)
	w, err := c.Worker(t.Context(), reply.WorkerID)
	must(t, err)
	must(t, pipe.Close()) // as the kernel does when the keeper dies
	if err := cmd.Wait(); err != nil {
		t.Errorf("the private hive ended with %v", err)
	}
	if alive(w.PID) {
		t.Errorf("worker process %d is left", w.PID)
	}
	if _, err := daemon.Health(t.Context()); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
}

func TestTheCommandLine(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close() //nolint:errcheck // nothing was written
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"version":      {[]string{"version"}, 0, "rbee-hive 0.1.0"},
		"help":         {[]string{"--help"}, 0, "daemon"},
		"unknown flag": {[]string{"daemon", "--frobnicate"}, 2, "Error: unknown flag: --frobnicate\nSuggestion: "},
		"unknown word": {[]string{"frobnicate"}, 2, `Error: unknown command "frobnicate"`},
		"an argument":  {[]string{"daemon", "now"}, 2, "takes no arguments"},
		"bad duration": {[]string{"daemon", "--keep-alive", "soon"}, 2, "keep-alive"},
		"port taken":   {[]string{"daemon", "--addr", ln.Addr().String()}, 1, "Error: cannot listen on " + ln.Addr().String() + ": the port is taken\nSuggestion: "},
		"no key":       {[]string{"daemon", "--addr", "0.0.0.0:0"}, 1, "without a key"},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			for _, kv := range environ(t, home) {
				k, v, _ := strings.Cut(kv, "=")
				t.Setenv(k, v)
			}
			var out bytes.Buffer
			if code := hive.Main(t.Context(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
				t.Errorf("exit code %d:\n%s", code, &out)
			}
		})
	}
}

func TestAStateDirectoryThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	settings, err := conf.Load(conf.Options{Home: filepath.Join(file, "home"), Environ: environ(t, filepath.Join(file, "home"))})
	if err == nil {
		var h *hive.Hive
		h, err = hive.New(hive.Config{Settings: settings})
		must(t, err)
		err = h.Run(t.Context())
	}
	if e := rbee.AsError(err); e == nil || e.Code == rbee.CodeInternalError || e.Suggestion() == "" || strings.Contains(e.Message, "\n") {
		t.Errorf("error is %v", err)
	}
}

func TestTheShutdownOfADaemonIsNoError(t *testing.T) {
	r := start(t)
	m, err := r.Shutdown(t.Context())
	if err != nil || m.Message == "" {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := r.end(); err != nil && !errors.Is(err, httpapi.ErrShutdown) {
		t.Errorf("the hive ended with %v", err)
	}
}
