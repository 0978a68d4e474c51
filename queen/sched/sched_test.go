package sched_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rbee"
	"rbee/queen/sched"
)

var (
	wanted = ref(0)
	file   = rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/m/a.gguf"}
)

// bee is a hive that has the wanted model on its disk and loads it in 4 s.
func bee(name string, change ...func(*sched.Hive)) *sched.Hive {
	h := &sched.Hive{
		ID: rbee.HiveID("id-" + name), Name: name, Seq: 1, DownloadMBps: 100, Prefixes: map[rbee.WorkerID][]uint32{},
		Models: []rbee.ColonyModel{{ModelRef: wanted, SizeBytes: 1e9, Verdict: rbee.VerdictStart, LoadMS: 4000}},
	}
	for _, c := range change {
		c(h)
	}
	return h
}

// worker adds one that computes 1,000 tokens of a prompt per second.
func worker(change ...func(*rbee.ColonyWorker)) func(*sched.Hive) {
	return func(h *sched.Hive) {
		w := rbee.ColonyWorker{
			ID: rbee.WorkerID(fmt.Sprintf("%s-w%d", h.Name, len(h.Workers)+1)), ModelRef: wanted, Backend: rbee.BackendCPU, State: rbee.WorkerIdle,
			SlotsTotal: 4, QueueCapacity: 8, ContextTokens: 8192, PrefillPerSec: 1000, TokenMS: 20, RequestMS: 4000,
		}
		for _, c := range change {
			c(&w)
		}
		h.Workers = append(h.Workers, w)
	}
}

func speed(perSec float64) func(*rbee.ColonyWorker) {
	return func(w *rbee.ColonyWorker) { w.PrefillPerSec = perSec }
}

func busy(slots, waiting int) func(*rbee.ColonyWorker) {
	return func(w *rbee.ColonyWorker) { w.State, w.SlotsBusy, w.Waiting = rbee.WorkerBusy, slots, waiting }
}

func loading(leftMS int64) func(*rbee.ColonyWorker) {
	return func(w *rbee.ColonyWorker) { w.State, w.LoadLeftMS, w.PrefillPerSec = rbee.WorkerLoading, leftMS, 0 }
}

func context(tokens int) func(*rbee.ColonyWorker) {
	return func(w *rbee.ColonyWorker) { w.ContextTokens = tokens }
}

func draining(w *rbee.ColonyWorker) { w.State = rbee.WorkerDraining }

func excluded(why string) func(*sched.Hive)   { return func(h *sched.Hive) { h.Excluded = why } }
func startsNone(why string) func(*sched.Hive) { return func(h *sched.Hive) { h.StartsNone = why } }
func downloads(mbps float64) func(*sched.Hive) {
	return func(h *sched.Hive) { h.Models, h.DownloadMBps = nil, mbps }
}

func loads(ms int64) func(*sched.Hive) { return func(h *sched.Hive) { h.Models[0].LoadMS = ms } }
func loses(ms int64) func(*sched.Hive) {
	return func(h *sched.Hive) { h.Models[0].Verdict, h.Models[0].LossMS = rbee.VerdictEvict, ms }
}

func verdict(v rbee.Verdict, why string) func(*sched.Hive) {
	return func(h *sched.Hive) { h.Models[0].Verdict, h.Models[0].Reason = v, why }
}

func caches(list []uint32) func(*sched.Hive) {
	return func(h *sched.Hive) { h.Prefixes[h.Workers[0].ID] = list }
}

type hives = []*sched.Hive

