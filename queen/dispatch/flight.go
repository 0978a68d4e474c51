package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"rbee"
	"rbee/internal/forward"
	"rbee/internal/httpapi"
	"rbee/internal/prefix"
	"rbee/queen/sched"
)

const (
	// maxFailures is how often a request is tried, those times apart that it only
	// found all slots taken.
	maxFailures = 4
	// maxBusy bounds these.
	maxBusy = 64
	// maxCrashes is how many workers a request may take with it.
	maxCrashes = 2
	// recheck is how long one waits for news of the colony at most.
	recheck = time.Second
	// patience is how long a hive that failed may take to be back, where no other can
	// serve the request.
	patience = 4 * time.Second
	// maxNode bounds the name of a hive that is asked for; the journal keeps it.
	maxNode = 256
	// shownOthers is how many alternatives a decision tells of.
	shownOthers = 8
)

// flight is one request on its way.
type flight struct {
	d      *Dispatcher
	ctx    context.Context // ends when the client goes
	id     string
	path   string
	header http.Header
	stream bool
	body   []byte // nil once the first token has come
	req    rbee.RouteRequest
	record *record

	failed  []rbee.HiveID // hives that failed it
	full    []rbee.HiveID // hives that have no slot now
	tries   int           // that failed otherwise
	busy    int           // that found no slot
	crashes int
	until   time.Time // then hives that failed it get no second chance any more

	ticket *ticket
	queued time.Duration // how long it was in line
	doing  atomic.Pointer[doing]
}

// doing is what a request waits for.
type doing struct {
	route  *rbee.Route
	ticket *ticket // in line
}

// OpenAI serves POST /v1/chat/completions, /v1/completions, /v1/embeddings and
// /v1/chat/template.
func (d *Dispatcher) OpenAI(w http.ResponseWriter, r *http.Request) error {
	came := time.Now()
	f, err := d.take(r)
	if err != nil {
		d.metrics.refused(err)
		return err
	}
	ctx, release := forward.Lasting(r.Context())
	defer release()
	f.ctx = ctx
	d.metrics.inFlight.Inc()
	defer d.metrics.inFlight.Dec()
	w.Header().Set(rbee.RequestIDHeader, f.id)
	out := reply{f: f, w: w, rc: http.NewResponseController(w), came: came}
	defer func() { f.ticket.leave() }()
	err = out.serve()
	outcome := out.outcome(err)
	f.record.end(outcome)
	d.metrics.ended(outcome)
	if out.cutOff {
		panic(http.ErrAbortHandler)
	}
	return err
}

// take reads a request.
func (d *Dispatcher) take(r *http.Request) (*flight, error) {
	body, err := httpapi.Body(r)
	if err != nil {
		return nil, err
	}
	f := &flight{d: d, id: httpapi.RequestID(r.Context()), path: r.URL.Path, header: r.Header}
	asked, err := f.read(body, r.Header.Get(rbee.NodeHeader))
	if err != nil {
		return nil, err
	}
	f.stream = asked.Stream
	f.record = d.journal.begin(f.id)
	f.id = f.record.id
	return f, nil
}

// read finds out what the body asks for.
func (f *flight) read(body []byte, node string) (forward.Request, error) {
	asked, err := forward.Parse(body)
	if err != nil {
		return asked, err
	}
	if len(node) > maxNode {
		return asked, rbee.InvalidRequest(rbee.Fault{Field: "header." + rbee.NodeHeader, Problem: fmt.Sprintf("has more than %d bytes", maxNode)})
	}
	settings := &f.d.cfg.Settings
	ref, err := settings.Resolve(asked.Model)
	if err != nil {
		return asked, forward.NoModel(err)
	}
	if _, alias := settings.Aliases[asked.Model]; alias { // which hives need not know
		body = asked.Renamed(body, ref.String())
	}
	if len(body) > httpapi.DefaultMaxBodyBytes { // hives would hang up on it
		return asked, rbee.InvalidRequest(rbee.Fault{Field: "body", Problem: "is too large with the name of its model in place of the alias"})
	}
	f.body = body
	chain, promptBytes := prefix.Of(f.path, body)
	f.req = rbee.RouteRequest{ModelRef: ref, PromptTokens: sched.Tokens(promptBytes), Prefix: chain, Node: node}
	return asked, nil
}

// answered finds a place for the request, and another where one fails it, until
// there is something to tell the client.
func (f *flight) answered() (*attempt, *failure) {
	var last *failure
	for {
		route, err := f.place(last)
		if err != nil {
			if last == nil || f.ctx.Err() != nil || rbee.CodeOf(err) == rbee.CodeQueueFull {
				last = &failure{err: rbee.AsError(err)}
			}
			return nil, last
		}
		f.doing.Store(&doing{route: &route})
		a, failed := f.begin(route)
		if failed == nil {
			f.ticket.leave()
			f.body = nil
			return a, nil
		}
		if f.ctx.Err() != nil {
			return nil, &failure{err: f.left()}
		}
		f.record.failed(failed.err)
		last = failed
		if failed.kind == finally || !f.elsewhere(route, failed) {
			return nil, failed
		}
		f.d.metrics.retries.Inc()
		f.d.log.InfoContext(f.ctx, "a request is tried elsewhere", "request_id", f.id, "hive", route.HiveName, "err", failed.err)
	}
}

// left is the error of a request whose client went away, or whose queen ends.
func (f *flight) left() *rbee.Error {
	cause := context.Cause(f.ctx)
	if errors.Is(cause, httpapi.ErrShutdown) {
		return rbee.Errorf(rbee.CodeWorkerNotReady, "the queen shuts down").WithCause(cause).Suggest("send the request again")
	}
	return rbee.Errorf(rbee.CodeRequestCanceled, "the client went away").WithCause(cause)
}

