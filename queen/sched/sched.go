// Package sched decides where a request goes: to the place from which its first
// token is expected soonest. The expectation is in seconds, made of what was
// measured, and each part of it is told.
//
// All decisions are pure: a Snapshot of the colony and a request, no clock, no
// I/O. What changes between two reports of a hive, because this queen sends
// requests there, stands in Flights, whose counts a decision reads once. So each
// decision can be replayed from its rbee.RouteInput, bit for bit.
//
// The package must not know how hives are reached or requests sent.
package sched

import (
	"cmp"
	"slices"
	"sync"

	"rbee"
	"rbee/internal/prefix"
)

// bytesPerToken is what a token stands for in a text, about.
const bytesPerToken = 4

// BlockTokens is about how many tokens one hash of a prefix stands for.
const BlockTokens = prefix.BlockBytes / bytesPerToken

// Tokens estimates how many tokens a prompt of some bytes has.
func Tokens(promptBytes int) int { return (promptBytes + bytesPerToken - 1) / bytesPerToken }

// Hive is a hive as a decision sees it. Nobody changes one that is in a Snapshot.
type Hive struct {
	ID           rbee.HiveID
	Name         string
	Seq          uint64 // of its last report
	Excluded     string // why it takes no request, "" if it takes some
	StartsNone   string // why it starts no worker, "" if it does
	DownloadMBps float64
	Models       []rbee.ColonyModel
	Workers      []rbee.ColonyWorker
	Prefixes     map[rbee.WorkerID][]uint32

	downloadBytes int64 // of the one model of a replay
	once          sync.Once
	site          *site
	models        map[rbee.ModelRef]*rbee.ColonyModel
	cached        map[rbee.WorkerID]hashes
}

// site is what a decision needs to know of a hive, and holds on to.
type site struct {
	id                         rbee.HiveID
	name, excluded, startsNone string
	downloadMBps               float64
}

// index makes what is looked up; it is asked for before anything is.
func (h *Hive) index() {
	h.once.Do(func() {
		h.site = &site{h.ID, h.Name, h.Excluded, h.StartsNone, h.DownloadMBps}
		h.models = make(map[rbee.ModelRef]*rbee.ColonyModel, len(h.Models))
		for i := range h.Models {
			h.models[h.Models[i].ModelRef] = &h.Models[i]
		}
		h.cached = make(map[rbee.WorkerID]hashes, len(h.Prefixes))
		for id, list := range h.Prefixes {
			h.cached[id] = newHashes(list)
		}
	})
}

// Snapshot is the colony at one moment.
type Snapshot struct {
	hives   []*Hive // by id
	flights *Flights

	mu      sync.RWMutex
	markets map[rbee.ModelRef]*live // made when first asked for
}

// NewSnapshot makes a snapshot of hives. What it needs of a model is put together
// when a request first asks for it.
func NewSnapshot(hives []*Hive, f *Flights) *Snapshot {
	s := &Snapshot{hives: slices.Clone(hives), flights: f, markets: map[rbee.ModelRef]*live{}}
	slices.SortFunc(s.hives, func(a, b *Hive) int { return cmp.Compare(a.ID, b.ID) })
	for _, h := range s.hives {
		h.index()
	}
	f.heard(s.hives)
	return s
}

// Pick is the best route for a request as of now; false if there is none, and
// Decide says why. It does not allocate.
func Pick(s *Snapshot, req *rbee.RouteRequest) (rbee.Route, bool) {
	m := s.market(req.ModelRef)
	at, cost, _ := m.pick(nil, req)
	if at < 0 {
		return rbee.Route{}, false
	}
	return m.options[at].route(cost), true
}

// Decide is Pick, with all that the decision was made of. It holds on to what is
// known of the model's workers, and not to the caches of hives.
func Decide(s *Snapshot, req *rbee.RouteRequest) *Decision {
	m := s.market(req.ModelRef)
	d := &Decision{market: m.market, seen: m.read(req.Prefix), request: *req}
	d.at, d.cost, d.strict = d.market.pick(d.seen, req)
	return d
}

// Decision is one decision and the state of the colony that it was made of.
type Decision struct {
	market  *market
	seen    []tally
	request rbee.RouteRequest
	at      int // the chosen option, -1 for none
	cost    rbee.RouteCost
	strict  bool // by the estimated length of the prompt too
}

// Weight is about how many bytes a decision holds, as if it shared none of them.
func (d *Decision) Weight() int {
	const ofPlace, ofOption, ofWorker, ofHash = 300, 300, 300, 4
	m := d.market
	return ofPlace*(len(m.places)+len(m.out)) + ofOption*len(m.options) + ofWorker*m.workers + ofHash*len(d.request.Prefix)
}

// Route is where the request goes; false if nowhere.
func (d *Decision) Route() (rbee.Route, bool) {
	if d.at < 0 {
		return rbee.Route{}, false
	}
	return d.market.options[d.at].route(d.cost), true
}

// market is the one of a model.
func (s *Snapshot) market(ref rbee.ModelRef) *live {
	s.mu.RLock()
	m := s.markets[ref]
	s.mu.RUnlock()
	if m != nil {
		return m
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m = s.markets[ref]; m == nil {
		kept := (len(s.markets)+1)*len(s.hives) <= maxPlaces && len(s.markets) < maxMarkets // clients choose the names of models
		if m = newMarket(s, ref, kept); kept {
			s.markets[ref] = m
		}
	}
	return m
}

// maxMarkets and maxPlaces, which are those of all markets, bound what a snapshot keeps.
const (
	maxMarkets = 10_000
	maxPlaces  = 200_000
)
