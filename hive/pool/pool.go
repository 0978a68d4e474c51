package pool

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rbee"
	"rbee/hive/registry"
	"rbee/internal/feed"
)

// recentEnds is how many ended workers can still be asked about.
const recentEnds = 64

// feedBuffer is how many events a reader may fall behind.
const feedBuffer = 1024

// Config makes a Pool.
type Config struct {
	Launch    Launch
	Dial      Dial
	URL       func(rbee.WorkerID) string // base under which this hive serves a worker
	LoadStall time.Duration              // a load that moves nothing for so long has failed
	Weigh     Weigh                      // may be nil
	Loaded    func(rbee.Worker)          // told of each worker that became ready; may be nil
	Ended     func(rbee.Worker, Cause)   // told of each end; may be nil
	Now       func() time.Time           // default time.Now
	Log       *slog.Logger
}

// Feed tells the workers of a pool and what changes.
type Feed = feed.Feed[[]rbee.Worker, rbee.Event]

// Pool is the set of a hive's workers. It is safe for concurrent use.
type Pool struct {
	cfg  Config
	reg  registry.Registry
	feed *Feed

	admission chan struct{} // full while it is decided whether a worker fits
	waiting   atomic.Int64  // starts that wait for room
	bell      bell

	mu      sync.Mutex
	lives   map[rbee.WorkerID]*life
	ended   []*life // oldest first
	closing bool
	running sync.WaitGroup
}

// New makes an empty pool.
func New(cfg Config) *Pool {
	if cfg.Ended == nil {
		cfg.Ended = func(rbee.Worker, Cause) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Loaded == nil {
		cfg.Loaded = func(rbee.Worker) {}
	}
	if cfg.Weigh == nil {
		cfg.Weigh = func(context.Context, rbee.Worker, Spec) (Weight, bool) { return Weight{}, false }
	}
	p := &Pool{cfg: cfg, lives: map[rbee.WorkerID]*life{}, admission: make(chan struct{}, 1)}
	p.feed = feed.New[[]rbee.Worker, rbee.Event](feedBuffer, p.reg.List)
	return p
}

// Run waits until ctx ends, then ends all workers at once and returns when
// nothing of them is left. No worker starts from then on.
func (p *Pool) Run(ctx context.Context) error {
	p.cfg.Log.InfoContext(ctx, "Worker registry initialized (in-memory, ephemeral)")
	<-ctx.Done()
	p.mu.Lock()
	p.closing = true
	lives := p.all()
	p.mu.Unlock()
	p.bell.ring()
	p.feed.Publish(rbee.Event{Kind: rbee.EventShutdown, Time: p.cfg.Now()})
	for _, l := range lives {
		l.order(hurry, CauseShutdown, "the hive shuts down")
	}
	p.running.Wait()
	p.reg.Clear()
	p.feed.Close()
	return nil
}

// all needs p.mu.
func (p *Pool) all() []*life {
	lives := make([]*life, 0, len(p.lives))
	for _, l := range p.lives {
		lives = append(lives, l)
	}
	return lives
}

// Start starts a worker. It returns when the process runs, after waiting for
// room if the plan says so; how the worker fares, its state tells.
func (p *Pool) Start(ctx context.Context, plan Plan) (w rbee.Worker, err error) {
	err = p.admit(ctx, plan, func(spec Spec) error {
		l := p.newWorker(spec.Ref)
		l.takeSpec(spec)
		// The life is in the set before the process runs: its callback may come at once.
		if _, err := p.enter(l); err != nil { // the id is new
			return err
		}
		if err := l.launch(); err != nil {
			p.forget(l)
			return err
		}
		p.publish(l)
		w = l.w // a snapshot of before the life begins
		p.begin(l)
		return nil
	})
	return w, err
}

// StartLater starts a worker whose model is still to be prepared: it is starting
// at once, and stays so until prepare has returned the plan and the plan is
// carried out. A failure of either is the worker's. When the worker ends before,
// the context of prepare does.
func (p *Pool) StartLater(ref rbee.ModelRef, prepare func(context.Context) (Plan, error)) (rbee.Worker, error) {
	l := p.newWorker(ref)
	l.preparing = true
	if _, err := p.enter(l); err != nil { // the id is new
		return rbee.Worker{}, err
	}
	p.publish(l)
	w := l.w
	l.errand(func(ctx context.Context) { l.prepare(ctx, prepare) })
	p.begin(l)
	return w, nil
}

// newWorker is a life under a new id.
func (p *Pool) newWorker(ref rbee.ModelRef) *life {
	id := rbee.WorkerID("w-" + strings.ToLower(rand.Text()[:10]))
	now := p.cfg.Now()
	return newLife(p, Spec{Ref: ref}, rand.Text(), rbee.Worker{
		ID: id, URL: p.cfg.URL(id), ModelRef: ref, State: rbee.WorkerStarting, LastActivity: now, StartedAt: now,
	})
}

// enter takes a life into the set and returns it, or the one that has its id
// already; not if the pool closes, nor if the id is that of a worker of ours
// that has ended. Each enter of l is followed by a begin or a forget.
func (p *Pool) enter(l *life) (*life, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return nil, errClosing()
	}
	if there, ok := p.lives[l.id]; ok {
		return there, nil
	}
	for _, gone := range p.ended {
		if gone.id == l.id && !gone.seen.Load().External {
			return nil, rbee.Errorf(rbee.CodeWorkerNotFound, "worker %s has ended", l.id)
		}
	}
	p.lives[l.id] = l
	p.running.Add(1)
	return l, nil
}

