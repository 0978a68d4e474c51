package dispatch_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/queen/sched"
)

// loads makes the worker of a hive one that loads.
func (h *hive) loads(fraction float64) {
	h.change(func() {
		w := h.now.Workers[0]
		w.State, w.LoadedFraction = rbee.WorkerLoading, fraction
		h.now.Workers = []rbee.ColonyWorker{w}
	})
	h.rig.until("the registry knows that the worker loads", func() bool {
		plan, err := h.rig.Plan(h.rig.Context(), json.RawMessage(asks), h.about.Name)
		return err == nil && plan.Chosen != nil && plan.Chosen.Kind == rbee.RouteLoading
	})
}

func TestAStreamThatWaitsSaysWhatFor(t *testing.T) {
	r := start(t, 10)
	ready := make(chan struct{})
	h := r.hive("one", func(w http.ResponseWriter, req *http.Request) {
		<-ready
		says(role, token("a"), end)(w, req)
	})
	h.loads(0.42)
	resp := r.send(t.Context(), chats, asks)
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for range 2 {
		line, err := lines.ReadString('\n')
		if blank, _ := lines.ReadString('\n'); err != nil || line != ": one loads "+model+", 42%\n" || blank != "\n" {
			t.Errorf("the stream says %q, %v", line, err)
		}
	}
	close(ready)
	rest, err := io.ReadAll(lines)
	comments, events, found := strings.Cut(string(rest), role)
	if err != nil || !found || events != token("a")+end || !strings.HasPrefix(comments, ": ") {
		t.Errorf("then %q, %v", rest, err)
	}
	if resp.Trailer.Get(rbee.HiveHeader) != "one" || resp.Trailer.Get(rbee.WorkerHeader) != "w-one" || resp.Trailer.Get(rbee.QueueMSHeader) != "0" {
		t.Errorf("the trailers are %v", resp.Trailer)
	}
	if calls := h.called(); len(calls) != 1 || calls[0].path != chats {
		t.Errorf("the hive was asked %+v", calls)
	}
}

func TestAFailureAfterCommentsIsAnEvent(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"that the client made": refuses(rbee.CodeContextLengthExceeded),
		"of the colony":        refuses(rbee.CodeInsufficientRAM),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 10)
			ready := make(chan struct{})
			h := r.hive("one", func(w http.ResponseWriter, req *http.Request) {
				<-ready
				answer(w, req)
			})
			h.loads(0.1)
			resp := r.send(t.Context(), chats, asks)
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, ": ") {
				t.Errorf("the stream begins with %q, %v", line, err)
			}
			close(ready)
			rest, err := io.ReadAll(lines)
			_, event, found := strings.Cut(string(rest), "data: ")
			if err != nil || !found || !strings.Contains(event, `"message":"as the worker says; this"`) || !strings.HasSuffix(event, "\n\n"+end) {
				t.Errorf("then %q, %v", rest, err)
			}
		})
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	r := start(t, 2)
	ready := make(chan struct{})
	h := r.hive("one", func(w http.ResponseWriter, req *http.Request) {
		<-ready
		says(token("a"), end)(w, req)
	})
	h.loads(0.1)
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Go(func() {
			if out := r.post("/v1/completions", `{"model":"tiny","prompt":"a"}`); out.status != http.StatusOK {
				t.Errorf("one that waited got %d %s", out.status, out.body)
			}
		})
	}
	r.until("both wait", func() bool { return r.figure("rbee_queen_requests_waiting") == 2 })
	out := r.post(chats, asks)
	if out.status != http.StatusServiceUnavailable || !strings.Contains(out.body, `"QUEUE_FULL"`) || out.header.Get("Retry-After") == "" {
		t.Errorf("%d %v %s", out.status, out.header, out.body)
	}
	close(ready)
	waiting.Wait()
	if n := r.figure("rbee_queen_requests_waiting"); n != 0 {
		t.Errorf("%g still wait", n)
	}
}

// figure is the sum of a metric over its labels.
func (r *rig) figure(name string) (sum float64) {
	r.Helper()
	families, err := r.figures.Gather()
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestARequestWaitsForASlotAnywhere(t *testing.T) {
	r := start(t, 10)
	h := r.hive("one", says(token("a"), end))
	full := func(waiting int) {
		h.change(func() {
			w := h.now.Workers[0]
			w.SlotsBusy, w.Waiting, w.State = w.SlotsTotal, waiting, rbee.WorkerBusy
			h.now.Workers = []rbee.ColonyWorker{w}
		})
	}
	full(64)
	r.until("the only worker is full", func() bool {
		plan, err := r.Plan(t.Context(), json.RawMessage(asks), "")
		return err == nil && plan.Chosen == nil
	})
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			if out := r.post(chats, asks); out.body != token("a")+end {
				t.Errorf("%d %q", out.status, out.body)
			}
		})
	}
	r.until("all wait", func() bool { return r.figure("rbee_queen_requests_waiting") == 3 })
	if len(h.called()) != 0 {
		t.Error("a request went to a hive that is full")
	}
	full(0)
	waiting.Wait()
}

func TestARequestWaitsForTheFirstHiveOfAYoungQueen(t *testing.T) {
	r := start(t, 10)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if out := r.post(chats, asks); out.body != token("a")+end {
			t.Errorf("%d %q", out.status, out.body)
		}
	})
	r.until("it waits", func() bool { return r.figure("rbee_queen_requests_waiting") == 1 })
	r.hive("one", says(token("a"), end))
	waiting.Wait()
}

