package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"rbee"
)

// bodyStall bounds the silence between two pieces of a request's body.
const bodyStall = 30 * time.Second

type requestIDKey struct{}

// RequestID is the id of the request that ctx belongs to, "" outside one.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewRequestID makes an id for a request that came without one.
func NewRequestID() string { return "req-" + strings.ToLower(rand.Text()) }

// Handler is the API behind its checks: request id, host and origin, key,
// bounded body, and a panic that costs one request and not the daemon.
func (a *API) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(rbee.RequestIDHeader)
		if !rbee.ValidRequestID(id) {
			id = NewRequestID()
		}
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		w.Header().Set(rbee.RequestIDHeader, id)
		w.Header().Set(rbee.VersionHeader, rbee.Version)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		defer a.recover(w, r)
		a.takeBody(w, r)
		if err := a.admit(r); err != nil {
			a.writeError(w, r, err)
			return
		}
		handler, pattern := a.mux.Handler(r)
		if pattern == "" {
			a.refuseUnknown(w, r, handler)
			return
		}
		if err := readAway(r); err != nil {
			a.writeError(w, r, err)
			return
		}
		a.mux.ServeHTTP(w, r)
	})
}

// takeBody bounds the body of a request in size and time, whether or not
// anybody is going to read it: the server reads what a handler leaves.
func (a *API) takeBody(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	// All bodies are JSON, whatever curl -d calls them.
	r.Header.Set("Content-Type", "application/json")
	body := &patientBody{body: http.MaxBytesReader(w, r.Body, a.cfg.MaxBodyBytes), rc: http.NewResponseController(w)}
	body.wait()
	r.Body = body
}

// readAway reads the body of a request that needs none, so that its deadline
// does not end the reply.
func readAway(r *http.Request) error {
	if r.Body == nil || r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodDelete {
		return nil
	}
	_, err := Body(r)
	r.Body = http.NoBody
	return err
}

func (a *API) recover(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // the value itself, as net/http compares it
		panic(p)
	}
	a.cfg.Log.LogAttrs(r.Context(), slog.LevelError, "a handler panicked",
		slog.String("request_id", RequestID(r.Context())), slog.Any("err", p), slog.String("stack", string(debug.Stack())))
	a.writeError(w, r, fmt.Errorf("panic: %v", p))
}

// admit checks where a request comes from and what it knows.
func (a *API) admit(r *http.Request) error {
	if a.cfg.ColonyKey != nil {
		if key := a.cfg.ColonyKey(); key != "" && sameKey(key, r) {
			return checkOrigin(r)
		}
	}
	if local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr); local != nil && a.cfg.Key == "" && !loopbackHost(r.Host) {
		// Without a key only this machine may call; a name that is not this
		// machine's means that a web page rebound its own name to it.
		return rbee.Errorf(rbee.CodeForbiddenOrigin, "the request's host is not an address of this machine").
			Suggest("call 127.0.0.1 or localhost, or give the daemon a key")
	}
	if err := checkOrigin(r); err != nil || a.cfg.Key == "" {
		return err
	}
	if _, pattern := a.mux.Handler(r); a.open[pattern] {
		return nil
	}
	if !strings.HasPrefix(r.Header.Get("Authorization"), bearer) {
		return rbee.Errorf(rbee.CodeMissingAPIKey, "this %s wants a key", a.cfg.Role).
			Suggest("send the header 'Authorization: Bearer KEY'; the key is in the %s's config.yaml", a.cfg.Role)
	}
	if !sameKey(a.cfg.Key, r) {
		return rbee.Errorf(rbee.CodeInvalidAPIKey, "the key is not the key of this %s", a.cfg.Role).
			Suggest("check the key in the config.yaml of the caller and of the %s", a.cfg.Role)
	}
	return nil
}

const bearer = "Bearer "

// sameKey says whether a request brings a key, in a time that does not tell how
// much of it is right.
func sameKey(key string, r *http.Request) bool {
	given, found := strings.CutPrefix(r.Header.Get("Authorization"), bearer)
	want, got := sha256.Sum256([]byte(key)), sha256.Sum256([]byte(given))
	return found && subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// checkOrigin refuses requests that a page of another site makes in a browser.
func checkOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	crossSite := r.Header.Get("Sec-Fetch-Site") == "cross-site"
	if origin != "" {
		u, err := url.Parse(origin)
		crossSite = crossSite || err != nil || u.Host != r.Host
	}
	if crossSite {
		return rbee.Errorf(rbee.CodeForbiddenOrigin, "a web page of another site may not call this daemon")
	}
	return nil
}

func loopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// refuseUnknown answers a path or method that is not in the table. The mux
// knows which of the two it is, and the methods that would do.
func (a *API) refuseUnknown(w http.ResponseWriter, r *http.Request, mux http.Handler) {
	rec := &statusRecorder{header: http.Header{}}
	mux.ServeHTTP(rec, r)
	if rec.status < 400 { // a redirect to the clean path
		mux.ServeHTTP(w, r)
		return
	}
	err := rbee.Errorf(rbee.CodeInvalidRequest, "there is no such endpoint").
		Suggest("see /openapi.json for the endpoints of this %s", a.cfg.Role)
	if rec.status == http.StatusMethodNotAllowed {
		allow := rec.header.Get("Allow")
		w.Header().Set("Allow", allow)
		err = rbee.Errorf(rbee.CodeInvalidRequest, "this endpoint does not take the method").Suggest("use %s", allow)
	}
	we := a.wireError(r.Context(), err)
	we.status = rec.status
	a.writeStatus(w, r, we)
}

type statusRecorder struct {
	header http.Header
	status int
}

func (s *statusRecorder) Header() http.Header         { return s.header }
func (s *statusRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (s *statusRecorder) WriteHeader(status int)      { s.status = status }

// patientBody gives each piece of a body bodyStall to arrive, and takes the
// deadline off the connection at the end, so that it never ends the reply. The
// deadline stays on a body that was not read to its end: what is left of it
// must not hold the connection either.
type patientBody struct {
	body io.ReadCloser
	rc   *http.ResponseController
}

func (b *patientBody) wait() {
	_ = b.rc.SetReadDeadline(time.Now().Add(bodyStall)) // not every writer of a test has deadlines
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.wait()
	n, err := b.body.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (b *patientBody) Close() error { return b.body.Close() }

// Body reads the whole body of a request, for plain handlers. One that is too
// large is INVALID_REQUEST, one that does not arrive is REQUEST_TIMEOUT.
func Body(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	var timeout net.Error
	switch {
	case err == nil:
		return b, nil
	case errors.As(err, &large):
		return nil, tooLarge(large)
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, rbee.Errorf(rbee.CodeRequestTimeout, "the request's body did not arrive in time")
	}
	return nil, rbee.Errorf(rbee.CodeInvalidRequest, "the request is not valid: its body was cut").WithCause(err)
}

func tooLarge(e *http.MaxBytesError) *rbee.Error {
	return rbee.Errorf(rbee.CodeInvalidRequest, "the request is not valid: its body is larger than %d bytes", e.Limit)
}
