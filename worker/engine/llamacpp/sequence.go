package llamacpp

import (
	"sync/atomic"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

// readAhead is how many tokens the loop may be ahead of the reader.
const readAhead = 32

// sequence is one request in a slot.
type sequence struct {
	prompt    []engine.Token
	limit     int // tokens to generate at most
	cells     int // KV cells promised to it
	params    sampling.Params
	ignoreEOS bool

	out     chan engine.Piece // closed by the loop, after it wrote result and err
	quit    atomic.Bool       // the reader wants no more
	stalled atomic.Bool       // the loop waits for the reader

	result engine.Result
	err    error
	began  time.Time // the loop took it up

	// Everything below belongs to the loop.
	slot    int
	ids     [1]llama.SeqId
	sampler *sampling.Sampler
	fed     int // tokens of the prompt that are in the KV cache or the batch
	last    engine.Token
	made    int
	row     int32 // its row in the batch whose logits are wanted, -1 if none
	logits  []float32
	first   time.Time // of the first token
}

func newSequence(r engine.Request, tokens []engine.Token, limit int) *sequence {
	return &sequence{
		prompt: tokens, limit: limit, cells: len(tokens) + limit,
		params: r.Sampling, ignoreEOS: r.IgnoreEOS,
		out: make(chan engine.Piece, readAhead),
	}
}

// place gives the sequence its slot.
func (s *sequence) place(slot int) {
	s.slot = slot
	s.ids[0] = llama.SeqId(slot)
}

func (s *sequence) prefilled() bool { return s.fed == len(s.prompt) }

// blocked says whether the reader is too far behind for one more token. If so
// the reader nudges the loop when it takes one.
func (s *sequence) blocked() bool {
	if len(s.out) < cap(s.out) {
		return false
	}
	s.stalled.Store(true)
	// The reader may have taken a token before it could see the mark.
	return len(s.out) == cap(s.out)
}

// drain waits until the loop let go of the sequence.
func (s *sequence) drain() {
	for range s.out { // what is left is not wanted
	}
}

// finished closes the sequence's books.
func (s *sequence) finished(reason rbee.StopReason, err error) {
	now := time.Now()
	s.result.PromptTokens = len(s.prompt)
	s.result.Reason = reason
	switch {
	case s.began.IsZero():
	case s.first.IsZero():
		s.result.Prefill = now.Sub(s.began)
	default:
		s.result.Prefill = s.first.Sub(s.began)
		s.result.Decode = now.Sub(s.first)
	}
	s.err = err
	close(s.out)
}
