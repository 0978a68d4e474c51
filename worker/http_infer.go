package worker

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/grammar"
	"rbee/worker/openai"
	"rbee/worker/text"
)

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
	asked, err := engineRequest(req)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx, *req.TimeoutSeconds)
	defer cancel()

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
	done, failure := w.generate(ctx, eng, asked, g)
	if failure != nil {
		return refuse(out.fail(failure, id))
	}
	err = out.done(g.rest(), done) // a client that left misses it
	w.log.Debug("generated", "request_id", id, "tokens", done.TotalTokens, "reason", done.StopReason, "ms", done.DurationMS, "err", err)
	return nil
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

func engineRequest(r *rbee.InferRequest) (engine.Request, error) {
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
	out.Grammar, err = readGrammar(r.Grammar, r.JSONSchema, false)
	return out, err
}

// readGrammar makes the grammar of an answer from GBNF, from a JSON schema, or
// for any JSON; nil if nothing is asked for.
func readGrammar(gbnf string, schema json.RawMessage, anyJSON bool) (*grammar.Grammar, error) {
	switch {
	case len(schema) > 0 && string(schema) != "null":
		var err error
		if gbnf, err = grammar.FromSchema(schema); err != nil {
			return nil, err
		}
	case anyJSON:
		gbnf = grammar.JSON()
	case gbnf == "":
		return nil, nil
	}
	return grammar.Parse(gbnf)
}
