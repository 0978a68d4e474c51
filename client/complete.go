package client

import (
	"context"
	"iter"
	"net/http"
	"time"

	"rbee"
	"rbee/internal/sse"
)

// completionChunk is an event of OpenAI's completions on the wire.
type completionChunk struct {
	Choices []struct {
		Text   string `json:"text"`
		Finish string `json:"finish_reason"`
	} `json:"choices"`
	Timings *struct {
		Queued  float64 `json:"queued_ms"`
		Prefill float64 `json:"prefill_ms"`
		Decode  float64 `json:"decode_ms"`
	} `json:"timings"`
	usageAndError
}

// Complete is Infer for a queen or a hive, which choose a worker of the model: it
// goes by OpenAI's completions, and an error has OpenAI's form on the way.
func (c *Client) Complete(ctx context.Context, model string, req rbee.InferRequest) iter.Seq2[rbee.InferEvent, error] {
	req.RequestID = "" // which a header says
	body := struct {
		Model string `json:"model"`
		rbee.InferRequest
		Stream  bool         `json:"stream"`
		Options usageOptions `json:"stream_options"`
	}{model, req, true, usageOptions{true}}
	return func(yield func(rbee.InferEvent, error) bool) {
		end := completionEnd{began: time.Now(), stops: len(req.Stop) > 0}
		for chunk, err := range stream[completionChunk](ctx, c, http.MethodPost, "/v1/completions", body) {
			if err == nil {
				err = chunk.failure()
			}
			if err != nil {
				yield(rbee.InferEvent{}, withoutAdvice(err))
				return
			}
			if text := end.take(chunk); text != "" {
				if !yield(rbee.InferEvent{Token: text, Index: end.events - 1}, nil) {
					return
				}
			}
		}
		if end.reason == "" {
			yield(rbee.InferEvent{}, sse.ErrCut)
			return
		}
		yield(rbee.InferEvent{InferDone: end.done()}, nil)
	}
}

// completionEnd gathers what a stream says of its end.
type completionEnd struct {
	began  time.Time
	stops  bool // there are texts that end it
	events int
	reason string
	last   completionChunk // whose figures count
	usage  *ChatUsage
}

// take takes an event and returns its text.
func (e *completionEnd) take(chunk completionChunk) (text string) {
	if len(chunk.Choices) > 0 {
		text = chunk.Choices[0].Text
		if chunk.Choices[0].Finish != "" {
			e.reason = chunk.Choices[0].Finish
		}
	}
	if chunk.Timings != nil {
		e.last = chunk
	}
	if u := chunk.usage(); u != nil {
		e.usage = u
	}
	if text != "" {
		e.events++
	}
	return text
}

func (e *completionEnd) done() *rbee.InferDone {
	d := &rbee.InferDone{Done: true, TotalTokens: e.events, DurationMS: time.Since(e.began).Milliseconds(), StopReason: rbee.StopEOS}
	switch {
	case e.reason == "length":
		d.StopReason = rbee.StopLength
	case e.stops: // which of the two is not told
		d.StopReason = rbee.StopString
	}
	if u := e.usage; u != nil {
		d.TotalTokens, d.PromptTokens, d.CachedTokens = u.CompletionTokens, u.PromptTokens, u.CachedTokens
	}
	if t := e.last.Timings; t != nil {
		d.QueuedMS, d.PrefillMS, d.DecodeMS = t.Queued, t.Prefill, t.Decode
		d.DurationMS = int64(t.Queued + t.Prefill + t.Decode)
	}
	return d
}
