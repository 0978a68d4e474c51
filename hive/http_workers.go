package hive

import (
	"context"
	"io"
	"iter"
	"net/http"

	"rbee"
	"rbee/internal/forward"
	"rbee/internal/sse"
)

// reply is a reply with a body and nothing else.
type reply[T any] struct{ Body T }

type workerIn struct {
	ID rbee.WorkerID `path:"id" maxLength:"128"`
}

func (h *Hive) health(context.Context, *struct{}) (*reply[rbee.Health], error) {
	return &reply[rbee.Health]{rbee.Alive()}, nil
}

func (h *Hive) listDevices(ctx context.Context, _ *struct{}) (*reply[rbee.DeviceList], error) {
	return &reply[rbee.DeviceList]{h.devices.recent(ctx)}, nil
}

func (h *Hive) spawnWorker(ctx context.Context, in *struct{ Body rbee.SpawnRequest }) (*reply[rbee.SpawnReply], error) {
	if err := h.standing.enter(); err != nil {
		return nil, err
	}
	defer h.standing.leave()
	s, err := h.spawn(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	if s.reused {
		return &reply[rbee.SpawnReply]{rbee.SpawnReply{WorkerID: s.worker.ID, URL: s.worker.URL, State: s.worker.State, Reused: true}}, nil
	}
	if ctx.Err() != nil { // who asked has left without the worker's id
		h.pool.Order(s.worker.ID, false)
		return nil, context.Cause(ctx)
	}
	return &reply[rbee.SpawnReply]{rbee.SpawnReply{
		WorkerID: s.worker.ID, URL: s.worker.URL, State: rbee.WorkerLoading, DownloadID: s.download,
	}}, nil
}

func (h *Hive) workerReady(ctx context.Context, in *struct{ Body rbee.ReadyRequest }) (*reply[rbee.Message], error) {
	if err := h.pool.Ready(ctx, in.Body); err != nil {
		return nil, err
	}
	return &reply[rbee.Message]{rbee.Message{Message: "Worker registered as ready"}}, nil
}

type listIn struct {
	ModelRef string `query:"model_ref" maxLength:"512" doc:"only the workers of this model"`
}

func (h *Hive) listWorkers(_ context.Context, in *listIn) (*reply[rbee.WorkerList], error) {
	if in.ModelRef == "" {
		return &reply[rbee.WorkerList]{rbee.WorkerList{Workers: h.pool.Workers()}}, nil
	}
	ref, err := h.cfg.Settings.Resolve(in.ModelRef)
	if err != nil {
		return nil, err
	}
	list := rbee.WorkerList{Workers: []rbee.Worker{}}
	for _, w := range h.pool.ByModel(ref) {
		list.Workers = append(list.Workers, *w)
	}
	return &reply[rbee.WorkerList]{list}, nil
}

func (h *Hive) showWorker(_ context.Context, in *workerIn) (*reply[rbee.Worker], error) {
	w, err := h.pool.Worker(in.ID)
	if err != nil {
		return nil, err
	}
	return &reply[rbee.Worker]{w}, nil
}

func (h *Hive) stopWorker(ctx context.Context, in *workerIn) (*struct{}, error) {
	return nil, h.pool.Stop(ctx, in.ID)
}

type logsIn struct {
	ID     rbee.WorkerID `path:"id" maxLength:"128"`
	Follow bool          `query:"follow" doc:"go on with what the worker will write, until it ends"`
}

func (h *Hive) workerLogs(ctx context.Context, in *logsIn, w http.ResponseWriter) error {
	p, err := h.pool.Process(in.ID)
	if err != nil {
		return err
	}
	if w, err := h.pool.Worker(in.ID); p == nil && err == nil && !w.External {
		return rbee.Errorf(rbee.CodeWorkerNotReady, "worker %s has not been started yet: its model is being fetched", in.ID).
			Suggest("follow the download, or ask again later")
	}
	if p == nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "worker %s was not started by this hive, which does not have its output", in.ID).
			Suggest("look where it was started")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	if !in.Follow {
		for _, line := range p.Lines() {
			if _, err := io.WriteString(w, line+"\n"); err != nil {
				return gone(ctx, err)
			}
		}
		return nil
	}
	ctx, release := forward.Lasting(ctx)
	defer release()
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		return gone(ctx, err)
	}
	for line := range p.Follow(ctx) {
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			return gone(ctx, err)
		}
		if err := rc.Flush(); err != nil {
			return gone(ctx, err)
		}
	}
	return nil
}

// gone is nil for the error of a write to a reader that left, which is no failure.
func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return rbee.Errorf(rbee.CodeRequestCanceled, "the reader is gone").WithCause(err)
}

func (h *Hive) workerMetrics(w http.ResponseWriter, r *http.Request) error {
	target, err := h.pool.Reach(r.Context(), rbee.WorkerID(r.PathValue("id")))
	if err != nil {
		return err
	}
	return h.relay.pass(w, r, target, "/metrics")
}

// streamEvents tells a snapshot, then changes. A reader that falls behind is
// cut off without the end mark and comes again.
func (h *Hive) streamEvents(ctx context.Context, _ *struct{}, w http.ResponseWriter) error {
	ctx, release := forward.Lasting(ctx)
	defer release()
	workers, changes := h.pool.Feed().Subscribe(ctx)
	out := sse.NewWriter(w)
	standing := h.standing.now()
	if err := out.JSON(rbee.Event{
		Kind: rbee.EventSnapshot, Time: h.clock.now(), Workers: workers, Downloads: h.store.Downloads(), Hive: &standing,
	}); err != nil {
		return gone(ctx, err)
	}
	return tellChanges(ctx, out, changes)
}

// tellChanges sends what a feed tells, to its end.
func tellChanges[T any](ctx context.Context, out *sse.Writer, changes iter.Seq2[T, error]) error {
	for e, err := range changes {
		if err != nil {
			return nil //nolint:nilerr // the reader left or is too slow; both know
		}
		if err := out.JSON(e); err != nil {
			return gone(ctx, err)
		}
	}
	if err := out.Done(); err != nil {
		return gone(ctx, err)
	}
	return nil
}

func (h *Hive) orderShutdown(context.Context, *struct{}) (*reply[rbee.Message], error) {
	h.shutdown(errOrdered)
	return &reply[rbee.Message]{rbee.Message{Message: "the hive shuts down"}}, nil
}
