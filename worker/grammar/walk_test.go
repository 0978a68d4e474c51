package grammar

import (
	"math"
	"math/rand/v2"
)

// walker makes random texts of a grammar.
type walker struct {
	a    *automaton
	r    *rand.Rand
	left []int // bytes from each step to the end of its rule, at least
}

func newWalker(g *Grammar, seed uint64) *walker {
	w := &walker{a: newAutomaton(g.program, byteVocabulary()), r: rand.New(rand.NewPCG(seed, 7))}
	p := g.program
	w.left = make([]int, len(p.steps))
	for i := range w.left {
		w.left[i] = math.MaxInt32
	}
	for changed := true; changed; {
		changed = false
		for i := len(p.steps) - 1; i >= 0; i-- {
			s, n := p.steps[i], math.MaxInt32
			switch s.op {
			case opSet:
				for _, first := range p.sets[s.x] {
					n = min(n, w.bytes(first)+w.left[i+1])
				}
			case opCall:
				n = w.left[p.start[s.x]] + w.left[i+1]
			case opSplit:
				n = min(w.left[s.x], w.left[s.y])
			case opJump:
				n = w.left[s.x]
			case opEnd:
				n = 0
			}
			if n < w.left[i] {
				w.left[i], changed = n, true
			}
		}
	}
	return w
}

// bytes is how many bytes a span and those after it are.
func (w *walker) bytes(span int32) int {
	n := 0
	for ; span >= 0; span = w.a.program.bytes.spans[span].next {
		n++
	}
	return n
}

// toEnd is about how many bytes a state is from the end.
func (w *walker) toEnd(s *state) int {
	if s.ends {
		return 0
	}
	best := math.MaxInt
	for _, p := range s.places {
		n := w.left[p.at]
		if p.inside >= 0 {
			n = w.bytes(p.inside) + w.left[p.at+1]
		}
		for f := p.frame; f != nil; f = f.around {
			n += w.left[f.back]
		}
		best = min(best, n)
	}
	return best
}

// text is a random text; after size bytes it takes the shortest way to the end.
func (w *walker) text(size int) string {
	s := w.a.start
	var out []byte
	for {
		s = w.a.current(s)
		if s.ends && (len(s.places) == 0 || len(out) >= size || w.r.IntN(4) == 0) {
			return string(out)
		}
		var options []byte
		least := math.MaxInt
		for b := range 256 {
			n := w.a.after(s, byte(b))
			if n == w.a.dead {
				continue
			}
			d := w.toEnd(n)
			if len(out) >= size && d < least {
				options, least = options[:0], d
			}
			if len(out) < size || d == least {
				options = append(options, byte(b))
			}
		}
		// Each class of bytes alike is as likely as any other, so that what gives a text its form comes up.
		b := options[w.r.IntN(len(options))]
		class := w.a.program.class[options[w.r.IntN(len(options))]]
		for range 20 {
			if c := options[w.r.IntN(len(options))]; w.a.program.class[c] != class && w.r.IntN(3) == 0 {
				b = c
				break
			}
		}
		out = append(out, b)
		s = w.a.after(s, b)
		if len(out) > 1<<20 {
			panic("a text does not end")
		}
	}
}
