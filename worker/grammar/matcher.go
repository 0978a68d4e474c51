package grammar

import (
	"math"
	"math/bits"

	"rbee/worker/engine/sampling"
)

var _ sampling.Constraint = (*Matcher)(nil)

// Matcher follows one text through a grammar. It is not safe for concurrent
// use; matchers of one grammar may be used at once.
type Matcher struct {
	automaton *automaton
	state     *state
}

// Allows says whether the token may come next. A token that ends the text may
// where the grammar may end; one without bytes never may.
func (m *Matcher) Allows(t int32) bool {
	a := m.automaton
	if t < 0 || int(t) >= a.vocabulary.size() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m.state = a.current(m.state)
	if m.state.mask != nil {
		return m.state.mask[t>>6]&(1<<(t&63)) != 0
	}
	return a.accepted(m.state, t) != nil
}

// accepted is the state after a token, nil if it may not come.
func (a *automaton) accepted(s *state, t int32) *state {
	if a.vocabulary.endsText(t) {
		if s.ends {
			return a.dead
		}
		return nil
	}
	piece := a.vocabulary.piece(t)
	if len(piece) == 0 {
		return nil
	}
	if s = a.walk(s, piece); s == a.dead {
		return nil
	}
	return s
}

// Mask sets the logits of the tokens that may not come next to -Inf.
func (m *Matcher) Mask(logits []float32) {
	a := m.automaton
	a.mu.Lock()
	mask := a.maskOf(m.state)
	a.mu.Unlock()
	never := float32(math.Inf(-1))
	for i, word := range mask {
		from := min(64*i, len(logits))
		block := logits[from:min(from+64, len(logits))]
		switch word {
		case math.MaxUint64:
		case 0:
			for j := range block {
				block[j] = never
			}
		default:
			for not := ^word; not != 0; not &= not - 1 {
				if j := bits.TrailingZeros64(not); j < len(block) {
					block[j] = never
				}
			}
		}
	}
	for i := 64 * len(mask); i < len(logits); i++ {
		logits[i] = never
	}
}

// Accept goes on to what comes after the token. After one that Allows refuses,
// or that ends the text, nothing may come.
func (m *Matcher) Accept(t int32) {
	a := m.automaton
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.dead
	if t >= 0 && int(t) < a.vocabulary.size() {
		if s := a.accepted(a.current(m.state), t); s != nil {
			next = s
		}
	}
	m.state = next
}

// MustEnd says whether the text is complete and nothing but its end may come.
func (m *Matcher) MustEnd() bool { return m.state.ends && len(m.state.places) == 0 }
