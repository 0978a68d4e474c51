package bus_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rbee"
	"rbee/internal/bus"
)

// second is a queen on the bus of another, with a door of her own.
type second struct {
	*bus.Door
	t    *testing.T
	conn *bus.Conn
	log  logged
	came chan guest

	mu   sync.Mutex
	keys map[rbee.HiveID]string // of the hives that she hears of
}

// guest is a hive that dialled her.
type guest struct {
	id   rbee.HiveID
	key  string
	conn net.Conn
}

// openDoor makes a second queen who joins by a token or by the URL of a cluster.
func openDoor(t *testing.T, join, dir, addr string) *second {
	t.Helper()
	q := &second{t: t, came: make(chan guest, 10), keys: map[rbee.HiveID]string{}}
	q.conn, _ = joined(t, join, rbee.JoinQueen, "00000000000000cc")
	var err error
	q.Door, err = bus.OpenDoor(bus.DoorConfig{
		Addr: addr, Dir: dir, Log: q.log.log(), Key: q.key,
		Tunnel: func(id rbee.HiveID, key string, c net.Conn) {
			q.came <- guest{id, key, c}
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	running(t, q.Run)
	return q
}

func (q *second) key(id rbee.HiveID) (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key, heard := q.keys[id]
	return key, heard
}

// hears has her hear a hive's key from now on, or the hive no more.
func (q *second) hears(id rbee.HiveID, key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.keys[id] = key; key == "" {
		delete(q.keys, id)
	}
}

// invites invites a hive and returns what it hears of that.
func (q *second) invites(id rbee.HiveID, key string, heard <-chan bus.Invitation) bus.Invitation {
	q.t.Helper()
	q.hears(id, key)
	if err := q.Invite(q.conn, map[rbee.HiveID]string{id: key}); err != nil {
		q.t.Fatal(err)
	}
	select {
	case i := <-heard:
		return i
	case <-time.After(soon):
		q.t.Fatal("the hive hears nothing of it")
		return bus.Invitation{}
	}
}

// listening is a hive that has told of itself and listens for invitations.
func listening(t *testing.T, text string, id rbee.HiveID) (*bus.Conn, <-chan bus.Invitation) {
	t.Helper()
	c, _ := join(t, text, rbee.JoinHive, id)
	heard := make(chan bus.Invitation, 10)
	c.OnInvite(func(i bus.Invitation) { heard <- i })
	running(t, c.Run)
	eventually(t, "connected", func() bool { ok, _ := c.Connected(); return ok })
	eventually(t, "told", func() bool { return c.PutAbout(t.Context(), about(id, "bee")) == nil })
	return c, heard
}

func sesame(id rbee.HiveID) string { return about(id, "").Key }

func TestAHiveDialsAQueenWhoInvitesIt(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	hiveText, _ := p.token(t, rbee.JoinHive)
	queenText, _ := p.token(t, rbee.JoinQueen)
	for name, joins := range map[string][2]string{"at a gate": {hiveText, queenText}, "at a cluster": {aCluster(t), ""}} {
		t.Run(name, func(t *testing.T) {
			if joins[1] == "" {
				joins[1] = joins[0]
			}
			q := openDoor(t, joins[1], t.TempDir(), "127.0.0.1:0")
			_, heard := listening(t, joins[0], anna)
			i := q.invites(anna, sesame(anna), heard)
			conn, err := i.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			g := <-q.came
			if g.id != anna || g.key != sesame(anna) {
				t.Errorf("a tunnel of %s, %s", g.id, g.key)
			}
			if _, err := g.conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 2)); n != 1 {
				t.Errorf("read %d, %v", n, err)
			}
			if text := q.log.String(); strings.Contains(text, sesame(anna)) {
				t.Error("the key of a hive is in the log")
			}
		})
	}
}

// TestWhoMayNotBringATunnelIsToldWhyAndSoIsTheQueen dials as programs do that
// were invited and are no more, or never were.
func TestWhoMayNotBringATunnelIsToldWhyAndSoIsTheQueen(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	hiveText, _ := p.token(t, rbee.JoinHive)
	queenText, _ := p.token(t, rbee.JoinQueen)
	q := openDoor(t, queenText, t.TempDir(), "127.0.0.1:0")
	_, annaHears := listening(t, hiveText, anna)
	_, bertHears := listening(t, hiveText, bert)
	ofAnna, ofBert := q.invites(anna, sesame(anna), annaHears), q.invites(bert, sesame(bert), bertHears)
	for _, tc := range []struct {
		name string
		i    bus.Invitation
		key  string // of anna, as the queen hears
		dial func(bus.Invitation) error
		code rbee.Code
		why  string
	}{
		{name: "without a proof", key: sesame(anna), code: rbee.CodeInvalidAPIKey, why: "its proof is wrong", i: ofAnna.Said(func(_ *rbee.JoinKind, _ *rbee.HiveID, secret, _ *string) { *secret = "" })},
		{name: "another hive's proof", key: sesame(anna), code: rbee.CodeInvalidAPIKey, why: "its proof is wrong", i: ofBert.Said(func(_ *rbee.JoinKind, id *rbee.HiveID, _, _ *string) { *id = anna })},
		{name: "the queen's own proof", key: sesame(anna), code: rbee.CodeInvalidAPIKey, why: "its proof is wrong", i: ofAnna.Said(func(_ *rbee.JoinKind, _ *rbee.HiveID, secret, _ *string) { *secret = ofAnna.Proof })},
		{name: "revoked, and not on the bus", code: rbee.CodeInvalidAPIKey, why: "not heard of on the bus", i: ofAnna},
		{name: "revoked, and another has its id", key: "of another process", code: rbee.CodeInvalidAPIKey, why: "another process is that hive", i: ofAnna},
		{name: "as a queen", key: sesame(anna), code: rbee.CodeInvalidRequest, why: "cannot let a queen in here", i: ofAnna.Said(func(kind *rbee.JoinKind, _ *rbee.HiveID, _, _ *string) { *kind = rbee.JoinQueen })},
		{name: "for the bus", key: sesame(anna), code: rbee.CodeInvalidRequest, why: "the bus of this queen is another's", i: ofAnna, dial: func(i bus.Invitation) error { return i.DialBus(t.Context()) }},
		{name: "of another version", key: sesame(anna), code: rbee.CodeVersionMismatch, why: "versions differ", i: ofAnna.Said(func(_ *rbee.JoinKind, _ *rbee.HiveID, _, version *string) { *version = "v0" })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q.hears(anna, tc.key)
			before := len(q.log.String())
			dial := tc.dial
			if dial == nil {
				dial = func(i bus.Invitation) error {
					conn, err := i.Dial(t.Context())
					if err == nil {
						_ = conn.Close()
					}
					return err
				}
			}
			if err := dial(tc.i); rbee.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("the client is told %v", err)
			}
			if text := q.log.String()[before:]; !strings.Contains(text, tc.why) {
				t.Errorf("the queen's log tells %s", text)
			}
		})
	}
	if len(q.came) > 0 {
		t.Error("somebody was let in")
	}
}

