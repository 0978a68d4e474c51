package bus

import (
	"context"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"rbee"
)

// Raw is the connection of a client that keeps to no rules.
func (c *Conn) Raw() *nats.Conn {
	l, err := c.current()
	if err != nil {
		panic(err)
	}
	return l.nc
}

// Sessions is how many connections came through the gate.
func (s *Server) Sessions() int {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	return len(s.sessions.all)
}

// Grants is how many users of the bus have yet to log in.
func (s *Server) Grants() int {
	s.grants.mu.Lock()
	defer s.grants.mu.Unlock()
	return len(s.grants.byUser)
}

// Retold changes the text of a token.
func Retold(text string, change func(addresses *[]string, pin, id, secret *string, kind *rbee.JoinKind)) string {
	t, err := parseTicket(text)
	if err != nil {
		panic(err)
	}
	change(&t.Addresses, &t.Pin, &t.ID, &t.Secret, &t.Kind)
	return t.text()
}

// JoinAs is Join by a program of another version.
func JoinAs(cfg JoinConfig, version, apiVersion string) (*Conn, error) {
	c, err := Join(cfg)
	if err != nil {
		return nil, err
	}
	g := c.way.(*throughGate)
	g.hello.Version, g.hello.APIVersion = version, apiVersion
	return c, nil
}

// Once tries to connect one time.
func (c *Conn) Once(ctx context.Context) error {
	defer c.disconnect()
	return c.connect(ctx)
}

// ClusterServer is a NATS server of others, with a user for all, and one for each
// of the hives that may do what docs/operations.md says.
func ClusterServer(dir string, hives ...rbee.HiveID) (*natsserver.Server, error) {
	users := []*natsserver.User{{Username: "bee", Password: "honey"}}
	for _, id := range hives {
		hear := []string{"invited." + string(id), "refused." + string(id), "_INBOX." + string(id) + ".>"}
		users = append(users, &natsserver.User{Username: string(id), Password: "wax", Permissions: &natsserver.Permissions{
			Publish:   &natsserver.SubjectPermission{Allow: []string{"$KV.colony.*." + string(id)}},
			Subscribe: &natsserver.SubjectPermission{Allow: hear},
		}})
	}
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir, Users: users,
	})
	if err == nil {
		s.Start()
	}
	return s, err
}

// NATS is the server behind the gate.
func (s *Server) NATS() *natsserver.Server { return s.nats }

// Said changes what a hive says at the gate of a queen who invited it.
func (i Invitation) Said(change func(kind *rbee.JoinKind, id *rbee.HiveID, secret, apiVersion *string)) Invitation {
	change(&i.hello.Kind, &i.hello.ID, &i.hello.Secret, &i.hello.APIVersion)
	return i
}

// DialBus dials as a client of a bus does.
func (i Invitation) DialBus(ctx context.Context) error {
	g := &gate{ticket: ticket{Addresses: i.Addresses, Pin: i.Pin}, hello: i.hello}
	conn, _, err := g.dial(ctx, purposeBus)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// Reproved is an invitation that somebody made who may know another key.
func (i Invitation) Reproved(key string, id rbee.HiveID) Invitation {
	i.Proof = proof(key, proofOfQueen, id, i.Pin, i.Addresses...)
	return i
}
