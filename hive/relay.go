package hive

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	gopath "path"
	"strings"
	"sync"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/conf"
	"rbee/internal/forward"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
)

// relay passes requests on to workers. It copies and flushes what they say as
// it comes; it counts whole events, and closes the stream of a worker that dies
// with an event that says how.
type relay struct {
	hive      *Hive
	proxy     *httputil.ReverseProxy
	transport *http.Transport
}

// relayed is one request on its way through the relay.
type relayed struct {
	target pool.Target
	url    *url.URL
	path   string // of the worker's API
	err    error  // why the worker could not be reached

	ctx     context.Context
	metrics *metrics
}

// Passed counts what a stream of events hands on.
func (r *relayed) Passed(events, bytes int) {
	r.metrics.relayEvents.Add(float64(events))
	r.metrics.relayBytes.Add(float64(bytes))
}

// Obituary is the end of a stream whose worker is gone.
func (r *relayed) Obituary(cause error) []byte {
	failure := *rbee.AsError(r.target.Broke(r.ctx, cause))
	failure.RequestID = httpapi.RequestID(r.ctx)
	if r.path == "/v1/loading/progress" {
		return forward.LastEvents(rbee.LoadProgress{Stage: rbee.LoadError, Error: &failure})
	}
	return forward.LastEvents(rbee.ErrorBody{Error: &failure})
}

type relayedKey struct{}

func relayedOf(ctx context.Context) *relayed {
	r, _ := ctx.Value(relayedKey{}).(*relayed)
	return r
}

func newRelay(h *Hive) *relay {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil // workers are never behind the proxy of the web
	t.DisableCompression = true
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 256                                   // of a worker; 0 is no bound for all of them together
	t.ReadBufferSize, t.WriteBufferSize = forward.BufferBytes/2, forward.BufferBytes // a usual prompt goes out in one piece
	r := &relay{hive: h, transport: t}
	r.proxy = &httputil.ReverseProxy{
		Transport:      t,
		FlushInterval:  -1,
		BufferPool:     &buffers{},
		ErrorLog:       slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
		Rewrite:        rewrite,
		ModifyResponse: r.modify,
		ErrorHandler: func(_ http.ResponseWriter, req *http.Request, err error) {
			relayedOf(req.Context()).err = err
		},
	}
	return r
}

func (r *relay) close() { r.transport.CloseIdleConnections() }

// buffers lends the proxy what it copies with.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, forward.BufferBytes)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// rewrite aims a request at its worker and swaps the hive's key for the worker's.
func rewrite(p *httputil.ProxyRequest) {
	to := relayedOf(p.In.Context())
	p.Out.URL.Scheme, p.Out.URL.Host = to.url.Scheme, to.url.Host
	p.Out.URL.Path, p.Out.URL.RawPath = to.url.Path+to.path, ""
	p.Out.Host = to.url.Host
	p.Out.Header.Del("Origin") // checked at our door
	p.Out.Header.Del("Cookie")
	p.Out.Header.Del("Authorization")
	if to.target.Key != "" {
		p.Out.Header.Set("Authorization", "Bearer "+to.target.Key)
	}
	if to.target.Foreign != "" {
		p.Out.Header.Set("Accept-Encoding", "identity") // events are to be seen
	}
	p.Out.Header.Set(rbee.RequestIDHeader, httpapi.RequestID(p.In.Context()))
	if p.In.GetBody != nil { // The transport sends what it knows to be in memory in one piece with the headers.
		p.Out.Body, _ = p.In.GetBody() // which cannot fail
	}
}

