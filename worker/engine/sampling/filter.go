package sampling

import (
	"cmp"
	"math"
	"slices"
)

func (p *Params) typical() bool { return p.Typical > 0 && p.Typical < 1 }

// filter leaves in s.kept what the filters keep. It returns false, and keeps
// nothing, if none is on. The first that is on goes over the vocabulary, the
// others over what it left.
func (s *Sampler) filter(logits []float32, top float32) bool {
	p := &s.params
	s.kept = s.kept[:0]
	on := false
	if p.TopK > 0 && p.TopK < len(logits) {
		s.selectTopK(logits, float64(top))
		on = true
	}
	if p.typical() {
		if on {
			s.cutTypical()
		} else {
			s.selectTypical(logits, float64(top))
		}
		on = true
	}
	if p.TopP < 1 {
		if on {
			s.cutTopP()
		} else {
			s.selectTopP(logits, float64(top))
		}
		on = true
	}
	if p.MinP <= 0 {
		return on
	}
	if on {
		floor := minPFloor(s.topOfKept(), p.MinP)
		s.kept = slices.DeleteFunc(s.kept, func(c candidate) bool { return c.logit < floor })
		return true
	}
	s.selectMinP(logits, top)
	return true
}

func minPFloor(top float32, p float64) float32 { return float32(float64(top) + math.Log(p)) }

func possible(l float32) bool { return l >= -math.MaxFloat32 }

func (s *Sampler) topOfKept() float32 {
	top := s.kept[0].logit
	for i := range s.kept {
		top = max(top, s.kept[i].logit)
	}
	return top
}

// selectMinP keeps the tokens at least p times as likely as the most likely.
func (s *Sampler) selectMinP(logits []float32, top float32) {
	floor := minPFloor(top, s.params.MinP)
	for i, l := range logits {
		if l >= floor {
			s.kept = append(s.kept, candidate{id: int32(i), logit: l})
		}
	}
}

// selectTopK keeps the k most likely tokens, of equals those with the lower index.
func (s *Sampler) selectTopK(logits []float32, top float64) {
	clear(s.count[:])
	for _, l := range logits {
		if possible(l) {
			s.count[classOf(top-float64(l))]++
		}
	}
	border, total := 0, s.count[0]
	for int(total) < s.params.TopK && border < classes-1 {
		border++
		total += s.count[border]
	}
	sure := s.gather(logits, top, 0, border)
	rest := s.kept[sure:]
	s.kept = s.kept[:sure+nearest(rest, min(s.params.TopK-sure, len(rest)))]
}

// selectTopP keeps the most likely tokens until they reach the mass p at temperature 1.
func (s *Sampler) selectTopP(logits []float32, top float64) {
	clear(s.mass[:])
	for _, l := range logits {
		d := top - float64(l)
		if !(d < far) {
			continue
		}
		// This is weigh, and its class is wanted too.
		n := int(d*fine + 0.5)
		r := d - float64(n)*(1.0/fine)
		s.mass[n&(slots-1)] += powers[n&(slots-1)] * (1 - r*(1-r*(1.0/2-r*(1.0/6-r*(1.0/24)))))
	}
	s.cutMass(logits, top, 0, s.params.TopP, false)
}

// selectTypical keeps the tokens whose information is nearest to what is to be
// expected, until they exceed the mass p (https://arxiv.org/abs/2202.00666). The
// information of a token is its distance from the top plus a constant, so it is
// the distance from the mean distance that counts.
func (s *Sampler) selectTypical(logits []float32, top float64) {
	total, sum := 0.0, 0.0
	for _, l := range logits {
		d := top - float64(l)
		if w := weigh(d); w > 0 {
			total += w
			sum += w * d
		}
	}
	mean := sum / total
	clear(s.mass[:])
	for _, l := range logits {
		d := top - float64(l)
		if w := weigh(d); w > 0 {
			s.mass[classOf(math.Abs(d-mean))] += w
		}
	}
	s.cutMass(logits, top, mean, s.params.Typical, true)
}

// cutMass keeps the tokens nearest to the mean distance up to a part of the
// mass, of which s.mass has what each class has.
func (s *Sampler) cutMass(logits []float32, top, mean, part float64, exceed bool) {
	total := 0.0
	for _, m := range s.mass {
		total += m
	}
	goal := part * total
	border, below := 0, 0.0
	for !reached(below+s.mass[border], goal, exceed) && border < classes-1 {
		below += s.mass[border]
		border++
	}
	sure := s.gather(logits, top, mean, border)
	rest := s.kept[sure:]
	for i := range rest {
		rest[i].weight = weigh(top - float64(rest[i].logit))
	}
	s.kept = s.kept[:sure+heaviest(rest, goal-below, exceed)]
}

