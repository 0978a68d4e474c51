package grammar

import (
	"bytes"
	"cmp"
	"slices"
)

// Vocabulary is what matchers need to know of a model's tokens: their bytes, as
// a tree of common beginnings. Many matchers may use it at once.
type Vocabulary struct {
	text    []byte   // bytes of all tokens
	from    []int32  // where those of a token begin, and one more
	ends    []uint64 // a bit per token that ends the text
	order   []int32  // tokens in the order of their bytes
	nodes   []node   // of the tree, each before those that go on from it
	longest int      // bytes
}

// node is one byte after those of the nodes above it.
type node struct {
	skip   int32 // the next node that does not go on from this one
	tokens int32 // where in order the tokens end that end at this node or before it
	depth  int32 // bytes from the root
	byte   byte
}

// NewVocabulary makes the vocabulary of the tokens 0 to size-1. pieces gives the
// bytes of a token, ends says whether it ends the text; neither is kept. It
// takes some tens of milliseconds for 128,000 tokens: make one for a model.
func NewVocabulary(pieces func(t int32) []byte, ends func(t int32) bool, size int) *Vocabulary {
	v := &Vocabulary{from: make([]int32, 0, size+1), ends: make([]uint64, (size+63)/64)}
	for t := range int32(size) {
		v.from = append(v.from, int32(len(v.text)))
		if ends(t) {
			v.ends[t>>6] |= 1 << (t & 63)
			continue
		}
		if piece := pieces(t); len(piece) > 0 {
			v.text = append(v.text, piece...)
			v.order = append(v.order, t)
			v.longest = max(v.longest, len(piece))
		}
	}
	v.from = append(v.from, int32(len(v.text)))
	slices.SortFunc(v.order, func(a, b int32) int {
		return cmp.Or(bytes.Compare(v.piece(a), v.piece(b)), cmp.Compare(a, b))
	})
	v.grow()
	return v
}

func (v *Vocabulary) words() int { return len(v.ends) }

func (v *Vocabulary) size() int { return len(v.from) - 1 }

// piece are the bytes of a token; none if it ends the text.
func (v *Vocabulary) piece(t int32) []byte { return v.text[v.from[t]:v.from[t+1]] }

func (v *Vocabulary) endsText(t int32) bool { return v.ends[t>>6]&(1<<(t&63)) != 0 }

// tokensBefore is where in order the tokens of node i begin.
func (v *Vocabulary) tokensBefore(i int32) int32 {
	if i == 0 {
		return 0
	}
	return v.nodes[i-1].tokens
}

// grow makes the tree of the ordered tokens.
func (v *Vocabulary) grow() {
	var open []int32 // the nodes of the piece before
	shut := func(depth int) {
		for _, i := range open[depth:] {
			v.nodes[i].skip = int32(len(v.nodes))
		}
		open = open[:depth]
	}
	var last []byte
	for at, t := range v.order {
		piece, same := v.piece(t), 0
		for same < len(last) && same < len(piece) && last[same] == piece[same] {
			same++
		}
		if at > 0 && same == len(piece) { // the same piece again
			v.nodes[len(v.nodes)-1].tokens++
			continue
		}
		shut(same)
		for depth := same; depth < len(piece); depth++ {
			open = append(open, int32(len(v.nodes)))
			v.nodes = append(v.nodes, node{tokens: int32(at), depth: int32(depth + 1), byte: piece[depth]})
		}
		v.nodes[len(v.nodes)-1].tokens++
		last = piece
	}
	shut(0)
	v.nodes = slices.Clip(v.nodes)
}
