package hive_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rbee"
	"rbee/client"
)

func TestBehaviourDaemonStartMakesNoWorkersDB(t *testing.T) {
	r := start(t)
	r.ready()
	must(t, filepath.WalkDir(r.home, func(path string, _ fs.DirEntry, err error) error {
		if name := filepath.Base(path); filepath.Ext(name) == ".db" && name != "models.db" {
			t.Errorf("there is a database %s", path)
		}
		return err
	}))
}

func TestBehaviourReadyRegistersAnUnknownWorkerAsExternal(t *testing.T) {
	mux := http.NewServeMux()
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	mux.HandleFunc("GET /v1/health", answer(`{"status":"alive"}`))
	mux.HandleFunc("GET /v1/ready", answer(`{"ready":true,"state":"idle","model_loaded":true,"slots_total":2}`))
	mux.HandleFunc("GET /v1/loading/progress", answer("data: {\"stage\":\"ready\"}\n\ndata: [DONE]\n\n"))
	outside := listen(t, mux)

	r := start(t)
	status, body, _ := r.raw(http.MethodPost, "/v1/workers/ready",
		`{"worker_id":"outside-1","url":"`+outside+`","model_ref":"hf:a/b","backend":"cpu","device":"cpu"}`)
	if status != http.StatusOK || strings.TrimSpace(body) != `{"message":"Worker registered as ready"}` {
		t.Fatalf("reply %d %s", status, body)
	}
	w := r.wait("outside-1", rbee.WorkerIdle)
	if list := r.workers(); len(list) != 1 || !list[0].External || list[0].PID != 0 || w.SlotsTotal != 2 {
		t.Errorf("list: %+v", list)
	}
	must(t, r.StopWorker(t.Context(), "outside-1"))
	if list := r.workers(); len(list) != 0 {
		t.Errorf("list: %+v", list)
	}
}

func TestBehaviourListIsAJSONArray(t *testing.T) {
	r := start(t)
	if status, body, _ := r.raw(http.MethodGet, "/v1/workers/list", ""); status != http.StatusOK || strings.TrimSpace(body) != `{"workers":[]}` {
		t.Errorf("empty list: %d %s", status, body)
	}
	id, _ := r.ready()
	_, body, _ := r.raw(http.MethodGet, "/v1/workers/list", "")
	var list struct{ Workers []map[string]any }
	must(t, json.Unmarshal([]byte(body), &list))
	if len(list.Workers) != 1 {
		t.Fatalf("list: %s", body)
	}
	w := list.Workers[0]
	for _, field := range []string{"id", "url", "model_ref", "backend", "device", "state", "last_activity", "slots_total", "slots_available", "pid"} {
		if _, ok := w[field]; !ok {
			t.Errorf("%s is missing in %s", field, body)
		}
	}
	if w["id"] != string(id) || w["state"] != "idle" || w["model_ref"] != "builtin:bee-tiny" {
		t.Errorf("list: %s", body)
	}
	if _, body, _ := r.raw(http.MethodGet, "/v1/workers/list?model_ref=hf:a/b", ""); strings.TrimSpace(body) != `{"workers":[]}` {
		t.Errorf("workers of another model: %s", body)
	}
}

func TestBehaviourListIsEmptyAfterARestart(t *testing.T) {
	home := t.TempDir()
	r := startAt(t, home)
	r.ready()
	must(t, r.end())
	r = startAt(t, home)
	if list := r.workers(); len(list) != 0 {
		t.Errorf("list: %+v", list)
	}
	if models, err := r.Models(t.Context()); err != nil || len(models) != 1 {
		t.Errorf("the catalog did not survive: %v, %v", models, err)
	}
}

func TestBehaviourHealthIsExact(t *testing.T) {
	r := start(t)
	for _, path := range []string{"/v1/health", "/health"} {
		status, body, header := r.raw(http.MethodGet, path, "")
		if status != http.StatusOK || strings.TrimSpace(body) != `{"status":"alive","version":"0.1.0","api_version":"v1"}` {
			t.Errorf("%s: %d %s", path, status, body)
		}
		if header.Get(rbee.VersionHeader) != rbee.Version || header.Get("Content-Type") != "application/json" {
			t.Errorf("headers: %v", header)
		}
	}
}

