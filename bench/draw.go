package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// letters draws texts that have nothing in common. In a generated vocabulary
// each letter is a token, and one more begins the text.
type letters struct{ *rand.Rand }

func newLetters(seed uint64) letters { return letters{rand.New(rand.NewPCG(seed, 2))} }

// split is one more source, for another goroutine.
func (l letters) split() letters { return letters{rand.New(rand.NewPCG(l.Uint64(), l.Uint64()))} }

func (l letters) text(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + l.IntN(26))
	}
	return string(b)
}

// prompt is a text that has so many tokens for the model.
func (l letters) prompt(tokens int) string { return l.text(tokens - 1) }

// clients are the prompts of a closed loop, all of them new.
func (l letters) clients(clients, each, tokens int) [][]string {
	all := make([][]string, clients)
	for i := range all {
		for range each {
			all[i] = append(all[i], l.prompt(tokens))
		}
	}
	return all
}

// arrivals are the times of requests that know nothing of one another: a
// Poisson process of so many a second on average.
func (l letters) arrivals(perSecond float64, span time.Duration) (at []time.Duration) {
	for t := l.ExpFloat64() / perSecond; t < span.Seconds(); t += l.ExpFloat64() / perSecond {
		at = append(at, time.Duration(t*float64(time.Second)))
	}
	return at
}

// wait returns after that time, or when the context ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
