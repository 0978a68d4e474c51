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
	"sync/atomic"
	"testing"
	"testing/synctest"

	"rbee/internal/httpapi"
)

// halfClosing notes that its writing side was closed first, as the server does
// where the caller is still sending: it would be reset under the reply else.
type halfClosing struct {
	net.Conn
	half atomic.Bool
}

func (c *halfClosing) CloseWrite() error {
	c.half.Store(true)
	return nil
}

func TestABodyThatIsTooLargeIsRefusedBeforeTheConnectionCloses(t *testing.T) {
	const limit = 1000
	for name, size := range map[string]int{"one more": limit + 1, "much more": 100 * limit} {
		for _, header := range []string{"close", "keep-alive"} {
			t.Run(name+", "+header, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					api := httpapi.New(httpapi.Config{Role: "hive", Routes: routes(), MaxBodyBytes: limit, Log: slog.New(slog.DiscardHandler)})
					ln := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
					ctx, stop := context.WithCancel(t.Context())
					var serving, sending sync.WaitGroup
					serving.Go(func() {
						if err := api.Serve(ctx, ln); err != nil {
							t.Error(err)
						}
					})
					server, client := net.Pipe()
					conn := &halfClosing{Conn: server}
					ln.conns <- conn
					sending.Go(func() {
						req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/v1/greet", strings.NewReader(strings.Repeat(" ", size)))
						if err != nil {
							t.Error(err)
							return
						}
						req.Header.Set("Connection", header)
						_ = req.Write(client) // the server does not read to the end
					})
					resp, err := http.ReadResponse(bufio.NewReader(client), nil)
					if err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "its body is larger than 1000 bytes") {
						t.Errorf("reply %d %s, %v", resp.StatusCode, text, err)
					}
					_ = resp.Body.Close()
					synctest.Wait()
					if !conn.half.Load() {
						t.Error("the server closed the connection under its reply")
					}
					_ = client.Close()
					sending.Wait()
					stop()
					serving.Wait()
				})
			})
		}
	}
}
