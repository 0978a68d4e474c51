package sched

import (
	"slices"
	"sync"
	"sync/atomic"

	"rbee"
)

// Flights counts the requests of one queen that are under way, by place: what
// hives have not told of yet, and what only the queen can know.
type Flights struct {
	mu    sync.Mutex
	hives map[rbee.HiveID]*flying
}

// flying is what flies to one hive.
type flying struct {
	seq     uint64
	workers map[rbee.WorkerID]*count
	models  map[rbee.ModelRef]*count // those that wait for a worker of the model
}

// count is read without a lock and written under that of its Flights.
type count struct {
	open   atomic.Int64 // requests
	told   atomic.Int64 // of these, when the hive last told of itself
	tokens atomic.Int64 // of their prompts, that are not computed yet
	chains atomic.Pointer[[][]uint32]
}

// maxChains bounds how many prefixes of requests under way are known for a worker.
const maxChains = 64

// NewFlights makes a Flights with nothing under way.
func NewFlights() *Flights { return &Flights{hives: map[rbee.HiveID]*flying{}} }

// Flight is a request under way. Its methods may be called in any order and
// more than once, by one goroutine at a time; End must be.
type Flight struct {
	f      *Flights
	hive   rbee.HiveID
	at     *count
	worker bool // at is a worker's
	tokens int64
	chain  []uint32
}

// Begin says that a request is sent along a route.
func (f *Flights) Begin(r *rbee.Route, req *rbee.RouteRequest) *Flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := &Flight{f: f, hive: r.Hive, tokens: int64(r.Cost.UncachedTokens), chain: req.Prefix}
	h := f.hive(r.Hive)
	if r.Kind == rbee.RouteReady {
		fl.worker = true
		fl.land(h.worker(r.Worker))
	} else {
		fl.land(h.model(req.ModelRef))
	}
	return fl
}

// At says which worker has the request, once that is known.
func (fl *Flight) At(w rbee.WorkerID) {
	fl.f.mu.Lock()
	defer fl.f.mu.Unlock()
	if fl.at == nil || fl.worker || w == "" {
		return
	}
	fl.leave()
	fl.worker = true
	fl.land(fl.f.hive(fl.hive).worker(w))
}

// First says that the first token has come: the prompt is computed.
func (fl *Flight) First() {
	fl.f.mu.Lock()
	defer fl.f.mu.Unlock()
	if fl.at != nil {
		fl.at.tokens.Add(-fl.tokens)
	}
	fl.tokens = 0
}

// End says that the request is over, one way or another.
func (fl *Flight) End() {
	fl.f.mu.Lock()
	defer fl.f.mu.Unlock()
	if fl.at != nil {
		fl.leave()
		fl.at = nil
	}
}

func (fl *Flight) land(c *count) {
	fl.at = c
	c.open.Add(1)
	c.tokens.Add(fl.tokens)
	if len(fl.chain) == 0 {
		return
	}
	chains := c.chains.Load()
	if chains == nil {
		c.chains.Store(&[][]uint32{fl.chain})
		return
	}
	kept := (*chains)[max(0, len(*chains)-maxChains+1):]
	next := append(append(make([][]uint32, 0, len(kept)+1), kept...), fl.chain)
	c.chains.Store(&next)
}

func (fl *Flight) leave() {
	c := fl.at
	c.open.Add(-1)
	c.tokens.Add(-fl.tokens)
	chains := c.chains.Load()
	if len(fl.chain) == 0 || chains == nil {
		return
	}
	i := slices.IndexFunc(*chains, func(x []uint32) bool { return &x[0] == &fl.chain[0] })
	switch {
	case i >= 0 && len(*chains) == 1:
		c.chains.Store(nil)
	case i >= 0:
		next := slices.Delete(slices.Clone(*chains), i, i+1)
		c.chains.Store(&next)
	}
}

// heard takes note of the reports of hives, and forgets who is gone.
func (f *Flights) heard(hives []*Hive) {
	f.mu.Lock()
	defer f.mu.Unlock()
	here := make(map[rbee.HiveID]bool, len(hives))
	for _, h := range hives {
		here[h.ID] = true
		if x := f.hives[h.ID]; x != nil && x.seq != h.Seq {
			x.seq = h.Seq
			heard(x.workers)
			heard(x.models)
		}
	}
	for id, x := range f.hives {
		if here[id] {
			continue
		}
		heard(x.workers)
		heard(x.models)
		if len(x.workers)+len(x.models) == 0 {
			delete(f.hives, id)
		}
	}
}

// heard notes what a report knew of, and forgets where nothing flies.
func heard[K comparable](counts map[K]*count) {
	for k, c := range counts {
		open := c.open.Load()
		c.told.Store(open)
		if open == 0 {
			delete(counts, k)
		}
	}
}

// hive is what flies to a hive; with the lock.
func (f *Flights) hive(id rbee.HiveID) *flying {
	x := f.hives[id]
	if x == nil {
		x = &flying{workers: map[rbee.WorkerID]*count{}, models: map[rbee.ModelRef]*count{}}
		f.hives[id] = x
	}
	return x
}

func (x *flying) worker(id rbee.WorkerID) *count {
	c := x.workers[id]
	if c == nil {
		c = &count{}
		x.workers[id] = c
	}
	return c
}

func (x *flying) model(ref rbee.ModelRef) *count {
	c := x.models[ref]
	if c == nil {
		c = &count{}
		x.models[ref] = c
	}
	return c
}