func TestPick(t *testing.T) {
	for name, c := range map[string]struct {
		hives  hives
		req    rbee.RouteRequest
		chosen string // hive and worker, or hive
		kind   rbee.RouteKind
		code   rbee.Code
		says   []string
	}{
		"the faster of two": {
			hives:  hives{bee("a", worker()), bee("b", worker(speed(2000)))},
			chosen: "b-w1", kind: "ready",
			says: []string{"goes to b, whose worker b-w1 is ready: the first token is expected in 520 ms (520 ms to compute about 1000 prompt tokens)", "Next best is a, whose worker a-w1 is ready: 1.0 s"},
		},
		"an idle one rather than a faster one that is full": {
			hives:  hives{bee("a", worker()), bee("b", worker(speed(2000), busy(4, 2)))},
			chosen: "a-w1", kind: "ready", says: []string{"Next best is b, whose worker b-w1 is ready: 5.1 s, most of it waiting for others"},
		},
		"ready rather than loaded first": {
			hives: hives{bee("a", loads(500)), bee("b", worker())}, req: rbee.RouteRequest{PromptTokens: 100}, chosen: "b-w1", kind: "ready",
		},
		"a load, if those that are ready take longer": {
			hives: hives{bee("a", loads(500)), bee("b", worker(speed(50)))}, chosen: "a", kind: "start",
			says: []string{"goes to a, which has the model on its disk", "500 ms until it is loaded", "because the model is loaded, or being loaded, elsewhere already"},
		},
		"one that loads, rather than another load": {
			hives: hives{bee("a"), bee("b", worker(loading(3000)))}, chosen: "b-w1", kind: "loading",
			says: []string{"goes to b, whose worker b-w1 is loading the model", "3.0 s until it is loaded"},
		},
		"the least of what idle workers are worth": {
			hives: hives{bee("a", loses(900)), bee("b", loses(300))}, chosen: "b", kind: "start", says: []string{"300 ms that others lose when idle workers end for it"},
		},
		"not where busy workers hold the memory": {
			hives: hives{bee("a", verdict(rbee.VerdictWait, "")), bee("b", loads(9000))}, chosen: "b", kind: "start",
		},
		"a disk rather than a hub": {hives: hives{bee("a", downloads(500)), bee("b")}, chosen: "b", kind: "start"},
		"the faster download": {
			hives: hives{bee("a", downloads(10)), bee("b", downloads(100))}, chosen: "b", kind: "download",
			says: []string{"goes to b, which downloads the model", "40 s to download the model"},
		},
		"where the prompt is cached": {
			hives: hives{bee("a", worker()), bee("b", worker(speed(500)), caches(chain(1, 10)))},
			req:   rbee.RouteRequest{PromptTokens: 1000, Prefix: chain(1, 15)}, chosen: "b-w1", kind: "ready",
			says: []string{"740 ms to compute 360 of about 1000 prompt tokens, the others are in its cache"},
		},
		"not where it is cached, if that is overloaded": {
			hives: hives{bee("a", worker()), bee("b", worker(busy(4, 1)), caches(chain(1, 10)))},
			req:   rbee.RouteRequest{PromptTokens: 1000, Prefix: chain(1, 15)}, chosen: "a-w1", kind: "ready",
		},
		"a context that is long enough": {
			hives: hives{bee("a", worker(context(512))), bee("b", worker(speed(100), context(4096)))}, chosen: "b-w1", kind: "ready",
		},
		"an estimate of tokens refuses nobody": {hives: hives{bee("a", worker(context(512)))}, chosen: "a-w1", kind: "ready"},
		"not a hive that takes none": {
			hives: hives{bee("a", worker(), excluded("it is lost")), bee("b", worker(speed(10)))}, chosen: "b-w1", kind: "ready", says: []string{"No other can take it now (a: it is lost)"},
		},
		"a cordoned hive's ready worker": {hives: hives{bee("a", worker(), startsNone("it is cordoned")), bee("b")}, chosen: "a-w1", kind: "ready"},
		"no start at a cordoned hive":    {hives: hives{bee("a", startsNone("it is cordoned")), bee("b", loads(90_000))}, chosen: "b", kind: "start"},
		"a worker that ends is none":     {hives: hives{bee("a", worker(draining))}, chosen: "a", kind: "start"},
		"the hive that was asked for": {
			hives: hives{bee("a", worker(speed(10))), bee("b", worker())}, req: rbee.RouteRequest{PromptTokens: 1000, Node: "a"}, chosen: "a-w1", kind: "ready",
			says: []string{"It was asked for by name"},
		},
		"the hive that was asked for by id": {
			hives: hives{bee("a", worker(speed(10))), bee("b", worker())}, req: rbee.RouteRequest{PromptTokens: 1000, Node: "id-a"}, chosen: "a-w1", kind: "ready",
		},
		"not where it failed": {
			hives: hives{bee("a", worker(speed(10))), bee("b", worker())}, req: rbee.RouteRequest{PromptTokens: 1000, Tried: []rbee.HiveID{"id-b"}}, chosen: "a-w1", kind: "ready",
			says: []string{"b: the request failed there already"},
		},
		"nobody": {code: rbee.CodeWorkerNotReady, says: []string{"no hive is in the colony"}},
		"nobody of that name": {
			hives: hives{bee("a"), bee("b")}, req: rbee.RouteRequest{Node: "c"}, code: rbee.CodeHiveNotFound, says: []string{"none of the 2 hives of the colony is called c"},
		},
		"nobody has the file": {
			hives: hives{bee("a")}, req: rbee.RouteRequest{ModelRef: file}, code: rbee.CodeModelNotFound, says: []string{"no hive can serve file:/m/a.gguf now: a: it does not have the model"},
		},
		"nobody has room": {
			hives: hives{bee("a", verdict(rbee.VerdictRefuse, "it needs 9 GB, where 4 GB are free")), bee("b", verdict(rbee.VerdictRefuse, ""))}, code: rbee.CodeInsufficientRAM,
			says: []string{"a: it needs 9 GB, where 4 GB are free; b: it has not enough memory for the model"},
		},
		"all queues are full": {
			hives: hives{bee("a", worker(busy(4, 8))), bee("b", verdict(rbee.VerdictRefuse, "too large"))}, code: rbee.CodeAllSlotsBusy,
			says: []string{"a: 12 requests are there, and worker a-w1 takes 4 at once and 8 in its queue; b: too large"},
		},
		"all hives are lost or closed": {
			hives: hives{bee("a", worker(), excluded("it is lost")), bee("b", startsNone("it is cordoned"))}, code: rbee.CodeWorkerNotReady,
			says: []string{"a: it is lost; b: it is cordoned"},
		},
		"no start of an external model": {
			hives: hives{bee("a")}, req: rbee.RouteRequest{ModelRef: rbee.ModelRef{Provider: rbee.ProviderExternal, Reference: "o/m"}}, code: rbee.CodeModelNotFound,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.req.ModelRef == (rbee.ModelRef{}) {
				c.req.ModelRef = wanted
			}
			if c.req.PromptTokens == 0 {
				c.req.PromptTokens = 1000
			}
			s := sched.NewSnapshot(c.hives, sched.NewFlights())
			got := sched.Decide(s, &c.req).Explain(10)
			switch r := got.Chosen; {
			case r == nil && c.chosen != "", got.Code != c.code:
				t.Errorf("chose nothing: %s", got.Sentence)
			case r != nil && (string(r.Worker) != c.chosen && r.HiveName != c.chosen || r.Kind != c.kind):
				t.Errorf("chose %+v", r)
			}
			for _, says := range c.says {
				if !strings.Contains(got.Sentence, says) {
					t.Errorf("says %q, want %q", got.Sentence, says)
				}
			}
		})
	}
}

