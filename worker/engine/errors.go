package engine

import "rbee"

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
func ErrBusy(total, busy int) *rbee.Error {
	return rbee.Errorf(rbee.CodeAllSlotsBusy,
		"cannot generate: %d of %d slots are busy and the queue is full", busy, total).
		With("slots_total", total).With("slots_busy", busy).
		Suggest("try again in a moment, or start a worker with more --slots")
}

// CheckRequest finds what is wrong with a request, before it costs anything.
func CheckRequest(r Request) error {
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
	faults = append(faults, r.Sampling.Faults()...)
	if len(faults) > 0 {
		return rbee.InvalidRequest(faults...)
	}
	return nil
}
