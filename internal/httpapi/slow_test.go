package httpapi_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rbee/internal/httpapi"
)

// pipes is a listener whose connections live in this process, and so in the
// time of the test.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func TestABodyThatDoesNotArriveHoldsNoConnection(t *testing.T) {
	for name, request := range map[string]string{
		"that the handler wants":     "POST /v1/greet HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\nContent-Length: 100\r\n\r\n",
		"half of it":                 "POST /v1/greet HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\nContent-Length: 100\r\n\r\n{\"name\":",
		"of a request without key":   "POST /v1/greet HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
		"of a route that is not":     "POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\nContent-Length: 100\r\n\r\n",
		"of a route that wants none": "GET /v1/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := httpapi.New(httpapi.Config{Role: "hive", Key: "sesame", Routes: routes(), Log: slog.New(slog.DiscardHandler)})
				ln := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				ctx, stop := context.WithCancel(t.Context())
				var serving sync.WaitGroup
				serving.Go(func() {
					if err := api.Serve(ctx, ln); err != nil {
						t.Error(err)
					}
				})
				server, client := net.Pipe()
				ln.conns <- server
				begun := time.Now()
				_, _ = io.WriteString(client, request)
				reply, _ := io.ReadAll(client) // until the server closes
				if took := time.Since(begun); took > 40*time.Second {
					t.Errorf("the connection was held for %s", took)
				}
				if len(reply) > 0 {
					if status, _, _ := strings.Cut(string(reply), "\r\n"); !strings.HasPrefix(status, "HTTP/1.1 4") {
						t.Errorf("reply %q", reply)
					}
				}
				_ = client.Close()
				stop()
				serving.Wait()
			})
		})
	}
}

// A body that nobody needs must not cost the reply, however long that takes.
func TestABodyThatNobodyNeedsLeavesTheReplyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := httpapi.Route{
			Method: "GET", Path: "/v1/slow", Summary: "Takes its time.",
			Handler: httpapi.RawFunc(func(w http.ResponseWriter, r *http.Request) error {
				for range 5 {
					if _, err := io.WriteString(w, "tick\n"); err != nil {
						return err
					}
					if err := http.NewResponseController(w).Flush(); err != nil {
						return err
					}
					select {
					case <-time.After(time.Minute):
					case <-r.Context().Done():
						return context.Cause(r.Context())
					}
				}
				return nil
			}),
		}
		api := httpapi.New(httpapi.Config{Role: "hive", Routes: append(routes(), slow), Log: slog.New(slog.DiscardHandler)})
		ln := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := api.Serve(ctx, ln); err != nil {
				t.Error(err)
			}
		})
		server, client := net.Pipe()
		ln.conns <- server
		_, _ = io.WriteString(client, "GET /v1/slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody")
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || strings.Count(string(text), "tick") != 5 {
			t.Errorf("reply %q, %v", text, err)
		}
		_ = resp.Body.Close()
		_ = client.Close()
		stop()
		serving.Wait()
	})
}