// send lets n requests go where they are sent, one after the other, and says how
// many went to each hive.
func send(s *sched.Snapshot, f *sched.Flights, n int, req rbee.RouteRequest) (map[string]int, []*sched.Flight) {
	to, list := map[string]int{}, make([]*sched.Flight, 0, n)
	for range n {
		r, ok := sched.Pick(s, &req)
		if !ok {
			to["nowhere"]++
			continue
		}
		to[r.HiveName]++
		list = append(list, f.Begin(&r, &req))
	}
	return to, list
}

func TestABurstForAColdModelIsOneLoad(t *testing.T) {
	f := sched.NewFlights()
	s := sched.NewSnapshot(hives{bee("a"), bee("b"), bee("c")}, f)
	to, _ := send(s, f, 9, rbee.RouteRequest{ModelRef: wanted, PromptTokens: 10})
	if diff := cmp.Diff(map[string]int{"a": 9}, to); diff != "" {
		t.Error(diff)
	}
}

func TestASecondLoadIsMadeWhereWaitingWouldTakeLonger(t *testing.T) {
	f := sched.NewFlights()
	s := sched.NewSnapshot(hives{bee("a"), bee("b")}, f)
	to, _ := send(s, f, 12, rbee.RouteRequest{ModelRef: wanted, PromptTokens: 3000}) // 30 s of prompts each, at the default speed
	if to["a"] < 2 || to["b"] < 2 {
		t.Error(to)
	}
}

