// Package registry is what a queen knows of the hives of her colony: what each
// told last, whether it is still heard of, and how it is reached. Everything is in
// memory, comes from the bus, and goes with the queen.
//
//	present ──3 s without a word──> lost ──it is heard──> present
//	present, lost ──it says goodbye──> forgotten
//	lost ──10 minutes without a word──> forgotten
//
// When her own bus is cut she hears of nobody, and that says nothing of them: all
// stay as they were, and requests find out who is there.
//
// The registry decides nothing, and sends nothing.
package registry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee"
	"rbee/internal/bus"
	"rbee/internal/feed"
	"rbee/queen/sched"
)

const (
	// LostAfter is how long a hive may be silent.
	LostAfter = 3 * time.Second
	// forgetAfter is how long a lost hive is remembered.
	forgetAfter = 10 * time.Minute
	// avoidFor is how long a hive that failed a request is avoided, at most.
	avoidFor = 3 * time.Second
	// One that fails again and again, and tells all the while that it is well, is
	// avoided for twice as long each time, up to avoidMost. After failedFor without
	// a failure that is forgotten.
	avoidMost = 12 * time.Second
	failedFor = 30 * time.Second
	// lookEvery is how often silence is looked for.
	lookEvery = 100 * time.Millisecond
	// buildEvery bounds how often a new snapshot is made.
	buildEvery = 50 * time.Millisecond
	// buildShare bounds the part of the time that goes into snapshots, as its inverse.
	buildShare = 10
	// feedBuffer is how many changes a reader may fall behind.
	feedBuffer = 4096
)

// Bus is where the registry hears of hives.
type Bus interface {
	Watch(context.Context, func(bus.Update)) error
	Connected() (bool, error)
}

// Config makes a Registry.
type Config struct {
	Machine string // of this program, as hives name theirs
	Log     *slog.Logger
}

// Registry is the set of hives. It is safe for concurrent use.
type Registry struct {
	cfg     Config
	flights *sched.Flights
	feed    *feed.Feed[[]rbee.ColonyHive, rbee.ColonyEvent]
	dirty   chan struct{} // of one place: a new snapshot is due
	sight   atomic.Pointer[sight]

	mu    sync.Mutex // taken inside the feed's lock, never around it
	hives map[rbee.HiveID]*hive
}

// sight is a snapshot, and what tells of the next one.
type sight struct {
	snapshot *sched.Snapshot
	next     chan struct{} // closed when it is there
}

// hive is what is known of one hive.
type hive struct {
	about    *rbee.HiveAbout
	now      *rbee.HiveNow
	prefixes map[rbee.WorkerID][]uint32
	heard    time.Time
	lost     bool
	avoid    time.Time // until then it gets no requests
	failure  string    // why
	failures int       // in a row
	failed   time.Time // the last one
	view     *sched.Hive
	link     link
}

// New makes a registry that knows nobody yet.
func New(cfg Config) *Registry {
	r := &Registry{cfg: cfg, flights: sched.NewFlights(), dirty: make(chan struct{}, 1), hives: map[rbee.HiveID]*hive{}}
	r.feed = feed.New[[]rbee.ColonyHive, rbee.ColonyEvent](feedBuffer, r.Hives)
	r.sight.Store(&sight{sched.NewSnapshot(nil, r.flights), make(chan struct{})})
	return r
}

// Run keeps the registry at what the bus tells until ctx ends, and then closes
// what leads to the hives.
func (r *Registry) Run(ctx context.Context, b Bus) error {
	defer r.close()
	var group errgroup.Group
	watching, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() error {
		defer stop()
		return b.Watch(watching, r.apply)
	})
	group.Go(func() error {
		r.lookForSilence(watching, b)
		return nil
	})
	group.Go(func() error {
		r.build(watching)
		return nil
	})
	err := group.Wait()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end
	}
	return err
}

// Snapshot is the colony as decisions see it.
func (r *Registry) Snapshot() *sched.Snapshot { return r.sight.Load().snapshot }

// Flights counts the requests under way, which snapshots refer to.
func (r *Registry) Flights() *sched.Flights { return r.flights }

// Changed is closed when Snapshot is another one than it was at the call.
func (r *Registry) Changed() <-chan struct{} { return r.sight.Load().next }

// Feed tells of changes.
func (r *Registry) Feed() *feed.Feed[[]rbee.ColonyHive, rbee.ColonyEvent] { return r.feed }

// apply takes in what the bus tells.
func (r *Registry) apply(u bus.Update) {
	r.feed.Change(func(publish func(rbee.ColonyEvent)) {
		r.mu.Lock()
		e, tell := r.take(u)
		r.mu.Unlock()
		if tell {
			publish(e)
		}
	})
	r.change()
}

