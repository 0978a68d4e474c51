package hive_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/hive"
	"rbee/internal/bus"
	"rbee/internal/conf"
	"rbee/internal/prefix"
	"rbee/internal/tunnel"
)

// fakeQueen is what a queen is to hives: a bus, and the other end of tunnels.
type fakeQueen struct {
	t    *testing.T
	bus  *bus.Server
	conn *bus.Conn
	log  logBuffer
	end  func()

	mu       sync.Mutex
	about    rbee.HiveAbout
	now      rbee.HiveNow
	prefixes map[rbee.WorkerID][]uint32
	left     bool // it said so
	lost     bool // it is not heard
	synced   bool
	tunnel   *tunnel.Transport
}

func newQueen(t *testing.T, dir, addr string) *fakeQueen {
	t.Helper()
	q := &fakeQueen{t: t}
	var err error
	q.bus, err = bus.Listen(bus.ServerConfig{
		Addr: addr, Dir: dir, Names: []string{"127.0.0.1"}, Log: slog.New(slog.NewTextHandler(&q.log, nil)),
		Tunnel: func(_ rbee.HiveID, c net.Conn) {
			tr := tunnel.New(c)
			q.set(func() { q.tunnel = tr })
			<-tr.Done()
		},
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	q.conn, err = q.bus.Connect(ctx)
	must(t, err)
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{q.bus.Run, q.conn.Run, func(ctx context.Context) error { return q.conn.Watch(ctx, q.take) }} {
		all.Go(func() { _ = run(ctx) })
	}
	q.end = sync.OnceFunc(func() {
		cancel()
		q.bus.Close()
		all.Wait()
	})
	t.Cleanup(func() {
		q.end()
		if t.Failed() {
			t.Logf("log of the queen:\n%s", q.log.String())
		}
	})
	q.sees("the bus", func() bool { return q.synced }) // nothing of the queen begins later, and looks like the hive's
	return q
}

func (q *fakeQueen) set(fn func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	fn()
}

func (q *fakeQueen) take(u bus.Update) {
	q.set(func() {
		q.synced = q.synced || u.Synced
		if u.About != nil {
			q.about = *u.About
		}
		if u.Now != nil {
			q.now, q.left, q.lost = *u.Now, false, false
		}
		if u.Prefixes != nil {
			q.prefixes = u.Prefixes.Workers
		}
		if u.Gone != "" {
			q.left, q.lost = q.left || !u.Lost, u.Lost
		}
	})
}

func (q *fakeQueen) token() (text, id string) {
	q.t.Helper()
	text, token, err := q.bus.NewToken("test", rbee.JoinHive)
	must(q.t, err)
	return text, token.ID
}

// sees waits until what the queen knows is as said.
func (q *fakeQueen) sees(what string, is func() bool) {
	q.t.Helper()
	eventually(q.t, what, func() (ok bool) {
		q.set(func() { ok = is() })
		return ok
	})
}

// member starts a hive that is a member of the queen's colony.
func (q *fakeQueen) member(env ...string) *running {
	q.t.Helper()
	text, _ := q.token()
	r := start(q.t, append(env, "RBEE_HIVE_JOIN="+text)...)
	q.sees("the hive", func() bool { return q.about.ID != "" && q.now.ID == q.about.ID })
	return r
}

func (q *fakeQueen) model(ref string) (m rbee.ColonyModel) {
	for _, m := range q.about.Models {
		if m.ModelRef.String() == ref {
			return m
		}
	}
	return m
}

const chatBody = `{"model":"builtin:bee-tiny","max_tokens":8,"messages":[{"role":"user","content":%q}]}`

func TestAHiveTellsItsColonyOfItself(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := q.member()
	id, err := os.ReadFile(filepath.Join(r.home, "hive-id"))
	must(t, err)
	q.set(func() {
		host, _ := os.Hostname()
		a := q.about
		if string(a.ID) != strings.TrimSpace(string(id)) || a.Name != host || a.URL != r.Base() || a.Version != rbee.Version ||
			a.Machine != bus.MachineID() || a.ByQueen || a.Key == "" || a.StartedAt.IsZero() || len(a.Devices) == 0 {
			t.Errorf("about: %+v", a)
		}
		if m := q.model("builtin:bee-tiny"); m.Verdict != rbee.VerdictStart || m.LoadMS <= 0 || m.SizeBytes == 0 {
			t.Errorf("the builtin model that nobody has used: %+v", m)
		}
		if len(q.now.Workers) != 0 || q.now.Standing.State != rbee.HiveOpen || len(q.now.Memory) == 0 || q.now.Memory[0].TotalBytes == 0 {
			t.Errorf("now: %+v", q.now)
		}
	})
	worker, _ := r.ready()
	q.sees("the worker", func() bool {
		return len(q.now.Workers) == 1 && q.now.Workers[0].ID == worker && q.now.Workers[0].State == rbee.WorkerIdle && q.now.Workers[0].SlotsTotal > 0
	})
	loaded := r.wait(worker, rbee.WorkerIdle)
	q.sees("what the load took, and the digest", func() bool {
		m := q.model("builtin:bee-tiny")
		return m.LoadMS == loaded.LoadMS && len(m.Digest) == 64
	})
	_, err = r.Cordon(t.Context())
	must(t, err)
	q.sees("that it is cordoned", func() bool { return q.now.Standing.State == rbee.HiveCordoned })
	first := uint64(0)
	q.set(func() { first = q.now.Seq })
	q.sees("that it is still there", func() bool { return q.now.Seq > first+1 })
	must(t, r.end())
	q.sees("its farewell", func() bool { return q.left })
}

func TestChangesAreToldWithinASecond(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=20ms,eos_at=100000")
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := q.member()
	worker, _ := r.ready()
	busy := func() bool { return len(q.now.Workers) == 1 && q.now.Workers[0].SlotsBusy > 0 }
	q.sees("an idle worker", func() bool { return len(q.now.Workers) == 1 && !busy() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	var asking sync.WaitGroup
	asking.Go(func() { _, _, _ = infer(ctx, r.At(r.Base()+"/v1/workers/"+string(worker)), 900) })
	q.sees("a busy slot", busy)
	if took := time.Since(began); took > time.Second {
		t.Logf("a busy machine: told after %s", took)
	}
	cancel()
	asking.Wait()
	q.sees("that it is idle again", func() bool { return !busy() })
	must(t, r.StopWorker(t.Context(), worker))
	q.sees("that the worker is gone", func() bool { return len(q.now.Workers) == 0 })
}

func TestPrefixesAndSpeedsAreToldAfterRequests(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := q.member("RBEE_HIVE_NAME=attic")
	body := fmt.Sprintf(chatBody, strings.Repeat("Tell me of bees. ", 32))
	chain, _ := prefix.Of("/v1/chat/completions", []byte(body))
	status, reply, header := r.raw(http.MethodPost, "/v1/chat/completions", body)
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, reply)
	}
	worker := rbee.WorkerID(header.Get(rbee.WorkerHeader))
	if header.Get(rbee.HiveHeader) != "attic" || worker == "" || !strings.HasPrefix(header.Get(rbee.DigestHeader), "sha256:") ||
		header.Get(rbee.LoadMSHeader) == "" || header.Get(rbee.QueueMSHeader) == "" || header.Get(rbee.PrefillMSHeader) == "" {
		t.Errorf("headers: %v", header)
	}
	q.sees("what the worker has in its cache", func() bool { return len(chain) == 2 && slices.Equal(q.prefixes[worker], chain) })
	q.sees("how fast it is", func() bool {
		if len(q.now.Workers) != 1 {
			return false
		}
		w := q.now.Workers[0]
		return w.PrefillPerSec > 0 && w.RequestMS > 0 && w.QueueCapacity > 0 && w.SlotsBusy == 0
	})
	q.sees("how fast the next one is going to be", func() bool {
		return slices.ContainsFunc(q.about.Models, func(m rbee.ColonyModel) bool { return m.PrefillPerSec > 0 })
	})
	other := fmt.Sprintf(chatBody, strings.Repeat("Tell me of bees. ", 32)+strings.Repeat("And of wasps. ", 20))
	status, reply, _ = r.raw(http.MethodPost, "/v1/workers/"+string(worker)+"/v1/chat/completions", other)
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, reply)
	}
	newer, _ := prefix.Of("/v1/chat/completions", []byte(other))
	q.sees("what came through the worker's own path", func() bool { return slices.Contains(q.prefixes[worker], newer[len(newer)-1]) })
}

