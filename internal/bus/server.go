package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"rbee"
)

// ServerConfig says where the gate stands.
type ServerConfig struct {
	Addr  string   // to listen on, such as ":7834"; port 0 takes a free one
	Dir   string   // for the certificate and the tokens
	Names []string // hosts under which hives find the gate; by default those of Addr, or of this machine

	// Tunnel takes over a connection that a hive made to be reached by. It may
	// block for as long as it uses the connection; Run waits for it. nil refuses tunnels.
	Tunnel func(rbee.HiveID, net.Conn)
	Log    *slog.Logger
}

// Server is the bus of a colony and the gate before it.
type Server struct {
	*entrance
	cfg    ServerConfig
	tokens *tokens
	nats   *natsserver.Server
	grants *grants
	own    *Conn // of the server itself, on its bus
	close  func()
}

// Listen starts the bus; the gate lets clients in while Run runs. Without Run,
// Close ends it.
func Listen(cfg ServerConfig) (*Server, error) {
	s := &Server{cfg: cfg, grants: newGrants()}
	s.close = sync.OnceFunc(s.end)
	var err error
	if s.entrance, err = newEntrance(cfg.Dir, cfg.Names, cfg.Log); err != nil {
		return nil, err
	}
	s.admit, s.tunnel, s.bus = s.admitMember, s.takeTunnel, s.carryBus
	if s.tokens, err = openTokens(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.startBus(); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.listen(cfg.Addr); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// startBus starts NATS without a listener, and makes the bucket in its memory.
func (s *Server) startBus() error {
	ns, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "colony",
		DontListen: true,
		NoSigs:     true,
		NoLog:      true,
		JetStream:  true,
		// The server wants a directory; what is in memory leaves no file there.
		StoreDir:                   filepath.Join(s.cfg.Dir, "bus"),
		JetStreamMaxMemory:         1 << 30,
		MaxPayload:                 8 << 20, // a hive with thousands of models has much to say of itself
		JetStreamMaxStore:          1,
		CustomClientAuthentication: s.grants,
		AuthTimeout:                handshakeTime.Seconds(),
		PingInterval:               2 * time.Second,
		MaxPingsOut:                2,
	})
	if err != nil {
		return fmt.Errorf("cannot make the bus: %w", err)
	}
	s.nats = ns
	ns.SetLogger(busLog{s.log}, false, false)
	ns.Start()
	if !ns.ReadyForConnections(handshakeTime) {
		return errors.New("cannot start the bus: it was not ready in time")
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	if s.own, err = s.Connect(ctx); err != nil {
		return err
	}
	l, err := s.own.current()
	if err != nil {
		return err
	}
	js, err := jetstream.New(l.nc)
	if err != nil {
		return err
	}
	return makeBucket(ctx, js, 1, true)
}

// Run lets clients in until ctx ends, and returns when all are gone and the bus
// has ended.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	var own sync.WaitGroup
	defer own.Wait()
	defer cancel()
	own.Go(func() { _ = s.own.Run(ctx) }) // nobody refuses it
	return s.serve(ctx)
}

// Close ends the bus and cuts all connections.
func (s *Server) Close() { s.close() }

func (s *Server) end() {
	s.shut()
	if s.own != nil {
		s.own.disconnect()
	}
	if s.nats != nil {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
	}
}

// Connect connects a queen in this process. Run of the Conn keeps it connected.
func (s *Server) Connect(ctx context.Context) (*Conn, error) {
	c := newConn(JoinConfig{Kind: rbee.JoinQueen, ID: rbee.HiveID(random(8)), Name: "queen", Log: s.log})
	c.way = inProcess{s}
	return c, c.connect(ctx)
}

// NewToken makes a token. Its text is known to the caller only.
func (s *Server) NewToken(name string, kind rbee.JoinKind) (text string, t rbee.JoinToken, err error) {
	secret, t, err := s.tokens.add(name, kind)
	if err != nil {
		return "", t, err
	}
	return ticket{Addresses: s.addresses(), Pin: s.pin, ID: t.ID, Secret: secret, Kind: kind}.text(), t, nil
}

// Tokens are those that were made, oldest first.
func (s *Server) Tokens() []rbee.JoinToken { return s.tokens.all() }

// Revoke makes a token worthless, and cuts the connections that were made with it.
func (s *Server) Revoke(id string) error {
	if err := s.tokens.revoke(id); err != nil {
		return err
	}
	s.sessions.cut(id)
	return nil
}

// busLog passes on what NATS complains of.
type busLog struct{ log *slog.Logger }

func (l busLog) Warnf(format string, v ...any)  { l.log.Debug("bus: " + fmt.Sprintf(format, v...)) }
func (l busLog) Errorf(format string, v ...any) { l.log.Warn("bus: " + fmt.Sprintf(format, v...)) }
func (l busLog) Fatalf(format string, v ...any) { l.log.Error("bus: " + fmt.Sprintf(format, v...)) }

// Noticef is silent, like Debugf and Tracef.
func (busLog) Noticef(string, ...any) {}

// Debugf is silent.
func (busLog) Debugf(string, ...any) {}

// Tracef is silent.
func (busLog) Tracef(string, ...any) {}
