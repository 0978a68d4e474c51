package pool

import (
	"context"
	"fmt"
	"time"

	"rbee"
)

// retryLoading is the pause before a broken progress stream is opened again.
const retryLoading = 200 * time.Millisecond

// followLoading watches the worker load until it is ready or over.
func (l *life) followLoading(ctx context.Context) {
	for ctx.Err() == nil {
		for p, err := range l.link.LoadProgress(ctx) {
			if err != nil {
				break
			}
			if !l.ask(func() { l.loaded(p) }) {
				return
			}
		}
		if gone := false; !l.ask(func() { gone = l.silent }) || gone {
			l.ask(l.heardOut)
			return
		}
		if l.probe(ctx) {
			return
		}
		select {
		case <-time.After(retryLoading):
		case <-ctx.Done():
		}
	}
}

// heardOut ends the wait for the last words of a process that is gone.
func (l *life) heardOut() {
	l.following = false
	if l.silent && !l.w.State.Final() {
		l.conclude()
	}
}

// loaded takes a step of the loading. Only what moved resets the deadline.
func (l *life) loaded(p rbee.LoadProgress) {
	if p.Error != nil {
		l.told = p.Error
		if l.silent {
			l.heardOut()
			return
		}
		l.fail(p.Error)
		return
	}
	if l.w.State == rbee.WorkerLoading && (p.LayersLoaded != l.progress.LayersLoaded || p.VRAMMB != l.progress.VRAMMB || p.Stage != l.progress.Stage) {
		l.stall.Reset(l.pool.cfg.LoadStall)
	}
	l.progress = p
}

// probe asks the worker whether it is ready and notes it. It reports false
// when the worker still loads.
func (l *life) probe(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, HealthTimeout)
	defer cancel()
	r, err := l.link.Ready(ctx)
	if err != nil || !r.Ready {
		return false
	}
	l.ask(func() { l.becomeReady(r) })
	return true
}

func (l *life) becomeReady(r rbee.Readiness) {
	if l.w.State != rbee.WorkerLoading || l.failing != nil {
		return // somebody else saw it first, or it ends
	}
	if r.SlotsTotal > 0 {
		l.w.SlotsTotal = r.SlotsTotal
	}
	if r.Context > 0 {
		l.w.ContextTokens = r.Context
	}
	l.stall.Stop()
	if l.proc != nil {
		l.w.LoadMS = max(1, l.pool.cfg.Now().Sub(l.launched).Milliseconds())
	}
	l.become(rbee.WorkerIdle)
	l.rearm()
	l.pool.cfg.Loaded(l.w)
	l.pool.cfg.Log.Info("worker is ready", "worker", l.id, "model", l.w.ModelRef.String(), "load_ms", l.w.LoadMS)
	l.grant()
	l.weigh()
}

// stalled ends a worker whose loading moves no more.
func (l *life) stalled() {
	if l.silent {
		l.heardOut()
		return
	}
	var where string
	switch l.w.State {
	case rbee.WorkerStarting:
		where = "it was started and has not called back"
	case rbee.WorkerLoading:
		where = "before the first layer"
		if p := l.progress; p.LayersTotal > 0 {
			where = fmt.Sprintf("at layer %d of %d, with %.0f MB in memory", p.LayersLoaded, p.LayersTotal, p.VRAMMB)
		}
	default:
		return
	}
	l.fail(rbee.Errorf(rbee.CodeLoadingTimeout, "worker %s loaded nothing for %s; it stuck %s", l.id, l.pool.cfg.LoadStall, where).
		With("layers_loaded", l.progress.LayersLoaded).With("layers_total", l.progress.LayersTotal).
		Suggest("check the disk and the memory of the machine, or raise worker.load_timeout"))
}
