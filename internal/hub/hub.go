// Package hub speaks the protocol of the Hugging Face hub with any endpoint: it
// lists the files of a repository, searches, sends ranges of a file, and finds
// files in the cache that the hub's Python programs keep.
//
// What a hub says is not trusted: listings are bounded and checked, names that
// could leave a directory are dropped, and the token goes to the endpoint alone.
// The package writes no file and compares no digest; who downloads does.
//
// Protocol: https://huggingface.co/docs/hub/api and, for the cache,
// https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
package hub

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"rbee"
	"rbee/internal/download"
)

const (
	attempts     = 6
	firstPause   = 100 * time.Millisecond
	lastPause    = 5 * time.Second
	longestPause = 60 * time.Second // that a hub may ask for between two attempts
	attemptTime  = 30 * time.Second // of one attempt
)

// Config makes a Client. FromEnviron fills it.
type Config struct {
	Endpoint string // such as DefaultEndpoint
	Token    string // goes to the endpoint alone; may be empty
	CacheDir string // the cache of the hub's own programs, …/hub; may be empty
	Offline  bool   // each request fails at once
}

// Client asks one hub. It is safe for concurrent use.
type Client struct {
	cfg         Config
	endpoint    *url.URL // without a slash at its end
	unusable    error    // why the endpoint cannot be asked
	transport   *http.Transport
	attemptTime time.Duration
	pauseBefore func(attempt int, failure error) time.Duration
}

// New makes a client; it connects when it is asked for something. With an
// endpoint that FromEnviron would refuse, each request fails so.
func New(cfg Config) *Client {
	endpoint, err := parseEndpoint(cfg.Endpoint)
	return &Client{cfg: cfg, endpoint: endpoint, unusable: err, transport: newTransport(), attemptTime: attemptTime, pauseBefore: pauseBefore}
}

// Close closes the connections that no request uses.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Repository is a state of a model repository.
type Repository struct {
	ID       string // ORG/NAME, as the hub spells it
	Revision string // commit, 40 hex digits; what was asked for if the hub does not say
	Files    []File // those with a name that can be used
}

// File is a file of a repository.
type File struct {
	Path      string // in the repository, with slashes; local on each operating system
	SizeBytes int64
	SHA256    string // 64 hex digits of the content, "" if the hub does not know
	BlobID    string // 40 hex digits: git's id of the file, or of what stands for it; may be ""
}

// Repository lists the files of a repository. An empty revision is main. It
// blocks for up to 6 attempts of 30 s and the pauses that the hub asks for, at
// most 60 s each. Errors are final: MODEL_NOT_FOUND or DOWNLOAD_FAILED.
func (c *Client) Repository(ctx context.Context, repo, revision string) (Repository, error) {
	if !plainRepo(repo) {
		return Repository{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot ask the hub for %q: it is not the name of a repository", repo).
			Suggest("name it as ORG/REPO")
	}
	if revision == "" {
		revision = "main"
	}
	path := "/api/models/" + repo + "/revision/" + url.PathEscape(revision) + "?blobs=true"
	return ask(ctx, c, want{repo: repo, revision: revision}, path, func(body []byte) (Repository, error) { return decodeRepository(body, repo, revision) })
}

// Search finds repositories with GGUF files, the most downloaded first. It
// blocks and fails as Repository does.
func (c *Client) Search(ctx context.Context, words string, limit int) ([]rbee.HubModel, error) {
	query := url.Values{
		"search": {words}, "filter": {"gguf"}, "sort": {"downloads"}, "direction": {"-1"}, "limit": {strconv.Itoa(limit)},
		"expand": {"downloads", "likes", "gated", "lastModified"},
	}
	return ask(ctx, c, want{}, "/api/models?"+query.Encode(), func(body []byte) ([]rbee.HubModel, error) {
		return decodeSearch(body, limit)
	})
}

// Source is a file of a repository as package download wants it. Revision is
// best the commit of the listing that the file is from.
func (c *Client) Source(repo, revision string, f File) *Source {
	return &Source{client: c, want: want{repo: repo, revision: revision, file: f.Path}, file: f}
}

// ask gets a small document and decodes it, again when what went wrong may be
// over at the next attempt.
func ask[T any](ctx context.Context, c *Client, w want, path string, decode func([]byte) (T, error)) (T, error) {
	if err := c.ready(w); err != nil {
		var none T
		return none, err
	}
	policy := retrypolicy.NewBuilder[T]().
		HandleIf(func(_ T, err error) bool { return isTemporary(err) && ctx.Err() == nil }).
		WithMaxAttempts(attempts).
		WithDelayFunc(func(e failsafe.ExecutionAttempt[T]) time.Duration {
			return c.pauseBefore(e.Attempts()+1, e.LastError())
		}).
		ReturnLastFailure().
		Build()
	doc, err := failsafe.With(policy).WithContext(ctx).Get(func() (T, error) {
		attempt, cancel := context.WithTimeout(ctx, c.attemptTime)
		defer cancel()
		body, err := c.document(attempt, w, path)
		if err != nil {
			var none T
			return none, err
		}
		return decode(body)
	})
	switch {
	case err == nil:
		return doc, nil
	case ctx.Err() != nil:
		return doc, context.Cause(ctx)
	case isTemporary(err):
		return doc, c.gaveUp(w, err)
	}
	return doc, c.named(w, err)
}

// pauseBefore is how long to wait before an attempt, of which 2 is the first
// that comes after a failure. What the hub asks for is never cut by the jitter.
func pauseBefore(attempt int, failure error) time.Duration {
	if p, ok := errors.AsType[download.Pause](failure); ok {
		return min(p.RetryAfter(), longestPause)
	}
	pause := min(firstPause<<(attempt-2), lastPause)
	return pause/2 + rand.N(pause) //nolint:gosec // jitter is no secret
}

// plainRepo accepts ORG/NAME as a model reference has it.
func plainRepo(repo string) bool {
	ref, err := rbee.ParseModelRef(string(rbee.ProviderHF) + ":" + repo)
	return err == nil && ref.Provider == rbee.ProviderHF && !strings.ContainsAny(repo, ":@")
}
