package hub_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/internal/hub"
	"rbee/internal/hub/hubtest"
)

const (
	repo   = "org/name"
	path   = "dir/model.Q4_K_M.gguf"
	secret = "hf_secretsecretsecret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a hub with one repository.
func serve(t *testing.T, content *hubtest.Content) *hubtest.Server {
	t.Helper()
	srv := hubtest.New()
	t.Cleanup(srv.Close)
	srv.Put(hubtest.Repo{Name: repo, Files: files(content), Downloads: 7, Likes: 3, Updated: time.Unix(1700000000, 0)})
	srv.Accept(secret)
	return srv
}

func files(content *hubtest.Content) []hubtest.File {
	return []hubtest.File{
		{Path: path, Content: content},
		{Path: "README.md", Content: hubtest.Bytes([]byte("hello")), Plain: true},
	}
}

func newClient(t *testing.T, cfg hub.Config) *hub.Client {
	t.Helper()
	c := hub.New(cfg)
	c.Hurry(10 * time.Second)
	t.Cleanup(c.Close)
	return c
}

// wantError compares an error with a code and parts of what a user sees.
func wantError(t *testing.T, err error, code rbee.Code, parts ...string) {
	t.Helper()
	if got := rbee.CodeOf(err); got != code {
		t.Fatalf("got %q (%v), want %s", got, err, code)
	}
	e := rbee.AsError(err)
	said := e.Message + " | " + e.Suggestion()
	if e.Suggestion() == "" {
		t.Errorf("%q has no suggestion", e.Message)
	}
	for _, part := range parts {
		if !strings.Contains(said, part) {
			t.Errorf("the error says %q, not %q", said, part)
		}
	}
	if strings.Contains(said, secret) {
		t.Errorf("the error has the token: %s", said)
	}
}

func TestARepositoryIsListedWithSizesAndDigests(t *testing.T) {
	content := hubtest.Random(1, 5000)
	srv := serve(t, content)
	c := newClient(t, hub.Config{Endpoint: srv.URL + "/", Token: secret})
	for _, revision := range []string{"", "main"} {
		r, err := c.Repository(t.Context(), repo, revision)
		if err != nil {
			t.Fatal(err)
		}
		if r.ID != repo || len(r.Revision) != 40 || len(r.Files) != 2 {
			t.Fatalf("got %+v", r)
		}
		if f := r.Files[0]; f.Path != path || f.SizeBytes != 5000 || f.SHA256 != content.SHA256() || len(f.BlobID) != 40 {
			t.Errorf("the large file is %+v", f)
		}
		if f := r.Files[1]; f.Path != "README.md" || f.SizeBytes != 5 || f.SHA256 != "" || len(f.BlobID) != 40 {
			t.Errorf("the small file is %+v", f)
		}
		again, err := c.Repository(t.Context(), repo, r.Revision)
		if err != nil || again.Revision != r.Revision {
			t.Errorf("the commit is listed as %+v, %v", again, err)
		}
	}
	if log := srv.Requests(); !log[0].Authorized || log[0].UserAgent != "rbee/"+rbee.Version {
		t.Errorf("the hub was asked so: %+v", log[0])
	}
}

func TestTheListingIsAskedForAgainWhenThatMayHelp(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault hubtest.Fault
	}{
		{"500", hubtest.Fault{Kind: hubtest.Status, Status: 500, Times: 2}},
		{"502", hubtest.Fault{Kind: hubtest.Status, Status: 502, Times: 2}},
		{"503 with Retry-After", hubtest.Fault{Kind: hubtest.Status, Status: 503, RetryAfter: "0", Times: 2}},
		{"429", hubtest.Fault{Kind: hubtest.Status, Status: 429, Times: 2}},
		{"a cut connection", hubtest.Fault{Kind: hubtest.Cut, After: 20, Times: 2}},
		{"no answer", hubtest.Fault{Kind: hubtest.Cut, Times: 2}},
		{"a stalled connection", hubtest.Fault{Kind: hubtest.Stall, After: 20, Times: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, hubtest.Bytes([]byte("x")))
			c := newClient(t, hub.Config{Endpoint: srv.URL})
			c.Hurry(time.Second)
			srv.Fault(repo, "", tt.fault)
			if _, err := c.Repository(t.Context(), repo, ""); err != nil {
				t.Fatal(err)
			}
			if got, want := len(srv.Requests()), tt.fault.Times+1; got != want {
				t.Errorf("the hub was asked %d times, want %d", got, want)
			}
		})
	}
}

