package room_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"rbee"
	"rbee/hive/room"
)

const mb = 1_000_000

func model(name string) rbee.ModelRef {
	return rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/m/" + name + ".gguf"}
}

// held is an idle worker that holds main memory.
func held(id rbee.WorkerID, size, idleMS, reloadMS int64, change ...func(*rbee.Held)) rbee.Held {
	w := rbee.Held{
		ID: id, ModelRef: model(string(id)), State: rbee.WorkerIdle, IdleMS: idleMS, ReloadMS: reloadMS,
		Memory: rbee.Memory{rbee.MainMemory: size * mb},
	}
	for _, c := range change {
		c(&w)
	}
	return w
}

func in(s rbee.WorkerState) func(*rbee.Held) { return func(w *rbee.Held) { w.State = s } }
func pinned(w *rbee.Held)                    { w.Pinned = true }
func awaited(w *rbee.Held)                   { w.Awaited = true }
func external(w *rbee.Held)                  { w.External = true }
func promised(w *rbee.Held)                  { w.Promised = w.Memory }

func needs(sizes ...int64) (list []rbee.RoomOption) {
	for _, s := range sizes {
		list = append(list, rbee.RoomOption{Slots: 1, ContextTokens: 512, KVTokens: 512, Memory: rbee.Memory{rbee.MainMemory: s * mb}})
	}
	return list
}

func TestDecide(t *testing.T) {
	type workers = []rbee.Held
	for name, c := range map[string]struct {
		free, leave, limit int64
		workers            workers
		options            []rbee.RoomOption
		wait               bool
		verdict            rbee.Verdict
		chosen             int // MB of the option
		evicts             []rbee.WorkerID
		says               string
	}{
		"it fits":                                 {free: 100, options: needs(100), verdict: "start", chosen: 100, says: "starts: it needs 100 MB on cpu, where 100 MB are free"},
		"a byte too little reads as less":         {free: 99, options: needs(100), verdict: "refuse", says: "refused"},
		"the best that fits":                      {free: 100, options: needs(400, 100), verdict: "start", chosen: 100},
		"what must stay free":                     {free: 150, leave: 100, options: needs(100), verdict: "refuse", says: "where 50 MB are free"},
		"what was promised is not free":           {free: 150, workers: workers{held("a", 100, 1, 1, in(rbee.WorkerLoading), promised)}, options: needs(100), verdict: "refuse"},
		"an idle one ends":                        {free: 10, workers: workers{held("a", 90, 1000, 10)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"a"}, says: "ends a (file:/m/a.gguf, idle for 1s, loaded in 10ms)"},
		"a mapped file is free once":              {free: 100, workers: workers{held("a", 90, 1000, 10, promised)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"a"}},
		"no eviction for more slots":              {free: 100, workers: workers{held("a", 400, 1000, 10)}, options: needs(400, 100), verdict: "start", chosen: 100},
		"eviction before less than was asked":     {free: 100, workers: workers{held("a", 400, 1000, 10)}, options: shrunk(needs(400, 100)), verdict: "evict", chosen: 400, evicts: []rbee.WorkerID{"a"}},
		"less than was asked, last":               {free: 100, workers: workers{held("a", 400, 1, 1, in(rbee.WorkerBusy))}, options: shrunk(needs(400, 100)), verdict: "start", chosen: 100},
		"the longest idle ends":                   {free: 0, workers: workers{held("a", 100, 1000, 10), held("b", 100, 5000, 10)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"b"}},
		"unless it is dear to load":               {free: 0, workers: workers{held("a", 100, 1000, 10), held("b", 100, 5000, 500)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"a"}},
		"one for two, if that loses less":         {free: 0, workers: workers{held("a", 50, 1000, 400), held("b", 50, 1000, 400), held("c", 100, 1000, 700)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"c"}},
		"two for one, if that loses less":         {free: 0, workers: workers{held("a", 50, 1000, 300), held("b", 50, 1000, 300), held("c", 100, 1000, 700)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"a", "b"}},
		"the fewest of equal loss":                {free: 0, workers: workers{held("a", 50, 1000, 500), held("b", 50, 1000, 500), held("c", 100, 1000, 1000)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"c"}},
		"neither busy, pinned nor external":       {free: 0, workers: workers{held("a", 100, 9, 1, in(rbee.WorkerBusy)), held("b", 100, 9, 1, pinned), held("c", 100, 9, 1, external)}, options: needs(100), verdict: "refuse"},
		"who waits, waits for the busy":           {free: 0, wait: true, workers: workers{held("a", 100, 9, 1, in(rbee.WorkerBusy))}, options: needs(100), verdict: "wait", chosen: 100, says: "waits for workers that are not idle"},
		"who waits, waits for one that ends":      {free: 0, wait: true, workers: workers{held("a", 100, 9, 1, in(rbee.WorkerDraining), pinned)}, options: needs(100), verdict: "wait", chosen: 100},
		"nor one that somebody waits for":         {free: 0, wait: true, workers: workers{held("a", 100, 9, 1, awaited)}, options: needs(100), verdict: "wait", chosen: 100},
		"nobody waits for pinned memory":          {free: 0, wait: true, workers: workers{held("a", 100, 9, 1, in(rbee.WorkerBusy), pinned)}, options: needs(100), verdict: "refuse"},
		"nobody waits for what is not there":      {free: 0, wait: true, workers: workers{held("a", 100, 9, 1, in(rbee.WorkerBusy))}, options: needs(101), verdict: "refuse"},
		"the limit":                               {free: 9000, limit: 99, options: needs(100), verdict: "refuse", says: "it needs 100 MB on cpu, where 99 MB are free"},
		"the limit counts all workers":            {free: 9000, limit: 250, workers: workers{held("a", 160, 9, 1, in(rbee.WorkerBusy))}, options: needs(100), verdict: "refuse", says: "where 90 MB are free"},
		"an idle one ends for the limit":          {free: 9000, limit: 250, workers: workers{held("a", 160, 9, 1)}, options: needs(100), verdict: "evict", chosen: 100, evicts: []rbee.WorkerID{"a"}},
		"nothing to choose from":                  {free: 9000, verdict: "refuse"},
		"no eviction of what would not be enough": {free: 0, workers: workers{held("a", 99, 9, 1)}, options: needs(100), verdict: "refuse", says: "99 MB held by idle workers"},
	} {
		t.Run(name, func(t *testing.T) {
			h := rbee.Holding{Free: rbee.Memory{rbee.MainMemory: c.free * mb}, LimitBytes: c.limit * mb, Workers: c.workers}
			if c.leave > 0 {
				h.Leave = rbee.Memory{rbee.MainMemory: c.leave * mb}
			}
			got := room.Decide(h, rbee.RoomRequest{ModelRef: model("new"), Device: rbee.MainMemory, Options: c.options, MayWait: c.wait})
			if got.Verdict != c.verdict || !slices.Equal(got.Evict, c.evicts) || !strings.Contains(got.Sentence, c.says) {
				t.Errorf("%+v", got)
			}
			if got.Option == nil != (c.chosen == 0) || got.Option != nil && got.Option.Memory.Total() != int64(c.chosen)*mb {
				t.Errorf("chose %+v", got.Option)
			}
		})
	}
}

