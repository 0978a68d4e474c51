package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"golang.org/x/sync/errgroup"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/worker/engine"
	"rbee/worker/openai"
	"rbee/worker/text"
)

// maxPromptBytes bounds a prompt before it costs a tokenizer's time. The
// context of the model is the smaller bound.
const maxPromptBytes = 8 << 20

// openAI is one request of OpenAI's API while it is served.
type openAI struct {
	w        *Worker
	ctx      context.Context
	rw       http.ResponseWriter
	id       string
	eng      engine.Engine
	model    *served
	events   *events // nil for one body
	leave    func()
	choices  int       // of one prompt
	outcomes []outcome // of all, as far as they came
}

// openAIRoute answers a POST of OpenAI's API: it reads the body, lets the
// request in, and tells of it however it ended.
func openAIRoute[R openai.Request](w *Worker, name string, read func(body []byte) (R, error), answer func(o *openAI, req R) error) httpapi.Handler {
	return httpapi.RawFunc(func(rw http.ResponseWriter, r *http.Request) error {
		span := w.cfg.Tracer.Start(r.Context(), name, r.Header.Get("Traceparent"), r.Header.Get("Tracestate"))
		o := &openAI{w: w, rw: rw, id: httpapi.RequestID(r.Context())}
		req, err := begin(o, r, read)
		if err == nil {
			err = func() error {
				defer o.end()
				return answer(o, req)
			}()
		}
		w.trace(span, name, o.id, o.outcomes, o.choices, err)
		return err
	})
}

// begin reads the body of a request, and lets it in. Success needs an end.
func begin[R openai.Request](o *openAI, r *http.Request, read func(body []byte) (R, error)) (req R, err error) {
	w := o.w
	if _, err := w.floor.use(); err != nil {
		return req, err
	}
	body, err := httpapi.Body(r)
	if err != nil {
		return req, err
	}
	if req, err = read(body); err != nil {
		return req, err
	}
	needs := req.Needs()
	ctx, eng, err := w.floor.enter(r.Context(), o.id)
	if err != nil {
		return req, refuse(err)
	}
	ctx, cancel := withTimeout(ctx, needs.Timeout)
	o.ctx, o.eng, o.model = ctx, eng, w.served
	o.leave = func() {
		cancel()
		w.floor.leave(o.id)
	}
	if err := o.model.check(needs.Model); err != nil {
		o.leave()
		return req, err
	}
	keepAlive(o.rw, needs.KeepAlive)
	return req, nil
}

// keepAlive tells the hive how long the worker may be idle after a request.
func keepAlive(rw http.ResponseWriter, text string) {
	if text != "" {
		rw.Header().Set(rbee.KeepAliveHeader, text)
	}
}

func (o *openAI) end() {
	if o.events != nil {
		o.events.close()
	}
	o.leave()
}

// stream makes the reply a stream of events.
func (o *openAI) stream() { o.events = newEvents(o.ctx, o.rw) }

// request is what the engine is asked for, without the prompt.
func (o *openAI) request(opts *openai.Options) (engine.Request, error) {
	r := engine.Request{MaxTokens: opts.MaxTokens, Sampling: opts.Sampling, IgnoreEOS: opts.IgnoreEOS}
	var err error
	if r.LoRA, err = scales(opts.LoRA, o.eng.Info()); err != nil {
		return r, err
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = o.eng.Info().Context
	}
	if !opts.Seeded {
		r.Sampling.Seed = randomSeed()
	}
	return r, nil
}

// answer takes what the engine generates for one choice of a reply.
type answer interface {
	// take is the generation's emit.
	take(text []byte, p engine.Piece, index int) error
	// finish takes the rest of the text and the end of a generation that came to a good one.
	finish(rest []byte, done rbee.InferDone, t openai.Timings) error
}

// outcome is how one choice ended.
type outcome struct {
	done    rbee.InferDone
	timings openai.Timings
}

func outcomeOf(done rbee.InferDone, g *generation) outcome {
	return outcome{done, openai.Timings{
		QueuedMS: done.QueuedMS, PrefillMS: done.PrefillMS, DecodeMS: done.DecodeMS,
		DraftTokens: g.result.DraftTokens, AcceptedTokens: g.result.AcceptedTokens,
	}}
}

// run generates all choices, as many at once as there are slots. The first
// failure ends all. A single choice is generated on the handler's goroutine.
func (o *openAI) run(requests []engine.Request, stops []string, special func(engine.Token) []byte, answers []answer) ([]outcome, *rbee.Error) {
	outcomes := make([]outcome, len(requests))
	o.outcomes = outcomes
	one := func(ctx context.Context, i int) error {
		g := &generation{text: text.NewStream(stops), special: special, emit: answers[i].take}
		done, failure := o.w.generate(ctx, o.eng, requests[i], g)
		outcomes[i] = outcomeOf(done, g)
		if failure == nil {
			failure = noAnswer(done.StopReason)
		}
		if failure != nil {
			return failure
		}
		_ = answers[i].finish(g.rest(), done, outcomes[i].timings) // a client that left misses it
		return nil
	}
	if len(requests) == 1 {
		return outcomes, rbee.AsError(one(o.ctx, 0))
	}
	ctx, stop := context.WithCancelCause(o.ctx)
	defer stop(nil)
	var group errgroup.Group
	group.SetLimit(max(1, o.eng.Info().Slots))
	all := siblings{changed: make(chan struct{})}
	for i := range requests {
		group.Go(func() error {
			err := all.run(ctx, func() error { return one(ctx, i) })
			if err != nil {
				stop(err)
			}
			return err
		})
	}
	return outcomes, rbee.AsError(group.Wait())
}