// take changes what is known, and says what is to be told of it. r.mu is held.
func (r *Registry) take(u bus.Update) (e rbee.ColonyEvent, tell bool) {
	e.Time = time.Now()
	var h *hive
	switch {
	case u.About != nil:
		h = r.known(u.About.ID)
		about := boundedAbout(u.About)
		if old := h.about; old != nil && (old.Key != about.Key || old.URL != about.URL) {
			h.link.drop() // another process: what the old one told is void
			h.now, h.failures = nil, 0
		}
		h.about = about
	case u.Now != nil:
		h = r.known(u.Now.ID)
		back := h.lost || h.now == nil || h.now.Standing != u.Now.Standing
		if h.lost {
			h.failures = 0
		}
		h.now, h.heard, h.lost = boundedNow(u.Now), time.Now(), false
		if h.failures <= 1 {
			h.avoid = time.Time{}
		}
		if h.view = nil; !back && h.about != nil {
			e.Kind, e.Now = rbee.ColonyHiveNow, h.now
			return e, true
		}
	case u.Prefixes != nil:
		h = r.known(u.Prefixes.ID)
		h.prefixes, h.view = u.Prefixes.Workers, nil
		return e, false
	case u.Synced:
		return e, false // who is silent is found by that
	case u.Lost:
		return r.lose(u.Gone, e)
	default:
		h = r.hives[u.Gone]
		if h == nil {
			return e, false
		}
		h.link.end()
		delete(r.hives, u.Gone)
		e.Kind, e.ID = rbee.ColonyHiveGone, u.Gone
		return e, true
	}
	h.view = nil
	return tellAll(h, e)
}

// known is the entry of a hive, made if there is none. r.mu is held.
func (r *Registry) known(id rbee.HiveID) *hive {
	h := r.hives[id]
	if h == nil {
		h = &hive{heard: time.Now()}
		r.hives[id] = h
	}
	return h
}

// lose notes that a hive is not heard of. r.mu is held.
func (r *Registry) lose(id rbee.HiveID, e rbee.ColonyEvent) (rbee.ColonyEvent, bool) {
	h := r.hives[id]
	if h == nil || h.lost {
		return e, false
	}
	h.lost, h.view = true, nil
	if h.about != nil {
		r.cfg.Log.Warn("a hive is lost: nothing is heard of it", "hive", h.about.Name, "id", id)
	}
	h.link.drop()
	return tellAll(h, e)
}

// tellAll makes an event of all that is known of a hive, if that is enough.
func tellAll(h *hive, e rbee.ColonyEvent) (rbee.ColonyEvent, bool) {
	if h.about == nil || h.now == nil {
		return e, false
	}
	whole := h.colonyHive()
	e.Kind, e.Hive = rbee.ColonyHiveNew, &whole
	return e, true
}

// lookForSilence finds hives that are not heard of, as long as something could be
// heard, and those that were avoided for long enough.
func (r *Registry) lookForSilence(ctx context.Context, b Bus) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	hearing := time.Now() // since then
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if ok, _ := b.Connected(); !ok {
			hearing = time.Now()
		}
		silent, forgiven := r.look(hearing)
		for _, u := range silent {
			r.apply(u)
		}
		if forgiven {
			r.change()
		}
	}
}

// look says which hives are silent for long, or for so long that they are
// forgotten, and forgives those that failed long ago.
func (r *Registry) look(hearing time.Time) (silent []bus.Update, forgiven bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for id, h := range r.hives {
		since := h.heard
		if since.Before(hearing) {
			since = hearing
		}
		switch quiet := now.Sub(since); {
		case quiet > forgetAfter:
			silent = append(silent, bus.Update{Gone: id})
		case quiet > LostAfter && !h.lost:
			silent = append(silent, bus.Update{Gone: id, Lost: true})
		}
		if !h.avoid.IsZero() && now.After(h.avoid) {
			h.avoid, h.view, forgiven = time.Time{}, nil, true
		}
	}
	return silent, forgiven
}

// Failed says that a hive did not do what a request needed. It is avoided until it
// is heard of again, for some seconds at most; for longer if that is of no use.
func (r *Registry) Failed(id rbee.HiveID, err error) {
	r.mu.Lock()
	h, now := r.hives[id], time.Now()
	if h != nil && h.avoid.IsZero() { // or else it is of the same time
		if now.Sub(h.failed) > failedFor {
			h.failures = 0
		}
		h.failed, h.failures = now, h.failures+1
		h.avoid = now.Add(min(avoidFor<<min(max(0, h.failures-2), 8), avoidMost))
		h.failure, h.view = fmt.Sprintf("a request failed there just now: %s", rbee.AsError(err).Message), nil
	}
	r.mu.Unlock()
	r.change()
}

// Hives lists the hives by name, those that are lost as well.
func (r *Registry) Hives() []rbee.ColonyHive {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]rbee.ColonyHive, 0, len(r.hives))
	for _, h := range r.hives {
		if h.about != nil && h.now != nil {
			list = append(list, h.colonyHive())
		}
	}
	slices.SortFunc(list, func(a, b rbee.ColonyHive) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// About is what a hive told of itself, also of one that is lost.
func (r *Registry) About(found func(*rbee.HiveAbout) bool) (rbee.HiveAbout, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.hives {
		if h.about != nil && found(h.about) {
			return *h.about, true
		}
	}
	return rbee.HiveAbout{}, false
}

// change has a new snapshot made soon.
func (r *Registry) change() {
	select {
	case r.dirty <- struct{}{}:
	default: // one is due already
	}
}

// build makes snapshots where something has changed, until ctx ends.
func (r *Registry) build(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-r.dirty:
		case <-ctx.Done():
			return
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		begin := time.Now()
		old := r.sight.Swap(&sight{sched.NewSnapshot(r.views(), r.flights), make(chan struct{})})
		close(old.next)
		pause.Reset(max(buildEvery, buildShare*time.Since(begin)))
	}
}

// views are the hives as decisions see them.
func (r *Registry) views() []*sched.Hive {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*sched.Hive, 0, len(r.hives))
	for _, h := range r.hives {
		if h.about == nil || h.now == nil {
			continue
		}
		if h.view == nil {
			h.view = h.makeView()
		}
		list = append(list, h.view)
	}
	return list
}
