package worker

import (
	"context"
	"sync"

	"rbee"
)

// progress is how far the load is. Each state holds all that the ones before
// it said, so a watcher that is slow misses nothing by missing some.
type progress struct {
	mu      sync.Mutex
	now     rbee.LoadProgress
	final   bool
	changed chan struct{} // closed and replaced at each change, by set

	told     chan struct{} // closed when the first watcher has had the final state
	tellOnce sync.Once
}

func newProgress() *progress {
	return &progress{
		now:     rbee.LoadProgress{Stage: rbee.LoadToVRAM},
		changed: make(chan struct{}),
		told:    make(chan struct{}),
	}
}

func (p *progress) set(change func(*rbee.LoadProgress), final bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.final {
		return
	}
	change(&p.now)
	p.final = final
	close(p.changed)
	p.changed = make(chan struct{})
}

// step takes over the figures of a load that goes on.
func (p *progress) step(now rbee.LoadProgress) {
	p.set(func(v *rbee.LoadProgress) {
		*v = now
		v.Stage, v.Error = rbee.LoadToVRAM, nil
	}, false)
}

func (p *progress) ready() {
	p.set(func(v *rbee.LoadProgress) { v.Stage = rbee.LoadReady }, true)
}

func (p *progress) fail(err *rbee.Error) {
	p.set(func(v *rbee.LoadProgress) { v.Stage, v.Error = rbee.LoadError, err }, true)
}

func (p *progress) state() (now rbee.LoadProgress, final bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.final, p.changed
}

// watch hands over the present state and then each newer one, up to the final
// one. It ends early with the error of tell, or with ctx's cause.
func (p *progress) watch(ctx context.Context, tell func(rbee.LoadProgress) error) error {
	for {
		now, final, changed := p.state()
		if err := tell(now); err != nil {
			return err
		}
		if final {
			p.tellOnce.Do(func() { close(p.told) })
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if _, final, _ := p.state(); !final {
				return context.Cause(ctx)
			}
		}
	}
}
