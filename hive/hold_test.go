package hive_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/hive"
	"rbee/hive/room"
	"rbee/internal/gguf"
)

// swapping is a hive with n models of which at most fit are loaded at a time.
func swapping(t *testing.T, n, fit int, env ...string) (r *running, models []string) {
	t.Helper()
	bee, err := os.ReadFile("../models/bee-tiny.gguf")
	must(t, err)
	dir := t.TempDir()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("model-%d.gguf", i))
		must(t, os.WriteFile(path, bee, 0o600))
		models = append(models, "file:"+path)
	}
	file, err := gguf.Read(filepath.Join(dir, "model-0.gguf"))
	must(t, err)
	const mb = 1_000_000
	need := file.Estimate(512, 1, rbee.BackendCPU).Need()
	limit := (int64(fit)*need + mb - 1) / mb
	if limit*mb >= int64(fit+1)*need {
		t.Fatalf("%d of %d bytes cannot be told from %d by a limit in MB", fit, need, fit+1)
	}
	r = startTuned(t, t.TempDir(), (*hive.Hive).WeighNothing, append([]string{
		"RBEE_WORKER_SLOTS=1", "RBEE_WORKER_CONTEXT=512", "RBEE_WORKER_QUEUE=64", fmt.Sprintf("RBEE_HIVE_MEMORY_LIMIT_MB=%d", limit),
	}, env...)...)
	return r, models
}

