package bus

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"log/slog"
	"net"

	"rbee"
)

// DoorConfig says where a queen takes tunnels whose bus is another's.
type DoorConfig struct {
	Addr  string   // as in [ServerConfig]
	Dir   string   // for the certificate
	Names []string // as in [ServerConfig]

	// Key is what a hive told queens, if it is heard of on the bus.
	Key func(rbee.HiveID) (key string, heard bool)

	// Tunnel takes over a connection that the process of a hive made which told
	// the key. It may block as in [ServerConfig].
	Tunnel func(id rbee.HiveID, key string, conn net.Conn)
	Log    *slog.Logger
}

// Door is the gate of a queen whose bus is another's. It takes tunnels of hives
// that are on that bus and nobody else: the key that a hive tells queens there,
// and no other hive can read, proves each to the other.
type Door struct {
	*entrance
	cfg DoorConfig
}

// OpenDoor opens the port; hives come in while Run runs.
func OpenDoor(cfg DoorConfig) (*Door, error) {
	e, err := newEntrance(cfg.Dir, cfg.Names, cfg.Log)
	if err != nil {
		return nil, err
	}
	d := &Door{entrance: e, cfg: cfg}
	d.admit, d.tunnel = d.admitHive, func(one *session, conn net.Conn) { cfg.Tunnel(one.ID, one.key, conn) }
	return d, d.listen(cfg.Addr)
}

// Run takes tunnels until ctx ends, and returns when all are gone.
func (d *Door) Run(ctx context.Context) error {
	defer d.shut()
	return d.serve(ctx)
}

// Invite tells hives, by the keys that they told, that they may dial. It holds for
// InvitationHolds.
func (d *Door) Invite(c *Conn, keys map[rbee.HiveID]string) error {
	l, err := c.current()
	if err != nil {
		return err
	}
	i := Invitation{Addresses: d.addresses(), Pin: d.pin}
	for id, key := range keys {
		i.Proof = proof(key, proofOfQueen, id, i.Pin, i.Addresses...)
		b, err := json.Marshal(i)
		if err == nil {
			err = l.nc.Publish(invitedFor+string(id), b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// admitHive says why a client may not bring a tunnel.
func (d *Door) admitHive(one *session) *rbee.Error {
	if one.Purpose != purposeTunnel || one.Kind != rbee.JoinHive {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot let a %s in here: the bus of this queen is another's", one.Kind).
			Suggest("join with a token of the queen whose bus it is")
	}
	key, heard := d.cfg.Key(one.ID)
	switch {
	case !heard || key == "":
		return rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot take a tunnel of the hive %s: it is not heard of on the bus of the colony", one.ID).
			Suggest("see in its log whether it is connected with the colony")
	case !hmac.Equal([]byte(one.Secret), []byte(proof(key, proofOfHive, one.ID, d.pin))):
		return rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot take a tunnel of the hive %s: another process is that hive on the bus, or its proof is wrong", one.ID).
			Suggest("a hive dials by itself once the queen has heard of it")
	}
	one.key = key
	return d.sessions.admit(one)
}
