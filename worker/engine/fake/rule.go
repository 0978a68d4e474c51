package fake

import (
	"math"

	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/grammar"
)

// rule keeps a text to the grammar of its request, if it has one.
type rule struct {
	matcher *grammar.Matcher
	logits  []float32
}

func newRule(r engine.Request) *rule {
	if r.Grammar == nil {
		return &rule{}
	}
	ends := func(t int32) bool { return t == tokenEnd }
	return &rule{matcher: r.Grammar.Start(bytesOf, ends, vocabulary()), logits: make([]float32, vocabulary())}
}

// follow gives the token if it may come next, else the first one that may.
func (r *rule) follow(t engine.Token) engine.Token {
	if r.matcher == nil {
		return t
	}
	if !r.matcher.Allows(t) {
		clear(r.logits)
		r.matcher.Mask(r.logits)
		t = tokenEnd
		for i, l := range r.logits {
			if !math.IsInf(float64(l), -1) {
				t = engine.Token(i)
				break
			}
		}
	}
	if t != tokenEnd {
		r.matcher.Accept(t)
	}
	return t
}

// piece is a token as emit gets it. The fake is sure of each of its tokens, a
// half at least, and the others of the vocabulary follow.
func piece(r engine.Request, t engine.Token) engine.Piece {
	p := engine.Piece{Token: t, Bytes: bytesOf(t)}
	if !r.Logprobs {
		return p
	}
	p.Logprob = math.Log(0.5)
	for i := range r.TopLogprobs {
		other := (t + engine.Token(i)) % engine.Token(vocabulary())
		p.Top = append(p.Top, sampling.Alternative{Token: other, Logprob: math.Log(0.5) * float64(i+1)})
	}
	return p
}