func TestTheColonysKeyOpensTheDoorAsLongAsTheProcessLives(t *testing.T) {
	const own = "0123456789abcdef"
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := q.member("RBEE_HIVE_KEY=" + own)
	var key string
	q.set(func() { key = q.about.Key })
	ask := func(base, key string) error {
		c := client.New(base, client.Key(key))
		defer c.Close()
		_, err := c.Status(t.Context())
		return err
	}
	if err := ask(r.Base(), key); err != nil || key == own {
		t.Errorf("with the colony's key: %v", err)
	}
	if err := ask(r.Base(), key+"x"); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey {
		t.Errorf("with another: %v", err)
	}
	must(t, r.end())
	text, _ := q.token()
	again := startAt(t, r.home, "RBEE_HIVE_KEY="+own, "RBEE_HIVE_JOIN="+text)
	q.sees("the hive with a new key", func() bool { return q.about.Key != key && q.about.URL == again.Base() })
	if err := ask(again.Base(), key); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey {
		t.Errorf("with the key of the process before: %v", err)
	}
}

func TestTheTunnelReachesTheAPI(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	q.member()
	var through *tunnel.Transport
	q.sees("the tunnel", func() bool { through = q.tunnel; return through != nil })
	var key string
	q.set(func() { key = q.about.Key })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://hive/v1/chat/completions",
		strings.NewReader(strings.Replace(fmt.Sprintf(chatBody, "Hello"), `{`, `{"stream":true,`, 1)))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	caller := http.Client{Transport: through}
	resp, err := caller.Do(req)
	must(t, err)
	defer resp.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(text), "data: [DONE]") {
		t.Errorf("%d, %v: %s", resp.StatusCode, err, text)
	}
	req.Header.Del("Authorization")
	refused, err := caller.Do(req.Clone(t.Context()))
	must(t, err)
	if must(t, refused.Body.Close()); refused.StatusCode != http.StatusForbidden {
		t.Errorf("without the key: %d", refused.StatusCode)
	}
	must(t, through.Close())
	q.sees("another tunnel", func() bool { return q.tunnel != through })
}

