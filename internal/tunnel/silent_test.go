package tunnel_test

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"rbee/internal/tunnel"
)

func TestAHiveThatFallsSilentIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queen, hive := net.Pipe()
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(io.Discard, hive) })
		tr := tunnel.New(queen)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://hive/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := tr.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
			t.Error("it is answered")
		}
		<-tr.Done()
		_ = hive.Close()
		reading.Wait()
	})
}

func TestAQueenThatFallsSilentIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queen, hive := net.Pipe()
		var speaking sync.WaitGroup
		speaking.Go(func() { _, _ = io.Copy(io.Discard, queen) })
		speaking.Go(func() {
			// The beginning of HTTP/2, empty settings, and then nothing.
			_, _ = queen.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
		})
		if err := tunnel.Serve(t.Context(), hive, http.NotFoundHandler()); err == nil {
			t.Error("it ends without a reason")
		}
		_ = queen.Close()
		speaking.Wait()
	})
}