func TestABurstBetweenTwoReportsIsSpread(t *testing.T) {
	f := sched.NewFlights()
	s := sched.NewSnapshot(hives{bee("a", worker()), bee("b", worker()), bee("c", worker(speed(500)))}, f)
	to, flights := send(s, f, 12, rbee.RouteRequest{ModelRef: wanted, PromptTokens: 1000})
	if to["a"] < 4 || to["b"] < 4 || to["c"] == 0 || to["c"] >= to["a"] {
		t.Errorf("12 requests: %v", to)
	}
	for _, x := range flights {
		x.First()
		x.End()
		x.End()
	}
	if r, _ := sched.Pick(s, &rbee.RouteRequest{ModelRef: wanted, PromptTokens: 1000}); r.HiveName != "a" || r.Cost.Queue+r.Cost.Guard != 0 {
		t.Errorf("all of them have ended, and the next one goes to %+v", r)
	}
}

func TestRequestsOfABurstThatBeginAlikeStayTogether(t *testing.T) {
	f := sched.NewFlights()
	s := sched.NewSnapshot(hives{bee("a", worker()), bee("b", worker())}, f)
	to, _ := send(s, f, 3, rbee.RouteRequest{ModelRef: wanted, PromptTokens: 4000, Prefix: chain(1, 62)})
	if to["a"]+to["b"] != 3 || to["a"] == 1 || to["b"] == 1 && to["a"] != 2 {
		t.Error(to)
	}
	if r, _ := sched.Pick(s, &rbee.RouteRequest{ModelRef: wanted, PromptTokens: 100, Prefix: chain(2, 1)}); r.HiveName != "b" {
		t.Errorf("a short prompt waits for long ones at %+v", r)
	}
}

func TestWhatAHiveHasToldOfIsNotCountedTwice(t *testing.T) {
	f := sched.NewFlights()
	req := rbee.RouteRequest{ModelRef: wanted, PromptTokens: 1}
	s := sched.NewSnapshot(hives{bee("a", worker())}, f)
	_, mine := send(s, f, 3, req)
	requests := func(h *sched.Hive) int {
		in := sched.Decide(sched.NewSnapshot(hives{h}, f), &req).Input()
		w := in.Hives[0].Workers[0]
		return w.SlotsBusy + w.Waiting + w.Sent
	}
	if n := requests(bee("a", worker())); n != 3 {
		t.Errorf("%d, before its report", n)
	}
	told := bee("a", worker(busy(4, 1))) // 2 are of others
	told.Seq = 2
	if n := requests(told); n != 5 {
		t.Errorf("%d, after its report", n)
	}
	mine[0].End()
	if n := requests(told); n != 4 {
		t.Errorf("%d, when one has ended since", n)
	}
}

