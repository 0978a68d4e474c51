//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/netns"
)

// apiary is a queen and hives on machines of their own, all of them the real
// programs.
type apiary struct {
	*queen // the first
	t      *testing.T
	net    *netns.Network
	hives  []*member
}

// queen is a queen with a state directory of her own.
type queen struct {
	*colony
	run   *running
	calls *client.Client
	base  string // of her API
	bus   string // HOST:PORT of her bus
}

// member is a hive of a colony.
type member struct {
	*colony
	run   *running
	calls *client.Client
	id    rbee.HiveID
}

// hiveKey opens the hives of tests, which listen on more than loopback.
const hiveKey = "a-key-for-the-hives-of-a-test"

// newApiary starts a queen and as many hives as there are scripts of the fake
// engine, "" for the real one.
func newApiary(t *testing.T, scripts ...string) *apiary {
	t.Helper()
	a := &apiary{t: t, net: newNetwork(t, len(scripts))}
	a.queen = newQueen(t, a.net.Gate)
	token := a.token(rbee.JoinHive)
	for i, script := range scripts {
		h := newMember(t, a.net.Places[i], script, token)
		h.start()
		a.hives = append(a.hives, h)
	}
	for _, h := range a.hives {
		h.await()
	}
	for _, h := range a.hives {
		a.present(h)
	}
	return a
}

// endWithTest has the programs of a colony end, the stopped ones too, before their
// traces are looked for.
func (c *colony) endWithTest() {
	c.t.Cleanup(func() {
		for _, p := range c.procs() {
			_ = syscall.Kill(p.pid, syscall.SIGCONT) // it may just have ended
		}
		for _, r := range c.started {
			select {
			case <-r.done:
			default:
				_ = syscall.Kill(r.pid(), syscall.SIGTERM) // it may just have ended
			}
		}
		for _, r := range c.started {
			r.wait()
		}
	})
}

// newQueen starts a queen whose bus others reach at an address.
func newQueen(t *testing.T, addr string, env ...string) *queen {
	t.Helper()
	q := &queen{colony: newColony(t, append([]string{"RBEE_QUEEN_NAMES=" + addr}, env...)...), bus: addr + ":0"}
	q.endWithTest()
	q.start()
	q.await()
	return q
}

// start starts her, at the addresses that she had if she ran before.
func (q *queen) start(args ...string) {
	q.t.Helper()
	addr := strings.TrimPrefix(q.base, "http://")
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	line := append([]string{"daemon", "--addr", addr, "--bus-addr", q.bus, "--no-hive"}, args...)
	q.run = q.colony.start("queen-rbee", line...)
}

// await waits until she answers.
func (q *queen) await() {
	q.t.Helper()
	q.calls = q.answering(q.run, "queen")
	q.base = q.calls.Base()
	status, err := q.calls.QueenStatus(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	if status.Bus.Addr != "" {
		q.bus = status.Bus.Addr
	}
}

// answering waits until a daemon answers that may have announced itself before.
func (c *colony) answering(r *running, role string, opts ...client.Option) (calls *client.Client) {
	c.t.Helper()
	eventually(c.t, "the "+role+" answers", func() bool {
		select {
		case <-r.done:
			c.t.Fatalf("the %s ended: %s\n%s", role, r.wait(), r.stderr())
		default:
		}
		note := noteOf(filepath.Join(c.home, "run", role+".json"))
		if note.PID != r.pid() {
			return false
		}
		calls = client.New(note.URL, opts...)
		if _, err := calls.Health(c.t.Context()); err != nil {
			calls.Close()
			return false
		}
		return true
	})
	c.callers = append(c.callers, calls)
	c.t.Cleanup(calls.Close)
	return calls
}

// note is what a daemon says of itself in run.
type note struct {
	URL string `json:"url"`
	PID int    `json:"pid"`
}

func noteOf(path string) (n note) {
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &n) != nil {
		return note{}
	}
	return n
}

// token makes a token.
func (q *queen) token(kind rbee.JoinKind) string {
	q.t.Helper()
	token, err := q.calls.NewToken(q.t.Context(), rbee.TokenRequest{Name: "test", Kind: kind})
	if err != nil {
		q.t.Fatal(err)
	}
	return token.Token
}

// newMember makes a hive that joins once it is started.
func newMember(t *testing.T, p netns.Place, script, token string, env ...string) *member {
	t.Helper()
	h := &member{colony: newColony(t, "RBEE_HIVE_JOIN="+token, "RBEE_HIVE_KEY="+hiveKey)}
	h.endWithTest()
	h.place = p
	if script != "" {
		h.env = append(h.env, "RBEE_WORKER_PROGRAM="+programs.fake, "RBEE_FAKE_ENGINE="+script)
	}
	h.env = append(h.env, env...)
	return h
}

// start starts the hive, at the address that it had if it ran before.
func (h *member) start() {
	h.t.Helper()
	addr := h.place.Addr + ":0"
	if h.calls != nil {
		addr = strings.TrimPrefix(h.calls.Base(), "http://")
	}
	h.run = h.colony.start("rbee-hive", "daemon", "--addr", addr)
}

// await waits until the hive answers.
func (h *member) await() {
	h.t.Helper()
	h.calls = h.answering(h.run, "hive", client.Key(hiveKey))
	h.id = rbee.HiveID(strings.TrimSpace(readText(h.t, filepath.Join(h.home, "hive-id"))))
}

// told is a hive as the queen tells of it, nil if she does not.
func (q *queen) told(h *member) *rbee.ColonyHive {
	q.t.Helper()
	list, err := q.calls.Hives(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	if i := slices.IndexFunc(list, func(c rbee.ColonyHive) bool { return c.ID == h.id }); i >= 0 {
		return &list[i]
	}
	return nil
}

// present waits until a queen hears of a hive.
func (q *queen) present(h *member) { q.awaitPresence(h, rbee.HivePresent) }

// awaitPresence waits until a queen says so of a hive, and says how long that took.
func (q *queen) awaitPresence(h *member, want rbee.HivePresence) time.Duration {
	q.t.Helper()
	began := time.Now()
	eventually(q.t, "the hive is "+string(want), func() bool {
		told := q.told(h)
		return told != nil && told.Presence == want
	})
	return time.Since(began).Round(time.Millisecond)
}

// workers are the pids of a hive's workers.
func (h *member) workers() (pids []int) {
	h.t.Helper()
	for _, p := range h.procs() {
		if isWorker(p) {
			pids = append(pids, p.pid)
		}
	}
	slices.Sort(pids)
	return pids
}
