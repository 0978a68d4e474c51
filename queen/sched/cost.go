package sched

import (
	"cmp"
	"math"

	"rbee"
)

// What is taken for what nobody has measured yet: rather too good than too bad, so
// that it is tried, and measured.
const (
	defaultBytes    = 4_000_000_000 // of a model
	defaultSlots    = 4
	defaultDiskBps  = 500e6 // a load, bytes per second
	defaultNetBps   = 10e6  // a download, bytes per second
	defaultRequest  = 2.0   // seconds that a request holds its slot
	defaultCPUWork  = 3e11  // prompt tokens per second times bytes of the model
	defaultGPUWork  = 3e13
	defaultCPUBytes = 10e9 // bytes of weights that a token takes, per second
	defaultGPUBytes = 200e9
	startProcess    = 0.3 // seconds of a load, whatever its size

	// memoryWait is how long requests wait for memory that busy workers hold.
	memoryWait = 10.0
	// anotherLeast and anotherCosts, in loads, are what a load costs where a worker
	// of the model is there already: it takes memory and time from others.
	anotherLeast = 1.0
	anotherCosts = 0.5
	// crowded is how many times longer a worker takes all of whose slots are
	// taken, as the simulation of the tests found best: streams have their turns
	// between prompts, and what comes later is delayed too.
	crowded = 3.0
)

// measured is a figure of a hive within bounds that keep sums finite, or what is
// usual where the hive has none.
func measured(x, usual float64) float64 {
	if !(x > 0) {
		return usual
	}
	return min(max(x, 1e-3), 1e12)
}

func downloadBps(h *site) float64 { return 1e6 * measured(h.downloadMBps, defaultNetBps/1e6) }

func loadTime(model *rbee.ColonyModel, bytes int64) float64 {
	if model != nil && model.LoadMS > 0 {
		return float64(model.LoadMS) / 1000
	}
	return startProcess + float64(cmp.Or(bytes, defaultBytes))/defaultDiskBps
}

func loadLeft(w *rbee.ColonyWorker, model *rbee.ColonyModel, bytes int64) float64 {
	if w.LoadLeftMS > 0 {
		return float64(w.LoadLeftMS) / 1000
	}
	return loadTime(model, bytes) * (1 - min(1, max(0, w.LoadedFraction)))
}

// speeds fills in what was measured, or else is usual.
func (o *option) speeds(m *market, w *rbee.ColonyWorker, model *rbee.ColonyModel) {
	work, bandwidth := defaultCPUWork, defaultCPUBytes
	if w != nil && w.Backend != rbee.BackendCPU && w.Backend != "" {
		work, bandwidth = defaultGPUWork, defaultGPUBytes
	}
	size := float64(cmp.Or(m.bytes, defaultBytes))
	perSec, step, request := work/size, size/bandwidth, defaultRequest
	if model != nil {
		perSec = measured(model.PrefillPerSec, perSec)
	}
	if w != nil {
		perSec = measured(w.PrefillPerSec, perSec)
		step = measured(w.TokenMS, 1000*step) / 1000
		request = measured(w.RequestMS, 1000*request) / 1000
	}
	o.base = o.load + o.evict + o.download + o.wait + step
	o.perToken, o.step, o.turn = 1/perSec, step, request/float64(o.slots)
}

// tally is what of an option changes between reports, read once.
type tally struct {
	requests int // there, those that wait included
	door     int // of these, those that wait for a worker
	tokens   int // of prompts, known to be computed before
	waiting  int // of these, of those that wait for a worker

	seated, doored *[][]uint32 // prefixes of this queen's requests: there, and waiting for a worker
	hits           *hits       // instead of them and of the cache, if all was read
}

// hits is how many hashes a prefix begins with that are known of a place.
type hits struct{ cached, seated, doored int }

func (h *hits) most() int { return max(h.cached, h.seated, h.doored) }

