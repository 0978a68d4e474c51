package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// dispatcher is what the queen is compared with: a proxy that knows of its hives
// no more than how many requests it sent there.
type dispatcher struct {
	choose func(d *dispatcher) int // with the lock

	mu     sync.Mutex
	hives  []*httputil.ReverseProxy
	busy   []int // requests there
	last   int   // hive that got the last one
	server *http.Server
	served sync.WaitGroup
}

// roundRobin takes one hive after the other.
func roundRobin(d *dispatcher) int { return (d.last + 1) % len(d.hives) }

// leastLoaded takes the hive with the fewest requests; of several, one after the other.
func leastLoaded(d *dispatcher) int {
	best := -1
	for i := range d.hives {
		at := (d.last + 1 + i) % len(d.hives)
		if best < 0 || d.busy[at] < d.busy[best] {
			best = at
		}
	}
	return best
}

// startDispatcher serves at a free port of loopback.
func startDispatcher(hives []string, choose func(*dispatcher) int) (d *dispatcher, base string, err error) {
	d = &dispatcher{choose: choose, busy: make([]int, len(hives)), last: -1}
	transport := &http.Transport{MaxIdleConnsPerHost: 1024}
	for _, hive := range hives {
		to, err := url.Parse(hive)
		if err != nil {
			return nil, "", err
		}
		d.hives = append(d.hives, &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: transport, FlushInterval: -1,
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	d.server = &http.Server{Handler: d, ReadHeaderTimeout: time.Minute}
	d.served.Go(func() { _ = d.server.Serve(listener) }) // it ends by close
	return d, "http://" + listener.Addr().String(), nil
}

// ServeHTTP implements http.Handler. It reads the request first: once an answer
// begins, the server closes a body that may still be on its way to the hive.
func (d *dispatcher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has left
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	d.mu.Lock()
	at := d.choose(d)
	d.last = at
	d.busy[at]++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.busy[at]--
		d.mu.Unlock()
	}()
	d.hives[at].ServeHTTP(w, r)
}

func (d *dispatcher) close(ctx context.Context) error {
	err := d.server.Shutdown(ctx)
	d.served.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
