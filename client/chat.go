package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"strings"

	"rbee"
)

// The roles of a conversation.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
)

// ChatMessage is one turn of a conversation.
type ChatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// ChatRequest asks for the next turn of a conversation, in the form of OpenAI's
// API. What is absent is the worker's choice.
type ChatRequest struct {
	Model       string        `json:"model"`
	Messages    []ChatMessage `json:"messages"`
	MaxTokens   *int          `json:"max_tokens,omitempty"`
	Temperature *float64      `json:"temperature,omitempty"`
	TopP        *float64      `json:"top_p,omitempty"`
	TopK        *int          `json:"top_k,omitempty"`
	MinP        *float64      `json:"min_p,omitempty"`
	Seed        *uint64       `json:"seed,omitempty"`
}

// ChatUsage counts the tokens of an answer.
type ChatUsage struct {
	PromptTokens     int
	CompletionTokens int
	CachedTokens     int // of the prompt, whose KV was reused
}

// ChatEvent is a piece of an answer: text, reasoning, or how it ended. Usage
// comes last; a server that is not ours may leave it out.
type ChatEvent struct {
	Content   string
	Reasoning string
	Finish    string // stop, length; "" before the end
	Usage     *ChatUsage
}

// chatChunk is an event on the wire.
type chatChunk struct {
	Choices []struct {
		Delta struct {
			Content    string `json:"content"`
			Reasoning  string `json:"reasoning_content"`
			Reasoning2 string `json:"reasoning"` // as some other servers call it
		} `json:"delta"`
		Finish string `json:"finish_reason"`
	} `json:"choices"`
	usageAndError
}

// usageAndError is what all events of OpenAI's streams may have.
type usageAndError struct {
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
	Error *struct {
		Message string          `json:"message"`
		Code    json.RawMessage `json:"code"` // a text; a number at some other servers
		Details map[string]any  `json:"details"`
	} `json:"error"`
}

// usageOptions ask for the usage at the end of a stream.
type usageOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// Chat yields the answer to a conversation as it comes. Leaving the loop, or
// ctx ending, stops the generation.
func (c *Client) Chat(ctx context.Context, req ChatRequest) iter.Seq2[ChatEvent, error] {
	body := struct {
		ChatRequest
		Stream  bool         `json:"stream"`
		Options usageOptions `json:"stream_options"`
	}{req, true, usageOptions{true}}
	return func(yield func(ChatEvent, error) bool) {
		for chunk, err := range stream[chatChunk](ctx, c, http.MethodPost, "/v1/chat/completions", body) {
			if err == nil {
				err = chunk.failure()
			}
			if err != nil {
				yield(ChatEvent{}, withoutAdvice(err))
				return
			}
			if !yield(chunk.event(), nil) {
				return
			}
		}
	}
}

func (c chatChunk) event() ChatEvent {
	var ev ChatEvent
	if len(c.Choices) > 0 {
		first := c.Choices[0]
		ev = ChatEvent{Content: first.Delta.Content, Reasoning: first.Delta.Reasoning + first.Delta.Reasoning2, Finish: first.Finish}
	}
	ev.Usage = c.usage()
	return ev
}

func (c usageAndError) usage() *ChatUsage {
	if c.Usage == nil {
		return nil
	}
	return &ChatUsage{PromptTokens: c.Usage.Prompt, CompletionTokens: c.Usage.Completion, CachedTokens: c.Usage.Details.Cached}
}

func (c usageAndError) failure() error {
	if c.Error == nil {
		return nil
	}
	e := &rbee.Error{Code: rbee.CodeInternalError, Message: c.Error.Message, Details: c.Error.Details}
	var code rbee.Code
	if json.Unmarshal(c.Error.Code, &code) == nil && rbee.Codes()[code] != 0 {
		e.Code = code
	}
	return e
}

// withoutAdvice takes off the suggestion that OpenAI's form of an error has at
// the end of its message, where it is a detail as well.
func withoutAdvice(err error) error {
	var e *rbee.Error
	if !errors.As(err, &e) || e.Suggestion() == "" {
		return err
	}
	plain := *e
	plain.Message = strings.TrimSuffix(e.Message, "; "+e.Suggestion())
	return &plain
}