func (o *option) read() tally {
	t := tally{door: int(o.door.open.Load()), waiting: int(o.door.tokens.Load()), doored: o.door.chains.Load()}
	own, told := t.door, int(o.door.told.Load())
	t.tokens = t.waiting
	if o.seat != nil {
		own, told = own+int(o.seat.open.Load()), told+int(o.seat.told.Load())
		t.tokens += int(o.seat.tokens.Load())
		t.seated = o.seat.chains.Load()
	}
	t.requests = max(0, own, o.reported+own-told)
	return t
}

// read reads all that a decision about a prefix depends on.
func (l *live) read(prefix []uint32) []tally {
	seen, all := make([]tally, len(l.options)), make([]hits, len(l.options))
	for i := range l.options {
		o, h := &l.options[i], &all[i]
		t := o.read()
		if len(prefix) > 0 {
			h.seated, h.doored = longest(t.seated, prefix, 0), longest(t.doored, prefix, 0)
			if o.worker != nil {
				h.cached = l.cached[o.table].leading(prefix)
			}
		}
		t.seated, t.doored, t.hits = nil, nil, h
		seen[i] = t
	}
	return seen
}

// delay is what comes before the prompt.
func (o *option) delay(t tally, another bool) (c rbee.RouteCost) {
	c.Load, c.Evict, c.Download = o.load, o.evict, o.download
	c.Queue = o.wait + float64(t.tokens)*o.perToken
	if over := t.requests - o.slots + 1; over > 0 {
		c.Queue = o.wait + max(float64(t.tokens)*o.perToken, float64(over)*o.turn)
	}
	if another && o.worker == nil && t.door == 0 {
		c.Guard = anotherLeast + anotherCosts*(o.load+o.download)
	}
	return c
}

// with adds the prompt, of which some tokens are cached.
func (o *option) with(c rbee.RouteCost, t tally, prompt, cached int) rbee.RouteCost {
	c.CachedTokens = cached
	c.UncachedTokens = max(1, prompt-cached)
	c.Prefill = float64(c.UncachedTokens)*o.perToken + o.step
	if o.kind == rbee.RouteReady {
		c.Guard = (c.Prefill + float64(t.tokens)*o.perToken) * o.crowd(t)
	}
	c.Total = c.Queue + c.Load + c.Evict + c.Download + c.Prefill + c.Guard
	return c
}

// crowd is how many times longer it takes beside what runs there.
func (o *option) crowd(t tally) float64 {
	if o.kind != rbee.RouteReady {
		return 0
	}
	return crowded * min(1, float64(t.requests)/float64(o.slots))
}

// cacheable is how many tokens of a prompt could be cached.
func cacheable(req *rbee.RouteRequest) int {
	return min(len(req.Prefix)*BlockTokens, max(0, req.PromptTokens-1))
}

// pick finds the cheapest option of what was seen. The estimate of tokens rules an
// option out only where another one is left.
func (m *market) pick(seen []tally, req *rbee.RouteRequest) (at int, c rbee.RouteCost, strict bool) {
	return live{market: m}.pick(seen, req)
}

// pick does it with what is to be seen now, if nothing was.
func (l live) pick(seen []tally, req *rbee.RouteRequest) (at int, c rbee.RouteCost, strict bool) {
	if at, c = l.best(seen, req, true); at >= 0 {
		return at, c, true
	}
	at, c = l.best(seen, req, false)
	return at, c, false
}

func (l live) best(seen []tally, req *rbee.RouteRequest, strict bool) (int, rbee.RouteCost) {
	m := l.market
	b := bid{live: l, seen: seen, req: req, strict: strict, at: -1, tokens: float64(max(1, req.PromptTokens-cacheable(req)))}
	b.cost.Total = math.Inf(1)
	for i := range m.options[:m.workers] {
		b.try(i)
	}
	choice := req.Node == "" // else no other worker would do
	b.another = m.served && choice
	for i := range m.starts {
		if m.doorAt(seen, i) > 0 { // what is started is no more a start of its own
			b.another = choice
			b.try(m.workers + i)
		}
	}
	tokens := float64(req.PromptTokens)
	for i := range m.starts {
		if s := &m.starts[i]; (s.base+tokens*s.perToken)*(1-1e-9) < b.cost.Total {
			b.try(m.workers + i)
		}
	}
	return b.at, b.cost
}

