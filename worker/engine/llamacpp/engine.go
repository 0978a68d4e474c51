package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/engine/slots"
)

// Engine is a loaded model with its loop.
type Engine struct {
	lib   *library
	info  engine.Info
	gate  *slots.Gate
	queue int
	loop  sync.WaitGroup
	wake  chan struct{} // one message: there is something new for the loop

	inUse sync.RWMutex // held for reading while the vocabulary is read outside the loop
	freed bool

	mu       sync.Mutex
	incoming []*sequence // admitted, not yet seen by the loop
	closed   bool

	steps, promptTokens, generated atomic.Uint64

	// Everything below belongs to the loop.
	model    llama.Model
	vocab    llama.Vocab
	context  llama.Context
	memory   llama.Memory
	batch    llama.Batch
	active   []*sequence // in the order of their admission
	computed []*sequence // those in the batch
	samplers []*sampling.Sampler
	pieces   []piece
	masked   []engine.Token // tokens that the model says must never be chosen
	enders   []engine.Token // tokens that end a text; found when first needed
	ending   atomic.Bool    // set by Close

	abortID      uintptr
	watching     bool
	lastStep     time.Duration
	promptSpeed  float64 // tokens per second of late, 0 if unknown
	parallelFrom int     // logits of a step from which they are sampled in parallel
}

// piece is what is known of a token.
type piece struct {
	bytes []byte
	known bool
	ends  bool
}

var _ engine.Engine = (*Engine)(nil)

// Info describes the model.
func (e *Engine) Info() engine.Info { return e.info }

// Tokenize implements engine.Engine. Safe beside the loop: it only reads the vocabulary.
func (e *Engine) Tokenize(text string, addSpecial bool) ([]engine.Token, error) {
	return e.tokenize("text", text, addSpecial)
}

// tokenize names the field of the request that the text comes from.
func (e *Engine) tokenize(field, text string, addSpecial bool) ([]engine.Token, error) {
	problem := ""
	switch {
	case len(text) > 16<<20:
		problem = "must be at most 16 MiB"
	case !utf8.ValidString(text):
		problem = "must be valid UTF-8"
	case strings.Contains(text, "\x00"):
		problem = "must not contain the character U+0000, which llama.cpp can't take"
	}
	if problem != "" {
		return nil, rbee.InvalidRequest(rbee.Fault{Field: field, Problem: problem})
	}
	e.inUse.RLock()
	defer e.inUse.RUnlock()
	if e.freed {
		return nil, engine.ErrClosed()
	}
	tokens := llama.Tokenize(e.vocab, text, addSpecial, true)
	out := make([]engine.Token, len(tokens))
	for i, t := range tokens {
		out[i] = engine.Token(t)
	}
	return out, nil
}

// Detokenize implements engine.Engine.
func (e *Engine) Detokenize(tokens []engine.Token) []byte {
	e.inUse.RLock()
	defer e.inUse.RUnlock()
	if e.freed {
		return nil
	}
	known := make([]llama.Token, 0, len(tokens))
	for _, t := range tokens {
		// llama.cpp ends the process for a token that it does not know.
		if e.inVocabulary(t) {
			known = append(known, llama.Token(t))
		}
	}
	return []byte(llama.Detokenize(e.vocab, known, false, true))
}

func (e *Engine) inVocabulary(t engine.Token) bool { return t >= 0 && int(t) < e.info.Vocab }

// Stats implements engine.Engine.
func (e *Engine) Stats() engine.Stats {
	c := e.gate.Counts()
	return engine.Stats{
		SlotsTotal: e.info.Slots, SlotsBusy: c.Busy,
		Queued: c.Queued, QueueSize: e.queue,
		KVUsed: c.CellsUsed, KVTotal: e.info.KVTokens,
		Steps: e.steps.Load(), Requests: c.Entered,
		PromptTokens: e.promptTokens.Load(), GeneratedTokens: e.generated.Load(),
	}
}

