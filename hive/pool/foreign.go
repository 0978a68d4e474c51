package pool

import (
	"reflect"

	"rbee"
)

// Foreign is a model of a server that this hive did not start and that is not
// of our kind, as a worker.
type Foreign struct {
	ID      rbee.WorkerID
	Ref     rbee.ModelRef
	URL     string // under which its API is, without /v1
	Key     string // that the server demands; "" for none
	Model   string // what the server calls the model
	Slots   int
	Context int // tokens of one request; 0 if the server does not say
	Weight  Weight
}

// Adopt lists a model of a foreign server as a worker that is idle. It stays
// until Lose or Stop, and nothing else ends it.
func (p *Pool) Adopt(f Foreign) error {
	now := p.cfg.Now()
	l := newLife(p, Spec{Ref: f.Ref, KeepAlive: KeepAlive{Forever: true}}, f.Key, rbee.Worker{
		ID: f.ID, URL: p.cfg.URL(f.ID), ModelRef: f.Ref, State: rbee.WorkerIdle, LastActivity: now, StartedAt: now, External: true,
	})
	l.url, l.foreign = f.URL, f.Model
	l.describe(f)
	there, err := p.enter(l)
	if err != nil {
		return err
	}
	if there != l {
		return rbee.Errorf(rbee.CodeConflict, "there is a worker %s already", f.ID)
	}
	p.publish(l)
	p.begin(l)
	return nil
}

// Renew takes over what the server says of the model now. It reports false if
// the worker is not listed any more.
func (p *Pool) Renew(f Foreign) bool {
	l := p.life(f.ID)
	return l != nil && l.ask(func() {
		before := l.w
		if l.describe(f); !reflect.DeepEqual(before, l.w) {
			p.publish(l)
		}
	})
}

// Lose takes a worker of a foreign server off the list: for cause, or, with a
// plain reason, because the server has the model no more. What runs there goes on.
func (p *Pool) Lose(id rbee.WorkerID, cause *rbee.Error, reason string) {
	l := p.life(id)
	if l == nil {
		return
	}
	l.ask(func() {
		if cause != nil {
			l.fail(cause)
			return
		}
		l.end(hurry, CauseWithdrawn, reason)
	})
}

// describe is for run's goroutine, or before it runs.
func (l *life) describe(f Foreign) {
	l.w.SlotsTotal, l.w.ContextTokens, l.weight = f.Slots, f.Context, f.Weight
	l.w.Measured = len(f.Weight.Memory) > 0
	l.count()
	l.account()
}
