package pool_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/hive/pool"
)

// fakeProcess is a process that ends when it is told.
type fakeProcess struct {
	pid      int
	done     chan struct{}
	once     sync.Once
	exit     string
	deafTERM bool // it ends by SIGKILL only
	stops    []time.Duration
}

func (p *fakeProcess) PID() int              { return p.pid }
func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) Exit() string          { <-p.done; return p.exit }
func (p *fakeProcess) Lines() []string       { return []string{"line 1", "line 2"} }
func (p *fakeProcess) Follow(context.Context) iter.Seq[string] {
	return slices.Values(p.Lines())
}

func (p *fakeProcess) end(cause string) {
	p.once.Do(func() { p.exit = cause; close(p.done) })
}

func (p *fakeProcess) Stop(_ context.Context, grace time.Duration) {
	p.stops = append(p.stops, grace)
	if !p.deafTERM {
		p.end("signal: terminated")
		return
	}
	select {
	case <-p.done:
	case <-time.After(grace):
		p.end("signal: killed")
	}
}

// fakeWorker is the worker behind a link: what it answers, and what it was told.
type fakeWorker struct {
	mu       sync.Mutex
	proc     *fakeProcess
	ready    bool
	sick     bool // health fails
	deaf     bool // orders are taken and not followed
	busyFor  time.Duration
	progress chan rbee.LoadProgress
	told     []string
}

func (w *fakeWorker) note(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, s)
}

func (w *fakeWorker) notes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

func (w *fakeWorker) set(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func (w *fakeWorker) Health(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sick {
		return errors.New("no answer")
	}
	return nil
}

func (w *fakeWorker) Ready(context.Context) (rbee.Readiness, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return rbee.Readiness{Ready: w.ready, State: rbee.WorkerIdle, SlotsTotal: 4, Context: 1024}, nil
}

func (w *fakeWorker) LoadProgress(ctx context.Context) iter.Seq2[rbee.LoadProgress, error] {
	return func(yield func(rbee.LoadProgress, error) bool) {
		for {
			select {
			case p, ok := <-w.progress:
				if !ok || !yield(p, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (w *fakeWorker) Drain(context.Context) error {
	w.note("drain")
	if !w.deaf {
		time.AfterFunc(w.busyFor, func() { w.proc.end("exit status 0") })
	}
	return nil
}

func (w *fakeWorker) Shutdown(context.Context) error {
	w.note("shutdown")
	if !w.deaf {
		w.proc.end("exit status 0")
	}
	return nil
}

func (w *fakeWorker) Rest(context.Context) error {
	w.note("rest")
	return nil
}

func (*fakeWorker) Close() {}

// rig is a pool over fake workers, in a bubble of synctest.
type rig struct {
	t       *testing.T
	mu      sync.Mutex
	pool    *pool.Pool
	workers map[rbee.WorkerID]*fakeWorker
	ended   []rbee.Worker
	launch  func() error // why no process starts; nil if one does
	weigh   pool.Weigh   // nil for none
	causes  []pool.Cause // of the ends
	stop    func()       // ends the pool and waits
}

var ref = rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/m/a.gguf"}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, workers: map[rbee.WorkerID]*fakeWorker{}}
	byURL := func(url string) *fakeWorker {
		r.mu.Lock()
		defer r.mu.Unlock()
		for id, w := range r.workers {
			if url == workerURL(id) {
				return w
			}
		}
		t.Errorf("dialled %s, where nobody is", url)
		return &fakeWorker{}
	}
	r.pool = pool.New(pool.Config{
		Launch: func(id rbee.WorkerID, _ string, _ pool.Spec) (pool.Process, error) {
			if r.launch != nil {
				return nil, r.launch()
			}
			w := r.add(id)
			w.proc = &fakeProcess{pid: 1000 + len(r.workers), done: make(chan struct{})}
			return w.proc, nil
		},
		Dial:      func(url, _ string) pool.Link { return byURL(url) },
		URL:       func(id rbee.WorkerID) string { return "http://hive/v1/workers/" + string(id) },
		LoadStall: time.Minute,
		Weigh: func(ctx context.Context, w rbee.Worker, s pool.Spec) (pool.Weight, bool) {
			if r.weigh == nil {
				return pool.Weight{}, false
			}
			return r.weigh(ctx, w, s)
		},
		Ended: func(w rbee.Worker, cause pool.Cause) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.ended, r.causes = append(r.ended, w), append(r.causes, cause)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.pool.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(func() { cancel() })
	return r
}

func workerURL(id rbee.WorkerID) string { return "http://127.0.0.1:1/" + string(id) }

func (r *rig) add(id rbee.WorkerID) *fakeWorker {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &fakeWorker{progress: make(chan rbee.LoadProgress)}
	r.workers[id] = w
	return w
}

func (r *rig) start(k pool.KeepAlive) (rbee.WorkerID, *fakeWorker) {
	r.t.Helper()
	w, err := r.pool.Start(r.t.Context(), func(context.Context, []rbee.Worker) (pool.Spec, error) {
		return pool.Spec{
			Ref: ref, Path: "/m/a.gguf", Backend: rbee.BackendCPU, Device: "cpu", Slots: 4, KeepAlive: k,
			Weight: pool.Weight{Memory: rbee.Memory{"cpu": 100}, Mapped: 60},
		}, nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return w.ID, r.workers[w.ID]
}

func (r *rig) callBack(id rbee.WorkerID) {
	r.t.Helper()
	err := r.pool.Ready(r.t.Context(), rbee.ReadyRequest{WorkerID: id, URL: workerURL(id), ModelRef: ref.String(), Backend: rbee.BackendCPU, Device: "cpu"})
	if err != nil {
		r.t.Fatal(err)
	}
}

// idle starts a worker and brings it to idle.
func (r *rig) idle(k pool.KeepAlive) (rbee.WorkerID, *fakeWorker) {
	r.t.Helper()
	id, w := r.start(k)
	r.callBack(id)
	r.finishLoading(w)
	synctest.Wait()
	r.want(id, rbee.WorkerIdle)
	return id, w
}

func (r *rig) finishLoading(w *fakeWorker) {
	w.set(func() { w.ready = true })
	w.progress <- rbee.LoadProgress{Stage: rbee.LoadReady, LayersLoaded: 8, LayersTotal: 8}
	close(w.progress)
}

func (r *rig) want(id rbee.WorkerID, state rbee.WorkerState) rbee.Worker {
	r.t.Helper()
	w, err := r.pool.Worker(id)
	if err != nil {
		r.t.Fatalf("worker %s: %v", id, err)
	}
	if w.State != state {
		r.t.Fatalf("worker is %s (%s), want %s", w.State, w.Reason, state)
	}
	return w
}
