package colony_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/hive/colony"
	"rbee/internal/bus"
	"rbee/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func TestATunnelThatBrokeIsReplacedWhileARequestStillEnds(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	tunnels := make(chan *tunnel.Transport, 100)
	gate, err := bus.Listen(bus.ServerConfig{
		Addr: "127.0.0.1:0", Dir: t.TempDir(), Log: log,
		Tunnel: func(_ rbee.HiveID, c net.Conn) {
			tr := tunnel.New(c)
			tunnels <- tr
			<-tr.Done()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := gate.NewToken("test", rbee.JoinHive)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := bus.Join(bus.JoinConfig{Join: text, Kind: rbee.JoinHive, ID: "00000000000000aa", Name: "bee", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	m := colony.New(colony.Config{
		Bus: conn, ID: "00000000000000aa", Log: log,
		About:    func(context.Context) rbee.HiveAbout { return rbee.HiveAbout{} },
		Now:      func() rbee.HiveNow { return rbee.HiveNow{} },
		Prefixes: func() map[rbee.WorkerID][]uint32 { return nil },
		API: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(entered)
			<-release // it does not look whether anybody listens
		}),
	})
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	defer close(release)
	all.Go(func() { _ = gate.Run(ctx) })
	all.Go(func() { m.Run(ctx) })
	all.Go(func() { m.KeepTunnel(ctx) })
	next := func() *tunnel.Transport {
		select {
		case tr := <-tunnels:
			return tr
		case <-time.After(patience):
			t.Fatal("there is no tunnel")
			return nil
		}
	}
	first := next()
	all.Go(func() {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hive/", nil)
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := first.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
		}
	})
	<-entered
	_ = first.Close()
	_ = next().Close()
}

// gate is what a queen takes tunnels at.
type gate struct{ tunnels chan *tunnel.Transport }

func newGate() *gate { return &gate{tunnels: make(chan *tunnel.Transport, 100)} }

func (g *gate) take(c net.Conn) {
	tr := tunnel.New(c)
	g.tunnels <- tr
	<-tr.Done()
}

// reaches sends a request through the next tunnel that comes.
func (g *gate) reaches(t *testing.T) *tunnel.Transport {
	t.Helper()
	select {
	case tr := <-g.tunnels:
		asks(t, tr)
		return tr
	case <-time.After(patience):
		t.Fatal("there is no tunnel")
		return nil
	}
}

func asks(t *testing.T, tr *tunnel.Transport) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://hive/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if b, err := io.ReadAll(resp.Body); string(b) != "a hive" || err != nil {
		t.Errorf("the hive answers %q, %v", b, err)
	}
}

const (
	id  = rbee.HiveID("00000000000000aa")
	key = "sesame"
)

// colonyOfTwo is a queen, a second one on her bus, and a hive.
type colonyOfTwo struct {
	owner, guest *gate
	cut, silence func()      // end the bus, and what the second queen tells there
	invite       func()      // once
	heard        atomic.Bool // the second queen hears of the hive
	asked        atomic.Int64
}

func newColonyOfTwo(t *testing.T) *colonyOfTwo {
	t.Helper()
	c := &colonyOfTwo{owner: newGate(), guest: newGate()}
	c.heard.Store(true)
	log := slog.New(slog.DiscardHandler)
	server, err := bus.Listen(bus.ServerConfig{
		Addr: "127.0.0.1:0", Dir: t.TempDir(), Log: log, Tunnel: func(_ rbee.HiveID, conn net.Conn) { c.owner.take(conn) },
	})
	if err != nil {
		t.Fatal(err)
	}
	door, err := bus.OpenDoor(bus.DoorConfig{
		Addr: "127.0.0.1:0", Dir: t.TempDir(), Log: log,
		Key: func(rbee.HiveID) (string, bool) {
			c.asked.Add(1)
			return key, c.heard.Load()
		},
		Tunnel: func(_ rbee.HiveID, _ string, conn net.Conn) { c.guest.take(conn) },
	})
	if err != nil {
		t.Fatal(err)
	}
	queen := conn(t, server, rbee.JoinQueen, "00000000000000cc")
	m := colony.New(colony.Config{
		Bus: conn(t, server, rbee.JoinHive, id), ID: id, Log: log,
		About:    func(context.Context) rbee.HiveAbout { return rbee.HiveAbout{Key: key} },
		Now:      func() rbee.HiveNow { return rbee.HiveNow{} },
		Prefixes: func() map[rbee.WorkerID][]uint32 { return nil },
		API: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a hive")
		}),
	})
	m.Hold(time.Second)
	ctx, stop := context.WithCancel(context.Background())
	serving, cut := context.WithCancel(ctx)
	inviting, silence := context.WithCancel(ctx)
	c.cut, c.silence = cut, silence
	c.invite = func() { _ = door.Invite(queen, map[rbee.HiveID]string{id: key}) } // the bus may be gone
	var all sync.WaitGroup
	t.Cleanup(func() { stop(); all.Wait() })
	all.Go(func() { _ = server.Run(serving) })
	all.Go(func() { _ = door.Run(ctx) })
	all.Go(func() { _ = queen.Run(ctx) })
	all.Go(func() { m.Run(ctx) })
	all.Go(func() { m.KeepTunnel(ctx) })
	all.Go(func() {
		for inviting.Err() == nil {
			c.invite()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-inviting.Done():
			}
		}
	})
	return c
}

func TestEachQueenHasATunnelAsLongAsSheInvites(t *testing.T) {
	c := newColonyOfTwo(t)
	first, second := c.owner.reaches(t), c.guest.reaches(t)
	_ = second.Close()
	second = c.guest.reaches(t) // it is made anew
	asks(t, first)
	c.heard.Store(false)
	_ = second.Close()
	before := c.asked.Load()
	eventually(t, "it is refused, and comes again", func() bool { return c.asked.Load() > before+1 })
	c.heard.Store(true)
	second = c.guest.reaches(t)
	c.silence()
	select {
	case <-second.Done(): // who is off the bus, as one whose token was revoked, has no way in
	case <-time.After(patience):
		t.Fatal("the tunnel goes on")
	}
	before = c.asked.Load()
	for until := time.Now().Add(2500 * time.Millisecond); time.Now().Before(until); <-time.After(50 * time.Millisecond) {
		if c.asked.Load() != before {
			t.Fatal("the hive dials a queen who is gone")
		}
	}
	asks(t, first)
	c.invite()
	c.guest.reaches(t)
}

func TestWithTheBusCutTheHiveStaysWithWhoInvitedIt(t *testing.T) {
	c := newColonyOfTwo(t)
	first, second := c.owner.reaches(t), c.guest.reaches(t)
	c.cut()
	<-first.Done()
	for until := time.Now().Add(2500 * time.Millisecond); time.Now().Before(until); <-time.After(200 * time.Millisecond) {
		asks(t, second)
	}
	_ = second.Close()
	c.guest.reaches(t)
}

func conn(t *testing.T, server *bus.Server, kind rbee.JoinKind, id rbee.HiveID) *bus.Conn {
	t.Helper()
	text, _, err := server.NewToken("test", kind)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bus.Join(bus.JoinConfig{Join: text, Kind: kind, ID: id, Name: "bee", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}
