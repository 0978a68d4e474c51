package hub_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/internal/download"
	"rbee/internal/hub"
	"rbee/internal/hub/hubtest"
)

// source lists the repository and returns its large file, as bytes too.
func source(t *testing.T, srv *hubtest.Server, c *hub.Client) (*hub.Source, hub.File) {
	t.Helper()
	r, err := c.Repository(t.Context(), repo, "")
	if err != nil {
		t.Fatal(err)
	}
	srv.Reset()
	return c.Source(r.ID, r.Revision, r.Files[0]), r.Files[0]
}

// fetch reads a range to its end, however that comes.
func fetch(t *testing.T, s *hub.Source, from, to int64) ([]byte, error) {
	t.Helper()
	body, err := s.Open(t.Context(), from, to)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// plain is content that a test can compare ranges of.
func plain(size int) (*hubtest.Content, []byte) {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i / 251)
	}
	return hubtest.Bytes(b), b
}

func TestRangesOfAFileAreTheBytesAskedFor(t *testing.T) {
	content, all := plain(10_000)
	srv := serve(t, content)
	s, _ := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL}))
	for _, span := range [][2]int64{{0, 10_000}, {0, 1}, {5000, 5001}, {9999, 10_000}, {100, 9000}, {7, 7}} {
		got, err := fetch(t, s, span[0], span[1])
		if err != nil || !bytes.Equal(got, all[span[0]:span[1]]) {
			t.Errorf("bytes %d to %d: got %d bytes, %v", span[0], span[1], len(got), err)
		}
	}
	var toHub, toCDN int
	for _, r := range srv.Requests() {
		if r.Range == "" {
			t.Errorf("there is a request without a range: %+v", r)
		}
		if r.Host == hubtest.Hub {
			toHub++
		} else {
			toCDN++
		}
	}
	if toHub != 1 || toCDN != 5 {
		t.Errorf("the hub was asked %d times and the store of files %d times, want 1 and 5", toHub, toCDN)
	}
	if n := srv.Counts().Connections; n > 2 {
		t.Errorf("one range after another took %d connections", n)
	}
}

func TestParallelRangesAreConnectionsOfTheirOwn(t *testing.T) {
	srv := serve(t, hubtest.Random(1, 8<<20))
	s, f := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL}))
	var bodies []io.ReadCloser
	for i := range int64(4) {
		body, err := s.Open(t.Context(), i*f.SizeBytes/4, (i+1)*f.SizeBytes/4)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		bodies = append(bodies, body)
	}
	if n := srv.Counts().Connections; n < int64(len(bodies)) {
		t.Errorf("4 ranges share %d connections", n)
	}
}

func TestASmallFileComesFromTheHubItself(t *testing.T) {
	srv := serve(t, hubtest.Bytes([]byte("x")))
	c := newClient(t, hub.Config{Endpoint: srv.URL, Token: secret})
	r, err := c.Repository(t.Context(), repo, "")
	if err != nil {
		t.Fatal(err)
	}
	s := c.Source(repo, r.Revision, r.Files[1])
	if got, err := fetch(t, s, 1, 4); err != nil || string(got) != "ell" {
		t.Errorf("got %q, %v", got, err)
	}
	srv.Put(hubtest.Repo{Name: repo, Files: []hubtest.File{{Path: "README.md", Content: hubtest.Bytes([]byte("HELLO")), Plain: true}}})
	if _, err := fetch(t, s, 1, 4); !errors.Is(err, download.ErrChanged) {
		t.Errorf("after a change got %v", err)
	}
}

func TestTheTokenGoesToTheHubAlone(t *testing.T) {
	srv := serve(t, hubtest.Random(1, 1000))
	c := newClient(t, hub.Config{Endpoint: srv.URL, Token: secret})
	s, f := source(t, srv, c)
	for range 2 {
		if _, err := fetch(t, s, 0, f.SizeBytes); err != nil {
			t.Fatal(err)
		}
	}
	// What a hub sends elsewhere is asked for without the token too.
	srv.Fault(repo, "", hubtest.Fault{Kind: hubtest.Redirect, To: srv.CDN + "/listing"})
	if _, err := c.Repository(t.Context(), repo, ""); err == nil {
		t.Error("the store of files has a listing")
	}
	seen := map[hubtest.Host]int{}
	for _, r := range srv.Requests() {
		seen[r.Host]++
		if r.Authorized != (r.Host == hubtest.Hub) {
			t.Errorf("the token was sent: %t, with %+v", r.Authorized, r)
		}
	}
	if seen[hubtest.Hub] < 2 || seen[hubtest.CDN] < 3 {
		t.Errorf("the hosts were asked %v times", seen)
	}
}

