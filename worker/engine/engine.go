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
	"rbee/worker/grammar"
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
	KVTokens  int           // KV cells that all slots share, at least Context, default Context; enough for Slots times Context may be divided among them
	Threads   int           // compute threads, default one less than the CPUs, at least 1
	Queue     int           // requests that may wait for a slot
	Logger    *slog.Logger  // default discards

	// Reproducible has each request computed by itself, in batches and KV cells of
	// its own: slower, and the same to the last bit whatever else runs. It turns off
	// the prefix cache and drafts.
	Reproducible bool

	NoPrefixCache bool   // compute each prompt anew
	PrefixMemory  int    // bytes of main memory for beginnings of prompts that the KV cache has no room for, default 512 MiB; negative for none
	DraftTokens   int    // tokens that are proposed for a text in a step at most, default 16; negative turns it off
	DraftModel    string // path of a smaller model with the same vocabulary that proposes where prompt lookup finds nothing, "" for none

	KVType         KVType          // of the KV cache's numbers, default f16
	FlashAttention FlashAttention  // default auto
	NoMmap         bool            // read the weights into memory of their own
	Mlock          bool            // keep the weights from being swapped out
	GPULayers      int             // layers on the device, default all; negative keeps all in RAM
	Split          Split           // how a model is spread over several devices, default none: it is on one
	Devices        []rbee.DeviceID // devices to spread over, default all of the backend; with Split only
	TensorSplit    []float32       // shares of the devices, default by their free memory
	RoPEScaling    RoPEScaling     // default what the model says
	RoPEFreqBase   float32         // default what the model says
	RoPEFreqScale  float32         // such as 0.25 for four times the context; default what the model says
	LoRA           []LoRA          // adapters, all applied to all requests
}

// LoRA is an adapter to a model's weights, and how strongly it is applied.
type LoRA struct {
	Path  string
	Scale float32
}

// KVType is the type of the numbers in the KV cache.
type KVType string

// The types of a KV cache. The quantised ones take a half and a quarter of the memory.
const (
	KVF16 KVType = "f16"
	KVQ8  KVType = "q8_0"
	KVQ4  KVType = "q4_0"
)

// FlashAttention says whether to compute attention without its whole matrix.
type FlashAttention string

// Auto uses it where the backend can.
const (
	FlashAuto FlashAttention = "auto"
	FlashOn   FlashAttention = "on"
	FlashOff  FlashAttention = "off"
)

// Split says how a model is spread over several devices.
type Split string

// Layers go to devices whole, or rows of each layer do.
const (
	SplitNone  Split = "none"
	SplitLayer Split = "layer"
	SplitRow   Split = "row"
)

// RoPEScaling says how positions beyond the trained context are mapped into it.
type RoPEScaling string

// The kinds of scaling that models know.
const (
	RoPENone   RoPEScaling = "none"
	RoPELinear RoPEScaling = "linear"
	RoPEYaRN   RoPEScaling = "yarn"
)

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
	Embedding      int  // length of the vectors that Embed gives
	EmbeddingOnly  bool // the model gives vectors and no text
	SizeBytes      int64
	Parameters     uint64
	Backend        rbee.Backend
	Device         rbee.DeviceID
	BOS, EOS       string   // texts of the tokens that begin and end a text, "" if there is none
	FIM            FIM      // for filling a gap
	Adapters       []string // names of the LoRA adapters, in the order of loading
}

// FIM are the tokens around the parts of a prompt that asks for what is between
// them. OK says whether the model has them.
type FIM struct {
	OK                     bool
	Prefix, Suffix, Middle Token
}

// Request asks for tokens.
type Request struct {
	Prompt    string  // tokenized with the model's special tokens added and parsed
	Tokens    []Token // in place of Prompt if not nil, taken as it is
	MaxTokens int     // at least 1; capped to the room that the prompt leaves
	Sampling  sampling.Params
	IgnoreEOS bool      // never choose a token that ends the text
	LoRA      []float32 // scale of each adapter, in the order of loading; nil for those of Options

	Grammar     *grammar.Grammar // what the answer must be, nil for anything
	Logprobs    bool             // tell the probability of each token
	TopLogprobs int              // and of so many of the most likely, from 0 to MaxTopLogprobs
}