// chat asks the hive for a chat completion and returns what came.
func (r *running) chat(ctx context.Context, model string, stream bool, tokens int) (status int, body string, err error) {
	text := fmt.Sprintf(`{"model":%q,"stream":%t,"max_tokens":%d,"messages":[{"role":"user","content":"hello"}]}`, model, stream, tokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Base()+"/v1/chat/completions", strings.NewReader(text))
	if err != nil {
		return 0, "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// evictions follows the feed and collects the workers that ended for another.
func (r *running) evictions() (stop func() []rbee.WorkerID) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var ids []rbee.WorkerID
	var following sync.WaitGroup
	listening := make(chan struct{})
	following.Go(func() {
		for e, err := range r.Events(ctx) {
			switch {
			case err != nil:
				if ctx.Err() == nil {
					r.t.Errorf("the feed: %v", err)
				}
				return
			case e.Kind == rbee.EventSnapshot:
				close(listening)
			case e.Kind == rbee.EventWorkerGone && strings.Contains(e.Worker.Reason, "needed its memory"):
				ids = append(ids, e.Worker.ID)
			}
		}
	})
	<-listening
	return func() []rbee.WorkerID {
		cancel()
		following.Wait()
		return ids
	}
}

func TestThreeModelsOfWhichTwoFit(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=1ms")
	r, models := swapping(t, 3, 2)
	evicted := r.evictions()
	const requests, clients = 200, 12
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // an order that can be repeated
	order := make(chan string, requests)
	for range requests {
		order <- models[random.IntN(len(models))]
	}
	close(order)
	var work sync.WaitGroup
	for range clients {
		work.Go(func() {
			for model := range order {
				if status, body, err := r.chat(t.Context(), model, false, 5); err != nil || status != http.StatusOK {
					t.Errorf("%s: %d %s %v", model, status, body, err)
				}
			}
		})
	}
	work.Wait()
	ended := evicted()
	decisions, err := r.Decisions(t.Context())
	must(t, err)
	var ordered []rbee.WorkerID
	for _, d := range decisions {
		if diff := cmp.Diff(d.Ruling, room.Decide(d.Holding, d.Request)); diff != "" {
			t.Errorf("decision %d, replayed: %s", d.ID, diff)
		}
		if d.Sentence == "" || d.Verdict == rbee.VerdictRefuse {
			t.Errorf("decision %d: %s %q", d.ID, d.Verdict, d.Sentence)
		}
		taken := int64(0)
		for _, w := range d.Holding.Workers {
			taken += w.Memory.Total()
		}
		if taken > d.Holding.LimitBytes {
			t.Errorf("decision %d found %d bytes taken of %d", d.ID, taken, d.Holding.LimitBytes)
		}
		ordered = append(ordered, d.Evict...)
	}
	for _, id := range ended {
		if !slices.Contains(ordered, id) && len(decisions) < 256 {
			t.Errorf("%s was ended, and no decision says so", id)
		}
	}
	if len(ended) == 0 {
		t.Error("nothing was ended for another model")
	}
	t.Logf("%d requests, %d workers ended for another", requests, len(ended))
	figures, err := r.Metrics(t.Context())
	must(t, err)
	for _, want := range []string{
		fmt.Sprintf("rbee_hive_worker_evictions_total %d\n", len(ended)), `rbee_hive_worker_ends_total{cause="evicted"}`,
		`rbee_hive_worker_shutdowns_total{clean="true"}`, "rbee_hive_worker_load_seconds_count", `rbee_hive_decisions_total{verdict="evict"}`,
	} {
		if !strings.Contains(figures, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

func TestAPinnedWorkerMakesNoRoom(t *testing.T) {
	r, models := swapping(t, 2, 1)
	first := r.spawn(func(s *rbee.SpawnRequest) { s.ModelRef = models[0] })
	r.wait(first.WorkerID, rbee.WorkerIdle)
	w, err := r.Pin(t.Context(), first.WorkerID)
	if err != nil || !w.Pinned {
		t.Fatalf("%+v, %v", w, err)
	}
	second := rbee.SpawnRequest{ModelRef: models[1], Wait: "100ms"}
	_, err = r.Spawn(t.Context(), second)
	if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeInsufficientRAM || e.Suggestion() == "" {
		t.Fatalf("beside a pinned one: %v", err)
	}
	if w, err = r.Unpin(t.Context(), first.WorkerID); err != nil || w.Pinned {
		t.Fatalf("%+v, %v", w, err)
	}
	if _, _, err := infer(t.Context(), r.At(first.URL), 1); err != nil { // until then it is kept for who asked for it
		t.Fatal(err)
	}
	second.Wait = "30s"
	reply, err := r.Spawn(t.Context(), second)
	must(t, err)
	r.wait(reply.WorkerID, rbee.WorkerIdle)
	if got := r.wait(first.WorkerID, rbee.WorkerStopped); !strings.Contains(got.Reason, models[1]) {
		t.Errorf("reason %q", got.Reason)
	}
}

func TestTheFeedTellsOfDecisionsAndOfTheHive(t *testing.T) {
	r, models := swapping(t, 2, 1)
	var told []string
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for e, err := range r.Events(t.Context()) {
			switch {
			case err != nil:
				done <- err
				return
			case e.Kind == rbee.EventSnapshot:
				told = append(told, string(e.Hive.State))
				close(listening)
			case e.Kind == rbee.EventDecision:
				told = append(told, string(e.Decision.Verdict))
			case e.Kind == rbee.EventHive:
				told = append(told, string(e.Hive.State))
			}
		}
		done <- nil
	}()
	<-listening
	for _, model := range models {
		if status, body, err := r.chat(t.Context(), model, false, 1); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, body, err)
		}
	}
	for _, order := range []func(context.Context) (rbee.HiveStanding, error){r.Cordon, r.Uncordon, r.Drain} {
		want, err := order(t.Context())
		must(t, err)
		r.eventually("the event", func() bool {
			return r.logged("what the hive takes on has changed") && strings.Contains(r.log.String(), "state="+string(want.State))
		})
	}
	must(t, r.end())
	must(t, <-done)
	if want := []string{"open", "evict", "cordoned", "open", "draining"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func TestARefusalSaysWhatWouldFit(t *testing.T) {
	r, models := swapping(t, 1, 1)
	req := rbee.SpawnRequest{ModelRef: models[0], Slots: 8, Context: 1024}
	_, err := r.Spawn(t.Context(), req)
	e := rbee.AsError(err)
	if e == nil || e.Code != rbee.CodeInsufficientRAM {
		t.Fatalf("error is %v", err)
	}
	fits, _ := e.Details["fits"].([]any)
	if len(fits) == 0 || !strings.Contains(e.Suggestion(), "--context 512, which fits") {
		t.Errorf("suggestion %q, details %v", e.Suggestion(), e.Details)
	}
	req.AllowSmaller = true
	reply, err := r.Spawn(t.Context(), req)
	must(t, err)
	if w := r.wait(reply.WorkerID, rbee.WorkerIdle); w.ContextTokens != 512 || w.KVTokens != 512 || w.SlotsTotal != 8 {
		t.Errorf("worker: %+v", w)
	}
	if decisions, err := r.Decisions(t.Context()); err != nil || len(decisions) != 2 || decisions[1].Verdict != rbee.VerdictRefuse || !decisions[0].Option.Shrunk {
		t.Errorf("decisions: %+v, %v", decisions, err)
	}
}

func TestReuse(t *testing.T) {
	r := start(t)
	spawn := func() rbee.SpawnReply {
		return r.spawn(func(s *rbee.SpawnRequest) { s.Reuse = true })
	}
	var all sync.WaitGroup
	replies := make(chan rbee.SpawnReply, 10)
	for range 10 {
		all.Go(func() { replies <- spawn() })
	}
	all.Wait()
	fresh, id := 0, rbee.WorkerID("")
	for range 10 {
		reply := <-replies
		if !reply.Reused {
			fresh++
		}
		id = reply.WorkerID
	}
	if fresh != 1 || len(r.workers()) != 1 {
		t.Errorf("%d started, workers %v", fresh, r.workers())
	}
	r.wait(id, rbee.WorkerIdle)
	if again := spawn(); !again.Reused || again.State != rbee.WorkerIdle || again.WorkerID != id || again.URL == "" {
		t.Errorf("reply: %+v", again)
	}
	if _, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", Wait: "soon"}); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("a wait in other words: %v", err)
	}
}

func TestOpenAIClientsNameTheModelOnly(t *testing.T) {
	r := start(t, "RBEE_ALIASES=mine=builtin:bee-tiny")
	for _, model := range []string{"mine", "builtin:bee-tiny"} {
		status, body, err := r.chat(t.Context(), model, false, 5)
		if err != nil || status != http.StatusOK || !strings.Contains(body, `"choices"`) {
			t.Errorf("%s: %d %s %v", model, status, body, err)
		}
	}
	status, body, err := r.chat(t.Context(), "mine", true, 5)
	if err != nil || status != http.StatusOK || !strings.HasSuffix(body, "data: [DONE]\n\n") {
		t.Errorf("a stream: %d %q %v", status, body, err)
	}
	if list := r.workers(); len(list) != 1 || list[0].Requests != 3 {
		t.Errorf("workers: %+v", list)
	}
	for model, want := range map[string]int{"": 400, "no model": 404, "file:/nowhere.gguf": 404} {
		status, body, err := r.chat(t.Context(), model, false, 5)
		if err != nil || status != want || !strings.Contains(body, `"type"`) {
			t.Errorf("%q: %d %s %v", model, status, body, err)
		}
	}
	status, body, _ = r.raw(http.MethodPost, "/v1/embeddings", `{"model":"mine","input":"bee"}`)
	if status != http.StatusOK || !strings.Contains(body, `"embedding"`) {
		t.Errorf("embeddings: %d %s", status, body)
	}
	status, body, _ = r.raw(http.MethodPost, "/v1/completions", `{"model":"mine","prompt":"bee","max_tokens":3}`)
	if status != http.StatusOK || !strings.Contains(body, `"text"`) {
		t.Errorf("completions: %d %s", status, body)
	}
	status, body, _ = r.raw(http.MethodPost, "/v1/chat/template", `{"model":"mine","messages":[{"role":"user","content":"bee"}]}`)
	if status != http.StatusOK || !strings.Contains(body, `"prompt_tokens"`) {
		t.Errorf("template: %d %s", status, body)
	}
}

func TestARequestSaysHowLongItsWorkerIsKept(t *testing.T) {
	r := start(t)
	id, _ := r.ready()
	status, body, header := r.raw(http.MethodPost, "/v1/workers/"+string(id)+"/v1/inference", `{"prompt":"a","max_tokens":1,"keep_alive":0}`)
	if status != http.StatusOK || header.Get("X-Rbee-Keep-Alive") != "" {
		t.Fatalf("%d %s %v", status, body, header)
	}
	if got := r.wait(id, rbee.WorkerStopped); !strings.Contains(got.Reason, "idle") {
		t.Errorf("reason %q", got.Reason)
	}
}

func TestAnIdleWorkerRestsUntilTheNextRequest(t *testing.T) {
	r := start(t, "RBEE_WORKER_REST_AFTER=100ms")
	id, w := r.ready()
	resting := func(want bool) func() bool {
		return func() bool { got, err := r.Worker(t.Context(), id); return err == nil && got.Resting == want }
	}
	r.eventually("rest", resting(true))
	if _, _, err := infer(t.Context(), w, 3); err != nil {
		t.Errorf("it does not wake: %v", err)
	}
	r.eventually("rest again", resting(true))
}

func TestACordonedHiveKeepsWhatItHas(t *testing.T) {
	r := start(t)
	id, w := r.ready()
	standing, err := r.Cordon(t.Context())
	if err != nil || standing.State != rbee.HiveCordoned || standing.Cause != rbee.ByOperator {
		t.Fatalf("%+v, %v", standing, err)
	}
	_, err = r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeWorkerNotReady || e.Details["hive_state"] != "cordoned" {
		t.Errorf("a spawn: %v", err)
	}
	if reply, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", Reuse: true}); err != nil || reply.WorkerID != id {
		t.Errorf("reuse: %+v, %v", reply, err)
	}
	if _, _, err := infer(t.Context(), w, 3); err != nil {
		t.Errorf("a request: %v", err)
	}
	if status, body, err := r.chat(t.Context(), "builtin:bee-tiny", false, 3); err != nil || status != http.StatusOK {
		t.Errorf("a chat: %d %s %v", status, body, err)
	}
	r.wait(id, rbee.WorkerIdle)
	s, err := r.Status(t.Context())
	if err != nil || s.State != rbee.HiveCordoned || s.Workers[rbee.WorkerIdle] != 1 || len(s.Memory) == 0 || s.Memory[0].WorkersBytes <= 0 {
		t.Errorf("status: %+v, %v", s, err)
	}
	if standing, err = r.Uncordon(t.Context()); err != nil || standing.State != rbee.HiveOpen {
		t.Fatalf("%+v, %v", standing, err)
	}
	r.spawn()
}

func TestOutOfItsHoursAHiveStartsNothing(t *testing.T) {
	now := time.Now()
	hours := now.Add(2*time.Hour).Format("15:04") + "-" + now.Add(4*time.Hour).Format("15:04")
	r := start(t, "RBEE_HIVE_HOURS="+hours)
	_, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeWorkerNotReady || e.Details["cause"] != "hours" || !strings.Contains(e.Message, hours) {
		t.Errorf("error is %v", err)
	}
}

// TestADrainUnderLoad has no request fail that was taken, and none taken after.
func TestADrainUnderLoad(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=5ms,eos_at=1000")
	r, models := swapping(t, 3, 2)
	var load sync.WaitGroup
	drained := make(chan struct{})
	var mu sync.Mutex
	served, refused := 0, 0
	for i := range 12 {
		load.Go(func() {
			for n := i; ; n++ {
				before := true
				select {
				case <-drained:
					before = false
				default:
				}
				status, body, err := r.chat(t.Context(), models[n%len(models)], n%2 == 0, 20)
				mu.Lock()
				switch {
				case err != nil:
					t.Errorf("broken off: %v", err)
				case status == http.StatusOK && before && !strings.Contains(body, `"error"`):
					served++
				case status == http.StatusServiceUnavailable && strings.Contains(body, "takes no requests"):
					refused++
					mu.Unlock()
					return
				default:
					t.Errorf("began before the drain: %t; %d %s", before, status, body)
				}
				mu.Unlock()
			}
		})
	}
	r.eventually("load", func() bool { mu.Lock(); defer mu.Unlock(); return served > 30 })
	if _, err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(drained)
	load.Wait()
	if refused != 12 {
		t.Errorf("%d served, %d refused", served, refused)
	}
	if _, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: models[0]}); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
		t.Errorf("a spawn: %v", err)
	}
	r.eventually("the end of the workers", func() bool {
		s, err := r.Status(t.Context())
		must(t, err)
		return s.State == rbee.HiveDraining && len(s.Workers) == 0 && s.RequestsInFlight == 0
	})
	if _, err := r.Uncordon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, body, err := r.chat(t.Context(), models[0], false, 3); err != nil || status != http.StatusOK {
		t.Errorf("after it is open again: %d %s %v", status, body, err)
	}
}

