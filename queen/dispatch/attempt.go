package dispatch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rbee"
	"rbee/internal/forward"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
	"rbee/queen/sched"
)

// maxBuffered bounds what is kept of a reply that is no stream, so that it can
// be asked for again. One that is longer is passed on as it comes.
const maxBuffered = 8 << 20

// attempt is one try to have a request served, until its reply has ended.
type attempt struct {
	f      *flight
	route  rbee.Route
	plane  *sched.Flight
	cancel context.CancelCauseFunc
	ctx    context.Context
	began  time.Time

	resp *http.Response
	held []byte    // of the reply, read and not passed on
	body io.Reader // what follows it; nil if nothing does

	told   bool        // the first token has come: a failure is told in the stream
	died   error       // why the stream broke before
	failed *rbee.Error // why it broke after that
	sent   int         // events
	closed bool

	passed atomic.Int64 // events, for who looks
	seen   int64        // when somebody last looked
}

// begin sends the request along a route and waits until there is something for
// the reader: the first token, or the whole reply. The attempt that it returns
// has to end.
func (f *flight) begin(route rbee.Route) (*attempt, *failure) {
	target, err := f.d.cfg.Colony.Reach(route.Hive)
	if err != nil {
		return nil, unreachable(route.HiveName, err)
	}
	a := &attempt{f: f, route: route, began: time.Now()}
	a.ctx, a.cancel = context.WithCancelCause(f.ctx)
	a.plane = f.d.cfg.Flights.Begin(&route, &f.req)
	f.d.attempts.add(a)
	if failed := a.ask(target); failed != nil {
		a.end()
		return nil, failed
	}
	a.plane.First()
	a.told = true
	return a, nil
}

// end lets go of everything; more than once is fine.
func (a *attempt) end() {
	if a.closed {
		return
	}
	a.closed = true
	a.f.d.attempts.remove(a)
	a.plane.End()
	a.cancel(context.Canceled)
	if a.resp != nil {
		a.resp.Body.Close()
	}
}

func (a *attempt) ask(target Target) *failure {
	req, err := a.request(target)
	if err != nil {
		return unreachable(a.route.HiveName, err)
	}
	if a.resp, err = target.Transport.RoundTrip(req); err != nil { //nolint:bodyclose // end closes it
		return unreachable(a.route.HiveName, a.cause(err))
	}
	a.plane.At(rbee.WorkerID(a.resp.Header.Get(rbee.WorkerHeader)))
	switch {
	case a.resp.StatusCode/100 != 2:
		return refused(a.resp)
	case strings.HasPrefix(a.resp.Header.Get("Content-Type"), sse.ContentType):
		return a.awaitToken()
	}
	a.held, err = io.ReadAll(io.LimitReader(a.resp.Body, maxBuffered))
	if err != nil {
		return unreachable(a.route.HiveName, a.cause(err))
	}
	if len(a.held) == maxBuffered {
		a.body = a.resp.Body
	}
	return nil
}

// cause is why the attempt was given up, if it was.
func (a *attempt) cause(err error) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return err
}

// request is what goes to the hive. It is sent again over another connection
// where an old one turns out to be closed.
func (a *attempt) request(target Target) (*http.Request, error) {
	f, at := a.f, target.Base+a.f.path
	if a.route.Kind == rbee.RouteReady {
		at = target.Base + "/v1/workers/" + string(a.route.Worker) + f.path
	}
	req, err := http.NewRequestWithContext(a.ctx, http.MethodPost, at, nil)
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(len(f.body))
	req.GetBody = func() (io.ReadCloser, error) { return payloadOf(f.body), nil } // asked before there is a reply
	req.Body = payloadOf(f.body)
	req.Header["Content-Type"] = []string{"application/json"}
	req.Header["Accept-Encoding"] = []string{"identity"} // events are to be seen
	req.Header["X-Idempotency-Key"] = nil                // is not sent: only says that it may be sent again
	req.Header.Set(rbee.RequestIDHeader, f.id)
	for _, name := range []string{"Traceparent", "Tracestate", "User-Agent"} {
		if v := f.header[name]; v != nil {
			req.Header[name] = v
		}
	}
	if target.Key != "" {
		req.Header["Authorization"] = []string{"Bearer " + target.Key}
	}
	return req, nil
}

