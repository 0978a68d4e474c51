package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"rbee"
)

const (
	// handshakeTime is what a client has until it is let in.
	handshakeTime = 10 * time.Second

	// strangers is how many clients may be at the gate at once.
	strangers = 64

	// writeTime is what a client has to take what is sent.
	writeTime = 10 * time.Second
)

// serve lets clients in until ctx ends, and returns when they are gone.
func (e *entrance) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, e.shut)
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	places := make(chan struct{}, strangers)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := e.listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close() // nobody used it
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // too many files are open, mostly
			e.log.Warn("cannot take a connection at the gate", "err", err)
			<-places
			if !pause(ctx, 100*time.Millisecond) {
				return nil
			}
			continue
		}
		clients.Go(func() { e.client(ctx, conn, sync.OnceFunc(func() { <-places })) })
	}
}

// client takes one connection from its handshake to its end.
func (e *entrance) client(ctx context.Context, raw net.Conn, passed func()) {
	defer passed()
	defer func() { _ = raw.Close() }() // nothing is left to say
	log := e.log.With("addr", raw.RemoteAddr().String())
	if err := raw.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return
	}
	secure := tls.Server(raw, e.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		if strings.Contains(err.Error(), "bad certificate") { // the alert of a client that expects another one
			log.Warn("refused by a client at the gate: it has a token with another certificate", "err", err)
		} else {
			log.Debug("no handshake at the gate", "err", err)
		}
		return
	}
	conn := newLineConn(secure)
	line, err := conn.readLine()
	if err != nil {
		log.Debug("no first line at the gate", "err", err)
		return
	}
	h, refusal := parseHello(line)
	one := &session{hello: h, conn: raw}
	if !e.sessions.add(one) {
		return
	}
	defer e.sessions.remove(one)
	if h.Kind != "" {
		log = log.With(string(h.Kind), h.Name, "id", h.ID)
	}
	if refusal == nil {
		refusal = e.admit(one)
	}
	if refusal != nil {
		log.Warn("refused at the gate", "err", refusal)
		_ = conn.writeLine(welcome{Error: refusal}) // it is told if it still listens
		_ = secure.Close()                          // says goodbye, so that the line arrives
		return
	}
	if h.Purpose == purposeTunnel {
		if conn.writeLine(welcome{OK: true}) == nil && conn.SetDeadline(time.Time{}) == nil {
			passed()
			e.tunnel(one, conn)
		}
		return
	}
	log.Info("let in at the gate", "version", h.Version)
	err = e.bus(one, conn, passed)
	log.Info("gone from the gate", "err", err)
}

// admitMember says why a client is refused that would join by a token.
func (s *Server) admitMember(one *session) *rbee.Error {
	refusal, failed := s.tokens.check(one.hello)
	if failed != nil {
		s.log.Warn("the time of a token's last use was not kept", "err", failed)
	}
	if refusal != nil {
		return refusal
	}
	if one.Purpose == purposeTunnel && (one.Kind != rbee.JoinHive || s.cfg.Tunnel == nil) {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot take a tunnel of a %s here", one.Kind)
	}
	return s.sessions.admit(one)
}

func (s *Server) takeTunnel(one *session, conn net.Conn) { s.cfg.Tunnel(one.ID, conn) }

// carryBus connects a client with the bus until one of them goes.
func (s *Server) carryBus(one *session, conn *lineConn, passed func()) error {
	user, password, end := s.grants.make(one.Kind, one.ID)
	defer end()
	inside, err := s.nats.InProcessConn()
	if err != nil {
		return err
	}
	defer func() { _ = inside.Close() }() // nothing is left to say
	if err := conn.writeLine(welcome{OK: true, User: user, Password: password}); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	passed()
	var out sync.WaitGroup
	var outErr error
	out.Go(func() {
		_, outErr = io.Copy(timedWriter{conn}, inside)
		_ = one.conn.Close() // ends the other direction
	})
	_, err = io.Copy(inside, conn)
	_ = inside.Close() // ends the other direction
	_ = one.conn.Close()
	out.Wait()
	if s.sessions.remove(one) && one.Kind == rbee.JoinHive {
		// Its process ended or its machine is cut off: others need not wait until its time is over.
		s.own.lose(one.ID)
	}
	return errors.Join(err, outErr)
}

// timedWriter gives up on a client that takes nothing.
type timedWriter struct{ conn net.Conn }

func (w timedWriter) Write(p []byte) (int, error) {
	if err := w.conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return w.conn.Write(p)
}

// pause waits, and says whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
