package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/openai"
	"rbee/worker/text"
)

type inferIn struct {
	Traceparent string `header:"traceparent" doc:"the trace that the request is part of, as the W3C has it"`
	Tracestate  string `header:"tracestate"`

	Body    rbee.InferRequest
	RawBody []byte
}

// Resolve sets the defaults and reports what the schema cannot see, together
// with what it saw. A field whose type is wrong is the schema's and not reported twice.
func (in *inferIn) Resolve(huma.Context) []error {
	in.Body.Normalize()
	if errs := textFault(in.RawBody); errs != nil {
		return errs
	}
	var given map[string]json.RawMessage
	if json.Unmarshal(in.RawBody, &given) != nil {
		return nil
	}
	var errs []error
	faults := in.Body.Faults()
	if _, fault := openai.Bias(in.Body.LogitBias); fault != "" {
		faults = append(faults, rbee.Fault{Field: "logit_bias", Problem: fault})
	}
	for _, f := range faults {
		field, _, _ := strings.Cut(f.Field, "[")
		if readable(field, given[field]) {
			errs = append(errs, &huma.ErrorDetail{Location: "body." + f.Field, Message: f.Problem})
		}
	}
	return errs
}

// textFault reports a body that is no UTF-8, of which the decoder would make
// other characters without a word.
func textFault(body []byte) []error {
	if utf8.Valid(body) {
		return nil
	}
	return []error{&huma.ErrorDetail{Location: "body", Message: "is not valid UTF-8"}}
}

// readable says whether a field is there and of the right type.
func readable(field string, value json.RawMessage) bool {
	if value == nil || string(value) == "null" {
		return false
	}
	one, err := json.Marshal(map[string]json.RawMessage{field: value})
	return err == nil && json.Unmarshal(one, new(rbee.InferRequest)) == nil
}

// infer answers POST /v1/inference.
func (w *Worker) infer(ctx context.Context, in *inferIn, rw http.ResponseWriter) error {
	id := in.Body.RequestID
	if id == "" {
		id = httpapi.RequestID(ctx)
	}
	const operation = "text_completion"
	span := w.cfg.Tracer.Start(ctx, operation, in.Traceparent, in.Tracestate)
	out, failure, err := w.inferAs(ctx, id, &in.Body, rw)
	if span != nil {
		w.trace(span, operation, id, []outcome{out}, 1, cmp.Or(err, failure))
	}
	return err
}

// inferAs generates on the handler's goroutine, so a client that reads slowly
// holds up its own generation only. A failure that the stream told of is no err.
func (w *Worker) inferAs(ctx context.Context, id string, req *rbee.InferRequest, rw http.ResponseWriter) (o outcome, failure, err error) {
	rw.Header().Set(rbee.RequestIDHeader, id)
	ctx, eng, err := w.floor.enter(ctx, id)
	if err != nil {
		return o, nil, refuse(err)
	}
	defer w.floor.leave(id)
	asked, err := w.engineRequest(req, eng.Info())
	if err != nil {
		return o, nil, err
	}
	ctx, cancel := withTimeout(ctx, *req.TimeoutSeconds)
	defer cancel()
	idle, _ := rbee.KeepAlive(req.KeepAlive) // Resolve reported what is wrong with it
	keepAlive(rw, idle)

	var out reply
	if *req.Stream {
		s := &stream{events: newEvents(ctx, rw)}
		defer s.events.close()
		out = s
	} else {
		out = &whole{w: rw, requestID: id}
	}
	g := &generation{text: text.NewStream(req.Stop), emit: func(text []byte, _ engine.Piece, index int) error {
		if len(text) == 0 {
			return nil
		}
		return out.token(text, index)
	}}
	done, failed := w.generate(ctx, eng, asked, g)
	o = outcomeOf(done, g)
	if failed != nil {
		return o, failed, refuse(out.fail(failed, id))
	}
	err = out.done(g.rest(), done) // a client that left misses it
	w.log.Debug("generated", "request_id", id, "tokens", done.TotalTokens, "reason", done.StopReason, "ms", done.DurationMS, "err", err)
	return o, nil, nil
}

// withTimeout ends a request that takes longer than it may; 0 is no limit.
func withTimeout(ctx context.Context, seconds int) (context.Context, context.CancelFunc) {
	if seconds == 0 {
		return context.WithCancel(ctx)
	}
	timeout := time.Duration(seconds) * time.Second
	return context.WithTimeoutCause(ctx, timeout,
		rbee.Errorf(rbee.CodeRequestTimeout, "the request took longer than its timeout of %v", timeout).
			Suggest("ask for fewer tokens, or set a longer timeout_seconds"))
}

func (w *Worker) engineRequest(r *rbee.InferRequest, info engine.Info) (engine.Request, error) {
	bias, _ := openai.Bias(r.LogitBias) // Resolve reported what is wrong with it
	out := engine.Request{
		Prompt: r.Prompt, MaxTokens: *r.MaxTokens, IgnoreEOS: r.IgnoreEOS,
		Sampling: sampling.Params{
			Temperature: *r.Temperature, TopK: r.TopK, TopP: *r.TopP, MinP: r.MinP, Typical: r.TypicalP,
			RepetitionPenalty: *r.RepetitionPenalty, FrequencyPenalty: r.FrequencyPenalty, PresencePenalty: r.PresencePenalty,
			Bias: bias,
		},
	}
	if r.Seed != nil {
		out.Sampling.Seed = *r.Seed
	} else {
		out.Sampling.Seed = randomSeed()
	}
	var err error
	if out.LoRA, err = scales(r.LoRA, info); err != nil {
		return out, err
	}
	out.Grammar, err = w.grammars.answer(r.Grammar, r.JSONSchema, false)
	return out, err
}
