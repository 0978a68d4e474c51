package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/internal/bus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	anna = rbee.HiveID("00000000000000aa")
	bert = rbee.HiveID("00000000000000bb")
)

// soon is how long a test waits for what must come.
const soon = 20 * time.Second

// logged is a log that tests read.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(soon)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", soon, what)
		}
	}
}

// running runs something until the test ends, or the returned function is called.
func running(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(stop)
	return stop
}

// place is a queen's bus.
type place struct {
	*bus.Server
	log  logged
	dir  string
	stop func()
}

func open(t *testing.T, dir, addr string, tunnel func(rbee.HiveID, net.Conn)) *place {
	t.Helper()
	p := &place{dir: dir}
	var err error
	p.Server, err = bus.Listen(bus.ServerConfig{Addr: addr, Dir: dir, Tunnel: tunnel, Log: p.log.log()})
	if err != nil {
		t.Fatal(err)
	}
	p.stop = running(t, p.Run)
	return p
}

func (p *place) token(t *testing.T, kind rbee.JoinKind) (string, rbee.JoinToken) {
	t.Helper()
	text, token, err := p.NewToken("a test", kind)
	if err != nil {
		t.Fatal(err)
	}
	return text, token
}

func join(t *testing.T, text string, kind rbee.JoinKind, id rbee.HiveID) (*bus.Conn, *logged) {
	t.Helper()
	log := &logged{}
	c, err := bus.Join(bus.JoinConfig{Join: text, Kind: kind, ID: id, Name: "bee-" + string(id[14:]), Log: log.log()})
	if err != nil {
		t.Fatal(err)
	}
	return c, log
}

// joined is join, and waits until it is.
func joined(t *testing.T, text string, kind rbee.JoinKind, id rbee.HiveID) (c *bus.Conn, stop func()) {
	t.Helper()
	c, _ = join(t, text, kind, id)
	stop = running(t, c.Run)
	eventually(t, "connected", func() bool { ok, _ := c.Connected(); return ok })
	return c, stop
}

// heard is what a watcher hears.
type heard struct {
	mu      sync.Mutex
	updates []bus.Update
}

func watch(t *testing.T, c *bus.Conn) *heard {
	h := &heard{}
	running(t, func(ctx context.Context) error {
		return c.Watch(ctx, func(u bus.Update) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.updates = append(h.updates, u)
		})
	})
	return h
}

func (h *heard) since(n int, is func(bus.Update) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, u := range h.updates[min(n, len(h.updates)):] {
		if is(u) {
			return true
		}
	}
	return false
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.updates)
}

func (h *heard) wait(t *testing.T, n int, what string, is func(bus.Update) bool) {
	t.Helper()
	eventually(t, what, func() bool { return h.since(n, is) })
}

// queen is a watcher in the process of the bus.
func (p *place) queen(t *testing.T) (*bus.Conn, *heard) {
	t.Helper()
	c, err := p.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	running(t, c.Run)
	return c, watch(t, c)
}

func about(id rbee.HiveID, name string) rbee.HiveAbout {
	return rbee.HiveAbout{ID: id, Name: name, Version: rbee.Version, APIVersion: rbee.APIVersion, Key: "sesame-" + string(id)}
}

func put(t *testing.T, c *bus.Conn, id rbee.HiveID, seq uint64) {
	t.Helper()
	ctx := t.Context()
	if err := c.PutAbout(ctx, about(id, "bee")); err != nil {
		t.Fatal(err)
	}
	if err := c.PutNow(ctx, rbee.HiveNow{ID: id, Seq: seq}); err != nil {
		t.Fatal(err)
	}
	if err := c.PutPrefixes(ctx, rbee.HivePrefixes{ID: id, Workers: map[rbee.WorkerID][]uint32{"w": {1, 2}}}); err != nil {
		t.Fatal(err)
	}
}

func isAbout(id rbee.HiveID) func(bus.Update) bool {
	return func(u bus.Update) bool { return u.About != nil && u.About.ID == id }
}

func isNow(id rbee.HiveID, seq uint64) func(bus.Update) bool {
	return func(u bus.Update) bool { return u.Now != nil && u.Now.ID == id && u.Now.Seq == seq }
}

func isGone(id rbee.HiveID, lost bool) func(bus.Update) bool {
	return func(u bus.Update) bool { return u.Gone == id && u.Lost == lost }
}

func TestQueensHearWhatHivesTell(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	_, early := p.queen(t)
	early.wait(t, 0, "synced", func(u bus.Update) bool { return u.Synced })
	hive, _ := joined(t, text, rbee.JoinHive, anna)
	put(t, hive, anna, 7)
	queenText, _ := p.token(t, rbee.JoinQueen)
	other, _ := joined(t, queenText, rbee.JoinQueen, bert)
	late := watch(t, other)
	for _, h := range []*heard{early, late} {
		h.wait(t, 0, "about", func(u bus.Update) bool { return isAbout(anna)(u) && u.About.Key == "sesame-"+string(anna) })
		h.wait(t, 0, "now", isNow(anna, 7))
		h.wait(t, 0, "prefixes", func(u bus.Update) bool { return u.Prefixes != nil && len(u.Prefixes.Workers["w"]) == 2 })
	}
	late.wait(t, 0, "synced", func(u bus.Update) bool { return u.Synced })
}

