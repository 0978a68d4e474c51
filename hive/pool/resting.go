package pool

import (
	"context"
	"time"

	"rbee"
)

// weighings is after how many of its first requests a worker is weighed: some
// buffers are only made when they are first used.
const weighings = 3

// Pin keeps a worker from being ended for another one and by idleness, or takes
// that back.
func (p *Pool) Pin(id rbee.WorkerID, pinned bool) (rbee.Worker, error) {
	l, err := p.alive(id)
	if err != nil {
		return rbee.Worker{}, err
	}
	var w rbee.Worker
	if !l.ask(func() {
		l.w.Pinned = pinned
		l.rearm()
		l.pool.publish(l)
		w = l.w
	}) {
		return rbee.Worker{}, l.why()
	}
	return w, nil
}

// KeepAlive sets how long the worker may be idle from now on.
func (t Target) KeepAlive(k KeepAlive) {
	t.life.ask(func() {
		t.life.spec.KeepAlive = k
		t.life.rearm()
	})
}

// rearm sets the timers of an idle worker anew.
func (l *life) rearm() {
	if l.w.State != rbee.WorkerIdle {
		l.idle.Reset(never)
		l.rest.Reset(never)
		return
	}
	since := l.pool.cfg.Now().Sub(l.w.LastActivity)
	l.idle.Reset(max(0, l.idleAfter()-since))
	after := l.restAfter()
	if l.w.Resting || after >= l.idleAfter() {
		after = never
	}
	l.rest.Reset(max(0, after-since))
}

// restAfter is the idle time after which the worker rests.
func (l *life) restAfter() time.Duration {
	switch k := l.spec.KeepAlive; {
	case l.proc == nil || l.spec.RestAfter < 0:
		return never
	case l.spec.RestAfter > 0:
		return l.spec.RestAfter
	case k.Forever || k.Idle <= 0:
		return never
	default:
		return k.Idle / 2
	}
}

// restEnough has the worker give its KV cache back.
func (l *life) restEnough() {
	if l.w.State != rbee.WorkerIdle || l.failing != nil || l.w.Resting {
		return
	}
	link, requests, w, spec := l.link, l.w.Requests, l.w, l.spec
	w.Resting = true
	l.errand(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, HealthTimeout)
		defer cancel()
		if err := link.Rest(ctx); err != nil {
			l.pool.cfg.Log.Debug("worker does not rest", "worker", l.id, "err", err)
			return
		}
		now, known := l.pool.cfg.Weigh(ctx, w, spec)
		l.ask(func() {
			if l.w.State != rbee.WorkerIdle || l.w.Requests != requests {
				return // somebody woke it
			}
			l.w.Resting = true
			if known {
				l.rested = given(l.weight.Memory, now.Memory)
			}
			l.account()
			l.pool.publish(l)
			l.pool.cfg.Log.Info("worker rests", "worker", l.id, "model", l.w.ModelRef.String(), "gave_back_bytes", l.rested.Total())
		})
	})
}

// given is what is less now than before, by device.
func given(before, now rbee.Memory) rbee.Memory {
	less := rbee.Memory{}
	for d, n := range before {
		if n > now[d] {
			less[d] = n - now[d]
		}
	}
	return less
}

// wake notes that a request has the worker make its KV cache again.
func (l *life) wake() {
	l.w.Resting, l.rested = false, nil
	l.account()
}

// weigh measures what the worker takes, beside run.
func (l *life) weigh() {
	if l.proc == nil {
		return
	}
	w, spec := l.w, l.spec
	l.errand(func(ctx context.Context) {
		weight, ok := l.pool.cfg.Weigh(ctx, w, spec)
		if !ok {
			return
		}
		l.ask(func() {
			if !l.w.State.Ready() || l.w.Resting {
				return
			}
			l.weight, l.w.Measured = weight, true
			l.account()
			l.pool.publish(l)
		})
	})
}

// account says what the worker holds, and what of it the system still shows as
// free: all that it is going to load; of a loaded one the mapped model file,
// which is page cache to the system, and what it gave back to rest, so that it
// can always wake.
func (l *life) account() {
	l.w.Memory = l.weight.Memory
	there := l.w.Device
	if _, own := l.weight.Memory[there]; !own {
		there = rbee.MainMemory // which it shares
	}
	l.w.MemoryBytes = l.weight.Memory[there] - l.rested[there]
	if l.w.State == rbee.WorkerStarting || l.w.State == rbee.WorkerLoading {
		l.w.Promised = l.weight.Memory
		return
	}
	l.w.Promised = l.rested
	if l.weight.Mapped > 0 {
		l.w.Promised = l.rested.Plus(rbee.Memory{rbee.MainMemory: l.weight.Mapped})
	}
}
