// Package queen is the role of queen-rbee: the daemon that stands before the
// hives of all machines. So far it is the front door alone: health, metrics,
// its own description, and an orderly end.
//
// It starts no worker and opens no model: that is the work of hives, which it
// reaches by their HTTP API only.
package queen

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"

	"rbee/internal/conf"
	"rbee/internal/httpapi"
)

// errAsked is the cause of an end that a client asked for.
var errAsked = errors.New("asked by POST /v1/shutdown")

// errPort is the cause of an end that nobody asked for.
var errPort = errors.New("the port failed")

// Config makes a Queen.
type Config struct {
	Addr string      // HOST:PORT; port 0 takes a free one
	Key  conf.Secret // demanded of callers; "" only on loopback
	Log  *slog.Logger
}

// Queen is the daemon. New opens its port, Run serves it.
type Queen struct {
	log      *slog.Logger
	listener net.Listener
	api      *httpapi.API
	asked    func()          // ends Run; more than once is fine
	end      <-chan struct{} // closed by asked
}

// New opens the port, so that a taken one is told before anything starts and
// Addr is known. Whoever makes a Queen must Run it, which closes the port.
func New(cfg Config) (*Queen, error) {
	ln, err := httpapi.Listen(cfg.Addr, cfg.Key.Reveal())
	if err != nil {
		return nil, err
	}
	end := make(chan struct{})
	q := &Queen{log: cfg.Log, listener: ln, end: end, asked: sync.OnceFunc(func() { close(end) })}
	q.api = httpapi.New(httpapi.Config{Role: "queen", Key: cfg.Key.Reveal(), Routes: q.routes(), Log: cfg.Log})
	return q, nil
}

// Addr is the HOST:PORT that the queen listens on.
func (q *Queen) Addr() string { return q.listener.Addr().String() }

// Run serves until ctx ends or a client asks for the end, and returns when all
// requests are over. An end on purpose is no error.
func (q *Queen) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-q.end:
			cancel(errAsked)
		case <-ctx.Done():
		}
		q.log.Info("queen ends", "err", context.Cause(ctx))
	})
	q.log.InfoContext(ctx, "queen listens", "addr", q.Addr())
	err := q.api.Serve(ctx, q.listener)
	cancel(errPort) // the first cause stays
	watch.Wait()
	return err
}
