package keeper

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rbee"
	"rbee/client"
)

const (
	// cancelTime bounds how long a canceled generation may take to end.
	cancelTime = 5 * time.Second
	// overTime is what the worker's own deadline may be missed by.
	overTime = 10 * time.Second
)

// errOverTime ends a generation whose worker did not keep its own deadline.
var errOverTime = errors.New("the generation did not end in time")

// errShutDown ends a generation whose worker was told to end.
var errShutDown = errors.New("the worker was told to end")

func newRequestID() string { return "req-" + strings.ToLower(rand.Text()[:16]) }

// tokenEvent and doneEvent are the JSON forms of the end of infer.
type tokenEvent struct {
	Event string `json:"event"`
	Token string `json:"token"`
	Index int    `json:"index"`
}

type doneEvent struct {
	Event           string          `json:"event"`
	RequestID       string          `json:"request_id"`
	WorkerID        rbee.WorkerID   `json:"worker_id"`
	Model           rbee.ModelRef   `json:"model"`
	TotalTokens     int             `json:"total_tokens"`
	DurationMS      int64           `json:"duration_ms"`
	TokensPerSecond float64         `json:"tokens_per_second"`
	StopReason      rbee.StopReason `json:"stop_reason"`
	PromptTokens    int             `json:"prompt_tokens"`
	CachedTokens    int             `json:"cached_tokens"`
	Hive            string          `json:"hive,omitempty"`
}

// generate is phase 8. A busy worker is asked again after 1, 2 and 4 seconds;
// after the first token nothing is tried twice.
func (r *inference) generate(ctx context.Context) error {
	if r.journey == nil {
		r.out.phase(8, "Inference")
	} // a queen may have something to tell before
	delay := time.Second
	for attempt := 0; ; attempt++ {
		text := &strings.Builder{}
		done, err := r.stream(ctx, text)
		busy := rbee.CodeOf(err) == rbee.CodeAllSlotsBusy || rbee.CodeOf(err) == rbee.CodeQueueFull
		switch {
		case err == nil:
			r.finish(done)
			return nil
		case busy && attempt < r.flags.attempts && text.Len() == 0:
			r.out.busy(8, delay)
			if err := r.pause(ctx, delay); err != nil {
				return err
			}
			delay *= 2
		case busy && r.journey != nil:
			return asError(err)
		case busy:
			return rbee.Errorf(rbee.CodeOf(err), "worker %s is still busy after %s", r.worker, plural(attempt+1, "attempt")).
				Suggest("try again later, or start another worker: leave --worker out, or run 'rbee workers spawn'")
		default:
			return r.broken(ctx, text.String(), done.TotalTokens, err)
		}
	}
}

// stream prints the tokens of one attempt. When ctx ends it cancels the
// generation and waits for its end, at most cancelTime. An error comes with
// the number of tokens that were printed.
func (r *inference) stream(ctx context.Context, text *strings.Builder) (rbee.InferDone, error) {
	limit := time.Duration(*r.req.TimeoutSeconds)*time.Second + overTime
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	overtime := time.AfterFunc(limit, func() { end(errOverTime) })
	defer overtime.Stop()
	canceled := make(chan struct{}) // closed by the function below
	stopCancel := context.AfterFunc(ctx, func() {
		defer close(canceled)
		r.cancel(life, end)
	})
	defer func() {
		end(nil)
		if !stopCancel() {
			<-canceled
		}
	}()
	events := r.events(life, overtime, limit)
	var done rbee.InferDone
	for ev, err := range events {
		switch {
		case ctx.Err() != nil && (err != nil || ev.InferDone != nil):
			return done, context.Cause(ctx)
		case err != nil:
			return done, err
		case ev.InferDone != nil && ev.StopReason == rbee.StopShutdown:
			return *ev.InferDone, rbee.Errorf(rbee.CodeWorkerCrashed, "the worker was shut down before the text was complete").
				WithCause(errShutDown).Suggest("run the command again; the model is on disk already")
		case ev.InferDone != nil && ev.Done:
			return *ev.InferDone, nil
		}
		done.TotalTokens = ev.Index + 1 // a character that took several tokens is one event
		text.WriteString(ev.Token)
		if r.out.json {
			r.out.emit(tokenEvent{"token", ev.Token, ev.Index})
		} else {
			r.out.text(ev.Token)
		}
		if r.out.err != nil {
			return done, r.out.err
		}
	}
	return done, rbee.Errorf(rbee.CodeWorkerCrashed, "the worker ended the stream without its last event")
}

// cancel has a generation end, and returns when it has, at most after cancelTime.
func (r *inference) cancel(life context.Context, end context.CancelCauseFunc) {
	if r.journey != nil {
		end(errInterrupted) // a queen passes on that we left
		return
	}
	late := time.AfterFunc(cancelTime, func() { end(errInterrupted) })
	defer late.Stop()
	bounded, cancel := context.WithTimeout(life, cancelTime)
	defer cancel()
	if r.colony.worker(r.worker).CancelInfer(bounded, r.req.RequestID) != nil {
		end(errInterrupted) // leaving cancels, too
	}
	<-life.Done()
}