func TestBehaviourTheFourLogLines(t *testing.T) {
	r := start(t)
	r.ready()
	r.ready()
	for _, line := range []string{
		"Worker registry initialized (in-memory, ephemeral)",
		"Model catalog initialized (SQLite, persistent)",
		"Checking model catalog for builtin/bee-tiny",
		"Model found in catalog: " + filepath.Join(r.home, "models", "builtin", "bee-tiny.gguf"),
	} {
		if !r.logged(line) {
			t.Errorf("the log lacks %q", line)
		}
	}
}

// daemon is the real program, with a worker of the fake engine.
type daemon struct {
	*client.Client
	t   testing.TB
	cmd *exec.Cmd
	log *logBuffer
}

func startDaemon(t testing.TB, home string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: exec.Command(hiveProgram, append([]string{"daemon", "--log-format", "json"}, args...)...), log: &logBuffer{}}
	d.cmd.Env = append(os.Environ(), environ(t, home)...)
	d.cmd.Stderr = d.log
	must(t, d.cmd.Start())
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", d.log)
		}
	})
	var note struct{ URL string }
	eventually(t, "the daemon", func() bool {
		b, err := os.ReadFile(filepath.Join(home, "run", "hive.json"))
		return err == nil && json.Unmarshal(b, &note) == nil
	})
	d.Client = client.New(note.URL)
	t.Cleanup(d.Close)
	return d
}

func TestBehaviourSignalsAndShutdownEndTheWorkers(t *testing.T) {
	signal := func(s os.Signal) func(*daemon) error {
		return func(d *daemon) error { return d.cmd.Process.Signal(s) }
	}
	for name, end := range map[string]func(*daemon) error{
		"SIGTERM": signal(syscall.SIGTERM),
		"SIGINT":  signal(os.Interrupt),
		"POST /v1/shutdown": func(d *daemon) error {
			_, err := d.Shutdown(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			d := startDaemon(t, home)
			var pids []int
			for range 2 {
				reply, err := d.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
				must(t, err)
				w, err := d.Worker(t.Context(), reply.WorkerID)
				must(t, err)
				pids = append(pids, w.PID)
			}
			must(t, end(d))
			if err := d.cmd.Wait(); err != nil {
				t.Errorf("the daemon ended with %v", err)
			}
			for _, pid := range pids {
				if pid == 0 || alive(pid) {
					t.Errorf("worker process %d is left", pid)
				}
			}
			if _, err := os.Stat(filepath.Join(home, "run", "hive.json")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("run/hive.json is left: %v", err)
			}
		})
	}
}

func TestBehaviourRegistryIsClearedAtTheEnd(t *testing.T) {
	r := start(t)
	id, _ := r.ready()
	var last []rbee.EventKind
	heard := make(chan error, 1)
	subscribed := make(chan struct{})
	go func() {
		for e, err := range r.Events(t.Context()) {
			if err != nil {
				heard <- err
				return
			}
			if e.Kind == rbee.EventSnapshot {
				close(subscribed)
				continue
			}
			last = append(last, e.Kind)
			if e.Kind == rbee.EventWorkerGone && (e.Worker.ID != id || e.Worker.State != rbee.WorkerStopped) {
				t.Errorf("gone: %+v", e.Worker)
			}
		}
		heard <- nil
	}()
	<-subscribed
	must(t, r.end())
	if err := <-heard; err != nil {
		t.Errorf("the stream of events was cut: %v", err)
	}
	// What was measured of the worker may be told before the end begins.
	if begin := slices.Index(last, rbee.EventShutdown); begin < 0 || slices.Contains(last[:begin], rbee.EventWorkerGone) ||
		last[len(last)-1] != rbee.EventWorkerGone {
		t.Errorf("events: %v", last)
	}
}

func TestBehaviourSpawnReplyIsExact(t *testing.T) {
	r := start(t)
	status, body, _ := r.raw(http.MethodPost, "/v1/workers/spawn", `{"model_ref":"builtin:bee-tiny"}`)
	shape := regexp.MustCompile(`^\{"worker_id":"(w-[a-z2-7]+)","url":"` + regexp.QuoteMeta(r.Base()) + `/v1/workers/(w-[a-z2-7]+)","state":"loading"\}\s*$`)
	m := shape.FindStringSubmatch(body)
	if status != http.StatusAccepted || m == nil || m[1] != m[2] {
		t.Errorf("reply %d %s", status, body)
	}
}

