package keeper

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/engines"
)

const (
	// cleanTime bounds how long stopping the worker of an ended run may take.
	cleanTime = 10 * time.Second
	// exitNotice is how long after its connection broke the end of a private
	// hive's process is waited for, to say how it ended.
	exitNotice = 2 * time.Second
)

// start is phases 3 to 7: model, memory and backend, worker, registration, loading.
func (r *inference) start(ctx context.Context) error {
	var err error
	if r.model, err = modelRef(r.cfg, r.flags.model, r.colony.local); err != nil {
		return err
	}
	if err := r.bringModel(ctx); err != nil {
		return err
	}
	r.out.phase(4, "Memory and backend")
	if r.colony.local {
		if err := r.ensureEngine(ctx, r.cfg, 4); err != nil {
			return err
		}
	}
	reply, err := r.colony.client.Spawn(ctx, rbee.SpawnRequest{
		ModelRef: r.model.String(), Backend: rbee.Backend(r.flags.backend), Device: rbee.DeviceID(r.flags.device),
		Slots: r.flags.slots, Context: r.flags.context, KeepAlive: ephemeralKeepAlive,
	})
	if err != nil {
		return err
	}
	r.worker, r.own = reply.WorkerID, true
	w, err := r.colony.client.Worker(ctx, r.worker)
	if err != nil {
		return err
	}
	if w.MemoryBytes > 0 {
		r.out.done(4, "Memory: %s needed, free on %s", size(w.MemoryBytes), w.Device)
	}
	r.out.done(4, "Backend: %s, device %s", w.Backend, w.Device)
	r.out.phase(5, "Worker start")
	r.out.done(5, "Worker %s started (pid %d)", r.worker, w.PID)
	r.out.phase(6, "Registration")
	if _, err := r.colony.await(ctx, r.worker, func(s rbee.WorkerState) bool { return s != rbee.WorkerStarting }); err != nil {
		return err
	}
	r.out.done(6, "Worker registered")
	r.out.phase(7, "Loading")
	began := time.Now()
	if err := r.load(ctx, r.colony, r.worker, 7); err != nil {
		return err
	}
	r.out.done(7, "Model loaded in %.1f s", time.Since(began).Seconds())
	return nil
}

// reuse looks at the worker that the user named.
func (r *inference) reuse(ctx context.Context) error {
	r.worker = rbee.WorkerID(r.flags.worker)
	w, err := r.colony.client.Worker(ctx, r.worker)
	if err != nil {
		return err
	}
	if w.State.Final() {
		return workerEnded(w)
	}
	r.model = w.ModelRef
	if w.State.Ready() {
		return nil
	}
	r.out.phase(7, "Loading")
	return r.load(ctx, r.colony, r.worker, 7)
}

// bringModel is phase 3: the model's bytes are on the hive's disk, or get there.
func (r *inference) bringModel(ctx context.Context) error {
	r.out.phase(3, "Model %s", r.model)
	catalog, err := r.colony.client.Models(ctx)
	if err != nil {
		return err
	}
	for _, m := range catalog {
		if m.Ref() == r.model {
			r.out.done(3, "Model in catalog, download skipped (%s)", size(m.SizeBytes))
			return nil
		}
	}
	switch r.model.Provider {
	case rbee.ProviderBuiltin:
		r.out.done(3, "builtin model, nothing to download")
		return nil
	case rbee.ProviderFile:
		r.out.done(3, "File on the hive's machine, nothing to download")
		return nil
	}
	p, err := r.download(ctx, r.colony, rbee.DownloadRequest{ModelRef: r.model.String()}, 3)
	switch {
	case err != nil:
		return err
	case p.Stage == rbee.DownloadCached: // under another reference
		r.out.done(3, "Model in catalog, download skipped%s", sizeOf(p))
	default:
		r.out.done(3, "Model downloaded%s", sizeOf(p))
	}
	return nil
}

// ensureEngine installs the engine on its first use, with a progress line. The
// hive would do it as well, but without a word.
func (a *app) ensureEngine(ctx context.Context, cfg conf.Config, phase int) error {
	_, err := a.installEngine(ctx, engines.Open(cfg.EnginesDir()).Ensure, rbee.BackendCPU, phase)
	return err
}

// await follows a worker until its state is wanted. A worker that ends before
// is an error that says why.
func (c *colony) await(ctx context.Context, id rbee.WorkerID, wanted func(rbee.WorkerState) bool) (rbee.Worker, error) {
	for ev, err := range c.client.Events(ctx) {
		if err != nil {
			return rbee.Worker{}, c.lost(ctx, err)
		}
		for _, w := range append(ev.Workers, deref(ev.Worker)...) {
			if w.ID != id {
				continue
			}
			if w.State.Final() || ev.Kind == rbee.EventWorkerGone {
				return w, workerEnded(w)
			}
			if wanted(w.State) {
				return w, nil
			}
		}
		if ev.Kind == rbee.EventSnapshot && !contains(ev.Workers, id) {
			// It ended before we looked; the hive still knows why.
			w, err := c.client.Worker(ctx, id)
			if err != nil {
				return w, err
			}
			return w, workerEnded(w)
		}
	}
	return rbee.Worker{}, c.lost(ctx, errors.New("the hive shuts down"))
}

