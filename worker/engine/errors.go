package engine

import (
	"fmt"
	"math"
	"time"

	"rbee"
)

// The errors that every implementation of Engine reports alike.

// ErrClosed is what an engine answers after Close.
func ErrClosed() *rbee.Error {
	return rbee.Errorf(rbee.CodeWorkerNotReady, "cannot generate: the worker is shutting down")
}

// ErrContextLength refuses a prompt that leaves no room for one token of answer.
func ErrContextLength(promptTokens, contextTokens int) *rbee.Error {
	return rbee.Errorf(rbee.CodeContextLengthExceeded,
		"cannot generate: the prompt has %d tokens, which leaves no room for an answer in a context of %d tokens",
		promptTokens, contextTokens).
		With("prompt_tokens", promptTokens).With("context_tokens", contextTokens).
		Suggest("shorten the prompt, or start a worker with a larger --context")
}

// ErrBusy refuses a request that finds no free slot and a full queue.
// A slot is to be expected after about the time retry.
func ErrBusy(total, busy int, retry time.Duration) *rbee.Error {
	return rbee.Errorf(rbee.CodeAllSlotsBusy,
		"cannot generate: %d of %d slots are busy and the queue is full", busy, total).
		With("slots_total", total).With("slots_busy", busy).
		With("retry_after_seconds", int(min(max(1, math.Ceil(retry.Seconds())), maxRetrySeconds))).
		Suggest("try again in a moment, or start a worker with more --slots")
}

// maxRetrySeconds is the longest wait that is worth suggesting.
const maxRetrySeconds = 120

// ErrRunning refuses to rest while so many requests run or wait.
func ErrRunning(requests int) *rbee.Error {
	return rbee.Errorf(rbee.CodeConflict, "cannot give back the KV cache: %d requests run or wait", requests).
		With("requests", requests).Suggest("try again when they ended")
}

// CheckRequest finds what is wrong with a request to a model, before it costs anything.
func CheckRequest(r Request, info Info) error {
	var faults []rbee.Fault
	fault := func(field, problem string) {
		faults = append(faults, rbee.Fault{Field: field, Problem: problem})
	}
	if r.Tokens == nil && r.Prompt == "" || r.Tokens != nil && len(r.Tokens) == 0 {
		fault("prompt", "must not be empty")
	}
	if r.MaxTokens < 1 {
		fault("max_tokens", "must be at least 1")
	}
	if r.TopLogprobs < 0 || r.TopLogprobs > MaxTopLogprobs {
		fault("top_logprobs", fmt.Sprintf("must be from 0 to %d", MaxTopLogprobs))
	}
	if r.LoRA != nil && len(r.LoRA) != len(info.Adapters) {
		fault("lora", fmt.Sprintf("must have %d scales, one for each adapter", len(info.Adapters)))
	}
	for i, scale := range r.LoRA {
		if math.IsNaN(float64(scale)) || math.IsInf(float64(scale), 0) {
			fault(fmt.Sprintf("lora[%d]", i), "must be a number")
		}
	}
	faults = append(faults, r.Sampling.Faults()...)
	if len(faults) > 0 {
		return rbee.InvalidRequest(faults...)
	}
	return nil
}

// CheckInputs finds what is wrong with the inputs of Embed.
func CheckInputs(inputs [][]Token, info Info) error {
	if info.Embedding == 0 {
		return rbee.Errorf(rbee.CodeBackendUnavailable, "cannot embed: the model %s gives no vectors", info.Name).
			Suggest("choose an embedding model")
	}
	var faults []rbee.Fault
	if len(inputs) == 0 {
		faults = append(faults, rbee.Fault{Field: "input", Problem: "must not be empty"})
	}
	for i, tokens := range inputs {
		field := fmt.Sprintf("input[%d]", i)
		if len(tokens) == 0 {
			faults = append(faults, rbee.Fault{Field: field, Problem: "must not be empty"})
		}
		for _, t := range tokens {
			if t < 0 || int(t) >= info.Vocab {
				faults = append(faults, rbee.Fault{Field: field, Problem: fmt.Sprintf("has tokens outside 0 to %d", info.Vocab-1)})
				break
			}
		}
		if len(tokens) > info.Context {
			return ErrInputLength(len(tokens), info.Context)
		}
	}
	if len(faults) > 0 {
		return rbee.InvalidRequest(faults...)
	}
	return nil
}

// ErrInputLength refuses a text that is too long to embed.
func ErrInputLength(inputTokens, contextTokens int) *rbee.Error {
	return rbee.Errorf(rbee.CodeContextLengthExceeded,
		"cannot embed: an input has %d tokens, and the context is %d tokens", inputTokens, contextTokens).
		With("prompt_tokens", inputTokens).With("context_tokens", contextTokens).
		Suggest("split the text, or start a worker with a larger --context")
}