func TestBehaviourSpawnedWorkerIsInTheList(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "load=200ms")
	r := start(t)
	reply := r.spawn()
	list := r.workers()
	if len(list) != 1 || list[0].ID != reply.WorkerID || list[0].URL != reply.URL || !alive(list[0].PID) {
		t.Errorf("list: %+v", list)
	}
	r.wait(reply.WorkerID, rbee.WorkerIdle)
}

func TestBehaviourConcurrentSpawnsGetTheirOwnPorts(t *testing.T) {
	r := start(t)
	type spawned struct {
		reply rbee.SpawnReply
		err   error
	}
	replies := make(chan spawned)
	for range 2 {
		go func() {
			reply, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
			replies <- spawned{reply, err}
		}()
	}
	ports := map[string]bool{}
	for range 2 {
		s := <-replies
		must(t, s.err)
		r.wait(s.reply.WorkerID, rbee.WorkerIdle)
		if _, done, err := infer(t.Context(), r.At(s.reply.URL), 5); err != nil || done.TotalTokens != 5 {
			t.Errorf("worker %s does not serve: %v", s.reply.WorkerID, err)
		}
		ports[portOf(t, r, s.reply.WorkerID)] = true
	}
	if len(ports) != 2 {
		t.Errorf("ports: %v", ports)
	}
}

// portOf reads the address of a worker from what it wrote.
func portOf(t *testing.T, r *running, id rbee.WorkerID) string {
	t.Helper()
	logs, err := r.WorkerLogs(t.Context(), id, false)
	must(t, err)
	defer logs.Close() //nolint:errcheck // only read
	address := regexp.MustCompile(`http://127\.0\.0\.1:(\d+)`)
	for s := bufio.NewScanner(logs); s.Scan(); {
		if m := address.FindStringSubmatch(s.Text()); m != nil {
			return m[1]
		}
	}
	t.Fatalf("worker %s does not say where it answers", id)
	return ""
}

func TestBehaviourWhatCannotRunIsRefusedBeforeAProcessExists(t *testing.T) {
	r := start(t)
	dir := t.TempDir()
	bee, err := os.ReadFile("../models/bee-tiny.gguf")
	must(t, err)
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o600))
		return "file:" + path
	}
	for name, c := range map[string]struct {
		ref, says string
		code      rbee.Code
	}{
		"missing file":  {"file:" + filepath.Join(dir, "none.gguf"), "none.gguf", rbee.CodeModelNotFound},
		"no GGUF":       {file("text.gguf", []byte("not a model at all, but text")), "text.gguf", rbee.CodeInvalidRequest},
		"cut short":     {file("cut.gguf", bee[:len(bee)/2]), "cut short", rbee.CodeInvalidRequest},
		"no such model": {"builtin:wasp", "wasp", rbee.CodeModelNotFound},
		"no reference":  {"what is this?", "model reference", rbee.CodeInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: c.ref})
			if e := rbee.AsError(err); e == nil || e.Code != c.code || !strings.Contains(e.Message, c.says) || e.Suggestion() == "" {
				t.Errorf("error is %v, suggestion %q", err, e.Suggestion())
			}
		})
	}
	// Clients of OpenAI's API are told of any name that there is no such model.
	status, body, _ := r.raw(http.MethodPost, "/v1/chat/completions", `{"model":"gpt-4o","messages":[]}`)
	if status != http.StatusNotFound || !strings.Contains(body, `"param":"model"`) || !strings.Contains(body, `"code":"MODEL_NOT_FOUND"`) {
		t.Errorf("%d: %s", status, body)
	}
	if figures, err := r.Metrics(t.Context()); err != nil || !strings.Contains(figures, "rbee_hive_worker_spawns_total 0") {
		t.Errorf("processes were started: %v\n%s", err, figures)
	}
	if list := r.workers(); len(list) != 0 {
		t.Errorf("list: %+v", list)
	}
}