// doorAt is how many requests wait for a start.
func (m *market) doorAt(seen []tally, start int) int {
	if seen != nil {
		return seen[m.workers+start].door
	}
	return int(m.starts[start].door.open.Load())
}

// another says whether a start would be one more for the model, and the request
// could do without.
func (m *market) another(seen []tally, req *rbee.RouteRequest) bool {
	if req.Node != "" {
		return false
	}
	for i := range m.starts {
		if m.served || m.doorAt(seen, i) > 0 {
			return true
		}
	}
	return false
}

// bid looks for the cheapest option.
type bid struct {
	live
	seen    []tally
	req     *rbee.RouteRequest
	strict  bool
	another bool    // a start would be one more for the model
	tokens  float64 // that cannot be cached
	at      int
	cost    rbee.RouteCost
}

func (b *bid) try(i int) {
	o := &b.options[i]
	if o.atLeast(b.tokens) >= b.cost.Total {
		return
	}
	var t tally
	if b.seen != nil {
		t = b.seen[i]
	} else {
		t = o.read()
	}
	if o.obstacle(t, b.req, b.strict) != free {
		return
	}
	delay := o.delay(t, b.another)
	least := o.with(delay, t, b.req.PromptTokens, cacheable(b.req))
	if least.Total >= b.cost.Total {
		return // however much of the prompt is cached
	}
	if n := b.mustCache(o, t, least); n > 0 && !b.has(o, t, n) {
		return // too little is cached
	}
	if c := o.with(delay, t, b.req.PromptTokens, hit(b.blocks(o, t), b.req)); c.Total < b.cost.Total {
		b.cost, b.at = c, i
	}
}

// mustCache is how many hashes of the prefix an option must have at least to be
// the cheapest: one lookup then rules most of them out. It is one too few, so
// that no rounding rules out the best.
func (b *bid) mustCache(o *option, t tally, least rbee.RouteCost) int {
	spare := (b.cost.Total - least.Total) / (o.perToken * (1 + o.crowd(t))) // tokens that need not be cached
	if spare >= float64(least.CachedTokens) {
		return 0
	}
	return (least.CachedTokens-int(spare))/BlockTokens - 1
}

// has says whether the first n hashes of the prefix are cached.
func (b *bid) has(o *option, t tally, n int) bool {
	prefix := b.req.Prefix
	if t.hits != nil {
		return t.hits.most() >= n
	}
	return o.worker != nil && b.cached[o.table].has(prefix[n-1]) || begins(t.seated, prefix, n) || begins(t.doored, prefix, n)
}

// blocks is how many hashes of the prefix are cached.
func (b *bid) blocks(o *option, t tally) (n int) {
	prefix := b.req.Prefix
	switch {
	case len(prefix) == 0:
		return 0
	case t.hits != nil:
		return t.hits.most()
	case o.worker != nil:
		n = b.cached[o.table].leading(prefix)
	}
	return longest(t.doored, prefix, longest(t.seated, prefix, n))
}

// hit is how many tokens of a prompt are cached if so many hashes of its prefix are.
func hit(blocks int, req *rbee.RouteRequest) int { return min(blocks*BlockTokens, cacheable(req)) }

func (o *option) route(c rbee.RouteCost) rbee.Route {
	r := rbee.Route{Hive: o.hive.id, HiveName: o.hive.name, Kind: o.kind, Cost: c}
	if o.worker != nil {
		r.Worker = o.worker.ID
	}
	return r
}
