// Package hive is the role of the pool manager of one machine: the models on
// its disk, the workers it runs, the devices they run on, and one port through
// which all of that, and each worker's API, is reached.
//
// routes.go is its API as a table; http_*.go answers it; pool owns the
// workers, store the models. The hive serves with or without a queen and
// knows no other hive.
package hive

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee"
	"rbee/client"
	"rbee/hive/crashes"
	"rbee/hive/external"
	"rbee/hive/pool"
	"rbee/hive/provision"
	"rbee/hive/store"
	"rbee/internal/conf"
	"rbee/internal/engines"
	"rbee/internal/httpapi"
	"rbee/internal/supervise"
)

// stallSlack is how much longer than a worker the hive waits for its loading:
// a worker that gives up by itself can say more about it.
const stallSlack = 3 * time.Second

// Config makes a Hive.
type Config struct {
	Settings conf.Config
	Private  bool      // for one keeper: takes no lock of the state directory
	ByQueen  bool      // a queen starts it, and ends it with herself
	Announce io.Writer // a private hive writes its address here, one line of JSON
	Environ  []string  // NAME=value pairs that say which hub to use; default those of the process
	Log      *slog.Logger
}

// Hive is the daemon of one machine. Run it once.
type Hive struct {
	cfg     Config
	key     conf.Secret
	program string // of the worker
	name    string // of the machine
	log     *slog.Logger

	pool    *pool.Pool
	api     *httpapi.API
	engines *engines.Store
	devices *devices
	relay   *relay
	metrics *metrics

	provider *provision.Provider
	claims   claims
	servers  []external.Server // of models that are not ours

	colony  conf.Secret                // how to join one at the start; "" for none
	member  atomic.Pointer[membership] // nil for a hive without a colony, and before Run
	moved   chan struct{}              // rung when member is another
	moving  sync.Mutex                 // one join or leave at a time
	traffic *traffic

	clock     *clock
	host      *machine
	standing  *standing
	decisions decisions
	crashes   crashes.Log
	starts    starts
	later     sync.Mutex // one decision about a download at a time

	// from Run on
	base      atomic.Pointer[string] // URL under which this hive is reached
	announced atomic.Bool            // others find it: run/hive.json is there
	callback  string                 // URL under which workers of this machine reach it
	store     *store.Store
	spawner   *supervise.Spawner
	external  *external.Watcher
	shutdown  context.CancelCauseFunc
}

// policy is how much of the machine a hive takes. One that somebody starts for
// himself takes what it is asked for.
func (c Config) policy() conf.Hive {
	policy := c.Settings.Hive
	if c.Private {
		policy.Hours, policy.OnBattery = "", "always"
	}
	return policy
}

// errOrdered is the cause of a shutdown by request.
var errOrdered = errors.New("shutdown was ordered")

// New makes a hive out of valid settings. It touches nothing on disk.
func New(cfg Config) (*Hive, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	key, err := cfg.Settings.Hive.ReadKey()
	if err != nil {
		return nil, err
	}
	program, err := workerProgram(string(cfg.Settings.Worker.Program))
	if err != nil {
		return nil, err
	}
	h := &Hive{
		cfg: cfg, key: key, program: program, name: cmp.Or(cfg.Settings.Hive.Name, hostname()), log: cfg.Log, traffic: newTraffic(),
		moved:   make(chan struct{}, 1),
		engines: engines.Open(cfg.Settings.EnginesDir()),
	}
	h.metrics = newMetrics(h)
	h.relay = newRelay(h)
	h.clock, h.host = newClock(), newMachine()
	h.standing = newStanding(cfg.policy(), h.host.power, h.clock)
	h.devices = &devices{ask: h.askDevices, backends: h.engines.Status, ctx: context.Background()}
	h.pool = pool.New(pool.Config{
		Launch:    h.launch,
		Dial:      dial,
		URL:       func(id rbee.WorkerID) string { return *h.base.Load() + "/v1/workers/" + string(id) },
		LoadStall: cfg.Settings.Worker.LoadTimeout + stallSlack,
		Weigh:     h.weigh,
		Loaded:    h.loaded,
		Ended:     h.ended,
		Now:       h.clock.now,
		Log:       h.log,
	})
	if h.provider, err = h.newProvider(); err != nil {
		return nil, err
	}
	if h.servers, err = externalServers(cfg.Settings); err != nil {
		return nil, err
	}
	if !cfg.Private { // which is a member of nothing
		if h.colony, err = cfg.Settings.ReadJoin(); err != nil {
			return nil, err
		}
	}
	h.api = httpapi.New(httpapi.Config{Role: "hive", Key: key.Reveal(), ColonyKey: h.colonyKey, Routes: h.routes(), Log: h.log})
	return h, nil
}

// OpenAPI is the document of the hive's API.
func (h *Hive) OpenAPI() ([]byte, error) { return h.api.OpenAPI() }