// serve answers one request of /v1/workers/{id}/v1/...
func (r *relay) serve(w http.ResponseWriter, req *http.Request) error {
	id, path := rbee.WorkerID(req.PathValue("id")), "/v1/"+req.PathValue("path")
	if clean := gopath.Clean(path); clean != path && clean+"/" != path {
		// Escaped slashes and dots reach us; the worker would read another path than we checked.
		return rbee.Errorf(rbee.CodeInvalidRequest, "the path climbs").Suggest("write it without '..' and '//'")
	}
	if req.Method == http.MethodPost && (path == "/v1/admin/shutdown" || path == "/v1/shutdown") {
		return r.end(w, id, path == "/v1/admin/shutdown")
	}
	// Only what makes a worker compute keeps it busy; questions and cancels do not.
	if req.Method != http.MethodPost {
		target, err := r.hive.pool.Reach(req.Context(), id)
		if err != nil {
			return err
		}
		if target.Foreign != "" {
			return r.foreign(w, req, id, target, path)
		}
		return r.pass(w, req, target, path)
	}
	if err := r.hive.standing.enter(); err != nil {
		return err
	}
	defer r.hive.standing.leave()
	lease, err := r.hive.pool.Acquire(req.Context(), id)
	if err != nil {
		if e := rbee.AsError(err); e.Code == rbee.CodeWorkerNotReady {
			return httpapi.RetryAfter(e, 1)
		}
		return err
	}
	defer lease.Release()
	chain, err := r.hive.beginning(req, path)
	if err != nil {
		return err
	}
	defer r.hive.takes(w, lease.Target, chain)()
	r.hive.metrics.inFlight.Inc()
	defer r.hive.metrics.inFlight.Dec()
	if lease.Foreign != "" {
		return r.foreign(w, req, id, lease.Target, path)
	}
	return r.pass(w, req, lease.Target, path)
}

// end takes an order to a worker to exit: its owner carries it out, so that the
// exit is no crash.
func (r *relay) end(w http.ResponseWriter, id rbee.WorkerID, finish bool) error {
	if _, err := r.hive.pool.Worker(id); err != nil {
		return err
	}
	r.hive.pool.Order(id, finish)
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(rbee.Message{Message: "worker " + string(id) + " shuts down"})
}

// pass sends a request to a worker and its reply to the caller.
func (r *relay) pass(w http.ResponseWriter, req *http.Request, target pool.Target, path string) error {
	u, err := url.Parse(target.URL)
	if err != nil {
		return err
	}
	id := w.Header().Get(rbee.RequestIDHeader)
	w.Header().Del(rbee.RequestIDHeader) // the worker names the request
	ctx, release := forward.Lasting(req.Context())
	defer release()
	state := &relayed{target: target, url: u, path: path, ctx: ctx, metrics: r.hive.metrics}
	r.proxy.ServeHTTP(w, req.WithContext(context.WithValue(ctx, relayedKey{}, state)))
	if state.err == nil {
		return nil
	}
	w.Header().Set(rbee.RequestIDHeader, id)
	if rbee.CodeOf(state.err) != "" {
		return state.err
	}
	return target.Broke(ctx, state.err)
}

// modify drops headers that are the front door's and wraps streams of events.
func (r *relay) modify(resp *http.Response) error {
	if to := relayedOf(resp.Request.Context()); to.target.Foreign != "" {
		if err := refusesUs(resp); err != nil {
			return err
		}
		if resp.Header.Get(rbee.RequestIDHeader) == "" { // which it need not know
			resp.Header.Set(rbee.RequestIDHeader, httpapi.RequestID(resp.Request.Context()))
		}
	}
	resp.Header.Del(rbee.VersionHeader)
	resp.Header.Del("X-Content-Type-Options")
	resp.Header.Del("Location") // it would lead the caller to a path of the hive
	r.keepAlive(resp)
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), sse.ContentType) {
		return nil
	}
	resp.Body = forward.NewEvents(resp.Request.Context(), resp.Body, relayedOf(resp.Request.Context()))
	return nil
}

// keepAliveHeader is what a worker says of how long its request wants it kept.
const keepAliveHeader = "X-Rbee-Keep-Alive"

// keepAlive carries out what a request wants, and keeps it between worker and hive.
func (r *relay) keepAlive(resp *http.Response) {
	text := resp.Header.Get(keepAliveHeader)
	resp.Header.Del(keepAliveHeader)
	if text == "" {
		return
	}
	k, err := conf.ParseKeepAlive(text)
	if err != nil {
		r.hive.log.Warn("a worker says in words that are not ours how long it is to be kept", "err", err)
		return
	}
	relayedOf(resp.Request.Context()).target.KeepAlive(keepAlive(k))
}
