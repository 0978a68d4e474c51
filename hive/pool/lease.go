package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"rbee"
)

// crashNotice is how long after its connection broke a worker's end is waited
// for, to say why.
const crashNotice = 2 * time.Second

// Target is where a worker really answers, and the key that it demands.
type Target struct {
	ID      rbee.WorkerID
	URL     string
	Key     string
	Foreign string // what a foreign server calls the model; "" for a worker of our kind
	Digest  string // of the model, as the Spec has it; "" for an external worker
	life    *life
}

// Lease is the right to send one request to a worker, which is busy until
// Release.
type Lease struct {
	Target
	release sync.Once
}

// Reach waits until a worker answers at all, ready or not, and returns where.
// It is for questions that do not keep a worker busy.
func (p *Pool) Reach(ctx context.Context, id rbee.WorkerID) (Target, error) {
	l, err := p.alive(id)
	if err != nil {
		return Target{}, err
	}
	for {
		var t Target
		var changed chan struct{}
		if !l.ask(func() { t, changed = l.target(), l.changed }) {
			return Target{}, l.why()
		}
		if t.URL != "" {
			return t, nil
		}
		select {
		case <-changed:
		case <-l.done:
		case <-ctx.Done():
			return Target{}, context.Cause(ctx)
		}
	}
}

// Acquire makes a worker busy with one more request. One that is not ready is
// WORKER_NOT_READY.
func (p *Pool) Acquire(ctx context.Context, id rbee.WorkerID) (*Lease, error) {
	l, err := p.alive(id)
	if err != nil {
		return nil, err
	}
	for probed := false; ; probed = true {
		var lease *Lease
		var state rbee.WorkerState
		if !l.ask(func() { lease, state = l.acquire(), l.w.State }) {
			return nil, l.why()
		}
		if lease != nil {
			return lease, nil
		}
		// The worker may have become ready a moment ago, and its client, who
		// follows the loading, may know before us.
		if state == rbee.WorkerLoading && !probed && l.probe(ctx) {
			continue
		}
		return nil, rbee.Errorf(rbee.CodeWorkerNotReady, "worker %s is %s", id, state).With("state", state)
	}
}

// Await is Acquire for a worker that may still load: it returns when the worker
// is ready, whose first request this is, or has ended.
func (p *Pool) Await(ctx context.Context, id rbee.WorkerID) (*Lease, error) {
	l, err := p.alive(id)
	if err != nil {
		return nil, err
	}
	granted := make(chan *Lease, 1)
	var lease *Lease
	if !l.ask(func() {
		if lease = l.acquire(); lease == nil {
			l.granting = append(l.granting, granted)
		}
	}) {
		return nil, l.why()
	}
	if lease != nil {
		return lease, nil
	}
	select {
	case lease = <-granted:
		return lease, nil
	case <-l.ctx.Done():
		select {
		case lease = <-granted: // and it ended at once
			lease.Release()
		default:
		}
		return nil, l.why()
	case <-ctx.Done():
		l.ask(func() {
			l.granting = slices.DeleteFunc(l.granting, func(c chan *Lease) bool { return c == granted })
		})
		select {
		case lease = <-granted:
			lease.Release()
		default:
		}
		return nil, context.Cause(ctx)
	}
}

// grant gives the worker to whoever waits for it.
func (l *life) grant() {
	for _, c := range l.granting {
		c <- l.acquire() // there is room for one
	}
	l.granting = nil
}

// acquire is for run's goroutine; nil says not now.
func (l *life) acquire() *Lease {
	if !l.w.State.Ready() || l.failing != nil {
		return nil
	}
	l.inFlight++
	l.w.Requests++
	if l.w.Resting {
		l.wake()
	}
	l.idle.Reset(never)
	l.rest.Reset(never)
	if l.w.State == rbee.WorkerIdle {
		l.become(rbee.WorkerBusy)
	} else {
		l.count()
		l.pool.publish(l)
	}
	return &Lease{Target: l.target()}
}

func (l *life) target() Target {
	return Target{ID: l.id, URL: l.url, Key: l.key, Foreign: l.foreign, Digest: l.spec.Digest, life: l}
}

// Release ends the request of the lease. It may be called more than once.
func (s *Lease) Release() {
	s.release.Do(func() { s.life.ask(s.life.released) })
}

func (l *life) released() {
	l.inFlight--
	l.w.LastActivity = l.pool.cfg.Now()
	l.count()
	if l.w.State == rbee.WorkerBusy && l.inFlight == 0 {
		l.become(rbee.WorkerIdle)
		l.rearm()
		if l.w.Requests <= weighings {
			l.weigh()
		}
		return
	}
	l.pool.publish(l)
}

// alive finds a worker that has not ended.
func (p *Pool) alive(id rbee.WorkerID) (*life, error) {
	if l := p.life(id); l != nil {
		return l, nil
	}
	l, err := p.known(id)
	if err != nil {
		return nil, err
	}
	return nil, l.why()
}

// why says that a worker has ended, and how.
func (l *life) why() error {
	w := l.seen.Load()
	if w.Failure != nil {
		return w.Failure
	}
	return rbee.Errorf(rbee.CodeWorkerNotFound, "worker %s has ended: %s", l.id, w.Reason).
		Suggest("start another with 'rbee workers spawn'")
}

// Broke says why the connection to a worker broke in the middle of a reply. If
// the worker died, it waits a moment to learn how.
func (t Target) Broke(ctx context.Context, cause error) error {
	notice := crashNotice
	if t.Foreign != "" { // nobody tells us of its end
		notice = 0
	}
	wait, cancel := context.WithTimeout(ctx, notice)
	defer cancel()
	select {
	case <-t.life.ctx.Done(): // over: the snapshot is the last one
		w := t.life.seen.Load()
		if w.Failure != nil {
			return w.Failure.WithCause(cause)
		}
		return rbee.Errorf(rbee.CodeWorkerCrashed, "worker %s ended in the middle of the reply: %s (%s)", w.ID, w.Reason, w.ExitCause).
			With("exit_cause", w.ExitCause).WithCause(cause)
	case <-wait.Done():
	}
	if ctx.Err() != nil {
		return rbee.Errorf(rbee.CodeRequestCanceled, "the request was canceled").WithCause(errors.Join(context.Cause(ctx), cause))
	}
	return rbee.Errorf(rbee.CodeWorkerCrashed, "the connection to worker %s broke in the middle of the reply", t.life.id).WithCause(cause)
}
