package bus_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"rbee"
	"rbee/internal/bus"
	"rbee/internal/tunnel"
)

func TestAQueenReachesAHiveThatDialledHer(t *testing.T) {
	t.Parallel()
	reached := make(chan *tunnel.Transport, 1)
	p := open(t, t.TempDir(), "127.0.0.1:0", func(id rbee.HiveID, c net.Conn) {
		if id != anna {
			t.Errorf("a tunnel of %s", id)
		}
		tr := tunnel.New(c)
		reached <- tr
		<-tr.Done()
	})
	text, _ := p.token(t, rbee.JoinHive)
	hive, _ := join(t, text, rbee.JoinHive, anna)
	stop := running(t, func(ctx context.Context) error {
		conn, err := hive.DialTunnel(ctx)
		if err != nil {
			return err
		}
		return tunnel.Serve(ctx, conn, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, "hive at ", r.URL.Path)
		}))
	})
	tr := <-reached
	for i := range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprint("http://hive/", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if string(b) != fmt.Sprint("hive at /", i) || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		_ = resp.Body.Close()
	}
	stop()
	<-tr.Done()
	eventually(t, "no session is left", func() bool { return p.Sessions() == 0 })
}

func TestATunnelOutlivesTheBusConnectionAndEndsWithTheGate(t *testing.T) {
	t.Parallel()
	reached := make(chan net.Conn, 1)
	p := open(t, t.TempDir(), "127.0.0.1:0", func(_ rbee.HiveID, c net.Conn) {
		reached <- c
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	text, _ := p.token(t, rbee.JoinHive)
	hive, stop := joined(t, text, rbee.JoinHive, anna)
	conn, err := hive.DialTunnel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	queenSide := <-reached
	stop()
	eventually(t, "the bus connection is gone", func() bool { return p.Sessions() == 1 })
	if _, err := queenSide.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 2)); n != 1 {
		t.Errorf("read %d, %v", n, err)
	}
	p.stop()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("it goes on without a gate")
	}
}

func TestAQueenMakesNoTunnel(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", func(_ rbee.HiveID, c net.Conn) { t.Error("a tunnel of a queen"); _ = c.Close() })
	text, _ := p.token(t, rbee.JoinQueen)
	queen, _ := join(t, text, rbee.JoinQueen, bert)
	if c, err := queen.DialTunnel(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("%v, %v", c, err)
	}
}

func TestProgramsOfOneMachineKnowIt(t *testing.T) {
	t.Parallel()
	if id := bus.MachineID(); id == "" || id != bus.MachineID() {
		t.Errorf("the machine is %q", id)
	}
}
