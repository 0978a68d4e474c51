package worker

import (
	"sync"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/openai"
)

const (
	// speedMemory is how many requests, about, a measured speed is of.
	speedMemory = 16
	// leastPrefill is the shortest prompt, in tokens that were not cached, that
	// says how fast prompts are: below it a batch costs the same however short it is.
	leastPrefill = 32
)

// speed is what this worker was measured to do, for those who choose one.
type speed struct {
	mu       sync.Mutex
	prefill  decayed // tokens per second
	token    decayed // ms
	request  decayed // ms
	anything decayed // tokens per second of prompts that were too short to tell
}

// decayed is a mean by weight, of the last ones most.
type decayed struct{ sum, weight float64 }

func (d *decayed) add(value, weight float64) {
	const keep = 1 - 1.0/speedMemory
	d.sum, d.weight = keep*d.sum+value*weight, keep*d.weight+weight
}

func (d *decayed) mean() float64 {
	if d.weight == 0 {
		return 0
	}
	return d.sum / d.weight
}

// ended takes a request that has left its slot.
func (s *speed) ended(r engine.Result, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := r.Prefill + r.Decode; held > 0 {
		s.request.add(openai.Milliseconds(held), 1)
	}
	if err != nil || r.Tokens == 0 {
		return
	}
	if fresh := float64(r.PromptTokens - r.CachedTokens); fresh > 0 && r.Prefill > 0 {
		rate := fresh / r.Prefill.Seconds()
		s.anything.add(rate, r.Prefill.Seconds())
		if fresh >= leastPrefill {
			s.prefill.add(rate, r.Prefill.Seconds())
		}
	}
	if n := float64(r.Tokens - 1); n > 0 && r.Decode > 0 {
		s.token.add(openai.Milliseconds(r.Decode)/n, n)
	}
}

func (s *speed) now() rbee.Speed {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefill := s.prefill.mean()
	if prefill == 0 {
		prefill = s.anything.mean()
	}
	return rbee.Speed{PrefillPerSec: prefill, TokenMS: s.token.mean(), RequestMS: s.request.mean()}
}
