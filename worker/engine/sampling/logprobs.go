package sampling

import "math"

// Alternative is a token that might have been picked.
type Alternative struct {
	Token   int32
	Logprob float64 // natural logarithm of its probability
}

// Logprobs gives the logarithm of the probability of the chosen token, -Inf if
// it is impossible, and the n most likely tokens, most likely first and of
// equals the lower index first, in the memory of into. The logits are those of
// the model: Sample changes them, so it has to work on a copy.
func Logprobs(logits []float32, chosen int32, n int, into []Alternative) (chosenLogprob float64, top []Alternative) {
	top = into[:0]
	best := mostLikely(logits)
	if best < 0 {
		return math.Inf(-1), top
	}
	high, total := float64(logits[best]), 0.0
	least := math.Inf(-1)
	for i, l := range logits {
		v := float64(l)
		total += weigh(high - v)
		if n > 0 && v > least {
			top = insert(top, Alternative{int32(i), v}, n)
			if len(top) == n {
				least = top[n-1].Logprob
			}
		}
	}
	norm := high + math.Log(total)
	if math.IsInf(high, 1) {
		norm = high
	}
	logprob := func(v float64) float64 {
		switch {
		case math.IsInf(v, 1):
			return 0
		case math.IsNaN(v) || math.IsInf(norm, 1):
			return math.Inf(-1)
		}
		return v - norm
	}
	for i := range top {
		top[i].Logprob = logprob(top[i].Logprob)
	}
	if chosen < 0 || int(chosen) >= len(logits) {
		return math.Inf(-1), top
	}
	return logprob(float64(logits[chosen])), top
}

// insert puts a into the list, which is ordered and has at most n entries.
func insert(list []Alternative, a Alternative, n int) []Alternative {
	if len(list) < n {
		list = append(list, a)
	} else {
		list[n-1] = a
	}
	for i := len(list) - 1; i > 0 && list[i].Logprob > list[i-1].Logprob; i-- {
		list[i], list[i-1] = list[i-1], list[i]
	}
	return list
}
