package queen_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/client"
	"rbee/internal/bus"
	"rbee/internal/conf"
	"rbee/queen"
)

const (
	// programEnv makes the test binary the program itself, wired as in cmd/queen-rbee.
	programEnv = "RBEE_TEST_QUEEN_PROGRAM"
	// hiveEnv makes the test binary a hive that a queen starts.
	hiveEnv = "RBEE_TEST_HIVE_PROGRAM"
	// patience bounds what should happen at once; a test that waits longer has failed.
	patience = 30 * time.Second
)

func TestMain(m *testing.M) {
	var program func(ctx context.Context, args []string) int
	switch {
	case os.Getenv(hiveEnv) != "" && filepath.Base(os.Args[0]) == "rbee-hive":
		program = hiveMain
	case os.Getenv(programEnv) != "":
		program = func(ctx context.Context, args []string) int { return queen.Main(ctx, args, os.Stdout, os.Stderr) }
	}
	if program != nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		os.Exit(program(ctx, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// running is a queen in this process.
type running struct {
	*client.Client
	t    testing.TB
	q    *queen.Queen
	home string
	log  logBuffer
	wait func() error // for her end, and what Run said
	end  func()       // has her end
}

// start runs a queen on free ports until the test ends, without a hive of her own.
func start(t testing.TB, env ...string) *running {
	t.Helper()
	return startAt(t, t.TempDir(), env...)
}

func startAt(t testing.TB, home string, env ...string) *running {
	t.Helper()
	return startWith(t, home, false, env...)
}

func startWith(t testing.TB, home string, ephemeral bool, env ...string) *running {
	t.Helper()
	env = append([]string{"RBEE_QUEEN_ADDR=127.0.0.1:0", "RBEE_QUEEN_BUS_ADDR=127.0.0.1:0", "RBEE_QUEEN_HIVE=off"}, env...)
	settings, err := conf.Load(conf.Options{Home: home, Environ: env})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, home: home}
	q, err := queen.New(queen.Config{Settings: settings, Ephemeral: ephemeral, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r.q = q
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	r.wait, r.end = sync.OnceValue(func() error { return <-ended }), cancel
	r.Client = client.New(q.URL(), client.Key(settings.Queen.Key.Reveal()))
	t.Cleanup(func() {
		cancel()
		if err := r.wait(); err != nil {
			t.Errorf("the queen ended with %v", err)
		}
		r.Close()
		if t.Failed() {
			t.Logf("log of the queen:\n%s", r.log.String())
		}
	})
	return r
}

func (r *running) status() rbee.QueenStatus {
	r.t.Helper()
	s, err := r.QueenStatus(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// token makes a token.
func (r *running) token(kind rbee.JoinKind) rbee.NewToken {
	r.t.Helper()
	token, err := r.NewToken(r.t.Context(), rbee.TokenRequest{Name: "test", Kind: kind})
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// hive is what the queen tells of a hive, nil if she does not know it.
func (r *running) hive(id rbee.HiveID) *rbee.ColonyHive {
	r.t.Helper()
	list, err := r.Hives(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range list {
		if h.ID == id {
			return &h
		}
	}
	return nil
}

// present waits until the queen hears of a hive.
func (r *running) present(id rbee.HiveID) (h *rbee.ColonyHive) {
	r.t.Helper()
	eventually(r.t, "the hive "+string(id), func() bool {
		h = r.hive(id)
		return h != nil && h.Presence == rbee.HivePresent
	})
	return h
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// fakeHive answers health and tells of itself on the bus.
type fakeHive struct {
	id   rbee.HiveID
	url  string
	conn *bus.Conn
	mute func() // ends what it tells, and its place on the bus
}

// join makes a hive that takes part in the colony until the test ends.
func join(t testing.TB, token string, id rbee.HiveID) *fakeHive {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("{}"))
	}))
	h := &fakeHive{id: id, url: server.URL}
	conn, err := bus.Join(bus.JoinConfig{Join: token, Kind: rbee.JoinHive, ID: id, Name: "bee-" + string(id[0]), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	h.conn = conn
	ctx, cancel := context.WithCancel(context.Background())
	var lives sync.WaitGroup
	lives.Go(func() { _ = conn.Run(ctx) })
	lives.Go(func() { tell(ctx, conn, h.about(), h.now) })
	h.mute = func() {
		cancel()
		lives.Wait()
	}
	t.Cleanup(func() {
		h.mute()
		server.Close()
	})
	return h
}

// tell reports as a hive does, until ctx ends.
func tell(ctx context.Context, conn *bus.Conn, about rbee.HiveAbout, now func(seq uint64) rbee.HiveNow) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		if ok, _ := conn.Connected(); ok {
			_ = conn.PutAbout(ctx, about) // the next try follows
			_ = conn.PutNow(ctx, now(seq))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

var beeTiny = rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "bee-tiny"}

func (h *fakeHive) about() rbee.HiveAbout {
	return rbee.HiveAbout{
		ID: h.id, Name: "bee-" + string(h.id[0]), Version: rbee.Version, APIVersion: rbee.APIVersion,
		URL: h.url, Machine: bus.MachineID(), Key: "k" + strconv.Itoa(os.Getpid()), StartedAt: time.Now(),
		Devices: []rbee.Device{{ID: "cpu", Kind: rbee.BackendCPU, Name: "CPU", MemoryTotal: 10, MemoryFree: 9}},
		Models:  []rbee.ColonyModel{{ModelRef: beeTiny, SizeBytes: 1000, Verdict: rbee.VerdictStart, LoadMS: 100}},
	}
}

func (h *fakeHive) now(seq uint64) rbee.HiveNow {
	return rbee.HiveNow{
		ID: h.id, Seq: seq, Standing: rbee.HiveStanding{State: rbee.HiveOpen},
		Memory:  []rbee.DeviceMemory{{Device: "cpu", TotalBytes: 10, FreeBytes: 5}},
		Workers: []rbee.ColonyWorker{{ID: "w-" + rbee.WorkerID(h.id[:2]), ModelRef: beeTiny, Device: "cpu", State: rbee.WorkerIdle, SlotsTotal: 4}},
	}
}