func TestAListingThatCannotBeHadIsANamedError(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault hubtest.Fault
		token string
		asked int
		code  rbee.Code
		says  string
	}{
		{"500", hubtest.Fault{Kind: hubtest.Status, Status: 500}, "", 6, rbee.CodeDownloadFailed, "answered 500, in 6 attempts"},
		{"429", hubtest.Fault{Kind: hubtest.Status, Status: 429}, "", 6, rbee.CodeDownloadFailed, "wants fewer requests"},
		{"cut", hubtest.Fault{Kind: hubtest.Cut, After: 9}, "", 6, rbee.CodeDownloadFailed, "was cut"},
		{"stalled", hubtest.Fault{Kind: hubtest.Stall}, "", 6, rbee.CodeDownloadFailed, "did not answer in time"},
		{"400", hubtest.Fault{Kind: hubtest.Status, Status: 400}, "", 1, rbee.CodeDownloadFailed, "answered 400"},
		{"401 without a token", hubtest.Fault{Kind: hubtest.Status, Status: 401}, "", 1, rbee.CodeModelNotFound, "is not there, or needs a token"},
		{"401 with a token", hubtest.Fault{Kind: hubtest.Status, Status: 401}, secret, 1, rbee.CodeDownloadFailed, "does not know the token"},
		{"403 without a token", hubtest.Fault{Kind: hubtest.Status, Status: 403}, "", 1, rbee.CodeDownloadFailed, "set HF_TOKEN"},
		{"403 with a token", hubtest.Fault{Kind: hubtest.Status, Status: 403}, secret, 1, rbee.CodeDownloadFailed, "account of the token"},
		{"gated", hubtest.Fault{Kind: hubtest.Status, Status: 403, Code: "GatedRepo"}, secret, 1, rbee.CodeDownloadFailed, "org/name is gated: its terms must be accepted"},
		{"404 without a token", hubtest.Fault{Kind: hubtest.Status, Status: 404}, "", 1, rbee.CodeModelNotFound, "HF_TOKEN"},
		{"404 with a token", hubtest.Fault{Kind: hubtest.Status, Status: 404}, secret, 1, rbee.CodeModelNotFound, "may not see it"},
		{"redirects in a circle", hubtest.Fault{Kind: hubtest.Redirect}, secret, 11, rbee.CodeDownloadFailed, "redirects more than 10 times"},
		{"redirect to nowhere", hubtest.Fault{Kind: hubtest.Redirect, To: "ftp://other/"}, secret, 1, rbee.CodeDownloadFailed, "redirects to something that is no address"},
		{"no JSON", hubtest.Fault{Kind: hubtest.NotJSON}, "", 1, rbee.CodeDownloadFailed, "it is no JSON"},
		{"half of it", hubtest.Fault{Kind: hubtest.Truncated}, "", 1, rbee.CodeDownloadFailed, "it is no JSON"},
		{"huge", hubtest.Fault{Kind: hubtest.Huge, Bytes: 1 << 40}, "", 1, rbee.CodeDownloadFailed, "more than 32 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, hubtest.Bytes([]byte("x")))
			c := newClient(t, hub.Config{Endpoint: srv.URL, Token: tt.token})
			if tt.fault.Kind == hubtest.Stall {
				c.Hurry(10 * time.Millisecond)
			}
			srv.Fault(repo, "", tt.fault)
			_, err := c.Repository(t.Context(), repo, "")
			wantError(t, err, tt.code, tt.says, "cannot list org/name on 127.0.0.1:")
			if got := len(srv.Requests()); got != tt.asked {
				t.Errorf("the hub was asked %d times, want %d", got, tt.asked)
			}
		})
	}
}

