package pool

import (
	"context"
	"errors"
	"time"

	"rbee"
)

const (
	// maxWaiting is how many starts may wait at a time.
	maxWaiting = 64
	// waitCheck is how often a start that waits is decided anew although no
	// worker changed: other programs free memory too.
	waitCheck = time.Second
)

// Plan decides what to start, or that it does not fit. It sees the live workers
// while no other start is decided, and may end some of them first. An error
// that is a *Later has it asked again when something has changed.
type Plan func(ctx context.Context, live []rbee.Worker) (Spec, error)

// Later is the error of a Plan for which there is no room now.
type Later struct {
	Refusal func() error // what the caller gets when it has waited in vain
	Until   time.Time    // how long it waits
}

// Error implements error.
func (*Later) Error() string { return "there is no room now" }

// admit asks a plan until it says what to start, and starts that.
func (p *Pool) admit(ctx context.Context, plan Plan, start func(Spec) error) error {
	waits := false
	defer func() {
		if waits {
			p.waiting.Add(-1)
		}
	}()
	for {
		changed := p.bell.next()
		err := p.decide(ctx, plan, start)
		var later *Later
		if !errors.As(err, &later) {
			return err
		}
		if !waits {
			if n := p.waiting.Add(1); n > maxWaiting {
				p.waiting.Add(-1)
				return rbee.Errorf(rbee.CodeQueueFull, "%d starts wait for memory already", maxWaiting).
					With("queue_size", maxWaiting).With("queue_capacity", maxWaiting).Suggest("try again in a while")
			}
			waits = true
		}
		if !pause(ctx, changed, time.Until(later.Until)) {
			return later.Refusal()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// pause waits for a change, for the next check or the end of ctx at the latest.
// It reports false when the time is up.
func pause(ctx context.Context, changed <-chan struct{}, left time.Duration) bool {
	if left <= 0 {
		return false
	}
	timer := time.NewTimer(min(left, waitCheck))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// decide asks a plan once, while no other start is decided.
func (p *Pool) decide(ctx context.Context, plan Plan, start func(Spec) error) error {
	select {
	case p.admission <- struct{}{}:
		defer func() { <-p.admission }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := p.open(); err != nil {
		return err
	}
	spec, err := plan(ctx, p.reg.List())
	if err != nil {
		return err
	}
	return start(spec)
}

// open is an error when the pool closes.
func (p *Pool) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return errClosing()
	}
	return nil
}

func errClosing() error {
	return rbee.Errorf(rbee.CodeWorkerNotReady, "the hive shuts down and starts no worker").Suggest("start the hive again")
}

// Waiting is how many starts wait for room.
func (p *Pool) Waiting() int { return int(p.waiting.Load()) }

// Changed is closed at the next change of a worker.
func (p *Pool) Changed() <-chan struct{} { return p.bell.next() }

// Evict ends the workers of the list that are idle and may be ended, and
// returns how many were when those are gone or ctx ends.
func (p *Pool) Evict(ctx context.Context, ids []rbee.WorkerID, cause Cause, why string) (n int) {
	var ending []*life
	for _, id := range ids {
		if l := p.life(id); l != nil && l.evict(cause, why) {
			ending = append(ending, l)
		}
	}
	for _, l := range ending {
		select {
		case <-l.done:
		case <-ctx.Done():
		}
	}
	return len(ending)
}

// Retire ends a worker for a hive that drains, if it is idle, or, with loading,
// whatever it does but serve requests. It does not wait.
func (p *Pool) Retire(id rbee.WorkerID, loading bool) {
	if l := p.life(id); l != nil {
		l.ask(func() {
			if l.inFlight == 0 && l.w.State != rbee.WorkerDraining && (loading || l.w.State == rbee.WorkerIdle) {
				l.end(drain, CauseDrained, "the hive drains")
			}
		})
	}
}

func (l *life) evict(cause Cause, why string) (ends bool) {
	l.ask(func() {
		if l.w.State != rbee.WorkerIdle || l.w.Pinned || l.proc == nil || l.failing != nil {
			return
		}
		ends = true
		l.end(drain, cause, why)
	})
	return ends
}
