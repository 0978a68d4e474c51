package sampling

import (
	"math"
	"math/rand/v2"
	"slices"
)

// stream separates the sampler's random numbers from other uses of a seed.
const stream = 0x7262656573616d70

// blockTokens is the length of the runs whose weights are summed when nothing
// is filtered, so that a draw looks into one run only.
const blockTokens = 256

type candidate struct {
	id     int32
	logit  float32
	key    float64 // what a selection goes by, the smallest first
	weight float64
}

// Sampler picks tokens for one sequence. It is not safe for concurrent use.
// Reset makes it ready for another sequence and keeps its memory.
type Sampler struct {
	params Params
	random *rand.PCG
	bias   []biased

	window []int32 // ring of the last tokens
	next   int     // where the next token goes

	answering bool    // Sample was called
	times     []int32 // how often the answer has each token
	seen      []int32 // the tokens that it has

	kept  []candidate
	count [slots]int32
	mass  [slots]float64
	sums  []float64 // weight of each run of blockTokens tokens
}

type biased struct {
	token int32
	add   float32
}

// New makes a sampler for one sequence.
func New(p Params) *Sampler {
	s := &Sampler{random: rand.NewPCG(0, 0)}
	s.Reset(p)
	return s
}

// Reset forgets the sequence and its random state and takes other parameters.
func (s *Sampler) Reset(p Params) {
	if p.PenaltyWindow <= 0 {
		p.PenaltyWindow = DefaultPenaltyWindow
	}
	s.params = p
	s.random.Seed(p.Seed, stream)
	s.window, s.next = s.window[:0], 0
	for _, t := range s.seen {
		s.times[t] = 0
	}
	s.seen, s.answering = s.seen[:0], false
	s.bias = s.bias[:0]
	for t, b := range p.Bias {
		if b <= banned {
			b = float32(math.Inf(-1))
		}
		s.bias = append(s.bias, biased{t, b})
	}
}

// repeats says whether there is a penalty that looks at the window.
func (s *Sampler) repeats() bool {
	return s.params.RepetitionPenalty != 0 && s.params.RepetitionPenalty != 1
}

// counts says whether there is a penalty that looks at the whole answer.
func (s *Sampler) counts() bool {
	return s.params.FrequencyPenalty != 0 || s.params.PresencePenalty != 0
}

// Accept tells the sampler tokens of its sequence, in order: those of the
// prompt before the first Sample, those of the answer after it. The repetition
// penalty looks at the last of both; the frequency and presence penalties look
// at the answer.
func (s *Sampler) Accept(tokens ...int32) {
	if s.answering && s.counts() {
		for _, t := range tokens {
			if t < 0 || int(t) >= len(s.times) {
				continue
			}
			if s.times[t] == 0 {
				s.seen = append(s.seen, t)
			}
			s.times[t]++
		}
	}
	if !s.repeats() {
		return
	}
	size := s.params.PenaltyWindow
	for _, t := range tokens[max(0, len(tokens)-size):] {
		if len(s.window) < size {
			s.window = append(s.window, t)
			continue
		}
		s.window[s.next] = t
		s.next = (s.next + 1) % size
	}
}

// Sample picks a token, the index of one of the logits. It may change the
// logits. NaN counts as impossible, and so does -Inf, with which a caller masks
// tokens. It returns false if no token is possible.
//
// The same parameters, accepted tokens and logits give the same tokens. A
// greedy sampler takes the lowest index among the most likely.
func (s *Sampler) Sample(logits []float32) (int32, bool) {
	s.adjust(logits)
	return s.draw(logits)
}

// Constraint says which tokens may come next, as a grammar does. It belongs to
// one sequence.
type Constraint interface {
	// Allows says whether the token may come next.
	Allows(t int32) bool
	// Mask sets the logits of what may not come next to -Inf.
	Mask(logits []float32)
	// Accept goes on to what comes after the token.
	Accept(t int32)
}

// SampleWithin picks a token as Sample does, one that c allows; c may be nil.
// It doesn't tell c what it picked.
//
// It draws, and only if c forbids what was drawn, which is rare, it masks the
// logits and draws again. So a token that c allows has the chance that it has
// without c, and its share, among what c allows, of the chance of all that c
// forbids. Without filters that is the chance among what c allows. llama.cpp
// does the same.
func (s *Sampler) SampleWithin(logits []float32, c Constraint) (int32, bool) {
	s.adjust(logits)
	t, ok := s.draw(logits)
	if !ok || c == nil || c.Allows(t) {
		return t, ok
	}
	c.Mask(logits)
	return s.draw(logits)
}

