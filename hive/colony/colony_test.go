package colony_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
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
