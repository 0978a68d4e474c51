// Package queen is the role of queen-rbee: one API for the hives of all
// machines. Package registry knows them, by the bus of the colony; package sched
// decides where a request goes; package dispatch brings it there.
//
// She starts no worker and opens no model: that is the work of hives. She keeps
// nothing of them on a disk: when she comes back they tell her again.
package queen

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee"
	"rbee/internal/bus"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/httpapi"
	"rbee/queen/dispatch"
	"rbee/queen/registry"
)

// connectTime bounds how long the queen's own bus may take.
const connectTime = 10 * time.Second

// role is what the files of a queen are named for.
const role = "queen"

// errAsked is the cause of an end that a client asked for.
var errAsked = errors.New("asked by POST /v1/shutdown")

// Config makes a Queen.
type Config struct {
	Settings  conf.Config
	Ephemeral bool // what she starts ends with her, whatever ends her
	Log       *slog.Logger
}

// Queen is the daemon. New opens its ports, Run serves them.
type Queen struct {
	cfg      Config
	log      *slog.Logger
	started  time.Time
	machine  string // as hives name theirs
	place    *daemon.Presence
	listener net.Listener
	gate     *bus.Server // nil where she joined the bus of another
	door     *bus.Door   // there, if her port was free
	conn     *bus.Conn
	registry *registry.Registry
	dispatch *dispatch.Dispatcher
	local    *local
	metrics  *metrics
	api      *httpapi.API
	asked    func()          // ends Run; more than once is fine
	end      <-chan struct{} // closed by asked
	ending   chan struct{}   // closed by Run, when it begins to end

	announced atomic.Bool // others find her: run/queen.json is there
}

// New takes the place of the state directory's queen and opens the ports, so that
// what stands against that is told before anything starts. Whoever makes a Queen
// must Run it, which gives all of it back.
func New(cfg Config) (q *Queen, err error) {
	settings := cfg.Settings
	key, err := settings.Queen.ReadKey()
	if err != nil {
		return nil, err
	}
	if err := settings.Home.Create(); err != nil {
		return nil, err
	}
	end := make(chan struct{})
	q = &Queen{
		cfg: cfg, log: cfg.Log, started: time.Now(),
		end: end, asked: sync.OnceFunc(func() { close(end) }), ending: make(chan struct{}),
	}
	place, err := daemon.Claim(settings.Home, role)
	if err != nil {
		return nil, err
	}
	q.place = place
	defer func() {
		if err != nil {
			err = errors.Join(err, place.Release())
		}
	}()
	if q.listener, err = httpapi.Listen(settings.Queen.Addr, key.Reveal()); err != nil {
		return nil, err
	}
	if err := q.openBus(); err != nil {
		return nil, errors.Join(err, q.listener.Close())
	}
	q.metrics = newMetrics(q)
	q.dispatch = newDispatcher(q)
	q.local = newLocal(q)
	q.api = httpapi.New(httpapi.Config{Role: role, Key: key.Reveal(), Routes: q.routes(), Log: cfg.Log})
	return q, nil
}

// openBus opens the gate of the colony, or reads how to join that of another.
func (q *Queen) openBus() (err error) {
	q.machine = bus.MachineID()
	q.registry = registry.New(registry.Config{Machine: q.machine, Log: q.log})
	settings := q.cfg.Settings
	if join := settings.Queen.Join; join != "" {
		q.conn, err = bus.Join(bus.JoinConfig{Join: join.Reveal(), Kind: rbee.JoinQueen, ID: newQueenID(), Name: hostname(), Log: q.log})
		if err == nil {
			err = q.openDoor()
		}
		return err
	}
	q.gate, err = bus.Listen(bus.ServerConfig{
		Addr: settings.Queen.BusAddr, Dir: filepath.Join(string(settings.Home), role), Names: settings.Queen.Names.Items(),
		Tunnel: q.registry.Tunnel, Log: q.log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTime)
	defer cancel()
	if q.conn, err = q.gate.Connect(ctx); err != nil {
		q.gate.Close()
	}
	return err
}

// URL is the base under which programs of this machine reach her.
func (q *Queen) URL() string { return "http://" + nearest(q.listener.Addr()) }

// Run serves until ctx ends or a client asks for the end. Then the hive that she
// started ends, then the requests, then the bus. It returns when nothing of it is
// left. An end on purpose is no error.
func (q *Queen) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, q.place.Release()) }()
	living, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := &running{Queen: q, end: end}
	outer := context.WithoutCancel(ctx)
	r.hear(outer)
	r.group.Go(func() error {
		select {
		case <-q.end:
			end(errAsked)
		case <-living.Done():
		}
		close(q.ending)
		q.log.InfoContext(outer, "queen ends", "err", context.Cause(living))
		return nil
	})
	r.serve(living)
	q.log.InfoContext(ctx, "queen listens", "addr", q.listener.Addr().String())
	if err := q.place.Announce(q.URL()); err != nil {
		end(err)
		return errors.Join(err, r.group.Wait())
	}
	q.announced.Store(true)
	return r.group.Wait()
}

// running is one run of a queen.
type running struct {
	*Queen
	end        context.CancelCauseFunc // of the queen
	group      errgroup.Group
	stopToHear context.CancelFunc
}

// must runs a part without which the queen cannot be.
func (r *running) must(run func() error) {
	r.group.Go(func() error {
		err := run()
		if err != nil {
			r.end(err)
		}
		return err
	})
}

// hear begins to keep the registry at what the bus tells, until stopToHear.
func (r *running) hear(ctx context.Context) {
	gating, stopGate := context.WithCancel(ctx)
	hearing, stop := context.WithCancel(ctx)
	r.stopToHear = stop
	var hearers sync.WaitGroup
	hearers.Add(2)
	r.group.Go(func() error {
		hearers.Wait()
		stopGate() // the last to end
		return nil
	})
	if r.gate != nil {
		r.must(func() error { return r.gate.Run(gating) })
	}
	if r.door != nil {
		r.must(func() error { return r.door.Run(gating) })
		r.group.Go(func() error { return r.invite(hearing) })
	}
	r.must(func() error {
		defer hearers.Done()
		return r.conn.Run(hearing)
	})
	r.must(func() error {
		defer hearers.Done()
		return r.registry.Run(hearing, r.conn)
	})
	r.must(func() error { return r.dispatch.Run(hearing) })
}

// serve serves the API, and looks after the hive of this machine, until ctx ends.
// That hive ends while she still serves, so that its streams say goodbye.
func (r *running) serve(ctx context.Context) {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.group.Go(func() error {
		defer stop()
		r.local.run(ctx)
		<-ctx.Done()
		r.local.end()
		return nil
	})
	r.must(func() error {
		defer r.stopToHear()
		return r.api.Serve(serving, r.listener)
	})
}

// newQueenID names a queen on the bus of another, as long as she runs.
func newQueenID() rbee.HiveID {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return rbee.HiveID(hex.EncodeToString(b[:]))
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "this machine"
	}
	return name
}

// nearest is the HOST:PORT by which programs of this machine reach a listener.
func nearest(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr.String()
}
