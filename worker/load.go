package worker

import (
	"context"
	"time"

	"rbee"
	"rbee/worker/engine"
)

// load loads the model. It fails with LOADING_TIMEOUT when nothing moves for
// the load timeout, however long the whole takes. A load that hangs in the
// system and does not give way is left to the end of the process.
func (w *Worker) load(ctx context.Context) (engine.Engine, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(w.cfg.LoadTimeout, func() { cancel(w.stuck()) })
	defer stalled.Stop()
	last := -1
	follow := func(now rbee.LoadProgress) {
		stalled.Reset(w.cfg.LoadTimeout)
		w.progress.step(now)
		if tenth := 10 * now.LayersLoaded / max(1, now.LayersTotal); tenth > last {
			last = tenth
			w.log.Debug("loading", "layers_loaded", now.LayersLoaded, "layers_total", now.LayersTotal, "vram_mb", now.VRAMMB)
		}
	}
	type outcome struct {
		eng engine.Engine
		err error
	}
	done := make(chan outcome, 1)
	w.loads.Go(func() {
		eng, err := w.cfg.Load(ctx, w.cfg.Options, follow)
		if err == nil && ctx.Err() != nil { // nobody waits for it any more
			err = eng.Close()
			eng = nil
		}
		done <- outcome{eng, err}
	})
	w.log.Info("loading", "model", w.cfg.ModelRef, "path", w.cfg.Options.ModelPath)
	select {
	case o := <-done:
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return o.eng, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (w *Worker) stuck() error {
	now, _, _ := w.progress.state()
	return rbee.Errorf(rbee.CodeLoadingTimeout, "cannot load the model: no progress for %v, stuck at layer %d of %d",
		w.cfg.LoadTimeout, now.LayersLoaded, now.LayersTotal).
		With("layers_loaded", now.LayersLoaded).With("layers_total", now.LayersTotal).
		Suggest("check the disk and the device of the model, or allow more time with --load-timeout")
}
