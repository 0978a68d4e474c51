// Package colony is the hive's side of a colony: it tells the colony's bus of
// the hive, when something changes and each second, and keeps tunnels to queens
// through which they reach the hive's API: to the one whose bus it is, and to
// those who invite it there.
//
// The hive serves whether or not the bus can be reached. The package does not
// know what it tells, nor who listens.
package colony

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"rbee"
	"rbee/internal/bus"
)

const (
	// Every is how often a hive tells that it is there. One that was not heard
	// for three times as long is lost.
	Every = time.Second
	// What changes is told at once, and what changes soon after that together with
	// all else that did: of requests, of caches, and of the rest, which takes more
	// to find out.
	togetherNow      = 50 * time.Millisecond
	togetherPrefixes = 100 * time.Millisecond
	togetherAbout    = 500 * time.Millisecond
	// renewEvery is how often what has not changed is told again, before the bus
	// forgets it.
	renewEvery = 10 * time.Second
	// farewell bounds how long the hive takes to say that it goes.
	farewell = time.Second
)

// Config makes a Member.
type Config struct {
	Bus *bus.Conn
	ID  rbee.HiveID

	// What the bus is told, without ID and Seq. About may take its time.
	About    func(context.Context) rbee.HiveAbout
	Now      func() rbee.HiveNow
	Prefixes func() map[rbee.WorkerID][]uint32

	API http.Handler // what the tunnel reaches
	Log *slog.Logger
}

// Member is a hive in a colony. Run it once, and KeepTunnel beside it.
type Member struct {
	cfg      Config
	now      bell // something that comes each second anyway has changed
	about    bell // something else
	prefixes bell
	seq      atomic.Uint64
	stale    atomic.Bool // the bus may have forgotten what it was told
	leaving  atomic.Bool // queens will not know the hive any more

	invitations chan bus.Invitation
	holds       time.Duration // an invitation
}

// New makes a member. It does nothing yet.
func New(cfg Config) *Member {
	m := &Member{
		cfg: cfg, now: newBell(), about: newBell(), prefixes: newBell(),
		invitations: make(chan bus.Invitation, maxHosts), holds: bus.InvitationHolds,
	}
	cfg.Bus.OnInvite(func(i bus.Invitation) {
		select {
		case m.invitations <- i:
		default: // it comes again
		}
	})
	return m
}

// Changed says that workers, or what the hive takes on, have changed.
func (m *Member) Changed() {
	m.now.ring()
	m.about.ring()
}

// Used says that requests have begun or ended.
func (m *Member) Used() { m.now.ring() }

// Cached says that caches of workers have changed.
func (m *Member) Cached() { m.prefixes.ring() }

// bell is rung however often, and heard once.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// Connected says whether the colony hears the hive, or why not.
func (m *Member) Connected() (bool, error) { return m.cfg.Bus.Connected() }

// Run tells of the hive until ctx ends; then it takes its leave.
func (m *Member) Run(ctx context.Context) {
	connected, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	m.cfg.Bus.OnConnect(func() {
		m.stale.Store(true)
		m.now.ring()
		m.about.ring()
		m.prefixes.ring()
	})
	var all sync.WaitGroup
	all.Go(func() {
		if err := m.cfg.Bus.Run(connected); err != nil && connected.Err() == nil {
			m.cfg.Log.ErrorContext(ctx, "the hive is in no colony any more", "err", err)
		}
	})
	var telling sync.WaitGroup
	telling.Go(func() { m.repeat(ctx, m.now, togetherNow, Every, m.tellNow) })
	telling.Go(func() { m.repeat(ctx, m.prefixes, togetherPrefixes, renewEvery, m.tellPrefixes) })
	telling.Go(m.tellingAbout(ctx))
	telling.Wait()
	m.leaving.Store(true)
	if there, _ := m.cfg.Bus.Connected(); there {
		leaving, cancel := context.WithTimeout(connected, farewell)
		m.note(leaving, "leave", m.cfg.Bus.Forget(leaving, m.cfg.ID))
		cancel()
	}
	disconnect()
	all.Wait()
}

// repeat tells something when the bell rings, but not twice within a time, and
// now and then in any case.
func (m *Member) repeat(ctx context.Context, rung bell, together, every time.Duration, tell func(context.Context)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if there, _ := m.cfg.Bus.Connected(); there {
			tell(ctx)
		}
		select {
		case <-time.After(together):
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-rung:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Member) tellNow(ctx context.Context) {
	now := m.cfg.Now()
	now.ID, now.Seq = m.cfg.ID, m.seq.Add(1)
	m.note(ctx, "tell its state", m.cfg.Bus.PutNow(ctx, now))
}

func (m *Member) tellPrefixes(ctx context.Context) {
	m.note(ctx, "tell its caches", m.cfg.Bus.PutPrefixes(ctx, rbee.HivePrefixes{ID: m.cfg.ID, Workers: m.cfg.Prefixes()}))
}

// tellingAbout looks each second, since some of it changes without a bell, and
// tells what is new.
func (m *Member) tellingAbout(ctx context.Context) func() {
	var told rbee.HiveAbout
	var at time.Time
	return func() {
		m.repeat(ctx, m.about, togetherAbout, Every, func(ctx context.Context) {
			about := m.cfg.About(ctx)
			about.ID = m.cfg.ID
			if ctx.Err() != nil || !m.stale.Swap(false) && same(about, told) && time.Since(at) < renewEvery {
				return
			}
			if err := m.cfg.Bus.PutAbout(ctx, about); err != nil {
				m.stale.Store(true)
				m.note(ctx, "tell what it has", err)
				return
			}
			told, at = about, time.Now()
		})
	}
}

// same says whether two are the same but for the memory that is free, which
// comes each second.
func same(a, b rbee.HiveAbout) bool {
	a.Devices, b.Devices = still(a.Devices), still(b.Devices)
	return reflect.DeepEqual(a, b)
}

func still(list []rbee.Device) []rbee.Device {
	out := make([]rbee.Device, len(list))
	for i, d := range list {
		out[i] = d
		out[i].MemoryFree = 0
	}
	return out
}

// note tells the log of what the bus did not take. It is tried again anyway.
func (m *Member) note(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		m.cfg.Log.DebugContext(ctx, "the hive cannot "+what+" to its colony", "err", err)
	}
}
