package colony

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"rbee"
	"rbee/internal/bus"
	"rbee/internal/tunnel"
)

const (
	tunnelSoon  = 200 * time.Millisecond // after a tunnel broke
	tunnelLater = 2 * time.Second        // as long as none can be had

	// maxHosts bounds the queens whose invitations are followed at once.
	maxHosts = 16
)

// host is a queen who invited the hive.
type host struct {
	latest atomic.Pointer[bus.Invitation]
	at     time.Time
	end    context.CancelFunc // of the way to her
}

// KeepTunnel keeps ways open by which queens reach the API, until ctx ends: to
// the one whose bus it is, and to those who invite the hive as long as they do.
func (m *Member) KeepTunnel(ctx context.Context) {
	var ways sync.WaitGroup
	defer ways.Wait()
	ways.Go(func() { m.keep(ctx, m.dialOwner) })
	hosts := map[string]*host{} // by the pins of their gates, which outlast restarts
	hearing := time.Now()       // since then
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		select {
		case i := <-m.invitations:
			h := hosts[i.Pin]
			if h == nil && len(hosts) == maxHosts {
				continue
			}
			first := h == nil
			if first {
				h = &host{}
				hosts[i.Pin] = h
			}
			h.latest.Store(&i)
			h.at = time.Now()
			if first {
				var visiting context.Context
				visiting, h.end = context.WithCancel(ctx)
				ways.Go(func() { m.keep(visiting, m.dialHost(h)) })
			}
		case <-tick.C:
			if there, _ := m.cfg.Bus.Connected(); !there {
				hearing = time.Now() // nobody can be heard, and that says nothing of them
			}
			for pin, h := range hosts {
				if time.Since(h.at) > m.holds && time.Since(hearing) > m.holds {
					h.end()
					delete(hosts, pin)
				}
			}
		case <-ctx.Done():
			for _, h := range hosts {
				h.end()
			}
			return
		}
	}
}

// dialOwner dials the queen whose bus it is, if there is a connection with it.
func (m *Member) dialOwner(ctx context.Context) (net.Conn, error) {
	if there, _ := m.cfg.Bus.Connected(); !there {
		return nil, nil
	}
	return m.cfg.Bus.DialTunnel(ctx)
}

// dialHost dials a queen as she said last. Why that fails is told once.
func (m *Member) dialHost(h *host) func(context.Context) (net.Conn, error) {
	var said rbee.Code
	return func(ctx context.Context) (net.Conn, error) {
		if m.leaving.Load() {
			return nil, nil
		}
		conn, err := h.latest.Load().Dial(ctx)
		code := rbee.CodeOf(err)
		if err != nil && code != said && ctx.Err() == nil {
			m.cfg.Log.WarnContext(ctx, "a queen invites this hive, which cannot dial her", "err", err)
		}
		said = code
		return conn, err
	}
}

// keep keeps one way open until ctx ends. Dial returns nothing if it is no time for that.
func (m *Member) keep(ctx context.Context, dial func(context.Context) (net.Conn, error)) {
	var serving sync.WaitGroup
	defer serving.Wait()
	for ctx.Err() == nil {
		pause := tunnelSoon
		conn, err := dial(ctx)
		switch {
		case err != nil:
			m.note(ctx, "dial a tunnel", err)
			pause = tunnelLater
		case conn != nil:
			open, end := context.WithCancel(ctx)
			serving.Go(func() {
				defer end()
				m.note(ctx, "keep the tunnel", tunnel.Serve(ctx, ending{conn, end}, m.cfg.API))
			})
			<-open.Done() // the next one does not wait for what came through this one
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// ending is a connection that tells of its end.
type ending struct {
	net.Conn
	end context.CancelFunc
}

// Close closes the connection.
func (e ending) Close() error {
	e.end()
	return e.Conn.Close()
}
