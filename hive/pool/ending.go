package pool

import (
	"context"
	"time"

	"rbee"
)

// order ends the worker on purpose. It returns at once.
func (l *life) order(how manner, cause Cause, why string) {
	l.ask(func() { l.end(how, cause, why) })
}

// end begins the end of the worker, or hastens one that has begun.
func (l *life) end(how manner, cause Cause, why string) {
	switch {
	case l.proc == nil:
		l.w.Reason, l.cause = why, cause
		l.become(rbee.WorkerDraining)
		l.over(rbee.WorkerStopped, nil)
		return
	case l.failing != nil:
		return // it is being killed
	case l.urgent != nil:
		if how == hurry {
			l.urgent()
		}
		return
	}
	l.w.Reason, l.cause = why, cause
	l.become(rbee.WorkerDraining)
	patience, urgent := context.WithCancel(l.ctx)
	l.urgent = urgent
	if how == hurry {
		urgent()
	}
	link := l.link
	l.errand(func(ctx context.Context) {
		defer urgent()
		l.escalate(ctx, patience, link)
	})
}

// escalate asks the worker ever more firmly to end, and returns when it has:
// finish what runs (skipped when patience is over), end what runs, SIGTERM,
// SIGKILL. A worker that has no link yet gets the signals only.
func (l *life) escalate(ctx, patience context.Context, link Link) {
	if link != nil {
		if patience.Err() == nil && l.tell(patience, link.Drain) {
			l.gone(patience, DrainTime+ShutdownGrace)
		}
		if !l.gone(ctx, 0) && l.tell(ctx, link.Shutdown) {
			l.gone(ctx, ShutdownGrace)
		}
	}
	l.proc.Stop(context.WithoutCancel(ctx), TermGrace)
}

// tell gives the worker an order and says whether it took it.
func (l *life) tell(ctx context.Context, order func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, ShutdownGrace)
	defer cancel()
	return order(ctx) == nil
}

// gone waits for the process to end, at most so long.
func (l *life) gone(ctx context.Context, most time.Duration) bool {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-l.proc.Done():
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	select {
	case <-l.proc.Done():
		return true
	default:
		return false
	}
}
