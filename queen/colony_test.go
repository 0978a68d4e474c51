package queen_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"rbee"
)

const (
	firstHive  = rbee.HiveID("a000000000000001")
	secondHive = rbee.HiveID("b000000000000002")
)

func TestHivesThatJoinAreListedWithTheirWorkersAndDevices(t *testing.T) {
	q := start(t)
	token := q.token("").Token
	a, b := join(t, token, firstHive), join(t, token, secondHive)
	h := q.present(a.id)
	q.present(b.id)
	if h.Name != "bee-a" || h.URL != a.url || h.Reason != "" || len(h.Models) != 1 || h.Standing.State != rbee.HiveOpen {
		t.Errorf("the hive is told as %+v", h)
	}
	workers, err := q.ColonyWorkers(t.Context())
	if err != nil || len(workers) != 2 || workers[0].ID != "w-a0" || workers[1].HiveName != "bee-b" {
		t.Errorf("workers are %+v, %v", workers, err)
	}
	devices, err := q.ColonyDevices(t.Context())
	if err != nil || len(devices) != 2 || devices[0].Hive != a.id || devices[0].MemoryFree != 5 {
		t.Errorf("devices are %+v, %v", devices, err)
	}
	s := q.status()
	if s.Hives[rbee.HivePresent] != 2 || s.Workers[rbee.WorkerIdle] != 2 || s.Models != 1 || !s.Bus.Connected || s.LocalHive.State != rbee.LocalHiveOff {
		t.Errorf("the status is %+v", s)
	}
	text, err := q.Metrics(t.Context())
	if err != nil || !strings.Contains(text, `rbee_queen_hives{presence="present"} 2`) || !strings.Contains(text, "rbee_queen_bus_connected 1") {
		t.Errorf("metrics: %v, %s", err, text)
	}
}

func TestAHiveThatIsSilentIsLostAndComesBack(t *testing.T) {
	q := start(t)
	token := q.token(rbee.JoinHive).Token
	h := join(t, token, firstHive)
	q.present(h.id)
	h.mute()
	eventually(t, "the loss", func() bool {
		told := q.hive(h.id)
		return told != nil && told.Presence == rbee.HiveLost && told.Reason != ""
	})
	if workers, err := q.ColonyWorkers(t.Context()); err != nil || len(workers) != 0 {
		t.Errorf("workers of a hive that is lost: %+v, %v", workers, err)
	}
	join(t, token, firstHive)
	q.present(h.id)
}

func TestEventsTellASnapshotAndThenEachChange(t *testing.T) {
	q := start(t)
	token := q.token("").Token
	a := join(t, token, firstHive)
	q.present(a.id)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var kinds []rbee.ColonyEventKind
	for e, err := range q.ColonyEvents(ctx) {
		if err != nil {
			t.Fatalf("after %v: %v", kinds, err)
		}
		switch {
		case len(kinds) == 0:
			if e.Kind != rbee.ColonySnapshot || len(e.Hives) != 1 || e.Hives[0].ID != a.id {
				t.Fatalf("the first event is %+v", e)
			}
			b := join(t, token, secondHive)
			defer b.mute()
		case e.Kind == rbee.ColonyHiveNow && e.Now.ID == a.id:
			a.mute()
		case e.Kind == rbee.ColonyHiveNew && e.Hive.ID == a.id && e.Hive.Presence == rbee.HiveLost:
			return
		}
		kinds = append(kinds, e.Kind)
	}
	t.Errorf("the stream ended after %v", kinds)
}

func TestARevokedTokenTakesNobodyInAndCutsOffWhoCameWithIt(t *testing.T) {
	q := start(t)
	token := q.token("")
	h := join(t, token.Token, firstHive)
	q.present(h.id)
	if err := q.RevokeToken(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss", func() bool { return q.hive(h.id).Presence == rbee.HiveLost })
	list, err := q.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, one := range list {
		found = found || one.ID == token.ID && !one.RevokedAt.IsZero() && !one.LastUsed.IsZero() && one.Name == "test"
	}
	if !found {
		t.Errorf("the token is not told as revoked: %+v", list)
	}
	if err := q.RevokeToken(t.Context(), "unknown"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("an unknown token: %v", err)
	}
}

func TestAQueenThatComesBackKnowsAllHivesAgain(t *testing.T) {
	home, port := t.TempDir(), "RBEE_QUEEN_BUS_ADDR="+freeAddr(t)
	q := startAt(t, home, port)
	token := q.token("").Token
	a, b := join(t, token, firstHive), join(t, token, secondHive)
	q.present(a.id)
	q.present(b.id)
	q.end()
	if err := q.wait(); err != nil {
		t.Fatal(err)
	}
	again := startAt(t, home, port)
	begin := time.Now()
	again.present(a.id)
	again.present(b.id)
	t.Logf("she knew all after %s", time.Since(begin))
}

func TestASecondQueenOnTheSameBusGoesOnWhenTheBusIsCut(t *testing.T) {
	home, port := t.TempDir(), "RBEE_QUEEN_BUS_ADDR="+freeAddr(t)
	first := startAt(t, home, port)
	second := start(t, "RBEE_QUEEN_JOIN="+first.token(rbee.JoinQueen).Token)
	h := join(t, first.token("").Token, firstHive)
	second.present(h.id)
	if _, err := second.Tokens(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("tokens of a bus that is another's: %v", err)
	}
	first.end()
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cut", func() bool { s := second.status(); return !s.Bus.Connected && s.Bus.Reason != "" })
	// Longer than a silent hive stays present when the bus is there.
	for until := time.Now().Add(4 * time.Second); time.Now().Before(until); <-time.After(100 * time.Millisecond) {
		if told := second.hive(h.id); told == nil || told.Presence != rbee.HivePresent {
			t.Fatalf("with the bus cut the hive is told as %+v", told)
		}
	}
	startAt(t, home, port)
	eventually(t, "the bus", func() bool { return second.status().Bus.Connected })
	second.present(h.id)
}

func TestASecondQueenWhosePortIsTakenSaysSoAndServes(t *testing.T) {
	first := start(t)
	h := join(t, first.token("").Token, firstHive)
	taken := "RBEE_QUEEN_BUS_ADDR=" + first.status().Bus.Addr
	second := start(t, "RBEE_QUEEN_JOIN="+first.token(rbee.JoinQueen).Token, taken)
	second.present(h.id)
	if text := second.log.String(); !strings.Contains(text, "cannot dial this queen") {
		t.Errorf("the log is %s", text)
	}
}

// freeAddr is an address of loopback that is free now.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
