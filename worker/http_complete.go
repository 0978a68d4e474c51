package worker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/openai"
)

// complete answers POST /v1/completions.
func (o *openAI) complete(req *openai.CompletionRequest) error {
	requests, err := o.completionRequests(req)
	if err != nil {
		return err
	}
	if req.Stream {
		o.stream()
	}
	id, created := "cmpl-"+o.id, o.model.created.Unix()
	head := openai.NewHead(id, openai.KindCompletion, o.model.ref, o.model.fingerprint, created)
	answers, choices := make([]answer, len(requests)), make([]*textChoice, len(requests))
	for i := range requests {
		choices[i] = &textChoice{o: o, head: head, index: i, wanted: req.Logprobs >= 0}
		if req.Echo {
			choices[i].echo = o.echo(req.Prompts[i/req.N])
		}
		answers[i] = choices[i]
	}
	o.choices = req.N
	outcomes, failure := o.run(requests, req.Stop, nil, answers)
	if failure != nil {
		return o.fail(failure)
	}
	u := usage(outcomes, o.choices)
	if o.events != nil {
		return o.closeStream(head, req.IncludeUsage, u)
	}
	reply := openai.Reply[openai.TextChoice]{
		ID: id, Object: openai.KindCompletion, Created: created, Model: o.model.ref,
		Fingerprint: o.model.fingerprint, Usage: u, Timings: longest(outcomes),
	}
	for _, c := range choices {
		reply.Choices = append(reply.Choices, c.whole())
	}
	tellTimes(o.rw, reply.Timings.QueuedMS, reply.Timings.PrefillMS)
	return writeJSON(o.rw, reply)
}

// completionRequests are those for each prompt, n times.
func (o *openAI) completionRequests(req *openai.CompletionRequest) ([]engine.Request, error) {
	asked, err := o.request(&req.Options)
	if err != nil {
		return nil, err
	}
	if req.MaxTokens == 0 {
		asked.MaxTokens = rbee.DefaultMaxTokens
	}
	asked.Logprobs, asked.TopLogprobs = req.Logprobs >= 0, max(0, req.Logprobs)
	if asked.Grammar, err = o.w.grammars.answer(req.Grammar, req.Schema, false); err != nil {
		return nil, err
	}
	var all []engine.Request
	for i, in := range req.Prompts {
		if len(in.Text) > maxPromptBytes {
			return nil, tooLong("prompt")
		}
		if asked.Tokens, err = o.completionPrompt(in, req.Suffix, fmt.Sprintf("prompt[%d]", i)); err != nil {
			return nil, err
		}
		for n := range req.N {
			all = append(all, asked)
			all[len(all)-1].Sampling.Seed += uint64(n) //nolint:gosec // at most MaxChoices
		}
	}
	return all, nil
}

// completionPrompt are the tokens of a prompt, or of what stands around a gap.
func (o *openAI) completionPrompt(in openai.Input, suffix, field string) ([]engine.Token, error) {
	if suffix == "" {
		return o.model.input(o.eng, in, field)
	}
	marks := o.eng.Info().FIM
	if !marks.OK {
		return nil, rbee.InvalidRequest(rbee.Fault{Field: "suffix", Problem: "is for models that were trained to fill gaps, which this one was not"})
	}
	if len(suffix) > maxPromptBytes {
		return nil, tooLong("suffix")
	}
	before := in.Tokens
	var err error
	if before == nil {
		before, err = o.eng.Tokenize(in.Text, false)
	} else {
		before, err = o.model.input(o.eng, in, field)
	}
	if err != nil {
		return nil, err
	}
	after, err := o.eng.Tokenize(suffix, false)
	if err != nil {
		return nil, err
	}
	all := append(slices.Clone(o.model.begin), marks.Prefix)
	all = append(append(all, before...), marks.Suffix)
	return append(append(all, after...), marks.Middle), nil
}

// echo is the text of a prompt.
func (o *openAI) echo(in openai.Input) string {
	if in.Tokens == nil {
		return in.Text
	}
	return strings.ToValidUTF8(string(o.eng.Detokenize(in.Tokens)), "\ufffd")
}

// textChoice is one completion. It belongs to the goroutine that generates it.
type textChoice struct {
	o      *openAI
	head   openai.Head
	index  int
	echo   string // the prompt, until it was given out
	buf    []byte
	last   string
	text   strings.Builder
	wanted bool // logprobs are
	probs  openai.TextLogprobs
	offset int // characters of all tokens so far
	sent   int // tokens whose probabilities were given out
}

func (c *textChoice) take(text []byte, p engine.Piece, _ int) error {
	if c.wanted {
		c.probs.Add(c.o.logprob(p), c.offset)
		c.offset += utf8.RuneCount(p.Bytes)
	}
	if len(text) == 0 {
		return nil
	}
	return c.write(text, "", openai.Timings{})
}

func (c *textChoice) finish(rest []byte, done rbee.InferDone, t openai.Timings) error {
	c.last = finishReason(done.StopReason)
	return c.write(rest, c.last, t)
}

// write gives out a piece, the last one with the reason of the end.
func (c *textChoice) write(text []byte, reason string, t openai.Timings) error {
	if c.echo != "" {
		text = append([]byte(c.echo), text...)
		c.echo = ""
	}
	if c.o.events == nil {
		c.text.Write(text)
		return nil
	}
	c.buf = c.head.AppendText(c.buf[:0], c.index, text, c.newLogprobs(), reason, t)
	return c.o.events.send(c.buf)
}

// newLogprobs are the probabilities of the tokens since the last piece.
func (c *textChoice) newLogprobs() json.RawMessage {
	if !c.wanted || c.sent == len(c.probs.Tokens) {
		return nil
	}
	from := c.sent
	c.sent = len(c.probs.Tokens)
	return openai.Encode(openai.TextLogprobs{
		Tokens: c.probs.Tokens[from:], Logprobs: c.probs.Logprobs[from:], Top: c.probs.Top[from:], Offsets: c.probs.Offsets[from:],
	})
}

func (c *textChoice) whole() openai.TextChoice {
	out := openai.TextChoice{Index: c.index, Text: c.text.String(), FinishReason: c.last}
	if c.wanted {
		out.Logprobs = &c.probs
	}
	return out
}
