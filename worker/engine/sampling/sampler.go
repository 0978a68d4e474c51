package sampling

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// buckets is how finely logits are sorted into classes before a selection:
// only the class at the border of the selection has to be ordered.
const buckets = 1024

// stream separates the sampler's random numbers from other uses of a seed.
const stream = 0x7262656573616d70

// blockTokens is the length of the runs whose weights are summed when nothing
// is filtered, so that a draw looks into one run only.
const blockTokens = 256

type candidate struct {
	id     int32
	logit  float32
	weight float64
}

// Sampler picks tokens for one sequence. It is not safe for concurrent use.
// Reset makes it ready for another sequence and keeps its memory.
type Sampler struct {
	params Params
	random *rand.PCG

	window []int32 // ring of the last tokens
	next   int     // where the next token goes

	kept  []candidate
	count [buckets]int32
	mass  [buckets]float64
	sums  []float64 // weight of each run of blockTokens tokens
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
}

// penalizes says whether the sampler looks at earlier tokens at all.
func (s *Sampler) penalizes() bool {
	return s.params.RepetitionPenalty != 0 && s.params.RepetitionPenalty != 1
}

// Accept tells the sampler tokens of its sequence, of the prompt and of the
// answer, in order. The repetition penalty looks at the last of them.
func (s *Sampler) Accept(tokens ...int32) {
	if !s.penalizes() {
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
	s.penalize(logits)
	best, low := extremes(logits)
	if best < 0 {
		return -1, false
	}
	p := &s.params
	top := logits[best]
	if p.Temperature <= 0 || p.TopK == 1 || p.TopP <= 0 || math.IsInf(float64(top), 1) {
		return best, true
	}
	byCount := p.TopK > 0 && p.TopK < len(logits)
	byMass := p.TopP < 1
	switch {
	case byCount:
		s.selectTopK(logits, top, low)
		if byMass {
			s.cutTopP(top)
		}
	case byMass:
		s.selectTopP(logits, top, low)
	case p.MinP > 0:
		s.selectMinP(logits, top)
	default:
		return s.drawFromAll(logits, top), true
	}
	if p.MinP > 0 && (byCount || byMass) {
		floor := minPFloor(top, p.MinP)
		s.kept = slices.DeleteFunc(s.kept, func(c candidate) bool { return c.logit < floor })
	}
	return s.drawFromKept(top), true
}

// penalize makes tokens of the window less likely, as in CTRL
// (https://arxiv.org/abs/1909.05858), each once however often it occurs.
func (s *Sampler) penalize(logits []float32) {
	if !s.penalizes() {
		return
	}
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

// extremes finds the first of the largest logits, -1 if there is none, and the
// smallest finite logit.
func extremes(logits []float32) (best int32, low float32) {
	best = -1
	top := float32(math.Inf(-1))
	low = float32(math.Inf(1))
	for i, l := range logits {
		// Both comparisons are false for NaN.
		if l > top {
			top, best = l, int32(i)
		}
		if l < low && l >= -math.MaxFloat32 {
			low = l
		}
	}
	return best, low
}

func minPFloor(top float32, p float64) float32 { return float32(float64(top) + math.Log(p)) }

// scaleOf is the number of buckets per unit of distance from the top.
func scaleOf(top, low float32) float64 {
	// Beyond this distance a token has less than 10^-17 of the weight of the top.
	const far = 40
	span := min(float64(top)-float64(low), far)
	if span <= 0 {
		return 0
	}
	return (buckets - 1) / span
}

func bucketOf(top, l float32, scale float64) int {
	return int(min((float64(top)-float64(l))*scale, buckets-1))
}

func possible(l float32) bool { return l >= -math.MaxFloat32 }

// selectTopK keeps the k most likely tokens, of equals those with the lower index.
func (s *Sampler) selectTopK(logits []float32, top, low float32) {
	scale := scaleOf(top, low)
	clear(s.count[:])
	for _, l := range logits {
		if possible(l) {
			s.count[bucketOf(top, l, scale)]++
		}
	}
	border, total := 0, s.count[0]
	for int(total) < s.params.TopK && border < buckets-1 {
		border++
		total += s.count[border]
	}
	s.gather(logits, top, scale, border)
	s.kept = s.kept[:min(len(s.kept), s.params.TopK)]
}

// selectTopP keeps the most likely tokens until they reach the mass p at temperature 1.
func (s *Sampler) selectTopP(logits []float32, top, low float32) {
	scale := scaleOf(top, low)
	clear(s.mass[:])
	for _, l := range logits {
		if possible(l) {
			s.mass[bucketOf(top, l, scale)] += math.Exp(float64(l) - float64(top))
		}
	}
	total := 0.0
	for _, m := range s.mass {
		total += m
	}
	goal := s.params.TopP * total
	border, below := 0, 0.0
	for below+s.mass[border] < goal && border < buckets-1 {
		below += s.mass[border]
		border++
	}
	sure := s.gather(logits, top, scale, border)
	s.cutAt(top, goal, below, sure)
}

// gather keeps all tokens of the buckets up to border. Those of lower buckets
// come first, in the order of their indices; those of the border come after
// them, most likely first. It returns how many are below the border.
func (s *Sampler) gather(logits []float32, top float32, scale float64, border int) int {
	s.kept = s.kept[:0]
	for i, l := range logits {
		if possible(l) && bucketOf(top, l, scale) < border {
			s.kept = append(s.kept, candidate{id: int32(i), logit: l})
		}
	}
	sure := len(s.kept)
	for i, l := range logits {
		if possible(l) && bucketOf(top, l, scale) == border {
			s.kept = append(s.kept, candidate{id: int32(i), logit: l})
		}
	}
	slices.SortFunc(s.kept[sure:], moreLikely)
	return sure
}

func moreLikely(a, b candidate) int {
	return cmp.Or(cmp.Compare(b.logit, a.logit), cmp.Compare(a.id, b.id))
}

// cutTopP cuts the kept tokens at the mass p of what is kept.
func (s *Sampler) cutTopP(top float32) {
	slices.SortFunc(s.kept, moreLikely)
	total := 0.0
	for _, c := range s.kept {
		total += math.Exp(float64(c.logit) - float64(top))
	}
	s.cutAt(top, s.params.TopP*total, 0, 0)
}

// cutAt keeps the first from tokens, which weigh below, and of the ordered rest as many as reach the goal.
func (s *Sampler) cutAt(top float32, goal, below float64, from int) {
	for i := from; i < len(s.kept); i++ {
		below += math.Exp(float64(s.kept[i].logit) - float64(top))
		if below >= goal {
			s.kept = s.kept[:i+1]
			return
		}
	}
}

// selectMinP keeps the tokens at least p times as likely as the most likely.
func (s *Sampler) selectMinP(logits []float32, top float32) {
	floor := minPFloor(top, s.params.MinP)
	s.kept = s.kept[:0]
	for i, l := range logits {
		if l >= floor {
			s.kept = append(s.kept, candidate{id: int32(i), logit: l})
		}
	}
}

// weight is the unnormalized probability at the sampler's temperature; the top has 1.
func (s *Sampler) weight(l, top float32) float64 {
	return math.Exp((float64(l) - float64(top)) / s.params.Temperature)
}

// uniform is a random number from [0, 1) with 53 bits.
func (s *Sampler) uniform() float64 { return float64(s.random.Uint64()>>11) / (1 << 53) }

func (s *Sampler) drawFromKept(top float32) int32 {
	total := 0.0
	for i := range s.kept {
		w := s.weight(s.kept[i].logit, top)
		s.kept[i].weight = w
		total += w
	}
	rest := s.uniform() * total
	last := int32(0)
	for _, c := range s.kept {
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
	total := 0.0
	for run := range slices.Chunk(logits, blockTokens) {
		sum := 0.0
		for _, l := range run {
			if possible(l) {
				sum += s.weight(l, top)
			}
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
			if !possible(l) {
				continue
			}
			w := s.weight(l, top)
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