// shrunk marks all options but the first.
func shrunk(list []rbee.RoomOption) []rbee.RoomOption {
	for i := range list[1:] {
		list[i+1].Shrunk = true
	}
	return list
}

func TestAnAcceleratorAndMainMemoryAreBothNeeded(t *testing.T) {
	gpu := func(id rbee.WorkerID, vram, ram, idle int64) rbee.Held {
		return rbee.Held{ID: id, State: rbee.WorkerIdle, IdleMS: idle, ReloadMS: 10, Memory: rbee.Memory{"cuda0": vram * mb, rbee.MainMemory: ram * mb}}
	}
	h := rbee.Holding{
		Free: rbee.Memory{"cuda0": 50 * mb, "cuda1": 900 * mb, rbee.MainMemory: 10 * mb},
		Workers: []rbee.Held{
			gpu("vram", 100, 0, 10), held("ram", 100, 10, 10), gpu("both", 100, 100, 9),
			{ID: "other", State: rbee.WorkerIdle, IdleMS: 1e9, ReloadMS: 1, Memory: rbee.Memory{"cuda1": 900 * mb}},
		},
	}
	r := rbee.RoomRequest{Device: "cuda0", Options: []rbee.RoomOption{{Memory: rbee.Memory{"cuda0": 120 * mb, rbee.MainMemory: 20 * mb}}}}
	got := room.Decide(h, r)
	if got.Verdict != rbee.VerdictEvict || !slices.Equal(got.Evict, []rbee.WorkerID{"both"}) || got.Device != "cuda0" {
		t.Errorf("%+v", got)
	}
	h.Workers = h.Workers[:1]
	if got = room.Decide(h, r); got.Verdict != rbee.VerdictRefuse || got.Device != rbee.MainMemory || got.RequiredBytes != 20*mb {
		t.Errorf("main memory is short: %+v", got)
	}
}

func TestADecisionIsReplayedFromItsLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, r := situation(t, 20)
		before := room.Decide(h, r)
		b, err := json.Marshal(rbee.Decision{Holding: h, Request: r, Ruling: before})
		if err != nil {
			t.Fatal(err)
		}
		var d rbee.Decision
		if err := json.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, room.Decide(d.Holding, d.Request)); diff != "" {
			t.Errorf("replayed: %s", diff)
		}
	})
}

