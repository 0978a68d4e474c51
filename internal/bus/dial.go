package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"rbee"
)

const (
	// dialTime is what an address has to answer.
	dialTime = 2 * time.Second

	// stagger is by how much the next address is tried later than the one before.
	stagger = 150 * time.Millisecond
)

// errPin says that a gate is not the one that the token names.
var errPin = errors.New("its certificate is not the one that the token names")

// gate is how a client finds the gate and what it says there.
type gate struct {
	ticket ticket // no pin and no secret for a bare address
	hello  hello

	mu   sync.Mutex
	last string // the address that answered last; it is tried first
}

// dial goes through the gate. The error is a refusal or CONNECTION_TIMEOUT.
func (g *gate) dial(ctx context.Context, purpose string) (net.Conn, welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	secure, err := g.reach(ctx)
	if err != nil {
		return nil, welcome{}, err
	}
	conn := newLineConn(secure)
	stop := context.AfterFunc(ctx, func() { _ = secure.NetConn().Close() })
	answer, err := g.ask(conn, purpose)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = secure.NetConn().Close() // the error says more
		if rbee.CodeOf(err) == "" {
			err = rbee.Errorf(rbee.CodeConnectionTimeout, "cannot join the colony at %s: %w", secure.RemoteAddr(), err)
		}
		return nil, welcome{}, err
	}
	return conn, answer, nil
}

// ask says the first line and hears the answer.
func (g *gate) ask(conn *lineConn, purpose string) (welcome, error) {
	h := g.hello
	h.Purpose = purpose
	if err := conn.writeLine(h); err != nil {
		return welcome{}, err
	}
	line, err := conn.readLine()
	if err != nil {
		return welcome{}, err
	}
	answer, err := parseWelcome(line)
	if err == nil && g.ticket.Pin == "" {
		// Nothing says that this is our queen; she must not hear what a hive says of itself.
		err = rbee.Errorf(rbee.CodeMissingAPIKey, "cannot join a colony that asks for no token")
	}
	return answer, err
}

// reach makes a secure connection to the first address that answers with the
// right certificate.
func (g *gate) reach(ctx context.Context) (*tls.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs := g.addresses()
	type result struct {
		addr string
		conn *tls.Conn
		err  error
	}
	results := make(chan result, len(addrs))
	var dials sync.WaitGroup
	for i, addr := range addrs {
		dials.Go(func() {
			if i > 0 && !pause(ctx, time.Duration(i)*stagger) {
				results <- result{addr: addr, err: ctx.Err()}
				return
			}
			conn, err := g.secure(ctx, addr)
			results <- result{addr, conn, err}
		})
	}
	var won *tls.Conn
	var faults []error
	for range addrs {
		switch r := <-results; {
		case r.err != nil:
			faults = append(faults, r.err)
		case won != nil:
			_ = r.conn.NetConn().Close() // another was faster
		default:
			won = r.conn
			g.mu.Lock()
			g.last = r.addr
			g.mu.Unlock()
			cancel()
		}
	}
	dials.Wait()
	if won != nil {
		return won, nil
	}
	if !slices.ContainsFunc(faults, func(err error) bool { return !errors.Is(err, errPin) }) {
		return nil, rbee.Errorf(rbee.CodeInvalidAPIKey, "cannot join the colony at %s: %w", strings.Join(addrs, ", "), errPin).
			Suggest("make a new token with 'rbee queen token' on the machine of the queen; if her certificate did not change, somebody else answers there")
	}
	return nil, rbee.Errorf(rbee.CodeConnectionTimeout, "cannot reach the queen at %s: %w", strings.Join(addrs, ", "), faults[0]).
		Suggest("is she running, and may this machine reach her port?")
}

// addresses are those of the token, the one that answered last first.
func (g *gate) addresses() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := slices.Clone(g.ticket.Addresses)
	if i := slices.Index(all, g.last); i > 0 {
		all = append([]string{g.last}, slices.Delete(all, i, i+1)...)
	}
	return all
}

// secure makes a connection to one address and checks its certificate.
func (g *gate) secure(ctx context.Context, addr string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The certificate is known by its key, whatever its name and dates.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks more
		VerifyConnection: func(s tls.ConnectionState) error {
			// A bare address has no pin: it is told why it is refused, and says nothing.
			if g.ticket.Pin != "" && pinOf(s.PeerCertificates[0]) != g.ticket.Pin {
				return errPin
			}
			return nil
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the error says more
		return nil, err
	}
	return conn, nil
}
