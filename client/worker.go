package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"

	"rbee"
	"rbee/internal/sse"
)

// Ready asks a worker for its readiness. A worker that still loads is no
// error: Ready is false and State says where it is.
func (c *Client) Ready(ctx context.Context) (rbee.Readiness, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/ready", nil)
	if err != nil {
		return rbee.Readiness{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot make a request to %s: %w", c.base, err)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key) // the worker asks for none, a hive in between does
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return rbee.Readiness{}, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return rbee.Readiness{}, c.failure(resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return rbee.Readiness{}, c.unreachable(ctx, err)
	}
	var body struct {
		rbee.Readiness
		rbee.ErrorBody
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return rbee.Readiness{}, rbee.Errorf(rbee.CodeInternalError, "cannot read the reply of %s", c.base).WithCause(err)
	}
	if body.Error != nil {
		return rbee.Readiness{}, body.Error
	}
	return body.Readiness, nil
}

// LoadProgress yields how far a worker's loading is, from the present state to the end.
func (c *Client) LoadProgress(ctx context.Context) iter.Seq2[rbee.LoadProgress, error] {
	return stream[rbee.LoadProgress](ctx, c, http.MethodGet, "/v1/loading/progress", nil)
}

// Infer yields the events of one generation: tokens, then the end with its
// figures. An error event of the worker is yielded as the error. Leaving the
// loop, or ctx ending, stops the generation.
func (c *Client) Infer(ctx context.Context, req rbee.InferRequest) iter.Seq2[rbee.InferEvent, error] {
	on := true
	req.Stream = &on
	return func(yield func(rbee.InferEvent, error) bool) {
		for ev, err := range stream[rbee.InferEvent](ctx, c, http.MethodPost, "/v1/inference", req) {
			if err == nil && ev.Error != nil {
				yield(rbee.InferEvent{}, ev.Error)
				return
			}
			if !yield(ev, err) {
				return
			}
		}
	}
}

// InferWhole runs one generation and returns its text when it has ended.
func (c *Client) InferWhole(ctx context.Context, req rbee.InferRequest) (rbee.InferReply, error) {
	off := false
	req.Stream = &off
	return call[rbee.InferReply](ctx, c, http.MethodPost, "/v1/inference", req)
}

// CancelInfer stops a running generation; one that is not running is no error.
func (c *Client) CancelInfer(ctx context.Context, requestID string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/inference/"+url.PathEscape(requestID), nil)
	return err
}

// AdminShutdown tells a worker to finish what runs, for at most 30 s, and exit.
func (c *Client) AdminShutdown(ctx context.Context) (rbee.Message, error) {
	return call[rbee.Message](ctx, c, http.MethodPost, "/v1/admin/shutdown", nil)
}

// Rest tells a worker that is idle to give back the memory of its KV cache,
// until the next request. CONFLICT says that requests run.
func (c *Client) Rest(ctx context.Context) (rbee.Message, error) {
	return call[rbee.Message](ctx, c, http.MethodPost, "/v1/admin/rest", nil)
}

// Tokenize returns the worker's tokens for a text.
func (c *Client) Tokenize(ctx context.Context, req rbee.TokenizeRequest) ([]int32, error) {
	r, err := call[rbee.TokenizeReply](ctx, c, http.MethodPost, "/v1/tokenize", req)
	return r.Tokens, err
}

// Detokenize returns the text of tokens.
func (c *Client) Detokenize(ctx context.Context, req rbee.DetokenizeRequest) (string, error) {
	r, err := call[rbee.DetokenizeReply](ctx, c, http.MethodPost, "/v1/detokenize", req)
	return r.Text, err
}

// Slots tells what each slot of a worker does.
func (c *Client) Slots(ctx context.Context) (rbee.SlotList, error) {
	return call[rbee.SlotList](ctx, c, http.MethodGet, "/v1/slots", nil)
}

// ChatTemplate returns the prompt that a conversation becomes. The request is
// the JSON of one to OpenAI's chat completions.
func (c *Client) ChatTemplate(ctx context.Context, req json.RawMessage) (rbee.PromptReply, error) {
	return call[rbee.PromptReply](ctx, c, http.MethodPost, "/v1/chat/template", req)
}

// IsCut says whether err means that the other side vanished in the middle of
// a reply or could not be reached at all, as opposed to a failure it reported.
func IsCut(err error) bool {
	return errors.Is(err, sse.ErrCut) || rbee.CodeOf(err) == rbee.CodeConnectionTimeout
}