// elsewhere notes what a failure says of the hive; false if the request is not
// to be tried again.
func (f *flight) elsewhere(route rbee.Route, failed *failure) bool {
	switch failed.kind {
	case byLoad:
		f.full = append(f.full, route.Hive)
		f.busy++
		return f.busy < maxBusy
	case byHive:
		f.d.cfg.Colony.Failed(route.Hive, failed.err)
	}
	f.failed = append(f.failed, route.Hive)
	if failed.err.Code == rbee.CodeWorkerCrashed && failed.kind == byWorker {
		f.crashes++
	}
	f.tries++
	return f.crashes < maxCrashes && f.tries < maxFailures
}

// place decides where the request goes. It waits in the queue until there is a
// place for it; the last failure says whether a hive that failed may be asked again.
func (f *flight) place(last *failure) (rbee.Route, error) {
	for {
		if err := f.stand(); err != nil {
			return rbee.Route{}, err
		}
		changed := f.d.cfg.Colony.Changed()
		f.req.Tried = slices.Concat(f.failed, f.full)
		decision := sched.Decide(f.d.cfg.Colony.Snapshot(), &f.req)
		if route, ok := decision.Route(); ok {
			if route.Kind != rbee.RouteReady {
				if err := f.enter(seconds(route.Cost.Total)); err != nil {
					return route, err
				}
			}
			f.record.decided(decision, f.req)
			f.leaveQueue(route.Kind == rbee.RouteReady)
			return route, nil
		}
		why := decision.Explain(shownOthers)
		again := last != nil && last.passing() && (f.until.IsZero() || time.Now().Before(f.until))
		if full := len(f.full) > 0 || why.Code == rbee.CodeAllSlotsBusy || why.Code == rbee.CodeQueueFull || f.d.young(); !full && !again {
			f.record.decided(decision, f.req)
			return rbee.Route{}, refusal(&f.req, &why)
		}
		if again {
			if f.until.IsZero() {
				f.until = time.Now().Add(patience)
			}
			f.failed = nil
		}
		if err := f.wait(changed, &why); err != nil {
			return rbee.Route{}, err
		}
		f.full = nil
	}
}

// stand waits for those who came before and want the same.
func (f *flight) stand() error {
	w := wish{f.req.ModelRef, f.req.Node}
	if f.ticket == nil && f.d.queue.crowded(w) {
		if err := f.enter(0); err != nil {
			return err
		}
		f.doing.Store(&doing{ticket: f.ticket})
		if f.ticket.stand(f.ctx, w) != nil {
			return f.left()
		}
	}
	return nil
}

// wait waits in line for news of the colony.
func (f *flight) wait(changed <-chan struct{}, why *rbee.RouteDecision) error {
	var expected time.Duration
	if len(why.Others) > 0 {
		expected = seconds(why.Others[0].Cost.Total)
	}
	if err := f.enter(expected); err != nil {
		return err
	}
	f.doing.Store(&doing{ticket: f.ticket})
	if f.ticket.stand(f.ctx, wish{f.req.ModelRef, f.req.Node}) != nil {
		return f.left()
	}
	timer := time.NewTimer(recheck)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-f.ctx.Done():
		return f.left()
	}
	return nil
}

// enter takes a ticket, if the request has none.
func (f *flight) enter(expected time.Duration) (err error) {
	if f.ticket == nil {
		f.ticket, err = f.d.queue.enter(expected)
	}
	return err
}

// leaveQueue lets those behind go on; a request that has a worker does not wait
// any more.
func (f *flight) leaveQueue(done bool) {
	if f.ticket == nil {
		return
	}
	f.queued = time.Since(f.ticket.since)
	f.ticket.step()
	if done {
		f.ticket.leave()
		f.ticket = nil
	}
}

// refusal is the error of a request that no hive can serve.
func refusal(req *rbee.RouteRequest, why *rbee.RouteDecision) *rbee.Error {
	e := rbee.Errorf(why.Code, "%s", why.Sentence).With("model", req.ModelRef.String())
	switch why.Code {
	case rbee.CodeHiveNotFound:
		return e.Suggest("see the hives with 'rbee status'")
	case rbee.CodeModelNotFound:
		return e.Suggest("see the models with GET /v1/models, or get it with 'rbee models pull %s'", req.ModelRef)
	}
	e = e.Suggest("see why with 'rbee plan'")
	if why.Code.Status() == http.StatusServiceUnavailable { // what lacks memory lacks it a second later, too
		e = httpapi.RetryAfter(e, 1)
	}
	return e
}

func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), 3600) * float64(time.Second))
}

// says is what the client may read of what the request waits for.
func (f *flight) says() string {
	now := f.doing.Load()
	switch {
	case now == nil:
		return "the request is read"
	case now.route == nil:
		return fmt.Sprintf("waits for a free slot, %d before it", f.d.queue.before(now.ticket))
	}
	return clean(now.route.HiveName + " " + f.d.progress(now.route, f.req.ModelRef))
}

// progress is what a hive does for a request.
func (d *Dispatcher) progress(r *rbee.Route, model rbee.ModelRef) string {
	if r.Kind == rbee.RouteReady {
		return "works on the prompt"
	}
	for _, h := range d.cfg.Colony.Hives() {
		if h.ID != r.Hive {
			continue
		}
		for _, w := range h.Workers {
			switch {
			case w.ModelRef != model:
			case w.State.Ready():
				return "works on the prompt"
			case w.LoadedFraction > 0:
				return fmt.Sprintf("loads %s, %.0f%%", model, 100*w.LoadedFraction)
			}
		}
	}
	if r.Kind == rbee.RouteDownload {
		return "fetches " + model.String()
	}
	return "loads " + model.String()
}