func (p *Pool) forget(l *life) {
	p.mu.Lock()
	delete(p.lives, l.id)
	p.mu.Unlock()
	l.cancel()
	close(l.done)
	p.running.Done()
}

// begin runs a life in its goroutine, which Run waits for.
func (p *Pool) begin(l *life) {
	p.running.Go(func() {
		defer p.running.Done() // of enter
		l.run()
	})
}

// Ready takes the callback of a worker: one that was started here begins to
// load; an unknown one is taken in as external.
func (p *Pool) Ready(ctx context.Context, req rbee.ReadyRequest) error {
	ref, err := rbee.ParseModelRef(req.ModelRef)
	if err != nil {
		return err
	}
	u, err := url.Parse(req.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return rbee.InvalidRequest(rbee.Fault{Field: "body.url", Problem: "must be the http address of the worker"})
	}
	if l := p.life(req.WorkerID); l != nil {
		return l.calledBack(req.URL, isLoopback(u))
	}
	now := p.cfg.Now()
	l := newLife(p, Spec{Ref: ref, KeepAlive: KeepAlive{Forever: true}}, "", rbee.Worker{
		ID: req.WorkerID, URL: p.cfg.URL(req.WorkerID), ModelRef: ref, Backend: req.Backend, Device: req.Device,
		State: rbee.WorkerStarting, LastActivity: now, StartedAt: now, External: true,
	})
	there, err := p.enter(l)
	if err != nil {
		return err
	}
	if there != l { // two greeted at once
		return there.calledBack(req.URL, isLoopback(u))
	}
	p.publish(l)
	p.begin(l)
	p.cfg.Log.InfoContext(ctx, "external worker registered", "worker", req.WorkerID, "model", ref.String(), "addr", u.Host)
	return l.calledBack(req.URL, true)
}

func isLoopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// life finds a live worker.
func (p *Pool) life(id rbee.WorkerID) *life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lives[id]
}

// known finds a worker that lives or ended not long ago.
func (p *Pool) known(id rbee.WorkerID) (*life, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, ok := p.lives[id]; ok {
		return l, nil
	}
	for _, l := range slices.Backward(p.ended) {
		if l.id == id {
			return l, nil
		}
	}
	return nil, rbee.Errorf(rbee.CodeWorkerNotFound, "this hive has no worker %s", id).
		Suggest("list the workers with 'rbee workers list'")
}

// Workers lists the live workers, oldest first; never nil.
func (p *Pool) Workers() []rbee.Worker { return p.reg.List() }

// ByModel lists the live workers of a model.
func (p *Pool) ByModel(ref rbee.ModelRef) []*rbee.Worker { return p.reg.ByModel(ref) }

// Worker tells of one worker, live or ended not long ago.
func (p *Pool) Worker(id rbee.WorkerID) (rbee.Worker, error) {
	if w, ok := p.reg.Worker(id); ok {
		return *w, nil
	}
	l, err := p.known(id)
	if err != nil {
		return rbee.Worker{}, err
	}
	return *l.seen.Load(), nil
}

// Feed is where changes of the workers are told, and others may publish theirs.
func (p *Pool) Feed() *Feed { return p.feed }

// Stop drains a worker, ends it, and returns when it is gone or ctx ends. One
// that is not there is no error. An external worker is forgotten, not ended.
func (p *Pool) Stop(ctx context.Context, id rbee.WorkerID) error {
	l := p.life(id)
	if l == nil {
		return nil
	}
	l.order(drain, CauseOrdered, "it was told to stop")
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Order begins the end of a worker and does not wait for it: with drain what
// runs is finished first.
func (p *Pool) Order(id rbee.WorkerID, finish bool) {
	if l := p.life(id); l != nil {
		how := hurry
		if finish {
			how = drain
		}
		l.order(how, CauseOrdered, "it was told to stop")
	}
}

// Process is the process of a worker that lives or ended not long ago; nil for
// an external one.
func (p *Pool) Process(id rbee.WorkerID) (Process, error) {
	l, err := p.known(id)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.proc, nil
}

// publish makes a snapshot of a live worker visible.
func (p *Pool) publish(l *life) {
	w := l.w
	l.seen.Store(&w)
	p.feed.Change(func(send func(rbee.Event)) {
		p.reg.Put(w)
		send(rbee.Event{Kind: rbee.EventWorker, Time: p.cfg.Now(), Worker: &w})
	})
	p.bell.ring()
}

// bury moves a worker that has ended from the set to the ended ones.
func (p *Pool) bury(l *life) {
	w := l.w
	l.seen.Store(&w)
	// Before the id is free: whoever takes it next must not be removed for us.
	p.feed.Change(func(send func(rbee.Event)) {
		p.reg.Remove(l.id)
		send(rbee.Event{Kind: rbee.EventWorkerGone, Time: p.cfg.Now(), Worker: &w})
	})
	p.mu.Lock()
	delete(p.lives, l.id)
	p.ended = append(p.ended, l)
	if len(p.ended) > recentEnds {
		p.ended = slices.Delete(p.ended, 0, len(p.ended)-recentEnds)
	}
	p.mu.Unlock()
	p.cfg.Ended(w, l.cause)
	p.bell.ring()
}
