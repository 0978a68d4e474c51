package sched

import (
	"cmp"
	"slices"

	"rbee"
)

// market is all there is for one model: an option for each worker of it, then
// one for each hive that could start one.
type market struct {
	ref     rbee.ModelRef
	bytes   int64 // of the model, as far as any hive knows it
	places  []place
	options []option
	workers int       // of the options, the first ones
	starts  []start   // the others
	served  bool      // a worker of it is there, or will be
	out     []refusal // hives that have no option
	kept    bool      // by its snapshot
}

// live is a market and the caches of its workers, which are large.
type live struct {
	*market
	cached []hashes
}

// place is a hive and the model as it has it, nil if it has not.
type place struct {
	hive  *site
	model *rbee.ColonyModel
}

// refusal is a hive that has no option, and why.
type refusal struct {
	place
	code rbee.Code
	why  string
}

// option is one way to serve the model. Times are seconds.
type option struct {
	hive     *site
	worker   *rbee.ColonyWorker // nil where one would be started
	kind     rbee.RouteKind
	seat     *count // of the worker
	door     *count // of the hive
	reported int    // requests that the hive told of
	slots    int
	room     int // slots and queue; 0 for no bound
	context  int // tokens; 0 for unknown
	table    int // of what is cached
	excluded bool

	base                  float64 // what it costs without a prompt
	load, evict, download float64 // until it computes
	wait                  float64 // for memory that busy workers hold
	perToken              float64 // of a prompt
	step                  float64 // a token of an answer
	turn                  float64 // until the next slot is free, when all are taken
}

// usualPrompt is a prompt, in tokens.
const usualPrompt = 1000

// atLeast is what the option costs if so many tokens must be computed and nobody
// else is there; a little less, so that no rounding rules out the best.
func (o *option) atLeast(tokens float64) float64 { return (o.base + tokens*o.perToken) * (1 - 1e-9) }

// start is of an option without a worker what tells at a glance that it is too
// dear: there are many of them.
type start struct {
	door           *count
	base, perToken float64
}

func newMarket(s *Snapshot, ref rbee.ModelRef, kept bool) *live {
	l := &live{market: &market{ref: ref, kept: kept, places: make([]place, len(s.hives))}}
	m := l.market
	// Decisions outlive reports of hives, so they hold copies: of a report they need little.
	models := make([]rbee.ColonyModel, 0, len(s.hives))
	for i, h := range s.hives {
		m.places[i] = place{hive: h.site}
		m.bytes = max(m.bytes, h.downloadBytes)
		if model := h.models[ref]; model != nil {
			m.bytes = max(m.bytes, model.SizeBytes)
			models = append(models, *model)
			m.places[i].model = &models[len(models)-1]
		}
	}
	s.flights.mu.Lock()
	defer s.flights.mu.Unlock()
	starts := make([]option, 0, len(s.hives))
	for i, h := range s.hives {
		p, before := m.places[i], len(m.options)
		flying := s.flights.hive(h.ID)
		for i := range h.Workers {
			if w := h.Workers[i]; w.ModelRef == ref && serves(&w) {
				o := m.ofWorker(p, &w, flying)
				o.table = len(l.cached)
				l.cached = append(l.cached, h.cached[w.ID])
				m.options = append(m.options, o)
			}
		}
		no := m.startsNot(p)
		switch {
		case len(m.options) > before:
			m.served = m.served || h.Excluded == ""
		case no.why != "":
			m.out = append(m.out, no)
		default:
			starts = append(starts, m.ofStart(p, flying))
		}
	}
	m.workers = len(m.options)
	// the best ones first, so that most of the others are ruled out at a glance
	slices.SortStableFunc(m.options, func(a, b option) int { return cmp.Compare(a.atLeast(usualPrompt), b.atLeast(usualPrompt)) })
	m.options = append(m.options, starts...)
	m.starts = make([]start, len(starts))
	for i := range starts {
		o := &starts[i]
		m.starts[i] = start{o.door, o.base, o.perToken}
	}
	return l
}

// door counts those that wait at a hive for a worker of the model. A market that is
// not kept leaves nothing behind: its model may be a name that somebody made up.
func (m *market) door(f *flying) *count {
	if c := f.models[m.ref]; c != nil || m.kept {
		return f.model(m.ref)
	}
	return &count{}
}

// serves says whether a worker answers, or will.
func serves(w *rbee.ColonyWorker) bool {
	return w.State.Ready() || w.State == rbee.WorkerStarting || w.State == rbee.WorkerLoading
}

// reported is how many requests a worker has, as its hive told.
func reported(w *rbee.ColonyWorker) int { return max(0, w.SlotsBusy) + max(0, w.Waiting) }

// startsNot says why a hive without a worker of the model starts none.
func (m *market) startsNot(p place) refusal {
	switch {
	case m.ref.Provider == rbee.ProviderExternal:
		return refusal{p, rbee.CodeModelNotFound, "no server beside it has the model"}
	case p.model == nil && m.ref.Provider != rbee.ProviderHF:
		return refusal{p, rbee.CodeModelNotFound, "it does not have the model"}
	case p.hive.excluded != "":
		return refusal{p, rbee.CodeWorkerNotReady, p.hive.excluded}
	case p.hive.startsNone != "":
		return refusal{p, rbee.CodeWorkerNotReady, p.hive.startsNone}
	case p.model != nil && p.model.Verdict == rbee.VerdictRefuse:
		return refusal{p, rbee.CodeInsufficientRAM, cmp.Or(p.model.Reason, "it has not enough memory for the model")}
	}
	return refusal{}
}

func (m *market) ofWorker(p place, w *rbee.ColonyWorker, f *flying) option {
	o := option{
		hive: p.hive, worker: w, kind: rbee.RouteReady, door: m.door(f), seat: f.worker(w.ID), excluded: p.hive.excluded != "",
		reported: reported(w), slots: cmp.Or(max(0, w.SlotsTotal), defaultSlots), context: w.ContextTokens,
	}
	if w.SlotsTotal > 0 && !w.External {
		o.room = w.SlotsTotal + max(0, w.QueueCapacity)
	}
	if !w.State.Ready() {
		o.kind, o.load, o.room = rbee.RouteLoading, loadLeft(w, p.model, m.bytes), 0
	}
	o.speeds(m, w, p.model)
	return o
}

func (m *market) ofStart(p place, f *flying) option {
	o := option{hive: p.hive, kind: rbee.RouteStart, door: m.door(f), slots: defaultSlots}
	if p.model == nil {
		o.kind = rbee.RouteDownload
		o.download = float64(cmp.Or(m.bytes, defaultBytes)) / downloadBps(p.hive)
	} else {
		o.context = p.model.ContextLength
		o.evict = float64(max(0, p.model.LossMS)) / 1000
		if p.model.Verdict == rbee.VerdictWait {
			o.wait = memoryWait
		}
	}
	o.load = loadTime(p.model, m.bytes)
	o.speeds(m, nil, p.model)
	return o
}