// siblings are the choices of one request that run. One that finds no room
// beside the others waits for them to make some.
type siblings struct {
	mu      sync.Mutex
	running int
	changed chan struct{} // closed and replaced when one ends
}

func (s *siblings) run(ctx context.Context, one func() error) error {
	for {
		s.mu.Lock()
		s.running++
		s.mu.Unlock()
		err := one()
		s.mu.Lock()
		changed := s.changed
		s.running--
		others := s.running > 0
		if rbee.CodeOf(err) != rbee.CodeAllSlotsBusy || !others {
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
			return err
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return endOf(ctx)
		}
	}
}

// endOf names why a request ended before its work did.
func endOf(ctx context.Context) error {
	cause := context.Cause(ctx)
	var own *rbee.Error
	switch {
	case errors.As(cause, &own):
		return own
	case errors.Is(cause, errShutdown), errors.Is(cause, httpapi.ErrShutdown):
		return noAnswer(rbee.StopShutdown)
	}
	return noAnswer(rbee.StopCanceled)
}

// noAnswer names the ends that OpenAI's API knows no reason for.
func noAnswer(reason rbee.StopReason) *rbee.Error {
	switch reason {
	case rbee.StopCanceled:
		return rbee.Errorf(rbee.CodeRequestCanceled, "the generation was canceled")
	case rbee.StopShutdown:
		return rbee.Errorf(rbee.CodeWorkerNotReady, "the worker shuts down").Suggest("send the request again")
	}
	return nil
}

// finishReason is what OpenAI calls the end of a generation.
func finishReason(reason rbee.StopReason) string {
	if reason == rbee.StopLength {
		return "length"
	}
	return "stop"
}

// scales are those of all adapters, for a request that names some.
func scales(list []rbee.LoRAScale, info engine.Info) ([]float32, error) {
	if list == nil {
		return nil, nil
	}
	all, named := make([]float32, len(info.Adapters)), make([]bool, len(info.Adapters))
	var faults []rbee.Fault
	for i, l := range list {
		field := fmt.Sprintf("lora[%d].id", i)
		switch {
		case l.ID < 0 || l.ID >= len(all):
			faults = append(faults, rbee.Fault{Field: field, Problem: fmt.Sprintf("must be below %d, the number of adapters that this worker has loaded", len(all))})
		case named[l.ID]:
			faults = append(faults, rbee.Fault{Field: field, Problem: "is named twice"})
		default:
			all[l.ID], named[l.ID] = float32(l.Scale), true
		}
	}
	if faults != nil {
		return nil, rbee.InvalidRequest(faults...)
	}
	return all, nil
}

// usage adds up the choices; choices of one prompt count its tokens once.
func usage(outcomes []outcome, perPrompt int) openai.Usage {
	u := openai.Usage{Prompt: &openai.PromptDetails{}}
	for i, out := range outcomes {
		if i%perPrompt == 0 {
			u.PromptTokens += out.done.PromptTokens
			u.Prompt.CachedTokens += out.done.CachedTokens
		}
		u.CompletionTokens += out.done.TotalTokens
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// longest are the timings of the choice that took the longest.
func longest(outcomes []outcome) openai.Timings {
	best := outcomes[0].timings
	for _, out := range outcomes[1:] {
		if out.timings.PrefillMS+out.timings.DecodeMS > best.PrefillMS+best.DecodeMS {
			best = out.timings
		}
	}
	return best
}

// fail ends a reply with an error: as its status, or as the last event.
func (o *openAI) fail(err *rbee.Error) error {
	if o.events == nil || o.events.unused() {
		return refuse(err)
	}
	e := *err
	e.RequestID = o.id
	_ = o.events.finish(httpapi.OpenAI(&e)) // a client that left misses it
	return refuse(err)
}

// close ends a stream that went well.
func (o *openAI) closeStream(head openai.Head, include bool, u openai.Usage) error {
	if include {
		if err := o.events.send(head.AppendUsage(nil, u)); err != nil {
			return nil //nolint:nilerr // the client left
		}
	}
	_ = o.events.finish(nil) // a client that left misses it
	return nil
}

// alternatives are a token with its probability, and what might have come in its place.
func (o *openAI) logprob(p engine.Piece) openai.TokenLogprob {
	t := openai.TokenLogprob{Alternative: openai.NewAlternative(p.Bytes, p.Logprob), Top: []openai.Alternative{}}
	for _, a := range p.Top {
		t.Top = append(t.Top, openai.NewAlternative(o.eng.Detokenize([]engine.Token{a.Token}), a.Logprob))
	}
	return t
}