func TestASecondQueenThatJoinsWithATokenHearsWhatCameBefore(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	hive, _ := joined(t, text, rbee.JoinHive, anna)
	put(t, hive, anna, 1)
	queenText, _ := p.token(t, rbee.JoinQueen)
	queen, _ := joined(t, queenText, rbee.JoinQueen, bert)
	h := watch(t, queen)
	h.wait(t, 0, "synced", func(u bus.Update) bool { return u.Synced })
	if !h.since(0, isAbout(anna)) {
		t.Error("synced before the hive was told of")
	}
}

func TestAHiveThatSaysGoodbyeIsGoneAndOneThatSaysNothingIsNot(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	_, h := p.queen(t)
	silent, _ := joined(t, text, rbee.JoinHive, anna)
	put(t, silent, anna, 1)
	polite, leave := joined(t, text, rbee.JoinHive, bert)
	put(t, polite, bert, 1)
	if err := polite.Forget(t.Context(), bert); err != nil {
		t.Fatal(err)
	}
	leave()
	h.wait(t, 0, "gone", isGone(bert, false))
	if h.since(0, isGone(bert, true)) || h.since(0, isGone(anna, false)) {
		t.Error("one who left and one who was lost are not told apart")
	}
	// Who was forgotten may come back and says the same again.
	n := h.count()
	again, _ := joined(t, text, rbee.JoinHive, bert)
	put(t, again, bert, 2)
	h.wait(t, n, "about again", isAbout(bert))
}

func TestAHiveWhoseConnectionIsCutIsLostAtOnce(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	_, h := p.queen(t)
	hive, stop := joined(t, text, rbee.JoinHive, anna)
	put(t, hive, anna, 1)
	h.wait(t, 0, "now", isNow(anna, 1))
	n := h.count()
	stop()
	h.wait(t, n, "lost", isGone(anna, true))
	eventually(t, "no session is left", func() bool { return p.Sessions() == 0 && p.Grants() == 0 })
}

func TestHivesTellAgainWhenTheBusReturns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir, "127.0.0.1:0", nil)
	addr := p.Addr()
	text, token := p.token(t, rbee.JoinHive)
	const hives = 20
	for i := range hives {
		id := rbee.HiveID(fmt.Sprintf("%016x", i))
		c, _ := join(t, text, rbee.JoinHive, id)
		c.OnConnect(func() {
			if err := c.PutAbout(context.Background(), about(id, "bee")); err != nil {
				t.Log(err) // cut in the middle; it is called again
			}
		})
		running(t, c.Run)
	}
	_, before := p.queen(t)
	all := func(h *heard) {
		t.Helper()
		for i := range hives {
			h.wait(t, 0, "about", isAbout(rbee.HiveID(fmt.Sprintf("%016x", i))))
		}
	}
	all(before)
	p.stop()
	again := open(t, dir, addr, nil)
	began := time.Now()
	_, after := again.queen(t)
	all(after)
	t.Logf("%d hives were known %s after the restart", hives, time.Since(began))
	if list := again.Tokens(); len(list) != 1 || list[0].ID != token.ID || list[0].LastUsed.IsZero() {
		t.Errorf("the tokens are %v", list)
	}
}

func TestNothingOfAHiveIsOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, dir, "127.0.0.1:0", nil)
	text, token := p.token(t, rbee.JoinHive)
	hive, _ := joined(t, text, rbee.JoinHive, anna)
	_, h := p.queen(t)
	put(t, hive, anna, 1)
	h.wait(t, 0, "about", isAbout(anna))
	var secret string
	bus.Retold(text, func(_ *[]string, _, _, s *string, _ *rbee.JoinKind) { secret = *s })
	check := func() {
		t.Helper()
		var files []string
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files = append(files, filepath.Base(path))
			b, readErr := os.ReadFile(path)
			for _, no := range []string{string(anna), "sesame", "bee-aa", secret} {
				if strings.Contains(path+string(b), no) {
					t.Errorf("%s holds %q", path, no)
				}
			}
			if info, statErr := d.Info(); statErr != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", path, info.Mode(), statErr)
			}
			return readErr
		})
		if got := strings.Join(files, " "); err != nil || got != "gate.crt gate.key tokens.json" {
			t.Errorf("there are %s, %v", got, err)
		}
	}
	check()
	p.stop()
	check()
	if b, err := os.ReadFile(filepath.Join(dir, "tokens.json")); err != nil || !strings.Contains(string(b), token.ID) {
		t.Errorf("the token is not on disk: %v", err)
	}
}

func TestWhatDidNotChangeIsNotToldAgainAtOnce(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	hive, _ := joined(t, text, rbee.JoinHive, anna)
	before := hive.Raw().Stats().OutMsgs
	for range 5 {
		if err := hive.PutAbout(t.Context(), about(anna, "bee")); err != nil {
			t.Fatal(err)
		}
	}
	if n := hive.Raw().Stats().OutMsgs - before; n != 1 {
		t.Errorf("told %d times", n)
	}
	if err := hive.PutAbout(t.Context(), about(anna, "bee, renamed")); err != nil {
		t.Fatal(err)
	}
	if n := hive.Raw().Stats().OutMsgs - before; n != 2 {
		t.Errorf("a change was not told: %d", n)
	}
}

func TestPutsFailWhileThereIsNoBus(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	text, _ := p.token(t, rbee.JoinHive)
	hive, _ := join(t, text, rbee.JoinHive, anna)
	if err := hive.PutNow(t.Context(), rbee.HiveNow{ID: anna}); rbee.CodeOf(err) != rbee.CodeConnectionTimeout {
		t.Errorf("the error is %v", err)
	}
	if ok, err := hive.Connected(); ok || err == nil {
		t.Errorf("connected: %v, %v", ok, err)
	}
}
