package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	oai "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
)

// official is the official client of a server of OpenAI's API. It sends each
// request once.
func official(base, key string) *oai.Client {
	c := oai.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0),
		option.WithHTTPClient(newServer(base, "").http))
	return &c
}

// send sends a request, and returns when its first token had come, or all of an
// answer that has none. It fails unless the answer comes whole.
func (w *way) send(ctx context.Context, a arrival, t text) (at time.Time, err error) {
	switch a.kind {
	case chat:
		return w.chat(ctx, a, t)
	case completion:
		return w.completion(ctx, a, t)
	default:
		return w.embedding(ctx, t)
	}
}

func (w *way) chat(ctx context.Context, a arrival, t text) (time.Time, error) {
	params := oai.ChatCompletionNewParams{Model: w.model, MaxTokens: oai.Int(int64(a.tokens)), Temperature: oai.Float(0)}
	params.StreamOptions.IncludeUsage = oai.Bool(true)
	if t.common != "" {
		params.Messages = append(params.Messages, oai.SystemMessage(t.common))
	}
	params.Messages = append(params.Messages, oai.UserMessage(t.own))
	stream := w.client.Chat.Completions.NewStreaming(ctx, params, whole())
	return follow(stream, a.tokens, func(c oai.ChatCompletionChunk) (text string, usage oai.CompletionUsage) {
		for _, choice := range c.Choices {
			text += choice.Delta.Content
		}
		return text, c.Usage
	})
}

func (w *way) completion(ctx context.Context, a arrival, t text) (time.Time, error) {
	params := oai.CompletionNewParams{
		Model: oai.CompletionNewParamsModel(w.model), MaxTokens: oai.Int(int64(a.tokens)), Temperature: oai.Float(0),
		Prompt: oai.CompletionNewParamsPromptUnion{OfString: oai.String(t.common + t.own)},
	}
	params.StreamOptions.IncludeUsage = oai.Bool(true)
	stream := w.client.Completions.NewStreaming(ctx, params, whole())
	return follow(stream, a.tokens, func(c oai.Completion) (text string, usage oai.CompletionUsage) {
		for _, choice := range c.Choices {
			text += choice.Text
		}
		return text, c.Usage
	})
}

func (w *way) embedding(ctx context.Context, t text) (time.Time, error) {
	reply, err := w.client.Embeddings.New(ctx, oai.EmbeddingNewParams{
		Model: w.model, Input: oai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{t.own, " a bee"}},
	})
	if err == nil && len(reply.Data) != 2 {
		err = fmt.Errorf("%d vectors came for 2 texts", len(reply.Data))
	}
	return time.Now(), err
}

// whole has an answer go on to its last token.
func whole() option.RequestOption { return option.WithJSONSet("ignore_eos", true) }

// follow reads a stream to its end, and returns when its first text came.
func follow[T any](stream *ssestream.Stream[T], tokens int, read func(T) (string, oai.CompletionUsage)) (at time.Time, err error) {
	came := int64(0)
	for stream.Next() {
		text, usage := read(stream.Current())
		if text != "" && at.IsZero() {
			at = time.Now()
		}
		came = max(came, usage.CompletionTokens)
	}
	switch err := stream.Err(); {
	case err != nil:
		return at, err
	case came != int64(tokens):
		return at, fmt.Errorf("%d tokens came instead of %d", came, tokens)
	case at.IsZero():
		return at, errors.New("an answer came without text")
	}
	return at, nil
}
