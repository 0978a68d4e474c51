package tunnel_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon is how long a test waits for what must come.
const soon = 20 * time.Second

// pair is a hive that serves h to a queen, over real sockets.
type pair struct {
	queen  *tunnel.Transport
	hive   net.Conn // its side of the connection
	stop   func()   // ends the hive's serving
	served chan error
}

func dig(t *testing.T, h http.HandlerFunc) *pair {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hive, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	queen, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &pair{hive: hive, stop: cancel, served: make(chan error, 1)}
	var serving sync.WaitGroup
	serving.Go(func() { p.served <- tunnel.Serve(ctx, hive, h) })
	p.queen = tunnel.New(queen)
	t.Cleanup(func() {
		cancel()
		if err := p.queen.Close(); err != nil {
			t.Log(err)
		}
		serving.Wait()
	})
	return p
}

func (p *pair) get(ctx context.Context, t *testing.T, path string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hive"+path, strings.NewReader(path))
	if err != nil {
		t.Fatal(err)
	}
	return p.queen.RoundTrip(r)
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(soon):
		t.Fatalf("not within %s: %s", soon, what)
	}
}

func TestManyRequestsTravelAtOnce(t *testing.T) {
	const streams = 500
	var all sync.WaitGroup
	all.Add(streams)
	p := dig(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		all.Done()
		all.Wait() // none ends before all have begun
		_, _ = fmt.Fprintf(w, "%s %s %v", r.Header.Get("Authorization"), body, err)
	})
	var clients sync.WaitGroup
	for i := range streams {
		clients.Go(func() {
			path := fmt.Sprint("/", i)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://hive"+path, strings.NewReader(path))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer bee")
			resp, err := p.queen.RoundTrip(r)
			if err != nil {
				t.Error(err)
				return
			}
			b, err := io.ReadAll(resp.Body)
			if want := "Bearer bee " + path + " <nil>"; string(b) != want || err != nil {
				t.Errorf("got %q, %v; want %q", b, err, want)
			}
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
}

func TestEventsArriveOneByOne(t *testing.T) {
	next := make(chan struct{})
	p := dig(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "%d", i)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			<-next
		}
	})
	resp, err := p.get(t.Context(), t, "/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b := make([]byte, 10)
	for i := range 3 {
		if n, err := resp.Body.Read(b); string(b[:n]) != fmt.Sprint(i) {
			t.Fatalf("event %d: %q, %v", i, b[:n], err)
		}
		next <- struct{}{}
	}
}

func TestAClientThatLeavesEndsItsRequestAndNoOther(t *testing.T) {
	left := make(chan struct{})
	p := dig(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := p.get(ctx, t, "/")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	within(t, "the handler is told", left)
	_ = resp.Body.Close()
	other, err := p.get(t.Context(), t, "/other")
	if err != nil {
		t.Fatal(err)
	}
	_ = other.Body.Close()
}

func TestACutEndsBothSides(t *testing.T) {
	for name, cut := range map[string]func(*pair){
		"by the network": func(p *pair) { _ = p.hive.Close() },
		"by the queen":   func(p *pair) { _ = p.queen.Close() },
		"by the hive":    func(p *pair) { p.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			running, ended := make(chan struct{}), make(chan struct{})
			p := dig(t, func(_ http.ResponseWriter, r *http.Request) {
				close(running)
				<-r.Context().Done()
				close(ended)
			})
			var client sync.WaitGroup
			failed := make(chan struct{})
			client.Go(func() {
				resp, err := p.get(t.Context(), t, "/")
				if err == nil {
					_, _ = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				if err == nil && name != "by the hive" {
					t.Error("the request is answered")
				}
				close(failed)
			})
			within(t, "the handler runs", running)
			cut(p)
			within(t, "the handler is told", ended)
			within(t, "the client is told", failed)
			within(t, "the queen knows", p.queen.Done())
			client.Wait()
			err := <-p.served
			if name == "by the hive" {
				if err != nil {
					t.Error(err)
				}
			} else if rbee.CodeOf(err) != rbee.CodeConnectionTimeout {
				t.Errorf("the hive is told %v", err)
			}
			if resp, err := p.get(t.Context(), t, "/"); err == nil {
				_ = resp.Body.Close()
				t.Error("it goes on")
			}
		})
	}
}

func TestServeReturnsWhenNoHandlerRuns(t *testing.T) {
	running, goOn := make(chan struct{}), make(chan struct{})
	p := dig(t, func(http.ResponseWriter, *http.Request) {
		close(running)
		<-goOn // does not look at its context
	})
	var client sync.WaitGroup
	client.Go(func() {
		if resp, err := p.get(t.Context(), t, "/"); err == nil {
			_ = resp.Body.Close()
		}
	})
	within(t, "the handler runs", running)
	p.stop()
	within(t, "the queen knows", p.queen.Done())
	select {
	case <-p.served:
		t.Error("it returned")
	default:
	}
	close(goOn)
	if err := <-p.served; err != nil {
		t.Error(err)
	}
	client.Wait()
}

func TestAPeerThatSpeaksSomethingElseIsLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	hive, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	if _, err := peer.Write([]byte("GET / HTTP/1.1\r\nHost: hive\r\nX-Filler: as long as a preface is\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := tunnel.Serve(t.Context(), hive, http.NotFoundHandler()); rbee.CodeOf(err) != rbee.CodeConnectionTimeout {
		t.Errorf("the error is %v", err)
	}
}
