package room

import (
	"math"
	"math/bits"
	"slices"
)

// exactUpTo is how many candidates are searched for the best set; of more, a
// good one is taken.
const exactUpTo = 16

// leastLoss is the set of candidates with the least loss that makes good what
// is lacking, and no member of it is needless. Of equal sets it is the smaller,
// then the one with the earlier candidates. There may be none.
func leastLoss(all []candidate, missing lacks) ([]candidate, bool) {
	if !missing.less(all).met() {
		return nil, false
	}
	useful := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return !missing.helps(c.Held) })
	if len(useful) > exactUpTo {
		return greedy(useful, missing), true
	}
	return exact(useful, missing), true
}

// greedy takes candidates in the order of loss until nothing is lacking, then
// gives back, the dearest first, those that are not needed.
func greedy(all []candidate, missing lacks) []candidate {
	var taken []candidate
	for _, c := range all {
		if rest := missing.less(taken); rest.met() {
			break
		} else if rest.helps(c.Held) {
			taken = append(taken, c)
		}
	}
	for i := len(taken) - 1; i >= 0; i-- {
		if fewer := slices.Delete(slices.Clone(taken), i, i+1); missing.less(fewer).met() {
			taken = fewer
		}
	}
	return taken
}

// search looks through the sets of at most exactUpTo candidates.
type search struct {
	losses []float64
	gains  [][]int64 // of each candidate in each place
	after  [][]int64 // what the candidates from here on gain together

	set  uint32
	loss float64
}

// exact is the best set; the caller knows that there is one.
func exact(all []candidate, missing lacks) []candidate {
	s := &search{loss: math.Inf(1), set: 1<<len(all) - 1, after: make([][]int64, len(all)+1)}
	lacking := make([]int64, len(missing))
	for j, m := range missing {
		lacking[j] = m.bytes
	}
	for _, c := range all {
		s.losses = append(s.losses, c.loss)
		row := make([]int64, len(missing))
		for j, m := range missing {
			row[j] = m.gain(c.Held)
		}
		s.gains = append(s.gains, row)
	}
	s.after[len(all)] = make([]int64, len(missing))
	for i := len(all) - 1; i >= 0; i-- {
		s.after[i] = sum(s.after[i+1], s.gains[i], 1)
	}
	s.from(0, lacking, 0, 0)
	var best []candidate
	for i, c := range all {
		if s.set&(1<<i) != 0 {
			best = append(best, c)
		}
	}
	return best
}

// from tries all sets that go on from here.
func (s *search) from(i int, lacking []int64, set uint32, loss float64) {
	if loss > s.loss || loss == s.loss && bits.OnesCount32(set) >= bits.OnesCount32(s.set) {
		return
	}
	if !slices.ContainsFunc(lacking, func(n int64) bool { return n > 0 }) {
		s.set, s.loss = set, loss
		return
	}
	for j, n := range lacking {
		if n > s.after[i][j] {
			return // not even with all that are left
		}
	}
	s.from(i+1, sum(lacking, s.gains[i], -1), set|1<<i, loss+s.losses[i])
	s.from(i+1, lacking, set, loss)
}

func sum(a, b []int64, sign int64) []int64 {
	out := make([]int64, len(a))
	for j := range a {
		out[j] = a[j] + sign*b[j]
	}
	return out
}
