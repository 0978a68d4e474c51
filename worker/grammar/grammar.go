// Package grammar says which tokens may come next so that a text follows a
// grammar: GBNF, as llama.cpp writes it, or one made from a JSON schema. It
// does no I/O and knows neither models nor requests.
//
// A grammar becomes a program of small steps over bytes. Where a text stands in
// it is a set of places, each with the stack of the rules it is in; the sets
// that come up are kept and linked, so that a byte is mostly one look into a
// table. All sizes are bounded, since grammars come from outside.
package grammar

import (
	"sync"

	"rbee"
)

// Bounds of a grammar.
const (
	maxText    = 1 << 20 // bytes of GBNF
	maxRules   = 1 << 15
	maxNesting = 200     // of parentheses
	maxSteps   = 1 << 18 // after repetitions such as x{3,7} were written out
)

// Grammar is a grammar that was checked. Many requests may use it at once.
type Grammar struct {
	program *program

	mu       sync.Mutex
	automata map[*Vocabulary]*automaton
}

// Parse reads a grammar in GBNF, which begins with the rule root. An
// INVALID_REQUEST says what is wrong with it: a mistake, a rule that begins
// with itself or can't end, or a size beyond the bounds of this package.
func Parse(gbnf string) (*Grammar, error) {
	source, err := parse(gbnf)
	if err != nil {
		return nil, err
	}
	p, err := compile(source)
	if err != nil {
		return nil, err
	}
	if newAutomaton(p, &Vocabulary{}).cut {
		return nil, fault("it has more than %d ways to begin", maxVisits)
	}
	return &Grammar{program: p, automata: map[*Vocabulary]*automaton{}}, nil
}

// Memory is about how many bytes the grammar takes, with what matchers have
// found out so far.
func (g *Grammar) Memory() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.program.memory()
	for _, a := range g.automata {
		a.mu.Lock()
		n += a.memory
		a.mu.Unlock()
	}
	return n
}

func fault(format string, args ...any) *rbee.Error {
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the grammar: "+format, args...)
}

// Start begins a text of the grammar over a vocabulary of the tokens 0 to
// vocab-1. pieces gives the bytes of a token, ends says whether it ends the
// text. Who serves many requests makes one Vocabulary and uses StartWith.
func (g *Grammar) Start(pieces func(t int32) []byte, ends func(t int32) bool, vocab int) *Matcher {
	return g.StartWith(NewVocabulary(pieces, ends, vocab))
}

// sharedVocabularies is for how many vocabularies a grammar keeps what it found out.
const sharedVocabularies = 4

// StartWith begins a text of the grammar. Matchers of one grammar and one
// vocabulary share what they find out.
func (g *Grammar) StartWith(v *Vocabulary) *Matcher {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.automata[v]
	if a == nil {
		if len(g.automata) >= sharedVocabularies {
			clear(g.automata)
		}
		a = newAutomaton(g.program, v)
		g.automata[v] = a
	}
	return &Matcher{automaton: a, state: a.start}
}
