package worker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/text"
)

// retryAfterSeconds is what a client hears that found no free slot.
const retryAfterSeconds = 1

type inferIn struct {
	Body    rbee.InferRequest
	RawBody []byte
}

// Resolve sets the defaults and reports what the schema cannot see, together
// with what it saw. A field whose type is wrong is the schema's and not reported twice.
func (in *inferIn) Resolve(huma.Context) []error {
	in.Body.Normalize()
	var given map[string]json.RawMessage
	if json.Unmarshal(in.RawBody, &given) != nil {
		return nil
	}
	var errs []error
	for _, f := range in.Body.Faults() {
		field, _, _ := strings.Cut(f.Field, "[")
		if readable(field, given[field]) {
			errs = append(errs, &huma.ErrorDetail{Location: "body." + f.Field, Message: f.Problem})
		}
	}
	return errs
}

// readable says whether a field is there and of the right type.
func readable(field string, value json.RawMessage) bool {
	if value == nil || string(value) == "null" {
		return false
	}
	one, err := json.Marshal(map[string]json.RawMessage{field: value})
	return err == nil && json.Unmarshal(one, new(rbee.InferRequest)) == nil
}

// infer answers POST /v1/inference. It generates on the handler's goroutine,
// so a client that reads slowly holds up its own generation only.
func (w *Worker) infer(ctx context.Context, in *inferIn, rw http.ResponseWriter) error {
	req := &in.Body
	id := req.RequestID
	if id == "" {
		id = httpapi.RequestID(ctx)
	}
	rw.Header().Set(rbee.RequestIDHeader, id)
	ctx, eng, err := w.floor.enter(ctx, id)
	if err != nil {
		return refuse(err)
	}
	defer w.floor.leave(id)
	timeout := time.Duration(*req.TimeoutSeconds) * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, timeout,
		rbee.Errorf(rbee.CodeRequestTimeout, "the request took longer than its timeout of %v", timeout).
			Suggest("ask for fewer tokens, or set a longer timeout_seconds"))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	var out reply
	if *req.Stream {
		s := newStream(ctx, rw)
		defer s.close()
		out = s
	} else {
		out = &whole{w: rw, requestID: id}
	}
	g := w.newGeneration(req, out, stop)
	defer g.stall.Stop()
	g.result, err = eng.Generate(ctx, engineRequest(req), g.take)
	done, failure := g.outcome(ctx, err)
	if failure != nil {
		w.metrics.ended("error", g)
		return refuse(out.fail(failure, id))
	}
	w.metrics.ended(string(done.StopReason), g)
	err = out.done(g.rest(), done) // a client that left misses it
	w.log.Debug("generated", "request_id", id, "tokens", done.TotalTokens, "reason", done.StopReason, "ms", done.DurationMS, "err", err)
	return nil
}

// refuse tells the client when a busy worker is worth another try.
func refuse(err error) error {
	if code := rbee.CodeOf(err); code == rbee.CodeAllSlotsBusy || code == rbee.CodeQueueFull {
		return httpapi.RetryAfter(rbee.AsError(err), retryAfterSeconds)
	}
	return err
}

func engineRequest(r *rbee.InferRequest) engine.Request {
	var seed uint64
	if r.Seed != nil {
		seed = *r.Seed
	} else {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		seed = binary.LittleEndian.Uint64(b[:])
	}
	return engine.Request{
		Prompt: r.Prompt, MaxTokens: *r.MaxTokens, IgnoreEOS: r.IgnoreEOS,
		Sampling: sampling.Params{
			Temperature: *r.Temperature, TopK: r.TopK, TopP: *r.TopP, MinP: r.MinP,
			RepetitionPenalty: *r.RepetitionPenalty, Seed: seed,
		},
	}
}

// generation is one request while the engine works on it. It belongs to the
// goroutine of its handler, but for the stall timer.
type generation struct {
	text    *text.Stream
	out     reply
	began   time.Time
	first   time.Duration // from the request to its first token
	stall   *time.Timer   // runs from one token to the next
	limit   time.Duration
	tokens  int
	stopped bool  // a stop string came
	gone    error // why the client cannot be reached
	result  engine.Result
}

func (w *Worker) newGeneration(r *rbee.InferRequest, out reply, stop context.CancelCauseFunc) *generation {
	g := &generation{text: text.NewStream(r.Stop), out: out, began: time.Now(), limit: w.cfg.TokenStall}
	g.stall = time.AfterFunc(g.limit, func() {
		stop(rbee.Errorf(rbee.CodeGenerationTimeout, "cannot generate: no token came for %v", g.limit).
			Suggest("try again; if it happens again, the worker's log may say what its device does"))
	})
	g.stall.Stop() // before the first token, waiting and a long prompt are no stall
	return g
}

// take is the engine's emit. The time that the client takes to read is not the engine's.
func (g *generation) take(p engine.Piece) bool {
	g.stall.Stop()
	if g.tokens == 0 {
		g.first = time.Since(g.began)
	}
	var out []byte
	out, g.stopped = g.text.Push(p.Bytes)
	if len(out) > 0 {
		g.gone = g.out.token(out, g.tokens)
	}
	g.tokens++
	if g.stopped || g.gone != nil {
		return false
	}
	g.stall.Reset(g.limit)
	return true
}

// rest is the text that was held back for what might have followed.
func (g *generation) rest() []byte { return g.text.Flush() }

// outcome is how the request ended: in good order, or with an error.
func (g *generation) outcome(ctx context.Context, err error) (rbee.InferDone, *rbee.Error) {
	done := rbee.InferDone{
		Done: true, TotalTokens: g.tokens, DurationMS: time.Since(g.began).Milliseconds(),
		StopReason: g.result.Reason, PromptTokens: g.result.PromptTokens, CachedTokens: g.result.CachedTokens,
	}
	cause := context.Cause(ctx)
	var failure *rbee.Error
	switch {
	case err != nil:
		return done, rbee.AsError(err)
	case g.stopped:
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
