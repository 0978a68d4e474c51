package dispatch

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// counted is a connection whose writes are counted.
type counted struct {
	net.Conn
	writes *atomic.Int64
}

// Write implements io.Writer.
func (c counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestASmallRequestGoesToAHiveInOnePiece(t *testing.T) {
	t.Parallel()
	var heard string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // a cut one is another
		heard = string(b)
	}))
	defer server.Close()
	for name, c := range map[string]struct {
		bytes int
		alone bool // its headers go ahead
	}{"small": {bytes: 600}, "large": {togetherBytes, true}} {
		t.Run(name, func(t *testing.T) {
			var writes atomic.Int64
			transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				return counted{conn, &writes}, err
			}}
			defer transport.CloseIdleConnections()
			body := `{"model":"` + strings.Repeat("x", c.bytes) + `"}`
			a := &attempt{f: &flight{path: "/v1/completions", header: http.Header{}, body: []byte(body)}, ctx: t.Context()}
			req, err := a.request(Target{Base: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // it is empty
			if n := writes.Load(); (n > 1) != c.alone || heard != body {
				t.Errorf("%d pieces, %d bytes of %d", n, len(heard), len(body))
			}
		})
	}
}