// situation draws workers and a request.
func situation(t *rapid.T, most int) (rbee.Holding, rbee.RoomRequest) {
	devices := []rbee.DeviceID{rbee.MainMemory, "cuda0"}
	memory := rapid.Custom(func(t *rapid.T) rbee.Memory {
		m := rbee.Memory{}
		for _, d := range devices {
			m[d] = rapid.Int64Range(0, 100).Draw(t, "bytes")
		}
		return m
	})
	states := rapid.SampledFrom([]rbee.WorkerState{
		rbee.WorkerIdle, rbee.WorkerIdle, rbee.WorkerIdle, rbee.WorkerBusy, rbee.WorkerLoading, rbee.WorkerDraining,
	})
	h := rbee.Holding{Free: memory.Draw(t, "free"), LimitBytes: rapid.SampledFrom([]int64{0, 0, 100, 500}).Draw(t, "limit")}
	for i := range rapid.IntRange(0, most).Draw(t, "workers") {
		w := rbee.Held{
			ID: rbee.WorkerID(fmt.Sprintf("w%02d", i)), ModelRef: model("m"), State: states.Draw(t, "state"),
			Pinned: rapid.IntRange(0, 9).Draw(t, "pinned") == 0, External: rapid.IntRange(0, 9).Draw(t, "external") == 0,
			Awaited: rapid.IntRange(0, 9).Draw(t, "awaited") == 0,
			IdleMS:  rapid.Int64Range(0, 1e6).Draw(t, "idle"), ReloadMS: rapid.Int64Range(0, 1e5).Draw(t, "reload"),
			Memory: memory.Draw(t, "memory"),
		}
		if rapid.Bool().Draw(t, "promised") {
			w.Promised = w.Memory
		}
		h.Workers = append(h.Workers, w)
	}
	r := rbee.RoomRequest{ModelRef: model("new"), Device: "cuda0", MayWait: rapid.Bool().Draw(t, "wait")}
	for range rapid.IntRange(1, 3).Draw(t, "options") {
		r.Options = append(r.Options, rbee.RoomOption{Memory: memory.Draw(t, "need"), Shrunk: len(r.Options) > 0 && rapid.Bool().Draw(t, "shrunk")})
	}
	return h, r
}

// without is a holding after the end of workers.
func without(h rbee.Holding, gone ...rbee.WorkerID) rbee.Holding {
	after := rbee.Holding{Free: h.Free, Leave: h.Leave, LimitBytes: h.LimitBytes}
	for _, w := range h.Workers {
		if !slices.Contains(gone, w.ID) {
			after.Workers = append(after.Workers, w)
			continue
		}
		after.Free = after.Free.Plus(w.Memory)
		for d, n := range w.Promised {
			after.Free[d] -= n
		}
	}
	return after
}

func TestWhatEndsMayEndAndIsEnoughAndNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, r := situation(t, 24)
		got := room.Decide(h, r)
		if got.Verdict != rbee.VerdictEvict {
			if len(got.Evict) > 0 {
				t.Fatalf("%s ends %v", got.Verdict, got.Evict)
			}
			return
		}
		for _, w := range h.Workers {
			if slices.Contains(got.Evict, w.ID) && (w.State != rbee.WorkerIdle || w.Pinned || w.External || w.Awaited) {
				t.Fatalf("ends %+v", w)
			}
		}
		r.Options, r.MayWait = []rbee.RoomOption{*got.Option}, false
		if after := room.Decide(without(h, got.Evict...), r); after.Verdict != rbee.VerdictStart {
			t.Fatalf("after %v: %+v", got.Evict, after)
		}
		for i := range got.Evict {
			fewer := slices.Delete(slices.Clone(got.Evict), i, i+1)
			if room.Decide(without(h, fewer...), r).Verdict == rbee.VerdictStart {
				t.Fatalf("%s need not end: %v", got.Evict[i], got.Evict)
			}
		}
	})
}

func TestNoSetLosesLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, r := situation(t, 8)
		r.Options, r.MayWait = r.Options[:1], false
		got := room.Decide(h, r)
		idle := slices.DeleteFunc(slices.Clone(h.Workers), func(w rbee.Held) bool {
			return w.State != rbee.WorkerIdle || w.Pinned || w.External || w.Awaited
		})
		for set := range 1 << len(idle) {
			var ids []rbee.WorkerID
			loss := 0.0
			for i, w := range idle {
				if set&(1<<i) != 0 {
					ids = append(ids, w.ID)
					loss += float64(max(w.ReloadMS, 1)) / float64(max(w.IdleMS, 1))
				}
			}
			fits := room.Decide(without(h, ids...), r).Verdict == rbee.VerdictStart
			if fits && got.Verdict == rbee.VerdictRefuse || fits && loss < got.Loss*(1-1e-9) {
				t.Fatalf("%v loses %g; decided %+v", ids, loss, got)
			}
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1, 8, 16, 64} {
		b.Run(fmt.Sprintf("%d idle workers", n), func(b *testing.B) {
			h := rbee.Holding{Free: rbee.Memory{rbee.MainMemory: 100 * mb}}
			for i := range n {
				// Close to one another, so that little of the search can be left out.
				h.Workers = append(h.Workers, held(rbee.WorkerID(fmt.Sprint("w", i)), 100+int64(i*7%13), 1000+int64(i), 1000+int64(i*3%5)))
			}
			r := rbee.RoomRequest{Device: rbee.MainMemory, Options: needs(100 + int64(n)*50)}
			if got := room.Decide(h, r); got.Verdict != rbee.VerdictEvict {
				b.Fatal(got)
			}
			b.ReportAllocs()
			for b.Loop() {
				room.Decide(h, r)
			}
		})
	}
}