func deref(w *rbee.Worker) []rbee.Worker {
	if w == nil {
		return nil
	}
	return []rbee.Worker{*w}
}

func contains(workers []rbee.Worker, id rbee.WorkerID) bool {
	for _, w := range workers {
		if w.ID == id {
			return true
		}
	}
	return false
}

// load shows the loading of a worker's model until it is ready.
func (a *app) load(ctx context.Context, c *colony, id rbee.WorkerID, phase int) error {
	b := a.out.bar(phase, "loading", "layers")
	defer b.clear()
	var last rbee.LoadProgress
	for p, err := range c.worker(id).LoadProgress(ctx) {
		if err != nil {
			b.clear()
			return c.loadFailure(ctx, id, last, err)
		}
		if p.Stage == rbee.LoadError {
			b.clear()
			return loadError(p)
		}
		if p.Stage == rbee.LoadReady {
			break
		}
		last = p
		if p.LayersTotal == 0 {
			continue // the file is being opened
		}
		b.set(int64(p.LayersLoaded), int64(p.LayersTotal))
	}
	b.clear()
	_, err := c.await(ctx, id, rbee.WorkerState.Ready)
	return err
}

// loadError is what a worker says of its own failure, with the place where it stuck.
func loadError(p rbee.LoadProgress) error {
	if p.Error == nil {
		return stuckAt(rbee.Errorf(rbee.CodeWorkerCrashed, "the worker cannot load the model"), p)
	}
	return stuckAt(p.Error, p)
}

func stuckAt(e *rbee.Error, p rbee.LoadProgress) error {
	place := fmt.Sprintf("%d of %d layers", p.LayersLoaded, p.LayersTotal)
	if p.LayersTotal == 0 || strings.Contains(e.Message, fmt.Sprintf("%d", p.LayersTotal)) {
		return e
	}
	c := *e
	c.Message += "; it stuck at " + place
	return &c
}

// loadFailure finds out why the progress of a worker broke off.
func (c *colony) loadFailure(ctx context.Context, id rbee.WorkerID, last rbee.LoadProgress, err error) error {
	if interrupted(ctx) {
		return context.Cause(ctx)
	}
	if _, awaited := c.await(ctx, id, rbee.WorkerState.Ready); awaited == nil {
		return nil // only the stream broke
	} else if e := new(rbee.Error); errors.As(awaited, &e) {
		return stuckAt(e, last)
	}
	return err
}

// workerEnded says how a worker ended that should not have.
func workerEnded(w rbee.Worker) error {
	e := w.Failure
	if e == nil {
		message := fmt.Sprintf("worker %s ended", w.ID)
		if w.Reason != "" {
			message += ": " + w.Reason
		}
		e = rbee.Errorf(rbee.CodeWorkerCrashed, "%s", message)
	}
	if len(w.LastLogs) > 0 {
		e = e.With("last_logs", w.LastLogs)
	}
	if e.Suggestion() == "" {
		e = e.Suggest("see 'rbee workers logs %s', or 'rbee doctor'", w.ID)
	}
	return e.With("worker_id", w.ID)
}

// lost says that the hive is gone, if it is.
func (c *colony) lost(ctx context.Context, err error) error {
	if interrupted(ctx) {
		return context.Cause(ctx)
	}
	if c.alive(ctx) {
		return err
	}
	if c.queen {
		return c.died("while she worked for us", err)
	}
	return c.died("while it worked for us", err)
}

// lostIfCut is lost for an error that may come from the hive itself.
func (c *colony) lostIfCut(ctx context.Context, err error) error {
	if client.IsCut(err) {
		return c.lost(ctx, err)
	}
	return err
}

// alive asks the hive once more.
func (c *colony) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, err := c.client.Health(ctx)
	return err == nil
}

func (c *colony) died(when string, err error) error {
	if c.private != nil {
		timer := time.NewTimer(exitNotice)
		defer timer.Stop()
		select {
		case <-c.private.process.Done():
			return rbee.Errorf(rbee.CodeConnectionTimeout, "the private hive died %s (%s)", when, c.private.process.Exit()).WithCause(err).
				Suggest("see 'rbee doctor', then try again")
		case <-timer.C:
		}
	}
	suggestion := c.remedy
	switch {
	case c.queen:
		suggestion = "see what she wrote in 'rbee queen logs', then start her again with 'rbee up'"
	case c.local:
		suggestion = "see what it wrote (a hive of 'rbee hive start' in 'rbee hive logs'), then start it again"
	}
	return rbee.Errorf(rbee.CodeConnectionTimeout, "the %s on %s died %s", c.role(), c.host, when).WithCause(err).Suggest("%s", suggestion)
}

// shortPath prints a path relative to the working directory where that is shorter.
func shortPath(path string) string {
	wd, err := filepath.Abs(".")
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