// Close implements engine.Engine. A batch that is being computed is given up.
func (e *Engine) Close() error {
	e.ending.Store(true)
	e.gate.Close()
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.nudge()
	e.loop.Wait()
	return nil
}

// nudge tells the loop to look around.
func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default: // it was told and has not looked yet
	}
}

// Generate implements engine.Engine.
func (e *Engine) Generate(ctx context.Context, r engine.Request, emit func(engine.Piece) bool) (engine.Result, error) {
	called := time.Now()
	seq, err := e.prepare(r)
	if err != nil {
		return engine.Result{}, err
	}
	result := engine.Result{PromptTokens: len(seq.prompt)}
	slot, err := e.gate.Enter(ctx, seq.cells)
	result.Queued = time.Since(called)
	switch {
	case errors.Is(err, slots.ErrFull):
		return result, engine.ErrBusy(e.info.Slots, e.gate.Counts().Busy)
	case errors.Is(err, slots.ErrClosed):
		// It was open when prepare looked.
		result.Reason = rbee.StopShutdown
		return result, nil
	case err != nil:
		result.Reason = rbee.StopCanceled
		return result, nil
	}
	seq.place(slot)
	if !e.submit(seq) {
		e.gate.Leave(slot, seq.cells)
		result.Reason = rbee.StopShutdown
		return result, nil
	}
	return e.consume(ctx, seq, called, emit)
}

// prepare checks a request and makes its sequence, before it waits for anything.
func (e *Engine) prepare(r engine.Request) (*sequence, error) {
	if err := engine.CheckRequest(r); err != nil {
		return nil, err
	}
	if e.ending.Load() {
		return nil, engine.ErrClosed()
	}
	tokens := r.Tokens
	if tokens == nil {
		var err error
		if tokens, err = e.tokenize("prompt", r.Prompt, true); err != nil {
			return nil, err
		}
		if len(tokens) == 0 {
			return nil, rbee.InvalidRequest(rbee.Fault{Field: "prompt", Problem: "has no tokens"})
		}
	}
	for i, t := range tokens {
		if !e.inVocabulary(t) {
			return nil, rbee.InvalidRequest(rbee.Fault{
				Field: fmt.Sprintf("tokens[%d]", i), Problem: fmt.Sprintf("must be from 0 to %d", e.info.Vocab-1),
			})
		}
	}
	room := e.info.Context - len(tokens)
	if room < 1 {
		return nil, engine.ErrContextLength(len(tokens), e.info.Context)
	}
	return newSequence(r, tokens, min(r.MaxTokens, room)), nil
}

// submit hands a sequence to the loop; false if there is none any more.
func (e *Engine) submit(seq *sequence) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.incoming = append(e.incoming, seq)
	e.nudge()
	return true
}

// consume calls emit for what the loop makes of the sequence, until it ended.
// However it returns, the loop has let go of the sequence.
func (e *Engine) consume(
	ctx context.Context, seq *sequence, called time.Time, emit func(engine.Piece) bool,
) (result engine.Result, err error) {
	emitted := 0
	own := rbee.StopReason("")
	quit := func(reason rbee.StopReason) {
		own = reason
		seq.quit.Store(true)
		e.nudge()
	}
	ended := false
	defer func() {
		if !ended { // emit panicked or ended the goroutine
			quit(rbee.StopString)
			seq.drain()
		}
	}()
	for own == "" {
		var p engine.Piece
		open := true
		select {
		case p, open = <-seq.out:
		case <-ctx.Done():
			quit(rbee.StopCanceled)
			continue
		}
		if !open {
			break
		}
		if seq.stalled.CompareAndSwap(true, false) {
			e.nudge()
		}
		if ctx.Err() != nil {
			quit(rbee.StopCanceled)
			continue
		}
		emitted++
		if !emit(p) {
			quit(rbee.StopString)
		}
	}
	seq.drain()
	ended = true

	result = seq.result
	result.Tokens = emitted
	if !seq.began.IsZero() {
		result.Queued = seq.began.Sub(called)
	}
	if own != "" {
		result.Reason = own
		return result, nil
	}
	return result, seq.err
}
