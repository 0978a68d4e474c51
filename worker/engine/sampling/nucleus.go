package sampling

import (
	"math"
	"sort"
)

const (
	// spread is how much more or less than the middle of its class a token weighs.
	spread = 1.0 / (2 * fine)
	// rounding is more than sums of weights are wrong by.
	rounding = 1e-9
	// tries is how often drawTopP draws before it gives up.
	tries = 32
)

// drawTopP draws from the most likely tokens that together reach the mass p,
// and computes the weights of hardly any. It counts the tokens of each class, draws
// a class by what its tokens could weigh at most, then one of its tokens, and
// takes that as often as it weighs of the most (von Neumann's rejection). It
// draws again if the token is not one of those wanted. That shows in the mass of
// all that are more likely; for that the number of tokens in each class is nearly
// always good enough, or else it is added up exactly.
//
// It gives up, returning false, if no draw was taken; what it drew by then tells
// nothing of what is drawn instead.
func (s *Sampler) drawTopP(logits []float32, top float64) (int32, bool) {
	surely, perhaps := s.countClasses(logits, top)
	per := 1 / s.params.Temperature
	last := len(s.sums) - 1
	exact := false
	for range tries {
		n := min(sort.SearchFloat64s(s.sums, s.uniform()*s.sums[last]), last)
		id := s.member(logits, top, n)
		d := top - float64(logits[id])
		if s.uniform()*weighsAtMost(n, per) >= weigh(d*per) {
			continue
		}
		above, with := s.mass[n], s.mass[n]+float64(s.count[n])*powers[n]
		if with*(1+2*spread) < surely {
			return id, true
		}
		if above*(1-2*spread) >= perhaps {
			continue
		}
		if !exact {
			exact = true
			surely = s.params.TopP * massOf(logits, top)
			perhaps = surely
		}
		if massAbove(logits, top, id) < surely {
			return id, true
		}
	}
	return 0, false
}

// countClasses counts the tokens of each class, and adds up in s.mass about what
// the classes before each weigh at temperature 1, in s.sums what they weigh at most, with it, as
// far as their tokens may be wanted. What they are wanted for, p of all, is
// between surely and perhaps.
func (s *Sampler) countClasses(logits []float32, top float64) (surely, perhaps float64) {
	clear(s.count[:])
	for _, l := range logits {
		if d := top - float64(l); d < far {
			s.count[int(d*fine+0.5)&(slots-1)]++
		}
	}
	total := 0.0
	for n, c := range &s.count {
		s.mass[n] = total
		total += float64(c) * powers[n]
	}
	surely = s.params.TopP * total * (1 - 2*spread)
	perhaps = s.params.TopP * total * (1 + 2*spread)
	s.sums = s.sums[:0]
	per, most := 1/s.params.Temperature, 0.0
	for n := 0; n < classes && s.mass[n]*(1-2*spread) < perhaps; n++ {
		if s.count[n] > 0 {
			most += float64(s.count[n]) * weighsAtMost(n, per)
		}
		s.sums = append(s.sums, most)
	}
	return surely, perhaps
}

// weighsAtMost is what no token of a class weighs more than.
func weighsAtMost(n int, per float64) float64 {
	return weigh(max(0, float64(n)-0.5)/fine*per) * (1 + rounding)
}

// member draws a token of a class that has some, each with the same chance.
func (s *Sampler) member(logits []float32, top float64, n int) int32 {
	skip := min(int(s.uniform()*float64(s.count[n])), int(s.count[n])-1)
	from, to := leastOf(top, n), float32(math.Inf(1))
	if n > 0 {
		to = leastOf(top, n-1)
	}
	for start := 0; start < len(logits); start += blockTokens {
		run := logits[start:min(start+blockTokens, len(logits))]
		// Which are members can't be foreseen, so a branch would be slow.
		members := 0
		for _, l := range run {
			if l >= from {
				members++
			}
		}
		for _, l := range run {
			if l >= to {
				members--
			}
		}
		if skip >= members {
			skip -= members
			continue
		}
		for i, l := range run {
			if l >= from && l < to {
				if skip == 0 {
					return int32(start + i)
				}
				skip--
			}
		}
	}
	return 0
}

// massOf is the mass of the vocabulary at temperature 1.
func massOf(logits []float32, top float64) float64 {
	total := 0.0
	for _, l := range logits {
		total += weigh(top - float64(l))
	}
	return total
}

// massAbove is the mass of the tokens that are more likely than one.
func massAbove(logits []float32, top float64, id int32) float64 {
	total, limit := 0.0, logits[id]
	for i, l := range logits {
		if l > limit || l == limit && int32(i) < id {
			total += weigh(top - float64(l))
		}
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