// events are those of the generation. Through a queen the time for it begins when
// the wait for a place has ended, and so does the last phase.
func (r *inference) events(ctx context.Context, overtime *time.Timer, limit time.Duration) iter.Seq2[rbee.InferEvent, error] {
	if r.journey == nil {
		return r.colony.worker(r.worker).Infer(ctx, r.req)
	}
	overtime.Stop()
	return func(yield func(rbee.InferEvent, error) bool) {
		defer r.journey.arrived()
		began := false
		for ev, err := range r.journey.client(r.req.RequestID).Complete(ctx, r.model.String(), r.req) {
			if !began && err == nil {
				began = true
				r.journey.arrived()
				r.out.phase(8, "Inference")
				overtime.Reset(limit)
			}
			if !yield(ev, err) {
				return
			}
		}
	}
}

// finish prints the figures.
func (r *inference) finish(done rbee.InferDone) {
	speed := 1000 * float64(done.TotalTokens) / float64(max(done.DurationMS, 1))
	hive, from := "", ""
	if j := r.journey; j != nil {
		hive, r.worker, from = j.hive, j.worker, after(", ", j.from())
	}
	if r.out.json {
		r.out.emit(doneEvent{
			Event: "done", RequestID: r.req.RequestID, WorkerID: r.worker, Model: r.model, Hive: hive,
			TotalTokens: done.TotalTokens, DurationMS: done.DurationMS, TokensPerSecond: speed,
			StopReason: done.StopReason, PromptTokens: done.PromptTokens, CachedTokens: done.CachedTokens,
		})
	} else {
		r.endLine()
		r.out.done(8, "%s in %.1f s (%.1f tokens/s), stopped by: %s%s",
			plural(done.TotalTokens, "token"), float64(done.DurationMS)/1000, speed, done.StopReason, from)
	}
}

// endLine ends the line of tokens, where somebody looks at it.
func (r *inference) endLine() {
	if r.out.outTerminal {
		r.out.text("\n")
	}
}

// broken tells a failure in the middle of a generation. What was generated is
// kept if the other side vanished; a failure of our own output or an interrupt
// loses nothing that the user did not see.
func (r *inference) broken(ctx context.Context, text string, tokens int, err error) error {
	if tokens > 0 && !r.out.json {
		r.endLine()
	}
	if ctx.Err() != nil || r.out.err != nil {
		return err
	}
	switch code := rbee.CodeOf(err); {
	case errors.Is(err, errOverTime):
		err = rbee.Errorf(rbee.CodeRequestTimeout, "the generation did not end within %s", plural(*r.req.TimeoutSeconds, "second"))
	case errors.Is(err, errShutDown): // it said so itself
	case r.journey != nil:
		err = r.colony.lostIfCut(ctx, r.colony.explain(err))
	case code == rbee.CodeWorkerCrashed, code == rbee.CodeWorkerNotFound, client.IsCut(err):
		err = r.colony.whoDied(ctx, r.worker, err)
	case code == rbee.CodeRequestTimeout:
		err = asError(err).Suggest("ask for fewer tokens with --max-tokens, or set a longer --timeout")
	default:
		err = r.colony.explain(err)
	}
	if tokens == 0 {
		return err
	}
	name, saveErr := savePartial(r.req.RequestID, text)
	if saveErr != nil {
		r.out.warn("cannot keep the partial result: %v", saveErr)
	} else {
		r.out.note("Partial result kept in %s", shortPath(name))
	}
	r.out.note("Tokens generated: %d / %d", tokens, *r.req.MaxTokens)
	e := asError(err).With("tokens_generated", tokens).With("max_tokens", *r.req.MaxTokens)
	if saveErr == nil {
		e = e.With("partial_result", name)
	}
	return e
}

// whoDied finds out whether the worker or the hive is gone, and how.
func (c *colony) whoDied(ctx context.Context, id rbee.WorkerID, err error) error {
	if !c.alive(ctx) {
		return c.died("during the generation", err)
	}
	w, lookup := c.client.Worker(ctx, id)
	if lookup != nil || !w.State.Final() {
		return rbee.Errorf(rbee.CodeWorkerCrashed, "worker %s died during the generation", id).WithCause(err).
			Suggest("run the command again; the model is on disk already")
	}
	e := asError(workerEnded(w))
	return rbee.Errorf(rbee.CodeWorkerCrashed, "worker %s died during the generation: %s", id, e.Message).WithCause(e).
		Suggest("run the command again; the model is on disk already")
}

// savePartial keeps text in a file of the working directory or, where that
// cannot be written, of the temporary directory.
func savePartial(requestID, text string) (string, error) {
	name := "rbee-partial-" + requestID + ".txt"
	var errs []error
	for _, dir := range []string{".", os.TempDir()} {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err == nil {
			err = writeNew(path, text)
		}
		if err == nil {
			return path, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// writeNew writes a file that must not exist yet.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the name is our own
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
