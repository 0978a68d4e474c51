// Package tunnel carries HTTP the wrong way: over a connection that the server
// dialled. A hive that nobody can reach dials its queen, and serves her there.
//
// It speaks HTTP/2, so that one connection carries many streams, none of which
// holds the others up. It does not know how the connection was made or secured.
package tunnel

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"rbee"
)

const (
	// A side that hears nothing for quietTime asks, and gives up when there is
	// no answer within answerTime.
	quietTime  = 3 * time.Second
	answerTime = 4 * time.Second

	// writeTime is what the other side has to take anything at all.
	writeTime = 10 * time.Second

	// maxStreams is how many requests one hive takes at once.
	maxStreams = 10_000

	// endTime is what the last streams have to say goodbye.
	endTime = time.Second
)

// protocol is HTTP/2 from the first byte: whether it is secured is another's business.
func protocol() (*http.Protocols, *http.HTTP2Config) {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p, &http.HTTP2Config{
		MaxConcurrentStreams: maxStreams,
		SendPingTimeout:      quietTime,
		PingTimeout:          answerTime,
		WriteByteTimeout:     writeTime,
	}
}

// Serve answers the requests that come over conn until it is cut or ctx ends,
// and closes it. Contexts of requests end with ctx. It returns when no handler
// runs any more; the error says that the connection was cut.
func Serve(ctx context.Context, conn net.Conn, h http.Handler) error {
	var running handlers
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if running.enter() {
				defer running.all.Done()
				h.ServeHTTP(w, r)
			}
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: writeTime,
		ErrorLog:          log.New(io.Discard, "", 0), // how a connection ends is no news
	}
	server.Protocols, server.HTTP2 = protocol()
	only := watch(conn)
	l := newListener(only)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // it is always closed
	select {
	case <-ctx.Done():
	case <-only.closed:
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	_ = server.Shutdown(ending) // the streams are told
	cancel()
	_ = server.Close() // who did not listen is cut off
	_ = only.Close()   // it may be closed
	serving.Wait()
	running.end()
	if ctx.Err() != nil {
		return nil
	}
	return rbee.Errorf(rbee.CodeConnectionTimeout, "the tunnel to the queen was cut")
}

// handlers are those that run. A stream may begin just when the connection ends.
type handlers struct {
	mu    sync.Mutex
	ended bool
	all   sync.WaitGroup
}

func (h *handlers) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.all.Add(1)
	}
	return !h.ended
}

// end lets none in any more, and waits for the others.
func (h *handlers) end() {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	h.all.Wait()
}

// Transport sends requests to a server at the other end of a connection. The
// host of a request does not matter; its scheme is http.
type Transport struct {
	conn   *watched
	client *http.ClientConn
	err    error // there is no client
}

// New takes conn over.
func New(conn net.Conn) *Transport {
	t := &Transport{conn: watch(conn)}
	h := &http.Transport{
		DisableCompression: true,
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return t.conn, nil },
	}
	h.Protocols, h.HTTP2 = protocol()
	if t.client, t.err = h.NewClientConn(context.Background(), "http", "hive:80"); t.err != nil {
		_ = t.conn.Close() // the error says more
	}
	return t
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.err != nil {
		return nil, t.err
	}
	return t.client.RoundTrip(r)
}

// Done is closed when the connection is.
func (t *Transport) Done() <-chan struct{} { return t.conn.closed }

// Close cuts the connection; requests that run fail.
func (t *Transport) Close() error {
	if t.err != nil {
		return nil
	}
	return t.client.Close()
}

// watched is a connection that tells when it was closed.
type watched struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
	err    error
}

func watch(conn net.Conn) *watched { return &watched{Conn: conn, closed: make(chan struct{})} }

// Close closes the connection, once.
func (c *watched) Close() error {
	c.once.Do(func() {
		c.err = c.Conn.Close()
		close(c.closed)
	})
	return c.err
}

// listener has one connection to accept.
type listener struct {
	conns chan net.Conn // closed by Close
	addr  net.Addr
	close func()
}

func newListener(conn net.Conn) *listener {
	l := &listener{conns: make(chan net.Conn, 1), addr: conn.LocalAddr()}
	l.close = sync.OnceFunc(func() { close(l.conns) })
	l.conns <- conn
	return l
}

// Accept returns the connection, and then waits for Close.
func (l *listener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

// Close ends Accept.
func (l *listener) Close() error { l.close(); return nil }

// Addr is the near end of the connection.
func (l *listener) Addr() net.Addr { return l.addr }
