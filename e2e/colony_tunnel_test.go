//go:build linux

package e2e

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"rbee"
	"rbee/internal/netns"
)

// hermit is a hive that listens on loopback of another machine, so that queens
// reach it by what it dials alone.
type hermit struct{ *member }

func newHermit(t *testing.T, n *netns.Network, join string) hermit {
	t.Helper()
	p := n.Places[0]
	p.Addr = "127.0.0.1"
	h := hermit{newMember(t, p, "token=5ms,eos_at=100000", join, "RBEE_HIVE_KEY=")}
	h.start()
	eventually(t, "the hive has an id", func() bool {
		files, err := filepath.Glob(filepath.Join(h.home, "hive-id"))
		return err == nil && len(files) == 1
	})
	h.id = rbee.HiveID(strings.TrimSpace(readText(t, filepath.Join(h.home, "hive-id"))))
	return h
}

// served waits until a queen has a way to the hive, and has requests answered.
func (q *queen) served(h hermit, n *netns.Network) {
	q.t.Helper()
	began := time.Now()
	eventually(q.t, "the queen has a way to the hive", func() bool {
		told := q.told(h.member)
		// A hive beside her is reached without a tunnel. What she lists decisions know a moment later.
		return told != nil && told.Presence == rbee.HivePresent && (told.URL == "" || !n.Apart()) &&
			fire(q.t.Context(), q.official(), shot{kind: "completion", model: beeTiny, prompt: "x", tokens: 1}).err == nil
	})
	q.t.Logf("she had a way to the hive after %v", time.Since(began).Round(time.Millisecond))
	q.answers()
}

func (q *queen) answers() {
	q.t.Helper()
	hits := make([]hit, 0, 4)
	for i := range cap(hits) {
		s := aTale(i)
		s.tokens = 5
		hits = append(hits, fire(q.t.Context(), q.official(), s))
	}
	judge(q.t, hits)
}

// Both queens of a bus reach a hive that nobody can reach, the second one also
// while the first one is away, and each again after she was killed.
func TestEachQueenReachesAHiveThatOnlyDials(t *testing.T) {
	n := newNetwork(t, 1)
	first := newQueen(t, n.Gate)
	second := newQueen(t, n.Gate, "RBEE_QUEEN_JOIN="+first.token(rbee.JoinQueen))
	h := newHermit(t, n, first.token(rbee.JoinHive))
	first.served(h, n)
	second.served(h, n)
	kill(t, first.run.pid(), syscall.SIGKILL)
	first.run.wait()
	second.answers() // with the bus gone
	first.start()
	first.await()
	first.served(h, n)
	second.served(h, n)
	kill(t, second.run.pid(), syscall.SIGKILL)
	second.run.wait()
	first.answers()
	second.start()
	second.await()
	second.served(h, n)
	for _, q := range []*queen{first, second} {
		if log := q.run.stderr(); strings.Contains(log, "in clear") {
			t.Errorf("a queen sends in the clear: %s", log)
		}
	}
}

// The same at a cluster, whose bus is no queen's.
func TestQueensOfAClusterReachAHiveThatOnlyDials(t *testing.T) {
	n := newNetwork(t, 1)
	cluster, err := natsserver.NewServer(&natsserver.Options{
		Host: n.Gate, Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), Username: "bee", Password: "honey",
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Start()
	t.Cleanup(func() { cluster.Shutdown(); cluster.WaitForShutdown() })
	if !cluster.ReadyForConnections(patience) {
		t.Fatal("the cluster is not ready")
	}
	url := "nats://bee:honey@" + cluster.Addr().String()
	first, second := newQueen(t, n.Gate, "RBEE_QUEEN_JOIN="+url), newQueen(t, n.Gate, "RBEE_QUEEN_JOIN="+url)
	h := newHermit(t, n, url)
	first.served(h, n)
	second.served(h, n)
	kill(t, first.run.pid(), syscall.SIGKILL)
	first.run.wait()
	second.answers()
	first.start()
	first.await()
	first.served(h, n)
}