func TestAHubIsNotLeftForAConnectionInTheClear(t *testing.T) {
	srv := serve(t, hubtest.Bytes([]byte("x")))
	secure := httptest.NewUnstartedServer(http.RedirectHandler(srv.URL+"/api/models/org/name", http.StatusFound))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	c := newClient(t, hub.Config{Endpoint: secure.URL, Token: secret})
	c.Trust(secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs)
	_, err := c.Repository(t.Context(), repo, "")
	wantError(t, err, rbee.CodeDownloadFailed, "a connection that is not encrypted")
	_, err = c.Source(repo, "main", hub.File{Path: path, SizeBytes: 1}).Open(t.Context(), 0, 1)
	wantError(t, err, rbee.CodeDownloadFailed, "a connection that is not encrypted")
	if n := srv.Counts().Requests; n != 0 {
		t.Errorf("%d requests went there", n)
	}
}

func TestWhatAnAnswerSaysOfTheFileIsCompared(t *testing.T) {
	for _, tt := range []struct {
		name     string
		fault    hubtest.Fault
		from     int64
		want     error
		listed   bool // the fault is there when the listing is made
		tempting bool // it is temporary instead
	}{
		{name: "another digest in the hub's header", fault: hubtest.Fault{Kind: hubtest.StaleDigest}, listed: true, want: download.ErrChanged},
		{name: "another length in the hub's header", fault: hubtest.Fault{Kind: hubtest.WrongLength, Bytes: 5}, listed: true, want: download.ErrChanged},
		{name: "another length in the range", fault: hubtest.Fault{Kind: hubtest.WrongTotal, Bytes: 5}, want: download.ErrChanged},
		{name: "other bytes than asked for", fault: hubtest.Fault{Kind: hubtest.WrongBegin, Bytes: 5}, tempting: true},
		{name: "no ranges, later in the file", fault: hubtest.Fault{Kind: hubtest.NoRanges}, from: 10, want: download.ErrNoRanges},
		{name: "no ranges, from the beginning", fault: hubtest.Fault{Kind: hubtest.NoRanges}},
		{name: "a range behind the end", fault: hubtest.Fault{Kind: hubtest.Status, Status: 416}, want: download.ErrChanged},
		{name: "a changed file", fault: hubtest.Fault{Kind: hubtest.Changed, Skip: 1, Times: 1}, want: download.ErrChanged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, hubtest.Random(1, 1000))
			c := newClient(t, hub.Config{Endpoint: srv.URL})
			if tt.listed {
				srv.Fault(repo, path, tt.fault)
			}
			s, f := source(t, srv, c)
			if !tt.listed {
				srv.Fault(repo, path, tt.fault)
			}
			if tt.fault.Skip > 0 {
				if _, err := fetch(t, s, 0, 10); err != nil {
					t.Fatal(err)
				}
			}
			got, err := fetch(t, s, tt.from, 1000)
			switch {
			case tt.tempting:
				if err == nil || rbee.CodeOf(err) != "" || !strings.Contains(err.Error(), "other bytes") {
					t.Errorf("got %v", err)
				}
			case !errors.Is(err, tt.want) || rbee.CodeOf(err) != "":
				t.Errorf("got %v, want %v", err, tt.want)
			case tt.want == nil && int64(len(got)) != min(f.SizeBytes, 1000):
				t.Errorf("got %d bytes", len(got))
			}
		})
	}
}

