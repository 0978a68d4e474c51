//go:build linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rbee"
	"rbee/client"
)

// What clients do to a hive that mean it badly, or are badly made.

// figures are what a hive holds.
type figures struct{ files, goroutines float64 }

func (f figures) String() string {
	return fmt.Sprintf("%v files, %v goroutines", f.files, f.goroutines)
}

// figuresOf asks the hive itself.
func figuresOf(t *testing.T, calls *client.Client) figures {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, calls.Base()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var f figures
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "process_open_fds %g", &f.files)
		_, _ = fmt.Sscanf(lines.Text(), "go_goroutines %g", &f.goroutines)
	}
	if f.files == 0 || f.goroutines == 0 {
		t.Fatalf("the metrics say %v", f)
	}
	return f
}

// settled are the figures of a hive that is at rest: the same ten times in a row.
func settled(t *testing.T, look func() figures) figures {
	t.Helper()
	var last figures
	same := 0
	eventually(t, "the hive is at rest", func() bool {
		f := look()
		if f != last {
			same = 0
		}
		last = f
		same++
		return same >= 10
	})
	return last
}

// abused starts a hive, lets it be abused, and looks for what that left.
func abused(t *testing.T, abuse func(c *colony, calls *client.Client)) {
	t.Helper()
	c := newColony(t)
	c.fake("token=10ms,eos_at=1000000")
	hive, calls := c.daemon()
	atRest := func() figures {
		for _, caller := range c.callers {
			caller.Close() // its idle connections
		}
		return figuresOf(t, calls)
	}
	before := settled(t, atRest)
	abuse(c, calls)
	now := atRest()
	for deadline := time.Now().Add(patience); (now.files > before.files || now.goroutines > before.goroutines) && time.Now().Before(deadline); {
		<-time.After(50 * time.Millisecond)
		now = atRest()
	}
	if now.files > before.files || now.goroutines > before.goroutines {
		t.Errorf("before: %v; after: %v\n%s", before, now, c.log())
	}
	kill(t, hive.pid(), unix.SIGTERM)
	hive.mustExit("exit status 0")
}

func address(t *testing.T, calls *client.Client) string {
	t.Helper()
	u, err := url.Parse(calls.Base())
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return nil
	}
	return conn.(*net.TCPConn)
}

// mustAnswer makes sure that a client like any other is served.
func mustAnswer(t *testing.T, calls *client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := calls.Health(ctx); err != nil {
		t.Errorf("the hive does not answer others: %v", err)
	}
}

func TestTenThousandQuickConnectsLeaveNothing(t *testing.T) {
	t.Parallel()
	const connects, callers = 10_000, 8
	abused(t, func(_ *colony, calls *client.Client) {
		addr := address(t, calls)
		const request = "GET /v1/workers/list HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				for i := caller; i < connects; i += callers {
					conn := dial(t, addr)
					if conn == nil {
						return
					}
					if i%4 > 0 { // the others say nothing at all
						_, _ = io.WriteString(conn, request[:len(request)*(i%4)/3])
					}
					if i%2 > 0 {
						_ = conn.SetLinger(0) // a reset
					}
					_ = conn.Close()
				}
			})
		}
		all.Wait()
		mustAnswer(t, calls)
	})
}

func TestSlowClientsAreCutOffAndDisturbNobody(t *testing.T) {
	t.Parallel()
	abused(t, func(c *colony, calls *client.Client) {
		addr := address(t, calls)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var slow sync.WaitGroup
		cutOff := func(name, begin string, piece string) {
			slow.Go(func() {
				conn := dial(t, addr)
				if conn == nil {
					return
				}
				defer func() { _ = conn.Close() }()
				stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
				defer stop()
				_, _ = io.WriteString(conn, begin)
				gone := make(chan struct{})
				slow.Go(func() {
					defer close(gone)
					_, err := io.Copy(io.Discard, conn)
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("the client with the slow %s was not cut off", name)
					}
				})
				for tick := time.NewTicker(200 * time.Millisecond); ; {
					select {
					case <-gone:
						return
					case <-tick.C:
						_, _ = io.WriteString(conn, piece)
					}
				}
			})
		}
		for range 200 {
			cutOff("header", "GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", "x")
		}
		for range 50 { // the body never begins
			cutOff("body", "POST /v1/workers/spawn HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n", "")
		}
		for range 20 {
			mustAnswer(t, calls)
		}
		w := c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"})
		_, wait := c.streams(c.caller(w.URL), 2, 50)
		if err := errors.Join(wait()...); err != nil {
			t.Errorf("streams beside slow clients: %v", err)
		}
		slow.Wait()
		if err := calls.StopWorker(t.Context(), w.ID); err != nil {
			t.Error(err)
		}
	})
}

