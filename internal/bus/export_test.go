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

// ClusterServer is a NATS server of others.
func ClusterServer(dir string) (*natsserver.Server, error) {
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir, Username: "bee", Password: "honey",
	})
	if err == nil {
		s.Start()
	}
	return s, err
}

// NATS is the server behind the gate.
func (s *Server) NATS() *natsserver.Server { return s.nats }
