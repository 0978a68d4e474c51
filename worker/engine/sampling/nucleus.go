package sampling

import (
	"math"
	"sort"
)

const (
	// spread is how much more or less than the middle of its class a token weighs.
	spread = 1.0 / (2 * fine)
	// tries is how often drawTopP draws before it gives up.
	tries = 4
)

// drawTopP draws from the most likely tokens that together reach the mass p. It
// needs the weights of few tokens: it draws from a head of the vocabulary that
// surely has all of them, and again if what was drawn is not one of them. That
// shows in the mass of all that are more likely, which is exact, and in the mass
// of the vocabulary, for which the number of tokens in each class of the tail is
// nearly always good enough.
//
// It gives up, returning false, if the head is large or has much that is not
// wanted; what it drew by then tells nothing of what is drawn instead.
func (s *Sampler) drawTopP(logits []float32, top float64) (int32, bool) {
	tail, ok := s.gatherHead(logits, top)
	if !ok {
		return 0, false
	}
	head, total, per := 0.0, 0.0, 1/s.params.Temperature
	s.sums = s.sums[:0]
	for i := range s.kept {
		c := &s.kept[i]
		c.key = top - float64(c.logit)
		c.weight = weigh(c.key)
		head += c.weight
		total += weigh(c.key * per)
		s.sums = append(s.sums, total)
	}
	p := s.params.TopP
	surely := p * (head + tail*math.Exp(-spread)) * (1 - 1e-9)
	perhaps := p * (head + tail*math.Exp(spread)) * (1 + 1e-9)
	exact := false
	for range tries {
		at := min(sort.SearchFloat64s(s.sums, s.uniform()*total), len(s.kept)-1)
		c := &s.kept[at]
		above := 0.0
		for i := range s.kept {
			if before(&s.kept[i], c) {
				above += s.kept[i].weight
			}
		}
		if !exact && above >= surely && above < perhaps {
			surely, exact = p*massOf(logits, top), true
			perhaps = surely
		}
		if above < surely {
			return c.id, true
		}
	}
	return 0, false
}

// gatherHead keeps the most likely classes that have the mass p for sure, and
// returns about the mass of the others.
func (s *Sampler) gatherHead(logits []float32, top float64) (tail float64, ok bool) {
	clear(s.count[:])
	for _, l := range logits {
		if d := top - float64(l); d < far {
			s.count[int(d*fine+0.5)&(slots-1)]++
		}
	}
	total := 0.0
	for n, c := range &s.count {
		total += float64(c) * powers[n]
	}
	goal := s.params.TopP * total * math.Exp(2*spread)
	border, mass, tokens := 0, 0.0, 0
	for ; border < classes-1; border++ {
		mass += float64(s.count[border]) * powers[border]
		if tokens += int(s.count[border]); mass > goal {
			break
		}
	}
	if border == classes-1 || tokens > len(logits)/4 {
		return 0, false
	}
	if cap(s.kept) <= tokens {
		s.kept = make([]candidate, tokens+tokens/4+1)
	}
	// Each token is written, and one that is not kept is written over: whether
	// it is kept can't be foreseen, so a branch would be slow.
	s.kept = s.kept[:tokens+1]
	least, n := leastOf(top, border), 0
	for i, l := range logits {
		s.kept[n].id, s.kept[n].logit = int32(i), l
		if l >= least {
			n++
		}
	}
	s.kept = s.kept[:n]
	return max(total-mass, 0), true
}

// massOf is the mass of the vocabulary at temperature 1.
func massOf(logits []float32, top float64) float64 {
	total := 0.0
	for _, l := range logits {
		total += weigh(top - float64(l))
	}
	return total
}

// leastOf is the least logit that is in a class up to border.
func leastOf(top float64, border int) float32 {
	in := func(l float32) bool { return (top-float64(l))*fine+0.5 < float64(border+1) }
	l := float32(top - (float64(border)+0.5)/fine)
	for in(l) {
		l = math.Nextafter32(l, float32(math.Inf(-1)))
	}
	for !in(l) {
		l = math.Nextafter32(l, float32(math.Inf(1)))
	}
	return l
}
