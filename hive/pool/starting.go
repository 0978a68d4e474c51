package pool

import (
	"context"
	"errors"

	"rbee"
)

// errOver says that a worker ended before it was started.
var errOver = errors.New("the worker has ended")

// prepare makes the model of a worker ready, then starts its process.
func (l *life) prepare(ctx context.Context, prepare func(context.Context) (Plan, error)) {
	plan, err := prepare(ctx)
	if err == nil {
		err = l.admit(plan)
	}
	if err != nil {
		l.ask(func() { l.fail(rbee.AsError(err)) })
	}
}

// admit carries out a plan, while no other start is decided.
func (l *life) admit(plan Plan) error {
	return l.pool.admit(l.ctx, plan, func(spec Spec) error {
		err := errOver
		l.ask(func() {
			l.takeSpec(spec)
			if err = l.launch(); err == nil {
				l.preparing = false
				l.stall.Reset(l.pool.cfg.LoadStall)
				l.pool.publish(l)
			}
		})
		return err
	})
}

// takeSpec notes what worker it is going to be.
func (l *life) takeSpec(s Spec) {
	l.spec, l.weight = s, s.Weight
	l.w.Backend, l.w.Device, l.w.SlotsTotal, l.w.ContextTokens, l.w.KVTokens = s.Backend, s.Device, s.Slots, s.Context, s.KVTokens
	l.account()
}

// launch starts the process. It runs before the life does, or in its goroutine.
func (l *life) launch() error {
	proc, err := l.pool.cfg.Launch(l.id, l.key, l.spec)
	if err != nil {
		return err
	}
	l.pool.mu.Lock()
	l.proc, l.exit = proc, proc.Done()
	l.pool.mu.Unlock()
	l.w.PID, l.launched = proc.PID(), l.pool.cfg.Now()
	l.pool.cfg.Log.Info("worker started", "worker", l.id, "model", l.spec.Ref.String(), "device", l.spec.Device, "pid", l.w.PID)
	return nil
}
