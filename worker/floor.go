package worker

import (
	"context"
	"errors"
	"sync"

	"rbee"
	"rbee/worker/engine"
)

// errCanceled is the cause with which DELETE ends a generation.
var errCanceled = errors.New("the generation was canceled")

// floor is where requests run: it lets them in once there is an engine, knows
// them by their ids, and lets no more in when the worker drains.
type floor struct {
	mu       sync.Mutex
	engine   engine.Engine // nil until the model is loaded
	draining bool
	jobs     map[string]context.CancelCauseFunc
	empty    chan struct{} // closed when draining and no job runs, by drain or leave
}

func newFloor() *floor {
	return &floor{jobs: map[string]context.CancelCauseFunc{}, empty: make(chan struct{})}
}

// open lets requests in.
func (f *floor) open(e engine.Engine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.engine = e
}

// state is where the worker is in its life, as its own process sees it.
func (f *floor) state() rbee.WorkerState {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.draining:
		return rbee.WorkerDraining
	case f.engine == nil:
		return rbee.WorkerLoading
	case len(f.jobs) > 0:
		return rbee.WorkerBusy
	}
	return rbee.WorkerIdle
}

// use returns the engine, or WORKER_NOT_READY with the reason.
func (f *floor) use() (engine.Engine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.admit()
}

func (f *floor) admit() (engine.Engine, error) {
	switch {
	case f.draining:
		return nil, rbee.Errorf(rbee.CodeWorkerNotReady, "the worker drains and takes no new requests").
			Suggest("use another worker, or start one")
	case f.engine == nil:
		return nil, rbee.Errorf(rbee.CodeWorkerNotReady, "the worker is still loading its model").
			With("progress_url", progressPath).Suggest("wait until GET /v1/ready answers 200")
	}
	return f.engine, nil
}

// enter starts a job. Its context ends with ctx, or with the cause for which it
// was canceled. Each enter that succeeds needs a leave.
func (f *floor) enter(ctx context.Context, id string) (context.Context, engine.Engine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.admit()
	if err != nil {
		return nil, nil, err
	}
	if f.jobs[id] != nil {
		return nil, nil, rbee.Errorf(rbee.CodeConflict, "a request with this id is running").
			Suggest("give each request its own id, or cancel the one that runs")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	f.jobs[id] = cancel
	return ctx, e, nil
}

// leave ends a job.
func (f *floor) leave(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[id](nil)
	delete(f.jobs, id)
	if f.draining && len(f.jobs) == 0 {
		close(f.empty)
	}
}

// cancel ends the job with the id, if there is one.
func (f *floor) cancel(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cancel := f.jobs[id]; cancel != nil {
		cancel(errCanceled)
	}
}

func (f *floor) cancelAll(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, cancel := range f.jobs {
		cancel(cause)
	}
}

func (f *floor) running() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.jobs)
}

// drain lets no more requests in. The channel closes when the last has ended.
// It is called once.
func (f *floor) drain() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draining = true
	if len(f.jobs) == 0 {
		close(f.empty)
	}
	return f.empty
}

// figures are the engine's, zero before it is there.
func (f *floor) figures() (engine.Info, engine.Stats) {
	f.mu.Lock()
	e := f.engine
	f.mu.Unlock()
	if e == nil {
		return engine.Info{}, engine.Stats{}
	}
	return e.Info(), e.Stats()
}

func (f *floor) stats() engine.Stats {
	_, s := f.figures()
	return s
}
