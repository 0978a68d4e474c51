package llamacpp

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

// Beside running streams a step computes as many tokens of prompts as take
// about this long, so that a long prompt does not show as a pause in them.
const promptShare = 100 * time.Millisecond

// minPromptShare is the least share of a prompt in a step, in tokens.
const minPromptShare = 32

// watchFrom is how long steps have to take before llama.cpp asks during a step
// whether to give it up: each question costs about a microsecond per graph node.
const watchFrom = 50 * time.Millisecond

func (e *Engine) makeSlots(n int) {
	e.samplers = make([]*sampling.Sampler, n)
	e.pieces = make([]piece, e.info.Vocab)
	e.parallelFrom = manyLogits
	for _, t := range llama.VocabGetSuppressTokens(e.vocab) {
		if e.inVocabulary(engine.Token(t)) {
			e.masked = append(e.masked, engine.Token(t))
		}
	}
	e.abortID = e.lib.next.Add(1)
	e.lib.watched.Store(e.abortID, e.abandoned)
}

// run is the loop. It returns after Close, when no sequence is left.
func (e *Engine) run() {
	for e.gather() {
		if e.fill() == 0 {
			<-e.wake
			continue
		}
		e.compute()
	}
	for _, seq := range slices.Clone(e.active) {
		e.end(seq, rbee.StopShutdown, nil)
	}
}

// gather takes up new sequences and lets go of those whose reader left. It
// returns false once the engine is closed.
func (e *Engine) gather() bool {
	e.mu.Lock()
	incoming, closed := e.incoming, e.closed
	e.incoming = nil
	e.mu.Unlock()
	for _, seq := range incoming {
		seq.began = time.Now()
		e.active = append(e.active, seq)
	}
	for i := len(e.active) - 1; i >= 0; i-- { // end takes it off the list
		if seq := e.active[i]; seq.quit.Load() {
			e.end(seq, rbee.StopCanceled, nil)
		}
	}
	return !closed
}

// end lets go of a sequence: of its KV cells, its slot, and last its reader.
func (e *Engine) end(seq *sequence, reason rbee.StopReason, err error) {
	e.active = slices.DeleteFunc(e.active, func(s *sequence) bool { return s == seq })
	if len(e.active) > 0 {
		_, _ = llama.MemorySeqRm(e.memory, seq.ids[0], -1, -1) // never fails for a whole sequence
	} else {
		// Also forgets where the next cell was to be. Attention sums over cells in
		// their order, so only now is the next text the same to the last bit as if
		// it were the first.
		_ = llama.MemoryClear(e.memory, false) // fails for a zero handle only
	}
	e.gate.Leave(seq.slot, seq.cells)
	seq.finished(reason, err)
}

// fill makes the batch of the next step and returns how many tokens it has.
func (e *Engine) fill() int {
	_ = e.batch.Clear() // never fails
	e.computed = e.computed[:0]
	for _, seq := range e.active {
		if seq.prefilled() && !seq.blocked() {
			position := len(seq.prompt) + seq.made - 1
			seq.row = e.batch.NTokens
			e.add(seq.last, position, seq, true)
			e.computed = append(e.computed, seq)
		}
	}
	room := batchTokens - int(e.batch.NTokens)
	if len(e.computed) > 0 {
		room = min(room, e.share())
	}
	for _, seq := range e.active {
		if seq.prefilled() || room == 0 {
			continue
		}
		if seq.fed == 0 {
			e.begin(seq)
		}
		n := min(room, len(seq.prompt)-seq.fed)
		room -= n
		seq.row = -1
		for range n {
			wanted := seq.fed == len(seq.prompt)-1
			if wanted {
				seq.row = e.batch.NTokens
			}
			e.add(seq.prompt[seq.fed], seq.fed, seq, wanted)
			seq.fed++
		}
		e.computed = append(e.computed, seq)
	}
	return int(e.batch.NTokens)
}

func (e *Engine) add(t engine.Token, position int, seq *sequence, logits bool) {
	// It fails for a full batch only, and fill counts.
	_ = e.batch.Add(llama.Token(t), llama.Pos(position), seq.ids[:], logits)
}

// begin gives a sequence its sampler.
func (e *Engine) begin(seq *sequence) {
	if e.samplers[seq.slot] == nil {
		e.samplers[seq.slot] = sampling.New(seq.params)
	} else {
		e.samplers[seq.slot].Reset(seq.params)
	}
	seq.sampler = e.samplers[seq.slot]
	seq.sampler.Accept(seq.prompt...)
	if seq.ignoreEOS && e.enders == nil {
		for t := range e.info.Vocab {
			if llama.VocabIsEOG(e.vocab, llama.Token(t)) {
				e.enders = append(e.enders, engine.Token(t))
			}
		}
	}
}

// share is how many tokens of prompts a step takes beside running streams: a
// power of two, so that the shapes of batches repeat.
func (e *Engine) share() int {
	fits := e.promptSpeed * promptShare.Seconds()
	n := minPromptShare
	for n < batchTokens && float64(2*n) <= fits {
		n *= 2
	}
	return n
}

