package registry_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/internal/bus"
	"rbee/internal/tunnel"
	"rbee/queen/registry"
	"rbee/queen/sched"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 30 * time.Second
	machine  = "this one"
	hiveID   = rbee.HiveID("a000000000000001")
)

// colony is a bus, a registry that hears it, and a way for a hive to join.
type colony struct {
	*registry.Registry
	t     *testing.T
	token string
	cut   func() // ends the bus
	log   *slog.Logger
}

func start(t *testing.T) *colony {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	r := registry.New(registry.Config{Machine: machine, Log: log})
	server, err := bus.Listen(bus.ServerConfig{Addr: "127.0.0.1:0", Dir: t.TempDir(), Tunnel: r.Tunnel, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := server.NewToken("test", rbee.JoinHive)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, cut := context.WithCancel(ctx)
	var lives sync.WaitGroup
	lives.Go(func() { _ = server.Run(up) })
	lives.Go(func() { _ = conn.Run(ctx) })
	lives.Go(func() {
		if err := r.Run(ctx, conn); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		lives.Wait()
	})
	return &colony{r, t, text, cut, log}
}

// hive is a place on the bus; what is told there the tests say.
type hive struct {
	*bus.Conn
	t    *testing.T
	seq  uint64
	live *sync.WaitGroup
	ctx  context.Context
}

func (c *colony) join(about rbee.HiveAbout) *hive {
	c.t.Helper()
	conn, err := bus.Join(bus.JoinConfig{Join: c.token, Kind: rbee.JoinHive, ID: hiveID, Name: "bee", Log: c.log})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &hive{Conn: conn, t: c.t, live: &sync.WaitGroup{}, ctx: ctx}
	h.live.Go(func() { _ = conn.Run(ctx) })
	c.t.Cleanup(func() {
		cancel()
		h.live.Wait()
	})
	eventually(c.t, "the bus", func() bool { ok, _ := conn.Connected(); return ok })
	h.about(about)
	h.now(rbee.HiveOpen)
	eventually(c.t, "the hive", func() bool { return c.hive() != nil })
	return h
}

func (h *hive) about(a rbee.HiveAbout) {
	h.t.Helper()
	a.ID, a.Name, a.Key = hiveID, "bee", "key"
	if a.APIVersion == "" {
		a.Version, a.APIVersion = rbee.Version, rbee.APIVersion
	}
	a.Models = []rbee.ColonyModel{{ModelRef: model, SizeBytes: 1000, Verdict: rbee.VerdictStart}}
	if err := h.PutAbout(h.ctx, a); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hive) now(state rbee.HiveState) {
	h.t.Helper()
	h.seq++
	err := h.PutNow(h.ctx, rbee.HiveNow{
		ID: hiveID, Seq: h.seq, Standing: rbee.HiveStanding{State: state},
		Workers: []rbee.ColonyWorker{{ID: "w-1", ModelRef: model, State: rbee.WorkerIdle, SlotsTotal: 4}},
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

var model = rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "bee-tiny"}

func (c *colony) hive() *rbee.ColonyHive {
	for _, h := range c.Hives() {
		if h.ID == hiveID {
			return &h
		}
	}
	return nil
}

// picks says whether a request goes to the hive.
func (c *colony) picks() bool {
	_, ok := sched.Pick(c.Snapshot(), &rbee.RouteRequest{ModelRef: model, PromptTokens: 10})
	return ok
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestRequestsGoToHivesThatAreHeardOf(t *testing.T) {
	c := start(t)
	if c.picks() {
		t.Error("a request goes to a hive that is not there")
	}
	changed := c.Changed()
	h := c.join(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: machine})
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("nothing tells of the new snapshot")
	}
	eventually(t, "a place", c.picks)
	eventually(t, "the loss, since it says nothing more", func() bool { return !c.picks() && c.hive().Presence == rbee.HiveLost })
	if _, err := c.Reach(hiveID); rbee.CodeOf(err) != rbee.CodeHiveNotFound {
		t.Errorf("a hive that is lost can be reached: %v", err)
	}
	h.now(rbee.HiveOpen)
	eventually(t, "the return", func() bool { return c.picks() && c.hive().Presence == rbee.HivePresent })
}

func TestAHiveThatFailedIsAvoidedUntilItIsHeardOfAgain(t *testing.T) {
	c := start(t)
	h := c.join(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: machine})
	eventually(t, "a place", c.picks)
	c.Failed(hiveID, rbee.Errorf(rbee.CodeConnectionTimeout, "it hung up"))
	eventually(t, "the exclusion", func() bool { return !c.picks() })
	if told := c.hive(); told.Presence != rbee.HivePresent || told.Reason != "a request failed there just now: it hung up" {
		t.Errorf("the hive is told as %+v", told)
	}
	h.now(rbee.HiveOpen)
	eventually(t, "its return", c.picks)
}

func TestWithItsBusCutTheRegistryKeepsAllAndForgetsFailuresAfterAWhile(t *testing.T) {
	c := start(t)
	c.join(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: machine})
	eventually(t, "a place", c.picks)
	c.cut()
	for until := time.Now().Add(registry.LostAfter + time.Second); time.Now().Before(until); <-time.After(50 * time.Millisecond) {
		if !c.picks() || c.hive().Presence != rbee.HivePresent {
			t.Fatalf("the hive is told as %+v", c.hive())
		}
	}
	c.Failed(hiveID, errors.New("it hung up"))
	eventually(t, "the exclusion", func() bool { return !c.picks() })
	eventually(t, "its return", c.picks)
}

func TestWhyAHiveGetsNoRequests(t *testing.T) {
	c := start(t)
	h := c.join(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: machine})
	eventually(t, "a place", c.picks)
	h.now(rbee.HiveDraining)
	eventually(t, "the exclusion", func() bool { return !c.picks() && c.hive().Reason == "it drains" })
	h.now(rbee.HiveOpen)
	eventually(t, "its return", c.picks)
	h.about(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: machine, Version: "9.9.9", APIVersion: rbee.APIVersion})
	eventually(t, "the exclusion", func() bool { h.now(rbee.HiveOpen); return !c.picks() && c.hive().Reason != "" })
}

