package hive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
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
	t.MaxIdleConnsPerHost = 64
	t.ReadBufferSize, t.WriteBufferSize = bufferBytes/2, bufferBytes/4
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

// bufferBytes is small: each stream holds two of them for as long as it lasts,
// and its events are smaller still.
const bufferBytes = 4 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferBytes)
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
	state := &relayed{target: target, url: u, path: path}
	id := w.Header().Get(rbee.RequestIDHeader)
	w.Header().Del(rbee.RequestIDHeader) // the worker names the request
	ctx, release := lasting(req.Context())
	defer release()
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
	resp.Body = &events{body: resp.Body, ctx: resp.Request.Context(), to: relayedOf(resp.Request.Context()), metrics: r.hive.metrics}
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

// maxHeldBack bounds the part of an event that waits for its end.
const maxHeldBack = 1 << 20

var (
	eventEnd     = []byte("\n\n")
	eventEndCRLF = []byte("\r\n\r\n") // of servers that are not ours
	lastMark     = []byte("data: " + sse.End + "\n\n")
)

// lastEnd is where the last whole event ends, and how many end before.
func lastEnd(b []byte) (end, events int) {
	for _, mark := range [...][]byte{eventEnd, eventEndCRLF} {
		if i := bytes.LastIndex(b, mark); i >= 0 {
			end = max(end, i+len(mark))
			events += bytes.Count(b, mark)
		}
	}
	return end, events
}

// isLast says whether whole events end with the end mark.
func isLast(events []byte) bool {
	line := bytes.TrimRight(events, "\r\n")
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	return ok && string(bytes.TrimPrefix(data, []byte(" "))) == sse.End
}

// events is the body of a stream of events. It hands on whole events only, so
// that the one it adds when the worker dies never lands in the middle of another.
type events struct {
	body    io.ReadCloser
	ctx     context.Context
	to      *relayed
	metrics *metrics

	buf    []byte // read and not handed on
	whole  int    // bytes of buf that are whole events
	finite bool   // the end mark has passed
	err    error  // what the next Read with nothing left says
}

func (e *events) Read(p []byte) (int, error) {
	for e.whole == 0 && e.err == nil {
		e.fill()
	}
	if e.whole == 0 {
		return 0, e.err
	}
	n := copy(p, e.buf[:e.whole])
	e.whole -= n
	e.buf = e.buf[:copy(e.buf, e.buf[n:])]
	e.metrics.relayBytes.Add(float64(n))
	return n, nil
}

// fill reads more from the worker; at its end it settles what comes last.
func (e *events) fill() {
	if cap(e.buf)-len(e.buf) < bufferBytes/8 {
		e.buf = append(make([]byte, 0, 2*cap(e.buf)+bufferBytes), e.buf...)
	}
	from := len(e.buf)
	n, err := e.body.Read(e.buf[from:cap(e.buf)])
	e.buf = e.buf[:from+n]
	fresh := e.buf[max(0, from-len(eventEndCRLF)+1):] // an end may have begun before
	if end, events := lastEnd(fresh); events > 0 {
		e.whole = len(e.buf) - len(fresh) + end
		e.metrics.relayEvents.Add(float64(events))
		e.finite = isLast(e.buf[:e.whole])
	} else if len(e.buf) > maxHeldBack {
		e.whole = len(e.buf)
	}
	if err == nil {
		return
	}
	e.err = io.EOF
	if e.finite {
		return
	}
	if !errors.Is(err, io.EOF) && e.ctx.Err() != nil {
		e.err = err // the caller went away: nobody hears an explanation
		return
	}
	e.buf = append(e.buf[:e.whole], e.obituary(err)...)
	e.whole = len(e.buf)
}

// obituary is the end of a stream whose worker is gone.
func (e *events) obituary(cause error) []byte {
	failure := *rbee.AsError(e.to.target.Broke(e.ctx, cause))
	failure.RequestID = httpapi.RequestID(e.ctx)
	var last any = rbee.ErrorBody{Error: &failure}
	if e.to.path == "/v1/loading/progress" {
		last = rbee.LoadProgress{Stage: rbee.LoadError, Error: &failure}
	}
	b, err := json.Marshal(last)
	if err != nil { // an error of ours holds nothing that cannot be encoded
		b = []byte(`{"error":{"code":"WORKER_CRASHED","message":"the worker is gone"}}`)
	}
	return append(append(append([]byte("data: "), b...), eventEnd...), lastMark...)
}

func (e *events) Close() error { return e.body.Close() }