func reached(sum, goal float64, exceed bool) bool { return sum > goal || !exceed && sum == goal }

// gather keeps all tokens of the classes up to border, those of the border
// last. It returns how many are below the border.
func (s *Sampler) gather(logits []float32, top, mean float64, border int) int {
	s.kept = s.kept[:0]
	low, high := float64(border), float64(border+1)
	if border == classes-1 {
		high = math.Inf(1)
	}
	// Most are far outside, which one comparison tells. Rounding may not make it
	// tell wrong, so it is a little wide.
	least, most := outside(top-mean-high/fine, -1), outside(top-mean+high/fine, 1)
	last := 0
	for i, l := range logits {
		if !(l >= least && l <= most) {
			continue
		}
		key := math.Abs(top - float64(l) - mean)
		place := key*fine + 0.5
		if !(place < high) {
			continue
		}
		s.kept = append(s.kept, candidate{id: int32(i), logit: l, key: key})
		if place < low { // swap it before those of the border
			n := len(s.kept) - 1
			s.kept[last], s.kept[n] = s.kept[n], s.kept[last]
			last++
		}
	}
	return last
}

// outside is a possible logit a little beyond v.
func outside(v, sign float64) float32 {
	v += sign * (1e-6 + 1e-6*math.Abs(v))
	return float32(max(-math.MaxFloat32, min(v, math.MaxFloat32)))
}

// cutTypical is selectTypical of the kept tokens.
func (s *Sampler) cutTypical() {
	total, sum, top := 0.0, 0.0, float64(s.topOfKept())
	for i := range s.kept {
		c := &s.kept[i]
		c.key = top - float64(c.logit)
		c.weight = weigh(c.key)
		total += c.weight
		if c.weight > 0 {
			sum += c.weight * c.key
		}
	}
	mean := sum / total
	for i := range s.kept {
		s.kept[i].key = math.Abs(s.kept[i].key - mean)
	}
	s.kept = s.kept[:heaviest(s.kept, s.params.Typical*total, true)]
}

// cutTopP is selectTopP of the kept tokens.
func (s *Sampler) cutTopP() {
	total, top := 0.0, float64(s.topOfKept())
	for i := range s.kept {
		c := &s.kept[i]
		c.key = top - float64(c.logit)
		c.weight = weigh(c.key)
		total += c.weight
	}
	s.kept = s.kept[:heaviest(s.kept, s.params.TopP*total, false)]
}

func before(a, b *candidate) bool { return a.key < b.key || a.key == b.key && a.id < b.id }

func order(a, b candidate) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.id, b.id)) }

// fewTokens are sorted; more are divided first.
const fewTokens = 48

// nearest brings the n first to the front and returns n.
func nearest(c []candidate, n int) int {
	from, to := 0, len(c)
	for to-from > fewTokens && n > from && n < to {
		middle := from + divide(c[from:to])
		if middle >= n {
			to = middle
		} else {
			from = middle
		}
	}
	if n > from && n < to {
		slices.SortFunc(c[from:to], order)
	}
	return n
}

// heaviest brings the first whose weights reach the goal to the front and
// returns how many they are: at least one, and all if the goal is not reached.
func heaviest(c []candidate, goal float64, exceed bool) int {
	from, to := 0, len(c)
	for to-from > fewTokens {
		middle := from + divide(c[from:to])
		sum := 0.0
		for i := from; i < middle; i++ {
			sum += c[i].weight
		}
		if reached(sum, goal, exceed) {
			to = middle
		} else {
			goal -= sum
			from = middle
		}
	}
	slices.SortFunc(c[from:to], order)
	sum := 0.0
	for i := from; i < to; i++ {
		if sum += c[i].weight; reached(sum, goal, exceed) {
			return i + 1
		}
	}
	return to
}

// divide brings those before the median of nine to the front, and returns how
// many they are, at least one. There must be more than nine.
func divide(c []candidate) int {
	var some [9]candidate
	for i := range some {
		some[i] = c[i*(len(c)-1)/8]
	}
	slices.SortFunc(some[:], order)
	pivot := some[4]
	n := 0
	for i := range c {
		if before(&c[i], &pivot) {
			c[i], c[n] = c[n], c[i]
			n++
		}
	}
	return n
}