// compute runs the batch and hands out the tokens that come of it.
func (e *Engine) compute() {
	prompt := int(e.batch.NTokens)
	for _, seq := range e.computed {
		if seq.made > 0 {
			prompt--
		}
	}
	e.watch(prompt >= minPromptShare || e.lastStep >= watchFrom)

	start := time.Now()
	code, err := llama.Decode(e.context, e.batch)
	if err != nil || code != 0 {
		e.giveUp(code)
		return
	}
	e.steps.Add(1)
	e.promptTokens.Add(uint64(prompt))
	e.sample()
	e.lastStep = time.Since(start)
	if prompt >= minPromptShare {
		speed := float64(prompt) / e.lastStep.Seconds()
		if e.promptSpeed == 0 {
			e.promptSpeed = speed
		}
		e.promptSpeed += (speed - e.promptSpeed) / 4
	}
	for _, seq := range e.computed {
		if seq.row >= 0 {
			e.hand(seq)
		}
	}
}

func (e *Engine) watch(on bool) {
	if on == e.watching {
		return
	}
	e.watching = on
	id := e.abortID
	if !on {
		id = 0
	}
	e.lib.watchAbort(e.context, id)
}

// abandoned says whether nobody wants the batch that is being computed: the
// engine closes, or the readers of all its sequences left. As long as one is
// wanted the batch goes on, or that one would have to begin anew.
func (e *Engine) abandoned() bool {
	if e.ending.Load() {
		return true
	}
	for _, seq := range e.computed {
		if !seq.quit.Load() {
			return false
		}
	}
	return true
}

// giveUp ends all sequences of a batch that was not computed: what of them is
// in the KV cache is not known. Those not in it go on.
func (e *Engine) giveUp(code int32) {
	const aborted = 2
	for _, seq := range slices.Clone(e.computed) {
		if code == aborted && e.abandoned() {
			reason := rbee.StopCanceled
			if e.ending.Load() {
				reason = rbee.StopShutdown
			}
			e.end(seq, reason, nil)
			continue
		}
		e.end(seq, "", rbee.Errorf(rbee.CodeInternalError,
			"cannot generate: llama.cpp could not compute the batch (code %d)", code).
			Suggest("try again; if it happens again, start a worker with a smaller --context"))
	}
}

// manyLogits is how many logits make it worth while to sample on several CPUs.
const manyLogits = 16384

// sample picks a token for each row of the batch, in seq.last; -1 if none is possible.
func (e *Engine) sample() {
	rows, work := 0, 0
	for _, seq := range e.computed {
		if seq.row < 0 {
			continue
		}
		// A row that is missing is nil, from which no token can be picked.
		seq.logits, _ = llama.GetLogitsIth(e.context, seq.row, e.info.Vocab)
		rows++
		if seq.params.Temperature > 0 {
			work += e.info.Vocab
		}
	}
	if rows < 2 || work < e.parallelFrom || runtime.GOMAXPROCS(0) < 2 {
		for _, seq := range e.computed {
			if seq.row >= 0 {
				e.pick(seq)
			}
		}
		return
	}
	var wg sync.WaitGroup
	for _, seq := range e.computed {
		if seq.row < 0 {
			continue
		}
		if rows--; rows == 0 {
			e.pick(seq)
		} else {
			wg.Go(func() { e.pick(seq) })
		}
	}
	wg.Wait()
}

func (e *Engine) pick(seq *sequence) {
	mask(seq.logits, e.masked)
	if seq.ignoreEOS {
		mask(seq.logits, e.enders)
	}
	token, ok := seq.sampler.Sample(seq.logits)
	seq.logits = nil
	if !ok {
		token = -1
	}
	seq.last = token
}

func mask(logits []float32, tokens []engine.Token) {
	for _, t := range tokens {
		if int(t) < len(logits) {
			logits[t] = float32(math.Inf(-1))
		}
	}
}

// hand gives a sequence's new token to its reader, or ends the sequence.
func (e *Engine) hand(seq *sequence) {
	if seq.first.IsZero() {
		seq.first = time.Now()
	}
	if seq.last < 0 {
		e.end(seq, "", rbee.Errorf(rbee.CodeInternalError,
			"cannot generate: the model gave no usable probabilities").
			Suggest("copy the file again, or choose another model"))
		return
	}
	p := e.piece(seq.last)
	if p.ends {
		e.end(seq, rbee.StopEOS, nil)
		return
	}
	seq.sampler.Accept(seq.last)
	seq.made++
	e.generated.Add(1)
	seq.out <- engine.Piece{Token: seq.last, Bytes: p.bytes} // fill saw to it that there is room
	if seq.made == seq.limit {
		e.end(seq, rbee.StopLength, nil)
	}
}

// piece looks a token up, in llama.cpp for the first time.
func (e *Engine) piece(t engine.Token) *piece {
	p := &e.pieces[t]
	if p.known {
		return p
	}
	token := llama.Token(t)
	buf := make([]byte, 32)
	n := llama.TokenToPiece(e.vocab, token, buf, 0, false)
	if n < 0 { // the size it needs
		buf = make([]byte, -n)
		n = llama.TokenToPiece(e.vocab, token, buf, 0, false)
	}
	p.bytes = slices.Clip(buf[:max(0, n)])
	p.ends = llama.VocabIsEOG(e.vocab, token)
	p.known = true
	return p
}
