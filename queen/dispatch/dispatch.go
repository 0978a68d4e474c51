// Package dispatch is what a queen does with requests: it decides on a place,
// passes the request on, and passes back what comes, byte by byte. Until the
// first token nobody has seen anything, so a request that fails is tried
// elsewhere; afterwards a stream that breaks ends with an event that says so.
//
//	request ── decide ── attempt ── first token ── relay ── outcome
//	             ↑  │        │
//	             │  wait     failed, elsewhere
//	             └────────────┘
//
// It knows the colony as a Colony only: neither the bus nor how hives are found.
package dispatch

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rbee"
	"rbee/internal/conf"
	"rbee/queen/sched"
)

// Colony is what has to be known of the hives.
type Colony interface {
	// Snapshot is what decisions are made of, as of now.
	Snapshot() *sched.Snapshot
	// Changed is closed once a newer snapshot is there.
	Changed() <-chan struct{}
	// Hives are all that are known, for those who look.
	Hives() []rbee.ColonyHive
	// Reach says how requests get to a hive.
	Reach(rbee.HiveID) (Target, error)
	// Failed says that a hive could not be reached, or does not know us: it is
	// avoided until it tells of itself again.
	Failed(rbee.HiveID, error)
}

// Target is how a request gets to a hive.
type Target struct {
	Base      string // URL without a slash at its end
	Key       string
	Transport http.RoundTripper
}

// Config makes a Dispatcher.
type Config struct {
	Settings conf.Config // aliases, and the size of the queue
	Colony   Colony
	Flights  *sched.Flights // of the snapshots of Colony
	Metrics  prometheus.Registerer
	Log      *slog.Logger
}

// Dispatcher serves the requests of a queen. Its methods with the names of
// routes are handlers.
type Dispatcher struct {
	cfg      Config
	log      *slog.Logger
	metrics  *metrics
	queue    *queue
	attempts attempts
	journal  journal
	born     time.Time
}

// New makes a Dispatcher, which has to Run.
func New(cfg Config) *Dispatcher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Dispatcher{cfg: cfg, log: cfg.Log, queue: newQueue(cfg.Settings.Queen.Queue), born: time.Now()}
	d.metrics = newMetrics(cfg.Metrics, d.queue)
	return d
}

// youth is how long it takes at most to hear of the hives that are there.
const youth = 3 * time.Second

// young says whether nobody was heard of so far because it is too early for that.
func (d *Dispatcher) young() bool {
	return time.Since(d.born) < youth && len(d.cfg.Colony.Hives()) == 0
}

// lookEvery is how often requests at hives that are lost are looked at.
const lookEvery = time.Second

// Run gives up requests at hives that are lost and say nothing more, until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if d.attempts.any() {
				d.attempts.giveUp(d.cfg.Colony.Hives())
			}
		}
	}
}