func TestATunnelToAnotherCertificateIsNotMade(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	hiveText, _ := p.token(t, rbee.JoinHive)
	queenText, _ := p.token(t, rbee.JoinQueen)
	q := openDoor(t, queenText, t.TempDir(), "127.0.0.1:0")
	_, heard := listening(t, hiveText, anna)
	i := q.invites(anna, sesame(anna), heard)
	i.Addresses = []string{p.Addr()}
	if _, err := i.Dial(t.Context()); rbee.CodeOf(err) != rbee.CodeInvalidAPIKey || !strings.Contains(err.Error(), "not the one that she told") {
		t.Errorf("the error is %v", err)
	}
	eventually(t, "the other side tells of it", func() bool { return strings.Contains(p.log.String(), "bad certificate") })
}

// TestAHiveFollowsQueensOnly has others invite it, on a bus where they can.
func TestAHiveFollowsQueensOnly(t *testing.T) {
	t.Parallel()
	url := aCluster(t)
	q := openDoor(t, url, t.TempDir(), "127.0.0.1:0")
	_, heard := listening(t, url, anna)
	other, otherHears := listening(t, url, bert)
	i := q.invites(anna, sesame(anna), heard)
	elsewhere := i
	elsewhere.Addresses = []string{"127.0.0.1:1"}
	for name, forged := range map[string]bus.Invitation{
		"the queen's, changed": elsewhere,
		"with its own key":     elsewhere.Reproved(sesame(bert), anna),
		"with no key":          elsewhere.Reproved("", anna),
		"what it heard itself": q.invites(bert, sesame(bert), otherHears),
		"nowhere":              bus.Invitation{Pin: i.Pin}.Reproved(sesame(anna), anna),
		"no certificate":       bus.Invitation{Addresses: i.Addresses}.Reproved(sesame(anna), anna),
		"no address":           bus.Invitation{Addresses: []string{"bee"}, Pin: i.Pin}.Reproved(sesame(anna), anna),
	} {
		b, err := json.Marshal(forged)
		if err == nil {
			err = other.Raw().Publish("invited."+string(anna), b)
		}
		if err != nil {
			t.Fatal(name, err)
		}
	}
	if err := other.Raw().Publish("invited."+string(anna), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if err := other.Raw().FlushTimeout(soon); err != nil {
		t.Fatal(err)
	}
	if next := q.invites(anna, sesame(anna), heard); next.Proof != i.Proof || next.Addresses[0] != i.Addresses[0] || len(heard) > 0 {
		t.Errorf("the hive follows %+v", next)
	}
}

// TestHivesOfAClusterWithUsersOfTheirOwnKeepToThemselves is how operators are told
// to set a cluster up.
func TestHivesOfAClusterWithUsersOfTheirOwnKeepToThemselves(t *testing.T) {
	t.Parallel()
	url := aCluster(t, anna, bert)
	as := func(id rbee.HiveID) string { return strings.Replace(url, "bee:honey", string(id)+":wax", 1) }
	q := openDoor(t, url, t.TempDir(), "127.0.0.1:0")
	hive, heard := listening(t, as(anna), anna)
	put(t, hive, anna, 1)
	if err := hive.Forget(t.Context(), anna); err != nil {
		t.Error("it may not say goodbye:", err)
	}
	other, _ := listening(t, as(bert), bert)
	sent, err := q.conn.Raw().SubscribeSync("invited." + string(anna))
	if err != nil {
		t.Fatal(err)
	}
	raw := other.Raw()
	all, err := raw.SubscribeSync("$KV.colony.>")
	if err != nil {
		t.Fatal(err)
	}
	ofAnna, err := raw.SubscribeSync("invited." + string(anna))
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Publish("invited."+string(anna), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := raw.FlushTimeout(soon); err != nil {
		t.Fatal(err)
	}
	put(t, hive, anna, 2)
	conn, err := q.invites(anna, sesame(anna), heard).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if m, err := sent.NextMsg(soon); err != nil || string(m.Data) == "{}" {
		t.Errorf("a hive invites another: %v", err)
	}
	for _, sub := range []*nats.Subscription{all, ofAnna} {
		if m, err := sub.NextMsg(time.Millisecond); err == nil {
			t.Errorf("a hive hears %s", m.Subject)
		}
	}
}

func TestAQueenWhoIsNotOnTheBusInvitesNobody(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	queenText, _ := p.token(t, rbee.JoinQueen)
	q := openDoor(t, queenText, t.TempDir(), "127.0.0.1:0")
	off, _ := join(t, queenText, rbee.JoinQueen, "00000000000000dd")
	if err := q.Invite(off, map[rbee.HiveID]string{anna: "k"}); rbee.CodeOf(err) != rbee.CodeConnectionTimeout {
		t.Errorf("the error is %v", err)
	}
	if _, err := bus.OpenDoor(bus.DoorConfig{Addr: q.Addr(), Dir: t.TempDir(), Log: q.log.log()}); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("a port that is taken: %v", err)
	}
}

func TestATunnelEndsWithTheDoor(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), "127.0.0.1:0", nil)
	hiveText, _ := p.token(t, rbee.JoinHive)
	queenText, _ := p.token(t, rbee.JoinQueen)
	conn, _ := joined(t, queenText, rbee.JoinQueen, bert)
	came := make(chan struct{})
	door, err := bus.OpenDoor(bus.DoorConfig{
		Addr: "127.0.0.1:0", Dir: t.TempDir(), Log: p.log.log(),
		Key: func(rbee.HiveID) (string, bool) { return sesame(anna), true },
		Tunnel: func(_ rbee.HiveID, _ string, c net.Conn) {
			close(came)
			_, _ = io.Copy(io.Discard, c)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := running(t, door.Run)
	_, heard := listening(t, hiveText, anna)
	if err := door.Invite(conn, map[rbee.HiveID]string{anna: sesame(anna)}); err != nil {
		t.Fatal(err)
	}
	i := <-heard
	tunnel, err := i.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tunnel.Close() }()
	<-came
	stop()
	if _, err := tunnel.Read(make([]byte, 1)); err == nil {
		t.Error("it goes on without a door")
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := i.Dial(ctx); rbee.CodeOf(err) != rbee.CodeConnectionTimeout {
		t.Errorf("nobody there: %v", err)
	}
}