func TestMissingRepositoriesAndRevisionsAreToldApart(t *testing.T) {
	srv := serve(t, hubtest.Bytes([]byte("x")))
	srv.Put(hubtest.Repo{Name: "org/private", Access: hubtest.Private, Files: files(hubtest.Bytes([]byte("x")))})
	for _, tt := range []struct {
		name, token, repo, revision string
		code                        rbee.Code
		says                        string
	}{
		{"no repository", secret, "org/none", "", rbee.CodeModelNotFound, "org/none is not there, or the account of the token"},
		{"no repository and no token", "", "org/none", "", rbee.CodeModelNotFound, "org/none is not there, or needs a token"},
		{"private and no token", "", "org/private", "", rbee.CodeModelNotFound, "set HF_TOKEN"},
		{"private and another's token", secret, "org/private", "", rbee.CodeModelNotFound, "whose token HF_TOKEN is"},
		{"a token that is not known", "hf_other", repo, "", rbee.CodeDownloadFailed, "does not know the token"},
		{"no revision", secret, repo, "refs/pr/9", rbee.CodeModelNotFound, "org/name has no revision refs/pr/9"},
		{"no name", secret, "../name", "", rbee.CodeInvalidRequest, "ORG/REPO"},
		{"more than a name", secret, "org/name:Q4", "", rbee.CodeInvalidRequest, "ORG/REPO"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newClient(t, hub.Config{Endpoint: srv.URL, Token: tt.token}).Repository(t.Context(), tt.repo, tt.revision)
			wantError(t, err, tt.code, tt.says)
		})
	}
}

func TestAHubThatCannotBeReachedIsNamedInWords(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for _, tt := range []struct {
		name string
		cfg  hub.Config
		code rbee.Code
		says string
	}{
		{"nothing listens", hub.Config{Endpoint: closed}, rbee.CodeDownloadFailed, "nothing listens at 127.0.0.1:"},
		{"no such name", hub.Config{Endpoint: "http://hub.invalid"}, rbee.CodeDownloadFailed, "the name hub.invalid"},
		{"no TLS", hub.Config{Endpoint: strings.Replace(plain.URL, "http:", "https:", 1)}, rbee.CodeDownloadFailed, "does not speak TLS"},
		{"a certificate of nobody", hub.Config{Endpoint: secure.URL}, rbee.CodeDownloadFailed, "the certificate of 127.0.0.1:"},
		{"offline", hub.Config{Endpoint: closed, Offline: true}, rbee.CodeDownloadFailed, "HF_HUB_OFFLINE is set"},
		{"an endpoint that is none", hub.Config{Endpoint: "ftp://x"}, rbee.CodeInvalidRequest, "HF_ENDPOINT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, tt.cfg)
			_, err := c.Repository(t.Context(), repo, "")
			wantError(t, err, tt.code, tt.says)
			if tt.cfg.Offline || tt.code == rbee.CodeInvalidRequest {
				_, err = c.Search(t.Context(), "x", 1)
				wantError(t, err, tt.code, tt.says)
				_, err = c.Source(repo, "main", hub.File{Path: path, SizeBytes: 9}).Open(t.Context(), 0, 9)
				wantError(t, err, tt.code, tt.says)
			}
		})
	}
}