func TestAModelWhoseWorkersCrashIsHeldBack(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "refuse=the moon is full")
	r := start(t)
	for range 3 {
		reply, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
		must(t, err)
		r.wait(reply.WorkerID, rbee.WorkerFailed)
	}
	_, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	e := rbee.AsError(err)
	if e == nil || e.Code != rbee.CodeWorkerNotReady || !strings.Contains(e.Message, "the moon is full") || e.Details["retry_after_seconds"] == nil {
		t.Fatalf("error is %v", err)
	}
	if s, err := r.Status(t.Context()); err != nil || len(s.CrashLoops) != 1 || s.CrashLoops[0].Failures != 3 || s.CrashLoops[0].Last == nil {
		t.Errorf("status: %+v, %v", s.CrashLoops, err)
	}
	r.eventually("the next try", func() bool {
		_, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
		return err == nil
	})
}

func TestModelsAreLoadedAtTheStart(t *testing.T) {
	r := start(t, "RBEE_HIVE_PRELOAD=builtin:bee-tiny, file:/nowhere.gguf")
	r.eventually("the worker", func() bool {
		list := r.workers()
		return len(list) == 1 && list[0].State == rbee.WorkerIdle
	})
	r.eventually("a word of the other", func() bool { return r.logged("cannot load a model at the start") })
}

func TestWhatALoadTookIsRememberedForTheNext(t *testing.T) {
	home := t.TempDir()
	r := startAt(t, home)
	id, _ := r.ready()
	r.eventually("a measured worker", func() bool { w, err := r.Worker(t.Context(), id); return err == nil && w.Measured })
	measured := r.wait(id, rbee.WorkerIdle)
	must(t, r.end())
	r = startAt(t, home)
	w, err := r.Worker(t.Context(), r.spawn().WorkerID)
	must(t, err)
	// No model makes a process as small as an estimate of bee-tiny.
	if w.MemoryBytes < 2<<20 || w.MemoryBytes > 2*measured.MemoryBytes || 2*w.MemoryBytes < measured.MemoryBytes {
		t.Errorf("measured %d bytes, the next load is promised %d", measured.MemoryBytes, w.MemoryBytes)
	}
}