// MaxTopLogprobs is the most alternatives to a token that are told.
const MaxTopLogprobs = 20

// Piece is one generated token and the bytes it adds to the text. The bytes
// may end inside a UTF-8 character, may be empty, are shared and must not be
// changed. A token that ends the text is not emitted.
type Piece struct {
	Token Token
	Bytes []byte

	Logprob float64                // natural logarithm of its probability, if asked for
	Top     []sampling.Alternative // the most likely tokens, if asked for; valid until emit returns
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

	DraftTokens    int // tokens proposed by prompt lookup and the draft model
	AcceptedTokens int // of those, the ones that came true
}

// Stats are figures of one moment, and counters since the load.
type Stats struct {
	SlotsTotal int
	SlotsBusy  int
	Queued     int
	QueueSize  int // requests that may wait
	KVUsed     int // KV cells of the running requests; shared ones count once
	KVCached   int // KV cells kept for prompts that begin alike
	KVPacked   int // tokens whose KV is kept for such prompts in main memory
	PackBytes  int // of main memory that these take
	KVTotal    int
	Threads    int // compute threads of the last step

	Steps           uint64 // batches computed
	Requests        uint64 // generations that got a slot
	PromptTokens    uint64 // tokens of prompts that were computed
	GeneratedTokens uint64
	CachedTokens    uint64 // tokens of prompts whose KV was reused
	CacheHits       uint64 // requests that reused some
	PutBacks        uint64 // times that a request lost its KV cells to older ones
	DraftTokens     uint64
	AcceptedTokens  uint64
	ModelDrafts     uint64        // of the DraftTokens, those of the draft model
	ModelAccepted   uint64        // of these, the ones that came true
	BatchTokens     uint64        // tokens of all batches
	StepTime        time.Duration // spent on all batches
	ComputeTime     time.Duration // of that, in llama.cpp: the rest is sampling, most of all
	LastStep        time.Duration
	EmbeddedTokens  uint64
}

// SlotState tells what a slot does.
type SlotState string

// What a slot does.
const (
	SlotIdle       SlotState = "idle"
	SlotPrefill    SlotState = "prefill"
	SlotGenerating SlotState = "generating"
	SlotBlocked    SlotState = "blocked" // its reader is behind
)

// SlotInfo is one slot at one moment.
type SlotInfo struct {
	Slot            int           `json:"slot"`
	State           SlotState     `json:"state"`
	PromptTokens    int           `json:"prompt_tokens"`
	CachedTokens    int           `json:"cached_tokens"`
	GeneratedTokens int           `json:"generated_tokens"`
	MaxTokens       int           `json:"max_tokens"`
	KVTokens        int           `json:"kv_tokens"` // KV cells it holds, shared ones included
	Running         time.Duration `json:"-"`         // since its request got it
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
	// token; ALL_SLOTS_BUSY with slots_total, slots_busy and retry_after_seconds
	// if no slot is free and the queue is full; INVALID_REQUEST; WORKER_NOT_READY after Close;
	// INTERNAL_ERROR if the batch could not be computed.
	Generate(ctx context.Context, r Request, emit func(Piece) bool) (Result, error)

	// Embed gives one vector of length 1 for each input, in order, and blocks
	// until they are computed or ctx ends, whose error it then returns. Errors:
	// CONTEXT_LENGTH_EXCEEDED, INVALID_REQUEST for an input without tokens and
	// for unknown tokens, BACKEND_UNAVAILABLE if the model gives no vectors,
	// ALL_SLOTS_BUSY, WORKER_NOT_READY after Close.
	Embed(ctx context.Context, inputs [][]Token) ([][]float32, error)

	Stats() Stats

	// Slots tells what each slot does.
	Slots() []SlotInfo

	// Rest gives back the memory of the KV cache and of what computes with it,
	// until the next request makes them anew. Until then Stats tell of no KV
	// cells. Errors: CONFLICT while requests run or wait, WORKER_NOT_READY after
	// Close.
	Rest() error

	// Close ends all generations with the reason shutdown, blocks until the
	// engine's goroutines ended and frees the model. It may be called again.
	Close() error
}