// adjust adds the bias and makes tokens that were there less likely: those of
// the window as in CTRL (https://arxiv.org/abs/1909.05858), each once however
// often it occurs, and those of the answer as OpenAI's API defines it.
func (s *Sampler) adjust(logits []float32) {
	s.answering = true
	for _, b := range s.bias {
		if b.token >= 0 && int(b.token) < len(logits) {
			logits[b.token] += b.add
		}
	}
	if s.repeats() {
		penalty := float32(s.params.RepetitionPenalty)
		for i, t := range s.window {
			if t < 0 || int(t) >= len(logits) || slices.Contains(s.window[:i], t) {
				continue
			}
			if logits[t] > 0 {
				logits[t] /= penalty
			} else {
				logits[t] *= penalty
			}
		}
	}
	if !s.counts() {
		return
	}
	if len(s.times) < len(logits) {
		s.times = append(s.times, make([]int32, len(logits)-len(s.times))...)
	}
	for _, t := range s.seen {
		if int(t) < len(logits) {
			logits[t] -= float32(float64(s.times[t])*s.params.FrequencyPenalty + s.params.PresencePenalty)
		}
	}
}

// draw picks one of the adjusted logits.
func (s *Sampler) draw(logits []float32) (int32, bool) {
	best := mostLikely(logits)
	if best < 0 {
		return -1, false
	}
	p := &s.params
	top := logits[best]
	if p.Temperature <= 0 || p.TopK == 1 || p.TopP <= 0 && !p.typical() || math.IsInf(float64(top), 1) {
		return best, true
	}
	if p.TopP < 1 && p.MinP <= 0 && !p.typical() && (p.TopK <= 0 || p.TopK >= len(logits)) {
		if token, ok := s.drawTopP(logits, float64(top)); ok {
			return token, true
		}
	}
	if !s.filter(logits, top) {
		return s.drawFromAll(logits, top), true
	}
	return s.drawFromKept(), true
}

// mostLikely finds the first of the largest logits, -1 if none is possible.
func mostLikely(logits []float32) int32 {
	best := int32(-1)
	top := float32(math.Inf(-1))
	at := 0
	for ; len(logits)-at >= 8; at += 8 {
		c := (*[8]float32)(logits[at:])
		// Hardly a block has a larger one. Comparisons are false for NaN.
		if c[0] > top || c[1] > top || c[2] > top || c[3] > top || c[4] > top || c[5] > top || c[6] > top || c[7] > top {
			for i, l := range c {
				if l > top {
					top, best = l, int32(at+i)
				}
			}
		}
	}
	for ; at < len(logits); at++ {
		if l := logits[at]; l > top {
			top, best = l, int32(at)
		}
	}
	return best
}

// uniform is a random number from [0, 1) with 53 bits.
func (s *Sampler) uniform() float64 { return float64(s.random.Uint64()>>11) / (1 << 53) }

func (s *Sampler) drawFromKept() int32 {
	top := float64(s.topOfKept())
	per := 1 / s.params.Temperature
	total := 0.0
	for i := range s.kept {
		w := weigh((top - float64(s.kept[i].logit)) * per)
		s.kept[i].weight = w
		total += w
	}
	rest := s.uniform() * total
	last := int32(0)
	for i := range s.kept {
		c := &s.kept[i]
		if c.weight == 0 {
			continue
		}
		last = c.id
		if rest -= c.weight; rest < 0 {
			break
		}
	}
	return last
}

func (s *Sampler) drawFromAll(logits []float32, top float32) int32 {
	s.sums = s.sums[:0]
	total, high, per := 0.0, float64(top), 1/s.params.Temperature
	for run := range slices.Chunk(logits, blockTokens) {
		sum := 0.0
		for _, l := range run {
			sum += weigh((high - float64(l)) * per)
		}
		s.sums = append(s.sums, sum)
		total += sum
	}
	rest := s.uniform() * total
	run := 0
	for run < len(s.sums)-1 && rest >= s.sums[run] {
		rest -= s.sums[run]
		run++
	}
	// Rounding may leave rest at the end of the last run: then the last possible token of it is meant.
	for ; run >= 0; run-- {
		from := run * blockTokens
		last := int32(-1)
		for i, l := range logits[from:min(from+blockTokens, len(logits))] {
			w := weigh((high - float64(l)) * per)
			if w == 0 {
				continue
			}
			last = int32(from + i)
			if rest -= w; rest < 0 {
				return last
			}
		}
		if last >= 0 {
			return last
		}
	}
	return 0
}