func TestABusyHiveIsAskedAgainWhenNoOtherCan(t *testing.T) {
	r := start(t, 10)
	n := 0
	r.hive("one", func(w http.ResponseWriter, req *http.Request) {
		if n++; n <= 6 {
			refuses(rbee.CodeAllSlotsBusy)(w, req)
			return
		}
		says(token("a"), end)(w, req)
	})
	if out := r.post(chats, asks); !strings.HasSuffix(out.body, token("a")+end) {
		t.Errorf("%d %q", out.status, out.body)
	}
}

func TestALostHiveLosesItsRequests(t *testing.T) {
	r := start(t, 10)
	begun := make(chan struct{}, 2)
	first := r.hive("first", func(w http.ResponseWriter, req *http.Request) {
		body := says(role)
		if req.Header.Get(rbee.RequestIDHeader) == "began" {
			body = says(role, token("a"))
		}
		body(w, req)
		begun <- struct{}{}
		hang(w, req)
	})
	r.hive("second", says(token("b"), end))
	var both sync.WaitGroup
	both.Go(func() {
		out := r.post(chats, asks, rbee.RequestIDHeader, "began")
		if !strings.HasPrefix(out.body, role+token("a")+"data: {\"error\"") || !strings.Contains(out.body, `"WORKER_CRASHED"`) || !strings.HasSuffix(out.body, end) {
			t.Errorf("what had begun became %q", out.body)
		}
	})
	both.Go(func() {
		out := r.post(chats, asks, rbee.NodeHeader, "")
		if !strings.HasSuffix(out.body, token("b")+end) {
			t.Errorf("what had not begun became %q", out.body)
		}
	})
	<-begun
	<-begun
	first.hush()
	both.Wait()
}

func TestTheJournalReplaysBitForBit(t *testing.T) {
	r := start(t, 10)
	r.hive("first", once(refuses(rbee.CodeWorkerNotFound), says(token("a"), end)))
	r.hive("second", says(token("b"), end))
	for range 4 {
		r.post(chats, `{"model":"tiny","stream":true,"messages":[{"role":"user","content":"`+strings.Repeat("words ", 300)+`"}]}`)
	}
	r.post(chats, `{"model":"file:/nowhere.gguf","messages":[]}`)
	list, err := r.RouteDecisions(t.Context(), 100)
	if err != nil || len(list) != 5 {
		t.Fatalf("%d records, %v", len(list), err)
	}
	attempts := 0
	for _, short := range list {
		record, err := r.RouteDecision(t.Context(), short.RequestID)
		if err != nil || record.Outcome == nil || len(record.Attempts) != len(short.Attempts) {
			t.Fatalf("%+v, %v", record, err)
		}
		for _, a := range record.Attempts {
			attempts++
			again := sched.Decide(sched.FromInput(a.Request.ModelRef, a.Input), &a.Request)
			if got := again.Explain(len(a.Others)); !reflect.DeepEqual(got, a.RouteDecision) {
				t.Errorf("%s was decided as\n%+v\nand is decided as\n%+v", short.RequestID, a.RouteDecision, got)
			}
		}
	}
	if attempts != 6 {
		t.Errorf("%d attempts", attempts)
	}
	if _, err := r.RouteDecision(t.Context(), "nobody"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("an unknown request gives %v", err)
	}
}

func TestAPlanSendsNothing(t *testing.T) {
	r := start(t, 10)
	h := r.hive("one", says(token("a"), end))
	plan, err := r.Plan(t.Context(), json.RawMessage(asks), "")
	if err != nil || plan.Chosen == nil || plan.Chosen.HiveName != "one" || plan.Chosen.Worker != "w-one" || plan.Sentence == "" || plan.Request.PromptTokens == 0 {
		t.Errorf("%+v, %v", plan, err)
	}
	if _, err := r.Plan(t.Context(), json.RawMessage(`{}`), ""); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("a plan for nothing gives %v", err)
	}
	if len(h.called()) != 0 {
		t.Error("the hive was asked")
	}
}

func TestModelsAreTheUnionOfAllHives(t *testing.T) {
	r := start(t, 10)
	r.hive("one", hang)
	second := r.hive("two", hang)
	ref := rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/m/a.gguf"}
	second.mu.Lock()
	second.about.Models = append(second.about.Models, rbee.ColonyModel{ModelRef: ref, Verdict: rbee.VerdictRefuse, Reason: "too large"})
	second.mu.Unlock()
	second.loads(0.5)
	second.tell()
	want := []string{"builtin:bee-tiny ready [tiny] one:ready two:loading", "file:/m/a.gguf on_disk [] two:on_disk"}
	var got []string
	r.until("both models are known", func() bool {
		list, err := r.ServedModels(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		for _, m := range list {
			line := m.ID.String() + " " + string(m.Status) + " [" + strings.Join(m.Aliases, " ") + "]"
			for _, p := range m.Places {
				line += " " + p.HiveName + ":" + string(p.Status)
			}
			got = append(got, line)
		}
		return len(got) == 2
	})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
	for path, want := range map[string]int{"tiny": 200, "file:/m/a.gguf": 200, "file:/m/b.gguf": 404} {
		resp, err := http.Get(r.url + "/v1/models/" + path) //nolint:noctx // a short test
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s is %d, want %d", path, resp.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