func TestABodyEndsWithWhatHappened(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault hubtest.Fault
		bytes int
		says  string // "" is a good end
	}{
		{"cut", hubtest.Fault{Kind: hubtest.Cut, After: 300}, 300, "was cut"},
		{"shorter", hubtest.Fault{Kind: hubtest.Short, After: 300}, 300, ""},
		{"longer", hubtest.Fault{Kind: hubtest.Longer, Bytes: 300}, 500, ""},
		{"throttled", hubtest.Fault{Kind: hubtest.Throttle, Bytes: 10_000}, 500, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content, all := plain(1000)
			srv := serve(t, content)
			s, _ := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL}))
			srv.Fault(repo, path, tt.fault)
			got, err := fetch(t, s, 100, 600)
			if !bytes.Equal(got, all[100:100+tt.bytes]) {
				t.Errorf("got %d bytes", len(got))
			}
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || rbee.CodeOf(err) != "") {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

func TestAStalledBodyEndsWhenItsContextDoes(t *testing.T) {
	srv := serve(t, hubtest.Random(1, 1000))
	s, _ := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL}))
	srv.Fault(repo, path, hubtest.Fault{Kind: hubtest.Stall, After: 300})
	ctx, cancel := context.WithCancelCause(t.Context())
	body, err := s.Open(ctx, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 300)); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("stalled for too long")
	cancel(cause)
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestRefusalsOfAFileAreNamedOrTemporary(t *testing.T) {
	status := func(at hubtest.Host, status int, code, after string) hubtest.Fault {
		return hubtest.Fault{Kind: hubtest.Status, At: at, Status: status, Code: code, RetryAfter: after}
	}
	for _, tt := range []struct {
		name  string
		fault hubtest.Fault
		code  rbee.Code // "" is temporary
		pause time.Duration
		says  string
	}{
		{"hub: gated", status(hubtest.Hub, 403, "GatedRepo", ""), rbee.CodeDownloadFailed, 0, "org/name is gated: its terms must be accepted"},
		{"hub: no such file", status(hubtest.Hub, 404, "EntryNotFound", ""), rbee.CodeModelNotFound, 0, "has no such file"},
		{"hub: no such revision", status(hubtest.Hub, 404, "RevisionNotFound", ""), rbee.CodeModelNotFound, 0, "has no revision"},
		{"hub: no such repository", status(hubtest.Hub, 404, "RepoNotFound", ""), rbee.CodeModelNotFound, 0, "org/name is not there"},
		{"hub: 401", status(hubtest.Hub, 401, "", ""), rbee.CodeDownloadFailed, 0, "does not know the token"},
		{"hub: 403", status(hubtest.Hub, 403, "", ""), rbee.CodeDownloadFailed, 0, "forbids it to the account"},
		{"hub: 404", status(hubtest.Hub, 404, "", ""), rbee.CodeModelNotFound, 0, "is not there"},
		{"hub: circle", hubtest.Fault{Kind: hubtest.Redirect}, rbee.CodeDownloadFailed, 0, "redirects more than 10 times"},
		{"hub: 416", status(hubtest.Hub, 416, "", ""), "", 0, "has changed"},
		{"hub: 429", status(hubtest.Hub, 429, "", "9"), "", 9 * time.Second, "wants fewer requests"},
		{"hub: 502", status(hubtest.Hub, 502, "", "9"), "", 0, "answered 502"},
		{"store: 401", status(hubtest.CDN, 401, "", ""), "", 0, "answered 401"},
		{"store: 403", status(hubtest.CDN, 403, "", ""), "", 0, "answered 403"},
		{"store: 404", status(hubtest.CDN, 404, "", ""), "", 0, "answered 404"},
		{"store: 429", status(hubtest.CDN, 429, "", "9"), "", 9 * time.Second, "wants fewer requests"},
		{"store: 429 for a day", status(hubtest.CDN, 429, "", "86400"), "", 5 * time.Minute, "wants fewer requests"},
		{"store: 500", status(hubtest.CDN, 500, "", ""), "", 0, "answered 500"},
		{"store: 503", status(hubtest.CDN, 503, "", ""), "", 0, "answered 503"},
		{"store: 503 with Retry-After", status(hubtest.CDN, 503, "", "9"), "", 9 * time.Second, "answered 503"},
		{"store: no answer", hubtest.Fault{Kind: hubtest.Status, Status: 204}, "", 0, "answered 204"},
	} {
		for _, known := range []bool{false, true} {
			if known && tt.fault.At == hubtest.Hub || known && tt.fault.Kind == hubtest.Redirect {
				continue // the hub is not asked again
			}
			name := tt.name
			if known {
				name += ", at a known address"
			}
			t.Run(name, func(t *testing.T) {
				srv := serve(t, hubtest.Random(1, 1000))
				s, _ := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL, Token: secret}))
				if known {
					if _, err := fetch(t, s, 0, 10); err != nil {
						t.Fatal(err)
					}
				}
				srv.Fault(repo, path, tt.fault)
				_, err := fetch(t, s, 0, 1000)
				if tt.code != "" {
					wantError(t, err, tt.code, tt.says, "cannot download "+path+" of org/name on 127.0.0.1:")
					return
				}
				if err == nil || rbee.CodeOf(err) != "" || !strings.Contains(err.Error(), tt.says) {
					t.Fatalf("got %v", err)
				}
				var pause time.Duration
				if p, ok := errors.AsType[download.Pause](err); ok {
					pause = p.RetryAfter()
				}
				if pause != tt.pause {
					t.Errorf("the pause is %v, want %v", pause, tt.pause)
				}
			})
		}
	}
}