func TestARequestThatWaitedForALoadIsItsWorkersThen(t *testing.T) {
	f := sched.NewFlights()
	req := rbee.RouteRequest{ModelRef: wanted, PromptTokens: 500}
	_, mine := send(sched.NewSnapshot(hives{bee("a")}, f), f, 2, req)
	ready := bee("a", worker())
	s := sched.NewSnapshot(hives{ready}, f)
	mine[0].At("a-w1")
	in := sched.Decide(s, &req).Input().Hives[0]
	if in.Sent != 1 || in.SentTokens != 500 || in.Workers[0].Sent != 2 || in.Workers[0].SentTokens != 500 {
		t.Errorf("%+v", in)
	}
	mine[0].First()
	mine[0].End()
	mine[1].End()
	in = sched.Decide(s, &req).Input().Hives[0]
	if in.Sent != 0 || in.SentTokens != 0 || in.Workers[0].Sent != 0 || in.Workers[0].SentTokens != 0 {
		t.Errorf("when all have ended: %+v", in)
	}
}

// situation draws a colony, with requests on their way, and a request.
func situation(t *rapid.T) (*sched.Snapshot, rbee.RouteRequest) {
	f := sched.NewFlights()
	hashes := rapid.Custom(func(t *rapid.T) []uint32 { // whoever has one, has those before it
		same := rapid.IntRange(0, 12).Draw(t, "same")
		return append(chain(1, same), chain(uint32(10*same+rapid.IntRange(2, 4).Draw(t, "other")), rapid.IntRange(0, 12-same).Draw(t, "more"))...)
	})
	verdicts := rapid.SampledFrom([]rbee.Verdict{"start", "start", "evict", "wait", "refuse"})
	states := rapid.SampledFrom([]rbee.WorkerState{"idle", "busy", "busy", "loading", "starting", "draining"})
	reasons := rapid.SampledFrom([]string{"", "", "", "", "it is so"})
	var list hives
	for i := range rapid.IntRange(0, 6).Draw(t, "hives") {
		h := &sched.Hive{
			ID: rbee.HiveID(fmt.Sprintf("%02d", rapid.IntRange(0, 9).Draw(t, "id")*10+i)), Name: fmt.Sprintf("bee-%d", i), Seq: 1,
			Excluded: reasons.Draw(t, "excluded"), StartsNone: reasons.Draw(t, "starts none"),
			DownloadMBps: rapid.Float64Range(0, 100).Draw(t, "mbps"), Prefixes: map[rbee.WorkerID][]uint32{},
		}
		if rapid.IntRange(0, 2).Draw(t, "disk") > 0 {
			h.Models = append(h.Models, rbee.ColonyModel{
				ModelRef: wanted, SizeBytes: rapid.Int64Range(0, 1e10).Draw(t, "size"), Verdict: verdicts.Draw(t, "verdict"),
				LoadMS: rapid.Int64Range(0, 9000).Draw(t, "load"), LossMS: rapid.Int64Range(0, 9000).Draw(t, "loss"),
			})
		}
		for j := range rapid.IntRange(0, 3).Draw(t, "workers") {
			w := rbee.ColonyWorker{
				ID: rbee.WorkerID(fmt.Sprintf("w%d", j)), ModelRef: ref(rapid.IntRange(0, 1).Draw(t, "model")), State: states.Draw(t, "state"),
				SlotsTotal: rapid.IntRange(0, 4).Draw(t, "slots"), SlotsBusy: rapid.IntRange(0, 4).Draw(t, "busy"),
				Waiting: rapid.IntRange(0, 4).Draw(t, "waiting"), QueueCapacity: rapid.IntRange(0, 9).Draw(t, "capacity"),
				ContextTokens: rapid.SampledFrom([]int{0, 1000, 9000}).Draw(t, "context"), External: rapid.IntRange(0, 5).Draw(t, "external") == 0,
				PrefillPerSec: rapid.Float64Range(0, 3000).Draw(t, "speed"), TokenMS: rapid.Float64Range(0, 100).Draw(t, "token"),
				RequestMS: rapid.Float64Range(0, 9000).Draw(t, "request"), LoadedFraction: rapid.Float64Range(0, 1).Draw(t, "loaded"),
			}
			h.Workers = append(h.Workers, w)
			h.Prefixes[w.ID] = hashes.Draw(t, "cached")
		}
		list = append(list, h)
	}
	s := sched.NewSnapshot(list, f)
	draw := func() rbee.RouteRequest {
		return rbee.RouteRequest{
			ModelRef: wanted, PromptTokens: rapid.IntRange(0, 3000).Draw(t, "prompt"), Prefix: hashes.Draw(t, "prefix"),
			Node: rapid.SampledFrom([]string{"", "", "", "bee-1", "nobody"}).Draw(t, "node"),
		}
	}
	for range rapid.IntRange(0, 20).Draw(t, "requests") {
		req := draw()
		r, ok := sched.Pick(s, &req)
		if !ok {
			continue
		}
		flight := f.Begin(&r, &req)
		switch rapid.IntRange(0, 5).Draw(t, "fate") {
		case 0:
			flight.End()
		case 1:
			flight.At("w0")
			flight.First()
		case 2:
			flight.First()
		}
	}
	req := draw()
	for _, h := range list {
		if rapid.IntRange(0, 5).Draw(t, "tried") == 0 {
			req.Tried = append(req.Tried, h.ID)
		}
	}
	return s, req
}

