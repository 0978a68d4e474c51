package worker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/worker/engine"
	"rbee/worker/openai"
	"rbee/worker/text"
)

// errEnough is what an emit returns that needs no more.
var errEnough = errors.New("nothing more is wanted")

// emit takes the text that a token, counted from 0, makes certain: whole
// characters, nothing of a stop string, perhaps nothing at all. An error ends
// the generation: errEnough in good order, any other for want of a reader.
type emit func(text []byte, p engine.Piece, index int) error

// generation is one request while the engine works on it. It belongs to the
// goroutine of its handler, but for the stall timer.
type generation struct {
	text    *text.Stream
	emit    emit
	special func(engine.Token) []byte // text of a token that has none, or nil
	began   time.Time
	first   time.Duration // from the request to its first token
	last    time.Time     // when the last token was taken
	between prometheus.Observer
	stall   *time.Timer // runs from one token to the next
	limit   time.Duration
	tokens  int
	stopped bool  // a stop string came
	enough  bool  // emit wants no more
	gone    error // why the client cannot be reached
	result  engine.Result
}

// generate runs one request to its end, which is good or a failure. The text
// that was held back is the generation's rest.
func (w *Worker) generate(ctx context.Context, eng engine.Engine, req engine.Request, g *generation) (rbee.InferDone, *rbee.Error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	g.began, g.limit, g.between = time.Now(), w.cfg.TokenStall, w.metrics.interval
	g.stall = time.AfterFunc(g.limit, func() {
		stop(rbee.Errorf(rbee.CodeGenerationTimeout, "cannot generate: no token came for %v", g.limit).
			Suggest("try again; if it happens again, the worker's log may say what its device does"))
	})
	defer g.stall.Stop()
	g.stall.Stop() // before the first token, waiting and a long prompt are no stall
	var err error
	g.result, err = eng.Generate(ctx, req, g.take)
	w.speed.ended(g.result, err)
	done, failure := g.outcome(ctx, err)
	if failure != nil {
		reason := "error"
		if failure.Code == rbee.CodeAllSlotsBusy {
			reason = "busy"
		}
		w.metrics.ended(reason, g)
		return done, failure
	}
	w.metrics.ended(string(done.StopReason), g)
	return done, nil
}

// take is the engine's emit. The time that the client takes to read is not the engine's.
func (g *generation) take(p engine.Piece) bool {
	g.stall.Stop()
	if g.tokens == 0 {
		g.first = time.Since(g.began)
	} else {
		g.between.Observe(time.Since(g.last).Seconds())
	}
	b := p.Bytes
	if len(b) == 0 && g.special != nil {
		b = g.special(p.Token)
	}
	var out []byte
	out, g.stopped = g.text.Push(b)
	err := g.emit(out, p, g.tokens)
	g.tokens++
	switch {
	case errors.Is(err, errEnough):
		g.enough = true
	case err != nil:
		g.gone = err
	}
	if g.stopped || err != nil {
		return false
	}
	g.last = time.Now()
	g.stall.Reset(g.limit)
	return true
}

// rest is the text that was held back for what might have followed.
func (g *generation) rest() []byte {
	if g.enough {
		return nil
	}
	return g.text.Flush()
}

// outcome is how the request ended: in good order, or with an error.
func (g *generation) outcome(ctx context.Context, err error) (rbee.InferDone, *rbee.Error) {
	done := rbee.InferDone{
		Done: true, TotalTokens: g.tokens, DurationMS: time.Since(g.began).Milliseconds(),
		StopReason: g.result.Reason, PromptTokens: g.result.PromptTokens, CachedTokens: g.result.CachedTokens,
		QueuedMS: openai.Milliseconds(g.result.Queued), PrefillMS: openai.Milliseconds(g.result.Prefill),
		DecodeMS: openai.Milliseconds(g.result.Decode),
	}
	cause := context.Cause(ctx)
	var failure *rbee.Error
	switch {
	case err != nil:
		return done, rbee.AsError(err)
	case g.stopped, g.enough:
		done.StopReason = rbee.StopString
	case g.gone != nil:
		done.StopReason = rbee.StopCanceled
	case done.StopReason != rbee.StopCanceled:
	case errors.As(cause, &failure):
		return done, failure
	case errors.Is(cause, errShutdown), errors.Is(cause, httpapi.ErrShutdown):
		done.StopReason = rbee.StopShutdown
	}
	return done, nil
}

// retryAfterSeconds is what a client hears that found no free slot, where the
// engine does not know better.
const retryAfterSeconds = 1

// refuse tells the client when a busy worker is worth another try.
func refuse(err error) error {
	code := rbee.CodeOf(err)
	if code != rbee.CodeAllSlotsBusy && code != rbee.CodeQueueFull {
		return err
	}
	e := rbee.AsError(err)
	if seconds, ok := e.Details["retry_after_seconds"].(int); ok {
		return httpapi.RetryAfter(e, seconds)
	}
	return httpapi.RetryAfter(e, retryAfterSeconds)
}

// randomSeed is for requests that name none.
func randomSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}
