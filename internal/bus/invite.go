package bus

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"rbee"
)

const (
	// InviteEvery is how often a queen invites hives to dial her.
	InviteEvery = time.Second

	// InvitationHolds is how long an invitation does, so that a bus that is cut for
	// a moment ends no tunnel.
	InvitationHolds = 15 * time.Second

	// maxInvitation bounds one, in bytes.
	maxInvitation = 4 << 10
)

// invitedFor, and the id of a hive, is where queens invite it to dial them.
const invitedFor = "invited."

// What the key of a hive is used for beside opening its API.
const (
	proofOfQueen = "invite"
	proofOfHive  = "dial"
)

// Invitation is the word of a queen who does not own the bus that a hive may
// dial her. It is worth something for that process of the hive only.
type Invitation struct {
	Addresses []string `json:"addresses"`
	Pin       string   `json:"pin"`
	Proof     string   `json:"proof"` // that she reads what hives tell queens

	hello hello // what the hive says there
}

// proof says that somebody knows the key that a hive tells queens, without
// telling it. Each is for one use, one hive and one gate.
func proof(key, use string, id rbee.HiveID, pin string, more ...string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(strings.Join(append([]string{use, string(id), pin}, more...), "\n"))) // never fails
	return hex.EncodeToString(mac.Sum(nil))
}

// readInvitation says whether it is the word of one who knows the key of the hive.
func readInvitation(data []byte, h hello, key string) (Invitation, bool) {
	var i Invitation
	if key == "" || len(data) > maxInvitation || json.Unmarshal(data, &i) != nil {
		return i, false
	}
	want := proof(key, proofOfQueen, h.ID, i.Pin, i.Addresses...)
	if !hmac.Equal([]byte(i.Proof), []byte(want)) || !isPin(i.Pin) ||
		len(i.Addresses) == 0 || slices.ContainsFunc(i.Addresses, func(a string) bool { return !isAddress(a) }) {
		return i, false
	}
	h.Secret, h.Token = proof(key, proofOfHive, h.ID, i.Pin), ""
	i.hello = h
	return i, true
}

// Dial connects with the gate of the queen, so that she may send requests the
// other way. The error is a refusal or CONNECTION_TIMEOUT.
func (i Invitation) Dial(ctx context.Context) (net.Conn, error) {
	g := &gate{ticket: ticket{Addresses: i.Addresses, Pin: i.Pin}, hello: i.hello}
	conn, _, err := g.dial(ctx, purposeTunnel)
	if errors.Is(err, errPin) {
		return nil, rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot dial the queen at %s: her certificate is not the one that she told on the bus", strings.Join(i.Addresses, ", ")).
			Suggest("somebody else answers there; set queen.names to hosts by which hives reach her")
	}
	return conn, err
}

// OnInvite has f called, which must not block, for each invitation of a queen.
// Call it before Run.
func (c *Conn) OnInvite(f func(Invitation)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onInvite = f
}

// hearInvitations listens for them on a link.
func (c *Conn) hearInvitations(nc *nats.Conn) error {
	c.mu.Lock()
	f := c.onInvite
	c.mu.Unlock()
	if f == nil {
		return nil
	}
	_, err := nc.Subscribe(invitedFor+string(c.cfg.ID), func(m *nats.Msg) {
		c.mu.Lock()
		key := c.key
		c.mu.Unlock()
		i, ok := readInvitation(m.Data, c.hello, key)
		if !ok { // of a queen who has yet to hear of this process, or of nobody's
			c.cfg.Log.Debug("an invitation on the bus is not for this hive, or of no queen")
			return
		}
		f(i)
	})
	if err != nil {
		return rbee.Errorf(rbee.CodeConnectionTimeout, "cannot listen on the bus of the colony: %w", err)
	}
	return nil
}