func TestADecisionIsReplayedFromItsInputBitForBit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, req := situation(t)
		d := sched.Decide(s, &req)
		before, err := json.Marshal(rbee.DecisionAttempt{Plan: rbee.Plan{Request: req, RouteDecision: d.Explain(100)}, Input: d.Input()})
		if err != nil {
			t.Fatal(err)
		}
		var a rbee.DecisionAttempt
		if err := json.Unmarshal(before, &a); err != nil {
			t.Fatal(err)
		}
		d = sched.Decide(sched.FromInput(a.Request.ModelRef, a.Input), &a.Request)
		after, err := json.Marshal(rbee.DecisionAttempt{Plan: rbee.Plan{Request: req, RouteDecision: d.Explain(100)}, Input: d.Input()})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(before), string(after)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTheChoiceIsTheBestOfWhatIsExplained(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, req := situation(t)
		r, ok := sched.Pick(s, &req)
		got := sched.Decide(s, &req).Explain(100)
		if ok != (got.Chosen != nil) || ok != (got.Code == "") || got.Sentence == "" {
			t.Fatalf("picked %+v, explained %+v", r, got)
		}
		if !ok {
			if i := slices.IndexFunc(got.Others, func(r rbee.Route) bool { return r.Excluded == "" }); i >= 0 {
				t.Errorf("picked nothing, and this could be taken: %+v", got.Others[i])
			}
			return
		}
		if diff := cmp.Diff(r, *got.Chosen); diff != "" {
			t.Error(diff)
		}
		c := r.Cost
		if sum := c.Queue + c.Load + c.Evict + c.Download + c.Prefill + c.Guard; sum != c.Total {
			t.Errorf("%v is not the sum of %+v", sum, c)
		}
		for _, o := range got.Others {
			if o.Excluded == "" && o.Cost.Total < c.Total {
				t.Errorf("%+v would be better than %+v", o, r)
			}
		}
		if slices.Contains(req.Tried, r.Hive) || req.Node != "" && r.HiveName != req.Node {
			t.Errorf("%+v for %+v", r, req)
		}
	})
}

