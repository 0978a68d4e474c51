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
	"rbee/worker/grammar"
)

// manyLogits is how many logits make it worth while to sample on several CPUs.
const manyLogits = 16384

// equip gives a sequence its sampler and its grammar's matcher.
func (e *Engine) equip(seq *sequence) {
	r := &seq.request
	if n := len(e.samplers); n > 0 {
		seq.sampler, e.samplers = e.samplers[n-1], e.samplers[:n-1]
		seq.sampler.Reset(r.Sampling)
	} else {
		seq.sampler = sampling.New(r.Sampling)
	}
	seq.sampler.Accept(seq.tokens...)
}

// match begins the grammar of a request. It belongs to the caller of Generate:
// the first one has to read the vocabulary.
func (e *Engine) match(seq *sequence) error {
	if seq.request.Grammar == nil {
		return nil
	}
	e.inUse.RLock()
	defer e.inUse.RUnlock()
	if e.freed {
		return engine.ErrClosed()
	}
	e.makeWords.Do(func() {
		e.words = grammar.NewVocabulary(
			func(t int32) []byte { return e.bytesOf(t) },
			func(t int32) bool { return e.ends[t] }, e.info.Vocab)
	})
	seq.matcher = seq.request.Grammar.StartWith(e.words)
	return nil
}

// spareSampler keeps a sampler that is not needed any more.
func (e *Engine) spareSampler(seq *sequence) {
	if seq.sampler != nil && len(e.samplers) < e.info.Slots {
		e.samplers = append(e.samplers, seq.sampler)
	}
	seq.sampler = nil
}

// sample picks tokens for the rows of the batch, in seq.picked.
func (e *Engine) sample() {
	sequences, work := 0, 0
	for _, seq := range e.computed {
		seq.picked = seq.picked[:0]
		if seq.row < 0 {
			continue
		}
		sequences++
		if seq.request.Sampling.Temperature > 0 || seq.matcher != nil || seq.request.Logprobs {
			work += e.info.Vocab * (1 + len(seq.draft))
		}
	}
	parallel := sequences > 1 && work >= e.parallelFrom && runtime.GOMAXPROCS(0) > 1
	var wg sync.WaitGroup
	for _, seq := range e.computed {
		if seq.row < 0 {
			continue
		}
		if sequences--; sequences == 0 || !parallel {
			e.pick(seq)
		} else {
			wg.Go(func() { e.pick(seq) })
		}
	}
	wg.Wait()
}

// pick chooses the next token, and those after it as long as they are what was
// drafted: the logits of a row hold only if all tokens before it came true.
func (e *Engine) pick(seq *sequence) {
	for i := range len(seq.draft) + 1 {
		// A row that is missing is nil, from which no token can be picked.
		logits, _ := llama.GetLogitsIth(e.context, seq.row+int32(i), e.info.Vocab)
		p := e.choose(seq, logits)
		seq.picked = append(seq.picked, p)
		if p.token < 0 || seq.made()+len(seq.picked) == seq.limit || e.ends[p.token] {
			return
		}
		seq.sampler.Accept(p.token)
		if seq.matcher != nil {
			seq.matcher.Accept(p.token)
		}
		if i < len(seq.draft) && p.token != seq.draft[i] {
			return
		}
	}
}

// choose picks a token for one row.
func (e *Engine) choose(seq *sequence, logits []float32) (p picked) {
	r := &seq.request
	if r.Logprobs {
		seq.raw = append(seq.raw[:0], logits...)
	}
	mask(logits, e.masked)
	if r.IgnoreEOS {
		mask(logits, e.enders)
	}
	var within sampling.Constraint
	if seq.matcher != nil {
		within = seq.matcher
	}
	token, ok := seq.sampler.SampleWithin(logits, within)
	if !ok {
		return picked{token: -1, over: seq.matcher != nil}
	}
	p.token = token
	if r.Logprobs {
		// Each token's alternatives have memory of their own: the reader may be behind.
		p.logprob, p.top = sampling.Logprobs(seq.raw, token, r.TopLogprobs, nil)
	}
	return p
}

func mask(logits []float32, tokens []engine.Token) {
	for _, t := range tokens {
		if int(t) < len(logits) {
			logits[t] = float32(math.Inf(-1))
		}
	}
}

// hand gives a sequence's new tokens to its reader, or ends the sequence.
func (e *Engine) hand(seq *sequence) {
	if seq.first.IsZero() {
		seq.first = time.Now()
	}
	for _, p := range seq.picked {
		if p.over || p.token >= 0 && e.ends[p.token] {
			e.end(seq, rbee.StopEOS, nil)
			return
		}
		if p.token < 0 {
			e.end(seq, "", rbee.Errorf(rbee.CodeInternalError,
				"cannot generate: the model gave no usable probabilities").
				Suggest("copy the file again, or choose another model"))
			return
		}
		seq.tokens = append(seq.tokens, p.token)
		e.count.GeneratedTokens++
		// fill saw to it that there is room.
		seq.out <- engine.Piece{Token: p.token, Bytes: e.piece(p.token), Logprob: p.logprob, Top: p.top}
	}
	if seq.made() == seq.limit {
		e.end(seq, rbee.StopLength, nil)
	}
}

// piece is the bytes of a token, from llama.cpp the first time.
func (e *Engine) piece(t engine.Token) []byte {
	if e.pieces[t] == nil {
		e.pieces[t] = e.bytesOf(t)
	}
	return e.pieces[t]
}

func (e *Engine) bytesOf(t engine.Token) []byte {
	buf := make([]byte, 32)
	n := llama.TokenToPiece(e.vocab, llama.Token(t), buf, 0, false)
	if n < 0 { // the size it needs
		buf = make([]byte, -n)
		n = llama.TokenToPiece(e.vocab, llama.Token(t), buf, 0, false)
	}
	return slices.Clip(buf[:max(0, n)])
}