// togetherBytes bounds the bodies that go out with their headers, in one piece:
// with them they fit into what a transport writes at once.
const togetherBytes = 3 << 10

// payloadOf is the body of a request. A transport that knows the type of a body to
// be of memory does not send the headers ahead, for which the hive would wake twice.
func payloadOf(body []byte) io.ReadCloser {
	if len(body) <= togetherBytes {
		return io.NopCloser(bytes.NewReader(body))
	}
	return &payload{rest: body}
}

// payload is the body of a large request. Once it is closed it lets go of the bytes:
// a stream may last long. A transport may close it while it is read.
type payload struct {
	mu   sync.Mutex
	rest []byte
}

// Read implements io.Reader.
func (p *payload) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (p *payload) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = nil
	return nil
}

// awaitToken reads events until one is for the reader.
func (a *attempt) awaitToken() *failure {
	events := forward.NewEvents(a.f.ctx, a.resp.Body, a)
	buf := make([]byte, forward.BufferBytes)
	for heard := 0; ; { // bytes of whole lines
		n, err := events.Read(buf)
		if err != nil {
			return a.brokeEarly(err)
		}
		a.held = append(a.held, buf[:n]...)
		line := bytes.LastIndexByte(buf[:n], '\n') + 1
		if line == 0 && len(a.held) <= maxBuffered {
			continue // a part of a long line says nothing yet
		}
		end := len(a.held) - n + line
		what, data := listen(a.held[heard:end])
		switch {
		case what == saidFailure:
			failed := readFailure(0, data)
			failed.body = nil
			return failed
		case what == saidToken, len(a.held) > maxBuffered:
			a.body = events
			return nil
		}
		heard = end
	}
}

// brokeEarly is the failure of a stream that ended before its first token.
func (a *attempt) brokeEarly(err error) *failure {
	if a.died != nil {
		err = a.died
	}
	if err = a.cause(err); errors.Is(err, errLost) {
		return unreachable(a.route.HiveName, err)
	}
	return &failure{kind: byHive, err: a.crashed(err)}
}

func (a *attempt) crashed(cause error) *rbee.Error {
	what := "the connection to it broke"
	if errors.Is(cause, errLost) {
		what = "nothing is heard of it any more"
	}
	return rbee.Errorf(rbee.CodeWorkerCrashed, "the hive %s did not finish the reply: %s", a.route.HiveName, what).
		With("hive", a.route.HiveName).WithCause(cause).Suggest("send the request again")
}

// Passed counts what comes. It implements forward.Watcher.
func (a *attempt) Passed(events, n int) {
	if events > 0 {
		a.sent += events
		a.passed.Add(int64(events))
		a.f.d.metrics.events.Add(float64(events))
	}
	if n > 0 {
		a.f.d.metrics.bytes.Add(float64(n))
	}
}

// Obituary is the end of a stream whose hive is gone: nothing before the first
// token, since then the request is tried elsewhere. It implements forward.Watcher.
func (a *attempt) Obituary(cause error) []byte {
	if !a.told {
		a.died = cause
		return nil
	}
	a.failed = a.crashed(a.cause(cause)).With("events", a.sent)
	a.failed.RequestID = a.f.id
	return forward.LastEvents(httpapi.OpenAI(a.failed))
}

// attempts are those under way.
type attempts struct {
	mu sync.Mutex
	at map[rbee.HiveID]map[*attempt]struct{}
}

func (l *attempts) add(a *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at == nil {
		l.at = map[rbee.HiveID]map[*attempt]struct{}{}
	}
	here := l.at[a.route.Hive]
	if here == nil {
		here = map[*attempt]struct{}{}
		l.at[a.route.Hive] = here
	}
	here[a] = struct{}{}
}

func (l *attempts) remove(a *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	here := l.at[a.route.Hive]
	delete(here, a)
	if len(here) == 0 {
		delete(l.at, a.route.Hive)
	}
}

func (l *attempts) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.at) > 0
}

// giveUp ends attempts at hives that are lost, unless something still comes
// from there.
func (l *attempts) giveUp(hives []rbee.ColonyHive) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range hives {
		if hives[i].Presence != rbee.HiveLost {
			continue
		}
		for a := range l.at[hives[i].ID] {
			if now := a.passed.Load(); now == a.seen {
				a.cancel(errLost)
			} else {
				a.seen = now
			}
		}
	}
}
