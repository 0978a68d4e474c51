package worker

import (
	"container/list"
	"crypto/sha256"
	"encoding/json"
	"sync"

	"rbee/worker/grammar"
)

// Bounds of the grammars that are kept.
const (
	maxGrammars      = 64
	maxGrammarMemory = 64 << 20 // bytes
)

// grammars keeps those that requests asked for last. Reading one takes
// milliseconds, and requests of one client mostly ask for the same; one that is
// kept also remembers which tokens may come where. The zero value is empty.
type grammars struct {
	mu     sync.Mutex
	known  map[grammarKey]*list.Element
	recent list.List // of *keptGrammar, the last used first
}

// grammarKey is what was asked for: the digest of a text and how it is to be read.
type grammarKey struct {
	schema bool
	text   [sha256.Size]byte
}

type keptGrammar struct {
	key  grammarKey
	read func() (*grammar.Grammar, error) // reads once
	done *grammar.Grammar                 // nil while it is read
}

// answer is the grammar of an answer: a GBNF text, a JSON schema, or any JSON
// object; nil if nothing is asked for.
func (k *grammars) answer(gbnf string, schema json.RawMessage, anyJSON bool) (*grammar.Grammar, error) {
	switch {
	case len(schema) > 0 && string(schema) != "null":
		return k.get(grammarKey{true, sha256.Sum256(schema)}, func() (*grammar.Grammar, error) {
			text, err := grammar.FromSchema(schema)
			if err != nil {
				return nil, err
			}
			return grammar.Parse(text)
		})
	case anyJSON:
		gbnf = grammar.JSON()
	case gbnf == "":
		return nil, nil
	}
	return k.get(grammarKey{false, sha256.Sum256([]byte(gbnf))}, func() (*grammar.Grammar, error) { return grammar.Parse(gbnf) })
}

// get is a grammar that is kept, or that is read now. Requests that ask for the
// same at once wait for one reading.
func (k *grammars) get(key grammarKey, read func() (*grammar.Grammar, error)) (*grammar.Grammar, error) {
	one := k.kept(key, read)
	g, err := one.read()
	k.mu.Lock()
	defer k.mu.Unlock()
	one.done = g
	if e := k.known[key]; err != nil && e != nil && e.Value == one {
		k.forget(e)
	}
	k.shrink()
	return g, err
}

func (k *grammars) kept(key grammarKey, read func() (*grammar.Grammar, error)) *keptGrammar {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.known[key]
	if e == nil {
		if k.known == nil {
			k.known = map[grammarKey]*list.Element{}
		}
		e = k.recent.PushFront(&keptGrammar{key: key, read: sync.OnceValues(read)})
		k.known[key] = e
	}
	k.recent.MoveToFront(e)
	return e.Value.(*keptGrammar)
}

func (k *grammars) forget(e *list.Element) { delete(k.known, k.recent.Remove(e).(*keptGrammar).key) }

// shrink forgets what was not used for the longest time until the others are
// within bounds. Requests that use one keep it for themselves.
func (k *grammars) shrink() {
	n, memory := 0, 0
	for e := k.recent.Front(); e != nil; {
		next := e.Next()
		if g := e.Value.(*keptGrammar).done; g != nil {
			memory += g.Memory()
		}
		if n++; n > maxGrammars || memory > maxGrammarMemory {
			k.forget(e)
		}
		e = next
	}
}