func TestWhoeverCancelsGetsTheCause(t *testing.T) {
	srv := serve(t, hubtest.Bytes([]byte("x")))
	c := newClient(t, hub.Config{Endpoint: srv.URL})
	cause := errors.New("enough")
	for name, fault := range map[string]hubtest.Fault{
		"in a request": {Kind: hubtest.Stall},
		"in a pause":   {Kind: hubtest.Status, Status: 503, RetryAfter: "3600"},
	} {
		t.Run(name, func(t *testing.T) {
			srv.Heal()
			srv.Reset()
			srv.Fault(repo, "", fault)
			ctx, cancel := context.WithCancelCause(t.Context())
			ticker := time.NewTicker(time.Millisecond)
			defer ticker.Stop()
			done := make(chan error, 1)
			var asking sync.WaitGroup
			defer asking.Wait()
			asking.Go(func() {
				_, err := c.Repository(ctx, repo, "")
				done <- err
			})
			for len(srv.Requests()) == 0 {
				<-ticker.C
			}
			cancel(cause)
			if err := <-done; !errors.Is(err, cause) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestARenamedRepositoryIsListedUnderItsNewName(t *testing.T) {
	srv := serve(t, hubtest.Bytes([]byte("x")))
	srv.Fault("org/old", "", hubtest.Fault{Kind: hubtest.Redirect, To: "/api/models/org/name/revision/main?blobs=true"})
	r, err := newClient(t, hub.Config{Endpoint: srv.URL, Token: secret}).Repository(t.Context(), "org/old", "")
	if err != nil || r.ID != repo {
		t.Fatalf("got %+v, %v", r, err)
	}
	for _, line := range srv.Requests() {
		if !line.Authorized {
			t.Errorf("the hub itself was asked without the token: %+v", line)
		}
	}
}

func TestTheSearchFindsRepositories(t *testing.T) {
	srv := serve(t, hubtest.Bytes([]byte("x")))
	srv.Put(hubtest.Repo{Name: "org/name-gated", Access: hubtest.Gated, Downloads: 9, Files: files(hubtest.Bytes([]byte("x")))})
	srv.Put(hubtest.Repo{Name: "without-an-organisation-name", Files: files(hubtest.Bytes([]byte("x")))})
	c := newClient(t, hub.Config{Endpoint: srv.URL})
	srv.Fault("", "", hubtest.Fault{Kind: hubtest.Status, Status: 502, Times: 1})
	got, err := c.Search(t.Context(), "name", 10)
	if err != nil {
		t.Fatal(err)
	}
	ref := func(name string) rbee.ModelRef { return rbee.ModelRef{Provider: rbee.ProviderHF, Reference: name} }
	if len(got) != 2 || got[0].ModelRef != ref("org/name-gated") || !got[0].Gated || got[1].Gated ||
		got[1].ModelRef != ref(repo) || got[1].Downloads != 7 || got[1].Likes != 3 || !got[1].UpdatedAt.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("found %+v", got)
	}
	if got, err := c.Search(t.Context(), "nothing of the kind", 10); err != nil || got == nil || len(got) != 0 {
		t.Errorf("found %+v, %v", got, err)
	}
	srv.Fault("", "", hubtest.Fault{Kind: hubtest.NotJSON})
	_, err = c.Search(t.Context(), "name", 10)
	wantError(t, err, rbee.CodeDownloadFailed, "cannot search for models on 127.0.0.1:", "it is no JSON")
}

func TestPausesGrowAndAreWhatTheHubAsksFor(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name, retryAfter, rateLimit string
		want                        time.Duration
	}{
		{"nothing", "", "", 0},
		{"seconds", "17", "", 17 * time.Second},
		{"a date", now.Add(time.Minute).Format(http.TimeFormat), "", time.Minute},
		{"the hub's own header", "", `"api";r=0;t=55`, 55 * time.Second},
		{"both", "17", `"api";r=0;t=55`, 17 * time.Second},
		{"nonsense", "soon", "", 0},
		{"less than nothing", "-5", "", 0},
		{"for ever", "99999999999999999999", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			h.Set("Retry-After", tt.retryAfter)
			h.Set("RateLimit", tt.rateLimit)
			if got := hub.AskedPause(h, now); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	for attempt, base := range map[int]time.Duration{2: 100 * time.Millisecond, 3: 200 * time.Millisecond, 6: 1600 * time.Millisecond, 20: 5 * time.Second} {
		var seen []time.Duration
		for range 20 {
			p := hub.PauseBefore(attempt, io.EOF)
			if p < base/2 || p > base*3/2 {
				t.Errorf("before attempt %d the pause is %v", attempt, p)
			}
			seen = append(seen, p)
		}
		if slices.Max(seen) == slices.Min(seen) {
			t.Errorf("all pauses before attempt %d are %v", attempt, seen[0])
		}
	}
	for asked, want := range map[asksFor]time.Duration{asksFor(7 * time.Second): 7 * time.Second, asksFor(time.Hour): time.Minute} {
		if got := hub.PauseBefore(2, asked); got != want {
			t.Errorf("the hub asks for %v and gets %v", time.Duration(asked), got)
		}
	}
}

// asksFor is the error of a hub that wants a pause.
type asksFor time.Duration

func (asksFor) Error() string               { return "later" }
func (a asksFor) RetryAfter() time.Duration { return time.Duration(a) }