func TestThatAHiveSaysGoodbyeIsHeard(t *testing.T) {
	c := start(t)
	h := c.join(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: machine})
	if err := h.Forget(t.Context(), hiveID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { return c.hive() == nil })
	if _, err := c.Reach(hiveID); rbee.CodeOf(err) != rbee.CodeHiveNotFound {
		t.Errorf("it can be reached: %v", err)
	}
}

func TestHowAHiveIsReached(t *testing.T) {
	for name, c := range map[string]struct {
		about rbee.HiveAbout
		base  string // "" if it cannot be reached
	}{
		"on the same machine":              {rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: machine}, "http://127.0.0.1:1"},
		"with a certificate":               {rbee.HiveAbout{URL: "https://hive.example/", Machine: "other"}, "https://hive.example"},
		"at its address":                   {rbee.HiveAbout{URL: "http://10.0.0.1:80", Machine: "other"}, "http://10.0.0.1:80"},
		"another machine's loopback":       {rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: "other"}, ""},
		"another machine's any address":    {rbee.HiveAbout{URL: "http://0.0.0.0:1", Machine: "other"}, ""},
		"a certificate for loopback":       {rbee.HiveAbout{URL: "https://127.0.0.1:1", Machine: "other"}, ""},
		"another machine's loopback, name": {rbee.HiveAbout{URL: "http://localhost:1", Machine: "other"}, ""},
		"no machine is known":              {rbee.HiveAbout{URL: "http://127.0.0.1:1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			colony := start(t)
			colony.join(c.about)
			target, err := colony.Reach(hiveID)
			if target.Base != c.base || (err == nil) != (c.base != "") || err == nil && (target.Key != "key" || target.Transport == nil) {
				t.Errorf("%+v, %v; want %s", target, err, c.base)
			}
		})
	}
}

// TestATunnelOfAnInvitedHiveIsForTheProcessThatDialled has another process take
// the place of one that was revoked, and still holds its tunnel.
func TestATunnelOfAnInvitedHiveIsForTheProcessThatDialled(t *testing.T) {
	c := start(t)
	if key, heard := c.Key(hiveID); heard {
		t.Errorf("a hive that nobody heard of has the key %q", key)
	}
	h := c.join(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: "other"})
	if key, heard := c.Key(hiveID); key != "key" || !heard || c.Guests()[hiveID] != "key" {
		t.Errorf("the key is %q, guests are %v", key, c.Guests())
	}
	dial := func(key string) (closed func()) {
		near, far := net.Pipe()
		h.live.Go(func() { c.Invited(hiveID, key, near) })
		h.live.Go(func() { _ = tunnel.Serve(h.ctx, far, http.NotFoundHandler()) })
		return func() { _ = far.Close() }
	}
	reached := func() bool {
		h.now(rbee.HiveOpen)
		_, err := c.Reach(hiveID)
		return err == nil
	}
	dial("key of a process that is gone")
	for range 20 {
		if reached() || c.hive().URL == "" {
			t.Fatal("requests go to a process of which the bus does not tell")
		}
		<-time.After(5 * time.Millisecond)
	}
	closed := dial("key")
	eventually(t, "the way through the right one", reached)
	closed()
	eventually(t, "its end", func() bool { return !reached() })
}

func TestHivesThatAreReachedDirectlyNeedNotDial(t *testing.T) {
	for name, about := range map[string]rbee.HiveAbout{
		"on the same machine": {URL: "http://127.0.0.1:1", Machine: machine},
		"with a certificate":  {URL: "https://hive.example/", Machine: "other"},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			h := c.join(about)
			if guests := c.Guests(); len(guests) > 0 {
				t.Errorf("%v are invited", guests)
			}
			h.about(rbee.HiveAbout{URL: "http://10.0.0.1:80", Machine: "other"})
			eventually(t, "the invitation of a hive in the clear", func() bool { h.now(rbee.HiveOpen); return c.Guests()[hiveID] == "key" })
			eventually(t, "that a lost hive is not invited", func() bool { _, heard := c.Key(hiveID); return len(c.Guests()) == 0 && !heard })
		})
	}
}

func TestAHiveThatDialledIsReachedThroughItsTunnel(t *testing.T) {
	c := start(t)
	h := c.join(rbee.HiveAbout{URL: "http://127.0.0.1:1", Machine: "other"})
	dial := func() net.Conn {
		conn, err := h.DialTunnel(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.live.Go(func() {
			_ = tunnel.Serve(h.ctx, conn, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.Host+r.URL.Path)
			}))
		})
		return conn
	}
	conn := dial()
	through := func() bool {
		h.now(rbee.HiveOpen)
		target, err := c.Reach(hiveID)
		if err != nil {
			return false
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target.Base+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := target.Transport.RoundTrip(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != "localhost/hello" {
			t.Fatalf("the hive answered %q, %v", b, err)
		}
		return true
	}
	eventually(t, "an answer", through)
	if told := c.hive(); told.URL != "" {
		t.Errorf("the hive is told with the address %s", told.URL)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the tunnel", func() bool { _, err := c.Reach(hiveID); return err != nil })
	dial()
	eventually(t, "an answer through the next one", through)
}