func TestAnExpiredAddressIsAskedForAgain(t *testing.T) {
	content, all := plain(1000)
	srv := serve(t, content)
	s, _ := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL}))
	srv.Fault(repo, path, hubtest.Fault{Kind: hubtest.Expired, Skip: 1, Times: 1})
	for from := range int64(3) {
		if got, err := fetch(t, s, from*100, 1000); err != nil || !bytes.Equal(got, all[from*100:]) {
			t.Fatalf("range %d: got %d bytes, %v", from, len(got), err)
		}
	}
	hubs := 0
	for _, r := range srv.Requests() {
		if r.Host == hubtest.Hub {
			hubs++
		}
	}
	if hubs != 2 {
		t.Errorf("the hub was asked %d times, want 2", hubs)
	}
	// An address that never holds is no reason to go on asking within one attempt.
	srv.Reset()
	srv.Fault(repo, path, hubtest.Fault{Kind: hubtest.Expired})
	if _, err := fetch(t, s, 0, 1000); err == nil || rbee.CodeOf(err) != "" {
		t.Errorf("got %v", err)
	}
	if n := srv.Counts().Requests; n != 3 {
		t.Errorf("one attempt made %d requests, want 3", n)
	}
}

func TestAnAddressMayBeForOneRangeOnly(t *testing.T) {
	content, all := plain(1000)
	srv := serve(t, content)
	s, _ := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL}))
	srv.Fault(repo, path, hubtest.Fault{Kind: hubtest.Bound})
	for from := range int64(3) {
		if got, err := fetch(t, s, from*100, 1000); err != nil || !bytes.Equal(got, all[from*100:]) {
			t.Errorf("range %d: got %d bytes, %v", from, len(got), err)
		}
	}
}

func TestSourcesMayBeReadByMany(t *testing.T) {
	content, all := plain(100_000)
	srv := serve(t, content)
	s, _ := source(t, srv, newClient(t, hub.Config{Endpoint: srv.URL}))
	srv.Fault(repo, path, hubtest.Fault{Kind: hubtest.Expired, Skip: 3, Times: 2})
	var readers sync.WaitGroup
	for i := range int64(8) {
		readers.Go(func() {
			from, to := i*10_000, (i+1)*10_000
			got, err := fetch(t, s, from, to)
			for tries := 1; tries < 6 && err != nil && rbee.CodeOf(err) == ""; tries++ { // an address can expire under several at once
				got, err = fetch(t, s, from, to)
			}
			if err != nil || !bytes.Equal(got, all[from:to]) {
				t.Errorf("range %d: got %d bytes, %v", i, len(got), err)
			}
		})
	}
	readers.Wait()
}

const proxiedEndpoint = "RBEE_TEST_ENDPOINT"

// The settings of a proxy are read once in a process, so this is one of its own.
func TestRequestsGoThroughTheProxyOfTheEnvironment(t *testing.T) {
	if endpoint := os.Getenv(proxiedEndpoint); endpoint != "" {
		c := newClient(t, hub.Config{Endpoint: endpoint})
		if _, err := c.Repository(t.Context(), repo, ""); err != nil {
			t.Fatal(err)
		}
		return
	}
	srv := serve(t, hubtest.Bytes([]byte("x")))
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Host+r.Host)
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		http.Redirect(w, r, srv.URL+r.URL.RequestURI(), http.StatusFound) // 127.0.0.1 needs no proxy
	}))
	defer proxy.Close()
	for endpoint, want := range map[string]string{
		"http://hub.invalid":  "",
		"https://hub.invalid": "the proxy answered 407",
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), proxiedEndpoint+"="+endpoint, "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
		out, err := cmd.CombinedOutput()
		if (err == nil) != (want == "") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", endpoint, err, out)
		}
	}
	if len(asked) < 2 {
		t.Errorf("the proxy was asked %q", asked)
	}
}
