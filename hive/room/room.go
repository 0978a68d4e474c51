// Package room decides whether a new worker fits into the memory of a machine,
// and which idle workers end to make room for it.
//
// Decide is a pure function of a snapshot and a request: no clock, no I/O. So
// each decision of a hive can be replayed from its log. The package must not
// know where the figures come from, nor carry anything out.
//
// What ends is the set with the least loss. The loss of a worker is what it
// takes to load it again over the time that it has been idle; busy, pinned and
// external workers never end.
package room

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"rbee"
)

// Decide answers a request for memory. Options that are less than what was
// asked for come last: before one of them, idle workers end.
func Decide(h rbee.Holding, r rbee.RoomRequest) rbee.Ruling {
	t := newTable(h)
	for _, shrunk := range []bool{false, true} {
		for _, o := range r.Options {
			if o.Shrunk == shrunk && t.short(o).met() {
				return t.rule(r, o, rbee.VerdictStart, nil)
			}
		}
		for _, o := range r.Options {
			if o.Shrunk != shrunk {
				continue
			}
			if ending, ok := leastLoss(t.candidates, t.short(o)); ok {
				return t.rule(r, o, rbee.VerdictEvict, ending)
			}
		}
	}
	for _, o := range r.Options {
		if r.MayWait && t.short(o).less(t.passing).met() {
			return t.rule(r, o, rbee.VerdictWait, nil)
		}
	}
	if len(r.Options) == 0 {
		return rbee.Ruling{Verdict: rbee.VerdictRefuse, Device: r.Device, Sentence: "refused: there is no way to run it"}
	}
	return t.rule(r, r.Options[len(r.Options)-1], rbee.VerdictRefuse, nil)
}

// candidate is a worker that may end, and its loss.
type candidate struct {
	rbee.Held
	loss float64
}

// unlimited leaves room for sums.
const unlimited = math.MaxInt64 / 4

// table is a Holding, added up.
type table struct {
	free       rbee.Memory // for a new worker
	left       int64       // of the limit
	candidates []candidate // least loss first
	passing    []candidate // those, and what waiting may free
}

func newTable(h rbee.Holding) *table {
	t := &table{free: rbee.Memory{}, left: unlimited}
	for d, n := range h.Free {
		t.free[d] = n - h.Leave[d]
	}
	if h.LimitBytes > 0 {
		t.left = h.LimitBytes
	}
	for _, w := range h.Workers {
		for d, n := range w.Promised {
			t.free[d] -= n
		}
		if h.LimitBytes > 0 {
			t.left -= w.Memory.Total()
		}
		c := candidate{w, float64(max(w.ReloadMS, 1)) / float64(max(w.IdleMS, 1))}
		switch {
		case w.External || w.Pinned && w.State != rbee.WorkerDraining:
		case w.State == rbee.WorkerIdle && !w.Awaited:
			t.candidates = append(t.candidates, c)
			t.passing = append(t.passing, c)
		default:
			t.passing = append(t.passing, c)
		}
	}
	slices.SortFunc(t.candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.loss, b.loss), cmp.Compare(a.ID, b.ID))
	})
	return t
}

// lack is what an option lacks in one place: on a device, or, without one, of
// the limit. Nothing is lacking if it is not positive.
type lack struct {
	device rbee.DeviceID
	bytes  int64
}

func (l lack) gain(w rbee.Held) int64 {
	if l.device == "" {
		return w.Memory.Total()
	}
	return w.Memory[l.device]
}

// lacks are those of all places.
type lacks []lack

// short is what an option lacks.
func (t *table) short(o rbee.RoomOption) lacks {
	list := lacks{{"", o.Memory.Total() - t.left}}
	for _, d := range slices.Sorted(maps.Keys(o.Memory)) {
		list = append(list, lack{d, o.Memory[d] - t.free[d]})
	}
	return list
}

func (l lacks) met() bool {
	return !slices.ContainsFunc(l, func(x lack) bool { return x.bytes > 0 })
}

// less is what is lacking when these workers are gone.
func (l lacks) less(gone []candidate) lacks {
	rest := slices.Clone(l)
	for i := range rest {
		for _, w := range gone {
			rest[i].bytes -= rest[i].gain(w.Held)
		}
	}
	return rest
}

// helps says whether the end of a worker makes less of what is lacking.
func (l lacks) helps(w rbee.Held) bool {
	return slices.ContainsFunc(l, func(x lack) bool { return x.bytes > 0 && x.gain(w) > 0 })
}

// rule puts an answer together.
func (t *table) rule(r rbee.RoomRequest, o rbee.RoomOption, v rbee.Verdict, ending []candidate) rbee.Ruling {
	out := rbee.Ruling{Verdict: v, Device: r.Device}
	if v != rbee.VerdictRefuse {
		out.Option = &o
	}
	for _, w := range ending {
		out.Evict = append(out.Evict, w.ID)
		out.Loss += w.loss
	}
	short := t.short(o)
	if v == rbee.VerdictWait || v == rbee.VerdictRefuse {
		short = short.less(t.candidates) // what is scarce although idle workers might end
	}
	scarcest := slices.MaxFunc(short[1:], func(a, b lack) int {
		return cmp.Or(cmp.Compare(a.bytes, b.bytes), cmp.Compare(b.device, a.device))
	})
	if scarcest.bytes > 0 {
		out.Device = scarcest.device
	}
	var idle rbee.Memory
	for _, w := range t.candidates {
		idle = idle.Plus(w.Memory)
	}
	out.RequiredBytes = o.Memory[out.Device]
	out.FreeBytes, out.IdleBytes = max(0, t.free[out.Device]), idle[out.Device]
	if of := short[0].bytes; of > 0 && of >= scarcest.bytes { // the limit is scarcer
		out.RequiredBytes, out.FreeBytes, out.IdleBytes = o.Memory.Total(), max(0, t.left), idle.Total()
	}
	out.Sentence = sentence(out, ending)
	return out
}