// A client that has said all it has to say, and listens on, is what many think
// a client that left is.
func TestHalfClosedClientsAreLetGo(t *testing.T) {
	t.Parallel()
	abused(t, func(c *colony, calls *client.Client) {
		addr := address(t, calls)
		w := c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"})
		body := `{"prompt":"x","max_tokens":100000}`
		var all sync.WaitGroup
		for _, request := range []string{
			"GET /v1/workers/list HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
			"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
			"GET /v1/workers/" + string(w.ID) + "/logs?follow=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
			fmt.Sprintf("POST /v1/workers/%s/v1/inference HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", w.ID, len(body), body),
			"GET /v1/hea", // and not even that
		} {
			for range 20 {
				all.Go(func() {
					conn := dial(t, addr)
					if conn == nil {
						return
					}
					defer func() { _ = conn.Close() }()
					_ = conn.SetReadDeadline(time.Now().Add(patience))
					_, _ = io.WriteString(conn, request)
					_ = conn.CloseWrite()
					if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("the hive keeps on: %.40s", request)
					}
				})
			}
		}
		all.Wait()
		mustAnswer(t, calls)
		c.awaitState(calls, w.ID, rbee.WorkerIdle) // nobody computes for those who left
		if err := calls.StopWorker(t.Context(), w.ID); err != nil {
			t.Error(err)
		}
	})
}

// Readers that stop reading keep a stream each, and nothing else.
func TestReadersThatStopReadingDisturbNobody(t *testing.T) {
	t.Parallel()
	abused(t, func(c *colony, calls *client.Client) {
		addr := address(t, calls)
		for range 50 {
			conn := dial(t, addr)
			if conn == nil {
				return
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetReadBuffer(1 << 10)
			_, _ = io.WriteString(conn, "GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		}
		for range 5 { // changes that are told
			w := c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"})
			_, wait := c.streams(c.caller(w.URL), 4, 50)
			if err := errors.Join(wait()...); err != nil {
				t.Errorf("streams beside readers that do not read: %v", err)
			}
			if err := calls.StopWorker(t.Context(), w.ID); err != nil {
				t.Error(err)
			}
		}
		mustAnswer(t, calls)
	})
}

func TestAHiveWithoutFileDescriptorsRecovers(t *testing.T) {
	t.Parallel()
	abused(t, func(c *colony, calls *client.Client) {
		hive := c.find("the hive", isHive)
		var before unix.Rlimit
		if err := unix.Prlimit(hive.pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
			t.Fatal(err)
		}
		few := before
		few.Cur = uint64(figuresOf(t, calls).files) + 20
		if err := unix.Prlimit(hive.pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
			t.Fatal(err)
		}
		var conns []*net.TCPConn
		for range 100 { // the kernel takes what the hive cannot yet accept
			if conn := dial(t, address(t, calls)); conn != nil {
				conns = append(conns, conn)
			}
		}
		eventually(t, "the hive has no file descriptor left", func() bool {
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", hive.pid))
			return err == nil && uint64(len(entries)) >= few.Cur-1
		})
		for _, conn := range conns {
			_ = conn.Close()
		}
		mustAnswer(t, c.caller(calls.Base()))
		if err := unix.Prlimit(hive.pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestABrowserOnAnotherSiteGetsNothing(t *testing.T) {
	t.Parallel()
	abused(t, func(_ *colony, calls *client.Client) {
		for name, headers := range map[string]map[string]string{
			"another origin":   {"Origin": "https://evil.example"},
			"a rebound name":   {"Host": "evil.example"},
			"a cross-site tag": {"Sec-Fetch-Site": "cross-site"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, calls.Base()+"/v1/shutdown", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			for key, value := range headers {
				req.Header.Set(key, value)
			}
			req.Host, req.Close = headers["Host"], true
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s: status %d", name, resp.StatusCode)
			}
		}
		mustAnswer(t, calls)
	})
}
