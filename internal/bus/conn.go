package bus

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rbee"
)

const (
	// backoffFirst and backoffLast are the times between two tries to connect.
	backoffFirst = 200 * time.Millisecond
	backoffLast  = time.Second

	// refusedAgain is when a hive that was refused asks again.
	refusedAgain = 30 * time.Second

	// steady is how long a connection lives that was worth its making.
	steady = 2 * time.Second
)

// JoinConfig says who joins which colony.
type JoinConfig struct {
	Join string // text of a token, or URLs of a NATS cluster; an address alone is there to be refused
	Kind rbee.JoinKind
	ID   rbee.HiveID // 16 hex digits
	Name string
	Log  *slog.Logger
}

// Conn is a program's place on the bus. It outlives connections: Run makes a new
// one whenever one is lost.
type Conn struct {
	cfg   JoinConfig
	hello hello // without a purpose and a token
	way   way

	mu        sync.Mutex
	link      *link
	why       error         // there is no link
	changed   chan struct{} // closed when there is another link, or none
	onConnect []func()
	onInvite  func(Invitation)
	key       string             // that the hive told last
	told      map[string]telling // by subject
}

// link is one connection.
type link struct {
	nc   *nats.Conn
	lost chan struct{} // closed by NATS when the connection is

	mu      sync.Mutex
	refusal error // that a queen said on the bus
}

// way is how a connection is made.
type way interface {
	connect(ctx context.Context, c *Conn, options []nats.Option) (*nats.Conn, error)
	// own says that the bus is a queen's behind her gate, which has checked us.
	own() bool
}

func newConn(cfg JoinConfig) *Conn {
	return &Conn{
		cfg: cfg, why: errNotYet, changed: make(chan struct{}), told: map[string]telling{},
		hello: hello{Kind: cfg.Kind, ID: cfg.ID, Name: cfg.Name, Version: rbee.Version, APIVersion: rbee.APIVersion, Process: random(8)},
	}
}

var errNotYet = rbee.Errorf(rbee.CodeConnectionTimeout, "the colony was not reached yet")

// Join checks what is given; Run connects.
func Join(cfg JoinConfig) (*Conn, error) {
	if !isID(cfg.ID) {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot join a colony as %q: the id is not 16 hex digits", cfg.ID)
	}
	c := newConn(cfg)
	var err error
	c.way, err = parseWay(cfg, c.hello)
	return c, err
}

// Run keeps the program connected until ctx ends. A queen that is refused gets
// the refusal; a hive goes on asking, since it serves without a colony as well.
func (c *Conn) Run(ctx context.Context) error {
	defer c.disconnect()
	backoff := backoffFirst
	said := ""
	for ctx.Err() == nil {
		began := time.Now()
		err := c.connect(ctx)
		if err == nil {
			said = ""
			err = c.hold(ctx)
		}
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > steady {
			backoff = backoffFirst
		}
		wait := backoff - rand.N(backoff/4) //nolint:gosec // no secret; a queen that comes back has many guests
		backoff = min(2*backoff, backoffLast)
		if refused(err) {
			if c.cfg.Kind == rbee.JoinQueen {
				return err
			}
			wait = refusedAgain
		}
		if text := err.Error(); text != said {
			said = text
			c.cfg.Log.Warn("not connected with the colony", "err", err)
		}
		pause(ctx, wait)
	}
	return nil
}

// refused says whether a queen said no, so that asking at once is no use.
func refused(err error) bool {
	switch rbee.CodeOf(err) {
	case rbee.CodeInvalidRequest, rbee.CodeMissingAPIKey, rbee.CodeInvalidAPIKey, rbee.CodeVersionMismatch, rbee.CodeConflict:
		return true
	}
	return false
}

// connect makes a link, if there is none.
func (c *Conn) connect(ctx context.Context) error {
	if l, _ := c.current(); l != nil {
		return nil
	}
	l := &link{lost: make(chan struct{})}
	options := []nats.Option{
		nats.Name(string(c.cfg.Kind) + " " + string(c.cfg.ID)),
		nats.NoReconnect(), // Run does that
		nats.SkipHostLookup(),
		nats.Timeout(dialTime),
		nats.PingInterval(time.Second),
		nats.MaxPingsOutstanding(2),
		nats.CustomInboxPrefix("_INBOX." + string(c.cfg.ID)),
		nats.ClosedHandler(func(*nats.Conn) { close(l.lost) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.cfg.Log.Warn("the bus of the colony complains", "err", err)
		}),
	}
	nc, err := c.way.connect(ctx, c, options)
	if err == nil {
		err = c.hearInvitations(nc)
		if err == nil && !c.way.own() {
			err = c.greet(ctx, nc, l)
		}
		if err != nil {
			nc.Close()
		}
	}
	if err != nil {
		c.mu.Lock()
		c.why = err
		c.mu.Unlock()
		return err
	}
	l.nc = nc
	c.mu.Lock()
	c.link, c.why = l, nil
	clear(c.told) // the bus may be a new one
	c.change()
	callbacks := c.onConnect
	c.mu.Unlock()
	if _, within := c.way.(inProcess); !within {
		c.cfg.Log.Info("connected with the colony")
	}
	for _, f := range callbacks {
		f()
	}
	return nil
}

// change wakes who waits for another link. The lock is held.
func (c *Conn) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// hold waits until the link is lost, and says why, or ctx ends.
func (c *Conn) hold(ctx context.Context) error {
	l, err := c.current()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-l.lost:
	}
	l.mu.Lock()
	err = l.refusal
	l.mu.Unlock()
	if err == nil {
		err = rbee.Errorf(rbee.CodeConnectionTimeout, "the connection with the colony was lost")
		if last := l.nc.LastError(); last != nil {
			err = rbee.Errorf(rbee.CodeConnectionTimeout, "the connection with the colony was lost: %w", last)
		}
	}
	c.drop(err)
	return err
}

// disconnect ends the link.
func (c *Conn) disconnect() {
	c.drop(rbee.Errorf(rbee.CodeConnectionTimeout, "the program has left the colony"))
}

func (c *Conn) drop(why error) {
	c.mu.Lock()
	l := c.link
	c.link, c.why = nil, why
	if l != nil {
		c.change()
	}
	c.mu.Unlock()
	if l != nil {
		l.nc.Close()
		<-l.lost
	}
}

// current is the link, or why there is none.
func (c *Conn) current() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		return c.link, nil
	}
	return nil, c.why
}

// Connected says whether the program is on the bus, or why not.
func (c *Conn) Connected() (bool, error) {
	l, err := c.current()
	return l != nil, err
}

// OnConnect has f called after each connection, by the goroutine of Run, and now
// if there is one: what was told before may be forgotten. Call it before Run.
func (c *Conn) OnConnect(f func()) {
	c.mu.Lock()
	c.onConnect = append(c.onConnect, f)
	connected := c.link != nil
	c.mu.Unlock()
	if connected {
		f()
	}
}

// await waits for a link; nil says that ctx ended.
func (c *Conn) await(ctx context.Context) *link {
	for {
		c.mu.Lock()
		l, changed := c.link, c.changed
		c.mu.Unlock()
		if l != nil {
			return l
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// DialTunnel connects with the gate, so that the queen may send requests the
// other way (package tunnel).
func (c *Conn) DialTunnel(ctx context.Context) (net.Conn, error) {
	g, ok := c.way.(*throughGate)
	if !ok {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot make a tunnel to a queen: the bus of the colony is not hers").
			Suggest("those who are on it invite the hive to dial them; see their logs for why they do not")
	}
	conn, _, err := g.dial(ctx, purposeTunnel)
	return conn, err
}