func TestARefusalIsLoggedAndTheHiveServesOn(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	text, id := q.token()
	must(t, q.bus.Revoke(id))
	r := start(t, "RBEE_HIVE_JOIN="+text)
	r.eventually("the reason in the hive's log", func() bool { return strings.Contains(r.log.String(), "revoked") })
	r.eventually("the reason in the queen's log", func() bool { return strings.Contains(q.log.String(), "revoked") })
	r.ready()
}

func TestAHiveWithoutItsQueenServesAndComesBackToAnother(t *testing.T) {
	dir := t.TempDir()
	q := newQueen(t, dir, "127.0.0.1:0")
	addr := q.bus.Addr()
	r := q.member()
	worker, _ := r.ready()
	q.end()
	if status, reply, _ := r.raw(http.MethodPost, "/v1/chat/completions", fmt.Sprintf(chatBody, "Hello")); status != http.StatusOK {
		t.Errorf("without the queen: %d %s", status, reply)
	}
	next := newQueen(t, dir, addr)
	next.sees("all of the hive", func() bool {
		return next.about.Key != "" && len(next.now.Workers) == 1 && next.now.Workers[0].ID == worker && next.tunnel != nil
	})
}

func TestAWrongTokenIsRefusedAtTheStart(t *testing.T) {
	home := t.TempDir()
	settings, err := conf.Load(conf.Options{Home: home, Environ: environ(t, home, "RBEE_HIVE_JOIN=rbee1.nonsense")})
	must(t, err)
	h, err := hive.New(hive.Config{Settings: settings})
	must(t, err)
	if err := h.Run(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidRequest || strings.Contains(err.Error(), "nonsense") {
		t.Error(err)
	}
}

func TestAKilledHiveIsLost(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	text, _ := q.token()
	home := t.TempDir()
	must(t, os.WriteFile(filepath.Join(home, "join"), []byte(text+"\n"), 0o600))
	d := startDaemon(t, home, "--by-queen")
	q.sees("a hive that a queen started", func() bool { return q.about.ByQueen && q.now.ID != "" })
	must(t, d.cmd.Process.Kill())
	_ = d.cmd.Wait()
	q.sees("that it is lost", func() bool { return q.lost && !q.left })
}

func TestTheVerdictOfAModelIsWhatTheHiveWouldDo(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "load=300ms")
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	text, _ := q.token()
	r, models := swapping(t, 2, 1, "RBEE_HIVE_JOIN="+text)
	for _, model := range models {
		if status, body, err := r.chat(t.Context(), model, false, 4); err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s %v", model, status, body, err)
		}
	}
	q.sees("that the other would end for it", func() bool {
		m := q.model(models[0])
		return m.Verdict == rbee.VerdictEvict && m.LossMS > 0 && m.LoadMS >= 300
	})
	worker := r.workers()[0].ID
	_, err := r.Pin(t.Context(), worker)
	must(t, err)
	q.sees("that the other must not end", func() bool {
		m := q.model(models[0])
		return m.Verdict == rbee.VerdictRefuse && m.Reason != "" && m.LossMS == 0
	})
	must(t, r.StopWorker(t.Context(), worker))
	q.sees("that there is room", func() bool { return q.model(models[0]).Verdict == rbee.VerdictStart })
}

func TestAWorkerThatLoadsSaysWhatIsLeft(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "load=2s")
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	r := q.member()
	r.spawn()
	q.sees("half a load", func() bool {
		if len(q.now.Workers) != 1 {
			return false
		}
		w := q.now.Workers[0]
		return w.State == rbee.WorkerLoading && w.LoadedFraction > 0.4 && w.LoadLeftMS >= 50 && w.LoadLeftMS < 1500
	})
}

func TestAnExternalModelIsTold(t *testing.T) {
	q := newQueen(t, t.TempDir(), "127.0.0.1:0")
	server := compatibleServer(t, "somebodys")
	q.member("RBEE_EXTERNAL=other="+server.URL, "RBEE_EXTERNAL_OTHER_KEY=sesame")
	q.sees("the model and its worker", func() bool {
		return q.model("external:other/somebodys").Verdict == rbee.VerdictStart && len(q.now.Workers) == 1 && q.now.Workers[0].External
	})
}
