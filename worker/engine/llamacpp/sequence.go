package llamacpp

import (
	"sync/atomic"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/engine/slots"
	"rbee/worker/grammar"
)

// readAhead is how many tokens the loop may be ahead of the reader.
const readAhead = 32

// sequence is one request.
type sequence struct {
	request engine.Request
	prompt  int    // tokens of it
	limit   int    // tokens to generate at most
	number  uint64 // in the order of arrival

	out     chan engine.Piece // closed by the loop, after it wrote result and err
	quit    atomic.Bool       // the reader wants no more
	stalled atomic.Bool       // the loop waits for the reader

	result engine.Result
	err    error
	began  time.Time // the loop took it up

	// Everything below belongs to the loop.
	tokens  []engine.Token // the prompt and what was generated
	fed     int            // of these, those in the KV cache or the batch
	short   bool           // there was little to compute when it began
	slot    int
	held    *slots.Held // its KV cells, nil while it has no slot
	ids     [1]llama.SeqId
	mix     *mix
	waits   bool      // it is the turn of sequences with another mix
	leader  *sequence // computes a beginning that both have; nil once there is no need to wait
	shared  int       // tokens of that beginning
	sampler *sampling.Sampler
	matcher *grammar.Matcher
	drafter drafter
	draft   []engine.Token // proposed for this step, after the last token
	row     int32          // its first row in the batch whose logits are wanted, -1 if none
	picked  []picked
	raw     []float32 // the model's logits, if their probabilities are asked for
	first   time.Time // of the first token
	lost    bool      // nobody knows what of it is in the KV cache
}

// picked is a token that was chosen and not handed out yet; the token is -1 if none was possible.
type picked struct {
	token   engine.Token
	logprob float64
	top     []sampling.Alternative
	over    bool // the grammar allows no more
}

func newSequence(r engine.Request, tokens []engine.Token, limit int) *sequence {
	// The loop appends to its own copy, with room for most answers.
	own := make([]engine.Token, len(tokens), len(tokens)+min(limit, 256))
	copy(own, tokens)
	return &sequence{
		request: r, tokens: own, prompt: len(tokens), limit: limit, row: -1, slot: -1,
		out: make(chan engine.Piece, readAhead),
	}
}

// made is how many tokens were generated.
func (s *sequence) made() int { return len(s.tokens) - s.prompt }

// rest is how many tokens have to be computed before the next one can be chosen.
func (s *sequence) rest() int { return len(s.tokens) - s.fed }

// decoding says whether the next step gives a token, whatever else is in it.
func (s *sequence) decoding() bool { return s.fills() && s.rest() == 1 }

// fills says whether the next step computes some of its tokens, if there is room.
func (s *sequence) fills() bool { return s.held != nil && s.leader == nil && !s.waits }

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
	s.result.PromptTokens = s.prompt
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

// setID takes over the number of its KV cells.
func (s *sequence) setID() { s.ids[0] = llama.SeqId(s.held.ID) }