func TestNothingIsLeftOfRequestsThatEnded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := sched.NewFlights()
		s := sched.NewSnapshot(hives{bee("a", worker()), bee("b")}, f)
		var open []*sched.Flight
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			req := rbee.RouteRequest{ModelRef: wanted, PromptTokens: rapid.IntRange(0, 99).Draw(t, "prompt"), Prefix: chain(uint32(rapid.IntRange(0, 3).Draw(t, "chain")), 1)}
			if r, ok := sched.Pick(s, &req); ok {
				open = append(open, f.Begin(&r, &req))
			}
			x := open[rapid.IntRange(0, len(open)-1).Draw(t, "which")]
			[]func(){x.First, func() { x.At("a-w1") }, func() { x.At("") }, x.End}[rapid.IntRange(0, 3).Draw(t, "what")]()
		}
		for _, x := range open {
			x.End()
		}
		for _, h := range sched.Decide(s, &rbee.RouteRequest{ModelRef: wanted}).Input().Hives {
			if h.Sent != 0 || h.SentTokens != 0 || h.SentPrefix != nil {
				t.Errorf("%+v", h)
			}
			for _, w := range h.Workers {
				if w.Sent != 0 || w.SentTokens != 0 || w.SentPrefix != nil {
					t.Errorf("%+v", w)
				}
			}
		}
	})
}

func TestARequestThatIsSentSomewhereMakesItNoCheaper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := sched.NewFlights()
		var list hives
		for i := range rapid.IntRange(1, 4).Draw(t, "hives") {
			list = append(list, bee(fmt.Sprint(i), worker(speed(rapid.Float64Range(1, 3000).Draw(t, "speed")), busy(rapid.IntRange(0, 4).Draw(t, "busy"), 0))))
		}
		s := sched.NewSnapshot(list, f)
		for range 20 {
			req := rbee.RouteRequest{ModelRef: wanted, PromptTokens: rapid.IntRange(1, 3000).Draw(t, "prompt")}
			before, ok := sched.Pick(s, &req)
			if !ok {
				return
			}
			f.Begin(&before, &req)
			req.Node = before.HiveName
			if after, ok := sched.Pick(s, &req); ok && after.Cost.Total < before.Cost.Total {
				t.Fatalf("%+v, then %+v", before, after)
			}
		}
	})
}

func TestAHiveThatIsAskedForIsNotBlamedForAnotherLoad(t *testing.T) {
	s := sched.NewSnapshot(hives{bee("a", worker()), bee("b")}, sched.NewFlights())
	req := rbee.RouteRequest{ModelRef: wanted, PromptTokens: 100}
	free, _ := sched.Pick(s, &req)
	req.Node = "b"
	forced := sched.Decide(s, &req).Explain(3).Chosen
	if free.HiveName != "a" || forced == nil || forced.HiveName != "b" || forced.Cost.Guard != 0 {
		t.Errorf("%+v, %+v", free, forced)
	}
}

// FuzzReplay feeds inputs of a log that anybody may have written.
func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"hives":[{"id":"a","name":"a","workers":[{"id":"w","model_ref":"hf:org/model-000","state":"idle","slots_total":-3,"sent":-9,"prefixes":[0,1]}]}]}`), 100, "")
	f.Add([]byte(`{"hives":[{"id":"a","name":"a","model":{"model_ref":"hf:org/model-000","verdict":"evict","load_ms":-5}},{"id":"a"}]}`), -1, "a")
	f.Fuzz(func(t *testing.T, b []byte, tokens int, node string) {
		var in rbee.RouteInput
		if json.Unmarshal(b, &in) != nil {
			return
		}
		req := rbee.RouteRequest{ModelRef: wanted, PromptTokens: tokens, Prefix: []uint32{0, 1, 2}, Node: node}
		d := sched.Decide(sched.FromInput(wanted, in), &req)
		got := d.Explain(3)
		again := sched.Decide(sched.FromInput(wanted, in), &req).Explain(3)
		if got.Sentence != again.Sentence || (got.Chosen == nil) == (got.Code == "") {
			t.Errorf("%+v, then %+v", got, again)
		}
	})
}
