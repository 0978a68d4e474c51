package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"rbee"
	"rbee/internal/durable"
)

// entrance is where clients come in, of a [Server] or a [Door].
type entrance struct {
	log      *slog.Logger
	names    []string // hosts under which clients find it; by default those of the listener, or of this machine
	pin      string
	tls      *tls.Config
	listener net.Listener // nil before listen
	sessions *sessions

	admit  func(*session) *rbee.Error                              // says why a client is refused
	tunnel func(*session, net.Conn)                                // uses a connection as long as it is good for
	bus    func(one *session, conn *lineConn, passed func()) error // nil where admit lets nobody in for that
}

// newEntrance prepares the certificate.
func newEntrance(dir string, names []string, log *slog.Logger) (*entrance, error) {
	if err := durable.MkdirAll(dir); err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot make the directory of the colony: %w", err).
			Suggest("make %s writable for this user", filepath.Dir(dir))
	}
	cert, err := certificate(dir)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, err
	}
	return &entrance{
		log: log, names: names, pin: pinOf(leaf), sessions: newSessions(),
		tls: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
	}, nil
}

// listen opens the port; serve lets clients in.
func (e *entrance) listen(addr string) (err error) {
	// A client whose machine is cut off is noticed by the bus; this is for the others.
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}
	if e.listener, err = lc.Listen(context.Background(), "tcp", addr); err != nil {
		return rbee.Errorf(rbee.CodeConflict, "cannot open the gate of the colony: %w", err).
			Suggest("choose another address with queen.bus_addr")
	}
	return nil
}

// shut ends all connections, and lets nobody in.
func (e *entrance) shut() {
	if e.listener != nil {
		_ = e.listener.Close() // only fails if it is closed
	}
	e.sessions.cutAll()
}

// Addr is the address that the gate listens on.
func (e *entrance) Addr() string { return e.listener.Addr().String() }

// addresses are those under which a hive may find the gate, best first.
func (e *entrance) addresses() []string {
	host, port, err := net.SplitHostPort(e.Addr())
	if err != nil {
		return []string{e.Addr()}
	}
	names := e.names
	if ip := net.ParseIP(host); len(names) == 0 && ip != nil && !ip.IsUnspecified() {
		names = []string{host}
	}
	if len(names) == 0 {
		names = append(machineAddresses(), "127.0.0.1") // the last for hives beside the queen whatever network she is in
	}
	var all []string
	for _, n := range names {
		if isAddress(n) {
			all = append(all, n)
		} else {
			all = append(all, net.JoinHostPort(n, port))
		}
	}
	return all
}

// machineAddresses are the addresses of this machine that others may reach.
func machineAddresses() []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var v4, v6 []string
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		switch {
		case !ok || !n.IP.IsGlobalUnicast():
		case n.IP.To4() != nil:
			v4 = append(v4, n.IP.String())
		default:
			v6 = append(v6, n.IP.String())
		}
	}
	const most = 8 // a token is pasted by people
	all := append(v4, v6...)
	return all[:min(len(all), most)]
}
