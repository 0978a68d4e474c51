// Package engine says what a worker needs from a language model: load it, turn
// text to tokens and back, and generate for several requests at once. The
// implementations are engine/llamacpp, which is the real one, and engine/fake;
// engine/enginetest is the contract both pass.
//
// The package knows nothing of HTTP, of stop strings or of UTF-8 borders
// between tokens: those belong to the worker.
package engine

import (
	"context"
	"log/slog"
	"time"

	"rbee"
	"rbee/worker/engine/sampling"
)

// Token is the number of an entry of a model's vocabulary.
type Token = int32

// Options say what to load and how much room to give it. Zero values of Slots,
// Context, KVTokens, Threads and Logger take the defaults named here; a zero
// Queue means that nothing waits.
type Options struct {
	ModelPath string
	LibDir    string        // directory of the engine's shared libraries
	Backend   rbee.Backend  // default cpu
	Device    rbee.DeviceID // default the first of the backend
	Slots     int           // requests served in parallel, default 4
	Context   int           // longest prompt plus answer of one request in tokens, default the trained context, at most 8192
	KVTokens  int           // KV cells that all slots share, at least Context, default Context
	Threads   int           // compute threads, default one less than the CPUs, at least 1
	Queue     int           // requests that may wait for a slot
	Logger    *slog.Logger  // default discards
}

// Loader loads a model and blocks until it is loaded, has failed, or ctx ends,
// which cancels the load. It calls progress, which may be nil and must not
// block, from one goroutine and never after it returned; the stages of success
// and failure are left to the caller. Errors: MODEL_NOT_FOUND for a missing
// file, INVALID_REQUEST for bad options and for a file that is no usable model,
// BACKEND_UNAVAILABLE for a backend or device that is not there,
// INSUFFICIENT_RAM or VRAM_EXHAUSTED for want of memory, ctx's cause for a
// canceled load.
type Loader func(ctx context.Context, o Options, progress func(rbee.LoadProgress)) (Engine, error)

// Info describes a loaded model and the room it was given.
type Info struct {
	Name           string // as the file names it
	Architecture   string // such as llama
	Quantisation   string // such as Q4_K_M, "" if unknown
	ChatTemplate   string // Jinja source, "" if the model has none
	Layers         int
	Vocab          int
	TrainedContext int // tokens
	Context        int // tokens of prompt plus answer that one request may have
	KVTokens       int // KV cells that all slots share
	Slots          int
	Threads        int
	SizeBytes      int64
	Parameters     uint64
	Backend        rbee.Backend
	Device         rbee.DeviceID
}

// Request asks for tokens.
type Request struct {
	Prompt    string  // tokenized with the model's special tokens added and parsed
	Tokens    []Token // in place of Prompt if not nil, taken as it is
	MaxTokens int     // at least 1; capped to the room that the prompt leaves
	Sampling  sampling.Params
	IgnoreEOS bool // never choose a token that ends the text
}

// Piece is one generated token and the bytes it adds to the text. The bytes
// may end inside a UTF-8 character, may be empty, are shared and must not be
// changed. A token that ends the text is not emitted.
type Piece struct {
	Token Token
	Bytes []byte
}

// Result tells how a generation went. It is filled as far as the generation
// came, also beside an error.
type Result struct {
	PromptTokens int
	CachedTokens int // prompt tokens whose KV was reused
	Tokens       int // times that emit was called
	Reason       rbee.StopReason
	Queued       time.Duration // from the call to the first work on the prompt
	Prefill      time.Duration // from there to the first token
	Decode       time.Duration // from the first token to the end
}

// Stats are figures of one moment, and counters since the load.
type Stats struct {
	SlotsTotal int
	SlotsBusy  int
	Queued     int
	QueueSize  int // requests that may wait
	KVUsed     int // KV cells promised to the running requests
	KVTotal    int

	Steps           uint64 // batches computed
	Requests        uint64 // generations that got a slot
	PromptTokens    uint64
	GeneratedTokens uint64
}

// Engine is a loaded model. Its methods may be called from many goroutines.
type Engine interface {
	Info() Info

	// Tokenize gives the tokens of a text. Special tokens written in the text
	// are recognized; addSpecial also adds those that begin a text. It fails
	// with INVALID_REQUEST if the model can't encode the text, and with
	// WORKER_NOT_READY after Close.
	Tokenize(text string, addSpecial bool) ([]Token, error)

	// Detokenize gives the bytes of tokens, special tokens written out. They
	// need not be valid UTF-8. Tokens outside the vocabulary add nothing.
	// After Close it returns nil.
	Detokenize(tokens []Token) []byte

	// Generate runs one request and blocks until it ended. It calls emit for
	// each token, in order, on the caller's goroutine; false from emit stops.
	// An emit that blocks holds up its own request only.
	//
	// An end that belongs to the life of a request is no error but a reason:
	// length, eos, stop (emit returned false), canceled (ctx ended; at most one
	// batch later) and shutdown (Close). Errors: CONTEXT_LENGTH_EXCEEDED with
	// prompt_tokens and context_tokens if the prompt leaves no room for one
	// token; ALL_SLOTS_BUSY with slots_total and slots_busy if no slot is free
	// and the queue is full; INVALID_REQUEST; WORKER_NOT_READY after Close;
	// INTERNAL_ERROR if the batch could not be computed.
	Generate(ctx context.Context, r Request, emit func(Piece) bool) (Result, error)

	Stats() Stats

	// Close ends all generations with the reason shutdown, blocks until the
	// engine's goroutines ended and frees the model. It may be called again.
	Close() error
}
