package llamacpp

import (
	"context"
	"fmt"
	"slices"
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
	"rbee/worker/grammar"
)

// Engine is a loaded model with its loop.
type Engine struct {
	lib   *library
	info  engine.Info
	queue int
	loop  sync.WaitGroup
	wake  chan struct{} // one message: there is something new for the loop

	inUse sync.RWMutex // held for reading while the vocabulary is read outside the loop
	freed bool

	makeWords sync.Once
	words     *grammar.Vocabulary // for grammars

	mu      sync.Mutex
	line    line
	rests   []chan<- error // answers to those who ask for a rest
	figures engine.Stats   // as of the last step
	doing   []engine.SlotInfo
	ending  atomic.Bool // set by Close
	watched []*sequence // those in the batch that is computed, if it is worth giving up
	abort   *uint64     // a text of C, empty as long as the batch is wanted

	// Everything below belongs to the loop.
	options  engine.Options
	model    llama.Model
	vocab    llama.Vocab
	context  llama.Context
	resting  bool // there is no context
	memory   llama.Memory
	batch    llama.Batch
	adapters []llama.AdapterLora
	scales   []float32 // of the adapters, in the options
	mixes    mixes
	threads  int         // that the context has
	cellTime float64     // seconds that a row takes to pass over a KV cell of another sequence
	scratch  llama.SeqId // a sequence that is nobody's, 0 if there is none
	turns    bool        // prompts and streams are computed in steps of their own, which CPUs do faster
	pads     bool        // batches are filled up with rows of it where that is faster
	padding  int         // rows of the batch that are such
	outputs  int         // rows of logits that a batch may ask for
	book     *slots.Book
	cells    cells // the memory of the book
	apart    bool  // each sequence has cells of its own
	noReuse  bool  // prompts are computed anew
	alone    bool  // each sequence has batches and KV cells of its own
	keepsAll bool  // nothing is packed to make steps shorter
	whole    bool  // sequences can't be shared or cut
	count    engine.Stats

	active     []*sequence // those with a slot, in the order of their coming in
	computed   []*sequence // those in the batch
	spareSlots []int
	samplers   []*sampling.Sampler // that no sequence uses
	pieces     [][]byte            // of each token that was needed
	masked     []engine.Token      // tokens that the model says must never be chosen
	enders     []engine.Token      // tokens that end a text
	ends       []bool              // the same, by token

	pace         pace
	maxDraft     int
	guesser      *draftModel // nil without a draft model
	parallelFrom int         // logits of a step from which they are sampled in parallel
	embeds       embeds
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
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.figures
	s.Queued = len(e.line.waiting)
	return s
}

// Slots implements engine.Engine.
func (e *Engine) Slots() []engine.SlotInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.doing)
}

// publish tells Stats and Slots how things are.
func (e *Engine) publish() {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.count
	s.SlotsTotal, s.SlotsBusy, s.QueueSize = e.info.Slots, len(e.active), e.queue
	if !e.resting {
		s.KVTotal = e.info.KVTokens
	}
	s.KVUsed, s.KVCached = e.book.Used()
	s.KVPacked, s.PackBytes = e.book.Packed()
	s.Threads = e.pace.threads
	e.figures = s
	for i := range e.doing {
		e.doing[i] = engine.SlotInfo{Slot: i, State: engine.SlotIdle}
	}
	for _, seq := range e.active {
		state := engine.SlotPrefill
		switch {
		case seq.stalled.Load():
			state = engine.SlotBlocked
		case seq.made() > 0:
			state = engine.SlotGenerating
		}
		e.doing[seq.slot] = engine.SlotInfo{
			Slot: seq.slot, State: state, PromptTokens: seq.prompt, CachedTokens: seq.result.CachedTokens,
			GeneratedTokens: seq.made(), MaxTokens: seq.limit, KVTokens: seq.held.Len(), Running: now.Sub(seq.began),
		}
	}
}

// Close implements engine.Engine. A batch that is being computed is given up.
func (e *Engine) Close() error {
	e.closeLine() // first: the loop, which ends then, empties the line once
	e.ending.Store(true)
	e.reconsider()
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
	if err := e.enter(seq); err != nil {
		if rbee.CodeOf(err) == rbee.CodeWorkerNotReady {
			// It was open when prepare looked.
			return engine.Result{PromptTokens: seq.prompt, Reason: rbee.StopShutdown}, nil
		}
		return engine.Result{PromptTokens: seq.prompt}, err
	}
	return e.consume(ctx, seq, called, emit)
}

// prepare checks a request and makes its sequence, before it waits for anything.
func (e *Engine) prepare(r engine.Request) (*sequence, error) {
	if err := engine.CheckRequest(r, e.info); err != nil {
		return nil, err
	}
	if e.ending.Load() {
		return nil, engine.ErrClosed()
	}
	if e.info.EmbeddingOnly {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot generate: the model %s gives vectors and no text", e.info.Name).
			Suggest("choose a text generation model")
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
	seq := newSequence(r, tokens, min(r.MaxTokens, room))
	seq.mix = e.mixOf(r.LoRA)
	return seq, e.match(seq)
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
		e.reconsider()
		e.nudge()
	}
	ended := false
	defer func() {
		if !ended { // emit panicked or ended the goroutine
			quit(rbee.StopString)
			if !e.forget(seq) {
				seq.drain()
			}
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
	if own == "" || !e.forget(seq) { // in the line it is nobody else's
		seq.drain()
	} else {
		seq.result.PromptTokens = seq.prompt
	}
	ended = true

	result = seq.result
	result.Tokens = emitted
	result.Queued = time.Since(called)
	if !seq.began.IsZero() {
		result.Queued = seq.began.Sub(called)
	}
	if own != "" {
		result.Reason = own
		return result, nil
	}
	return result, seq.err
}