// Run serves until ctx ends or a shutdown is ordered. Then it ends the workers
// first, so that their streams still say goodbye through the relay, then the
// streams of events, then the listener. It returns when nothing of it is left:
// nil if it was told to end.
func (h *Hive) Run(ctx context.Context) (err error) {
	settings := h.cfg.Settings
	if err := settings.Home.Create(); err != nil {
		return err
	}
	presence, err := h.claim()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, presence.release()) }()
	if h.colony != "" {
		m, err := h.newMembership(h.colony)
		if err != nil {
			return err
		}
		h.become(m)
	}
	ln, err := httpapi.Listen(settings.Hive.Addr, h.key.Reveal())
	if err != nil {
		return err
	}
	h.address(ln.Addr())
	if err := supervise.SweepStrays(settings.Home.RunDir(), h.log); err != nil {
		h.log.WarnContext(ctx, "cannot look for processes that an earlier hive left", "err", err)
	}
	ledger, err := supervise.OpenLedger(settings.Home.RunDir())
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	h.spawner = supervise.NewSpawner(ledger, h.log)
	models, db, err := store.Open(ctx, settings.Home.ModelsDB(), h.storeConfig())
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	h.store = models
	defer h.provider.Close()
	h.external = external.New(others(h.servers, h.callback), h.pool, h.log)
	return h.serve(ctx, ln, presence)
}

// serve runs what the hive is made of, and ends it in the reverse order.
func (h *Hive) serve(ctx context.Context, ln net.Listener, presence *presence) error {
	living, shutdown := context.WithCancelCause(ctx)
	defer shutdown(nil)
	h.shutdown = shutdown
	outer := context.WithoutCancel(ctx)
	serving, stopServing := context.WithCancel(outer)
	defer stopServing()
	spawning, stopSpawning := context.WithCancel(outer)
	defer stopSpawning()

	var group errgroup.Group
	looking, stopLooking := context.WithCancel(outer)
	defer stopLooking()
	h.devices.ctx = looking

	group.Go(func() error { return h.spawner.Run(spawning) })
	group.Go(func() error {
		err := h.api.Serve(serving, ln)
		if err != nil {
			shutdown(err)
		}
		return err
	})
	group.Go(func() error {
		defer stopSpawning()
		defer h.devices.work.Wait()
		defer stopLooking()
		defer stopServing()
		defer h.store.GiveUp() // what the streams of downloads tell of
		return h.pool.Run(living)
	})
	group.Go(func() error {
		<-living.Done()
		h.log.InfoContext(outer, "the hive shuts down", "reason", context.Cause(living))
		return nil
	})
	group.Go(func() error {
		h.attendStanding(living)
		return nil
	})
	group.Go(func() error {
		h.external.Run(living)
		return nil
	})
	if !h.cfg.Private {
		group.Go(func() error {
			h.preload(living)
			h.keepWarm(living)
			return nil
		})
	}
	h.log.InfoContext(ctx, "the hive listens", "addr", ln.Addr().String(), "private", h.cfg.Private)
	if err := presence.announce(*h.base.Load()); err != nil {
		shutdown(err)
		return errors.Join(err, group.Wait())
	}
	h.announced.Store(true)
	group.Go(func() error {
		h.attendColonies(living, serving)
		return nil
	})
	err := group.Wait()
	h.relay.close()
	h.log.InfoContext(outer, "the hive has ended")
	return err
}

// address works out how the hive is reached at its port: by its workers on
// loopback if it listens there, and by others under the configured URL.
func (h *Hive) address(a net.Addr) {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil { // no TCP address looks like that
		host, port = "127.0.0.1", "0"
	}
	local, outside := host, host
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		local, outside = "127.0.0.1", ownAddress()
	}
	base := "http://" + net.JoinHostPort(outside, port)
	if u := h.cfg.Settings.Hive.URL; u != "" && !h.cfg.Private { // that is where the daemon is
		base = u
	}
	h.base.Store(&base)
	h.callback = "http://" + net.JoinHostPort(local, port) + "/v1/workers/ready"
}

// ownAddress is an address of this machine that others can reach, as far as
// the interfaces tell.
func ownAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		addrs = nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// link is a worker's API through our client.
type link struct{ *client.Client }

func dial(url, key string) pool.Link { return link{client.New(url, client.Key(key))} }

func (l link) Health(ctx context.Context) error {
	_, err := l.Client.Health(ctx)
	return err
}

func (l link) Rest(ctx context.Context) error {
	_, err := l.Client.Rest(ctx)
	return err
}

func (l link) Drain(ctx context.Context) error {
	_, err := l.AdminShutdown(ctx)
	return err
}

func (l link) Shutdown(ctx context.Context) error {
	_, err := l.Client.Shutdown(ctx)
	return err
}

// isSecret names the variables that no child of the hive needs.
func isSecret(variable string) bool {
	switch variable {
	case "RBEE_HIVE_KEY", "RBEE_QUEEN_KEY", "RBEE_HIVE_JOIN", "RBEE_QUEEN_JOIN", "RBEE_NODES", "HF_TOKEN", "CREDENTIALS_DIRECTORY",
		"RBEE_EXTERNAL", "RBEE_WORKER_KEY", "RBEE_CALLBACK_KEY":
		return true
	}
	return strings.HasPrefix(variable, "RBEE_NODES_") || strings.HasPrefix(variable, "RBEE_EXTERNAL_")
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "this machine"
	}
	return name
}
