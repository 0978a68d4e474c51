package slots

import (
	"math"
	"slices"
)

// Memory is the KV cache that a Book keeps the books of. Sequences have
// numbers; what they hold is a run of positions from 0.
type Memory interface {
	// Share gives the empty sequence to the first n positions of from: the same cells,
	// or copies where sequences lie apart. It is false if it can't.
	Share(from, to, n int) bool
	// Cut removes the positions from n on; n 0 removes all.
	Cut(seq, n int)
	// Pack copies what a sequence has of the positions [from, to) out of the KV
	// cache, into memory that it asks for; nil if it can't.
	Pack(seq, from, to int, memory func(bytes int) []byte) []byte
	// Unpack adds parcels, which follow one another, to a sequence that has the
	// positions before the first, and returns how many it has then. Each parcel has room
	// in the KV cache as a whole.
	Unpack(parcels []Parcel, seq int) int
}

// Parcel is what Pack made, and the positions that are wanted of it.
type Parcel struct {
	Data     []byte
	From, To int
}

// Book knows which tokens each sequence of a KV cache holds, and in how many
// cells. Cells that sequences share count once. Sequences that ended are kept as
// beginnings of later prompts, and when their cells are needed they are packed
// and kept in main memory.
//
// It belongs to one goroutine.
type Book struct {
	memory Memory
	whole  bool // sequences can neither be shared nor cut, only continued
	apart  bool // each sequence has cells of its own: see NewBookApart
	refs   []uint16
	live   []uint16 // of refs, those of running sequences
	free   []int32  // cells
	spare  []int    // numbers of sequences
	held   []*Held
	clock  uint64
	used   int // cells
	busy   int // cells of running sequences
	shelf  shelf
	ahead  *Held // is being packed before that is needed
}

// Held is what one sequence of the KV cache holds.
type Held struct {
	ID      int
	tokens  []int32 // in the order of their positions; the array is the request's
	cells   []int32 // of each token
	running bool
	kind    uint64
	touched uint64
	packed  int // tokens at its beginning that were packed

	// Steady says that it runs and that its prompt is computed.
	Steady bool
}

// Len is how many tokens it holds.
func (h *Held) Len() int { return len(h.tokens) }

// NewBook keeps the books of a memory with so many sequences and cells. A whole
// memory, such as that of recurrent models, can't share or cut a sequence. At
// most so many bytes of main memory are used for what was packed.
func NewBook(sequences, cells int, memory Memory, whole bool, bytes int) *Book {
	b := &Book{memory: memory, whole: whole, refs: make([]uint16, cells), live: make([]uint16, cells)}
	b.shelf = shelf{memory: memory, limit: bytes}
	for c := cells - 1; c >= 0; c-- {
		b.free = append(b.free, int32(c))
	}
	for s := sequences - 1; s >= 0; s-- {
		b.spare = append(b.spare, s)
	}
	return b
}

// Available is how many cells running sequences leave.
func (b *Book) Available() int { return len(b.refs) - b.busy }

// Used is how many cells running sequences hold, and how many more are kept.
func (b *Book) Used() (running, cached int) { return b.busy, b.used - b.busy }

// Holds is how many tokens a sequence holds.
func (b *Book) Holds(sequence int) int {
	for _, h := range b.held {
		if h.ID == sequence {
			return h.Len()
		}
	}
	return 0
}

// Common is how many tokens two texts have in common at their beginning.
func Common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// best finds the sequence from which a text can reuse most. The last token is
// always left to compute, or there would be no logits.
func (b *Book) best(tokens []int32, kind uint64) (from *Held, n int) {
	most := tokens[:len(tokens)-1]
	for _, h := range b.held {
		if h.kind != kind {
			continue
		}
		c := Common(h.tokens, most)
		if b.whole && (h.running || c < len(h.tokens)) || b.apart && c*worthCopying < len(h.tokens) {
			continue
		}
		if c > n || c == n && c > 0 && !h.running && h.touched > from.touched {
			from, n = h, c
		}
	}
	if n < worthSharing && !b.whole {
		return nil, 0 // a batch of odd size costs more than a few tokens
	}
	return from, n
}

// Keep packs what was not used for the longest time until no more than so many
// cells are only kept.
func (b *Book) Keep(cells int) {
	for b.used-b.busy > cells {
		h := b.oldest()
		if h == nil {
			return
		}
		b.putAway(h, b.used-b.busy-cells)
	}
}

// Tidy does a small part of what Keep does, so that nobody has to wait for it.
func (b *Book) Tidy(cells int) {
	if b.apart {
		b.packAhead()
		return
	}
	h := b.oldest()
	if h == nil || b.used-b.busy <= cells {
		return
	}
	if b.whole || b.shelf.limit == 0 || b.shelf.put(h, h.Len(), 1) {
		b.putAway(h, b.used-b.busy-cells)
	}
}

// Packed is how many tokens are kept in main memory, and in how many bytes.
func (b *Book) Packed() (tokens, bytes int) { return b.shelf.tokens, b.shelf.size }

// Reusable is how many tokens of a text Reuse would find.
func (b *Book) Reusable(tokens []int32, kind uint64) int {
	_, n := b.best(tokens, kind)
	_, packed := b.shelf.best(tokens[:len(tokens)-1], kind)
	return max(n, packed)
}

// Fits says whether the text, and so many tokens more, have room beside the
// running sequences and so many cells that these are still going to take. All
// that is only kept would go for it.
func (b *Book) Fits(tokens []int32, kind uint64, more, promised int) bool {
	from, n := b.best(tokens, kind)
	need := len(tokens) + more
	if from != nil {
		need -= n
		for _, c := range from.cells[:n] {
			if b.live[c] == 0 {
				need++
			}
		}
	}
	return b.busy+promised+need <= len(b.refs)
}

// Start begins a sequence that runs. There must be fewer running ones than
// sequences. It may hold a beginning of the text already, if the place of what
// was kept is needed for it. Only sequences of one kind can reuse what the others
// hold: for those of another kind the same tokens have other keys and values.
func (b *Book) Start(tokens []int32, kind uint64) *Held {
	if len(b.spare) == 0 || b.apart {
		from, n := b.best(tokens, kind)
		if from != nil {
			b.touch(from)
		}
		old := b.oldest()
		switch {
		case from == nil || from.running:
		case len(b.spare) == 0 && old == from, b.apart && n+worthKeeping > from.Len():
			b.Cut(from, n)
			from.running, from.tokens = true, tokens[:n]
			b.mark(from.cells, 1)
			return from
		}
		if b.apart {
			b.place()
		} else {
			b.putAway(old, len(old.cells))
		}
	}
	h := &Held{ID: b.spare[len(b.spare)-1], kind: kind, running: true}
	b.spare = b.spare[:len(b.spare)-1]
	b.held = append(b.held, h)
	b.touch(h)
	return h
}

// Reuse gives a sequence that holds nothing what it can have of others, and
// returns how many tokens it holds. The sequence may get another number.
func (b *Book) Reuse(h *Held, tokens []int32) int {
	if h.Len() > 0 {
		return h.Len()
	}
	from, n := b.best(tokens, h.kind)
	if b.apart && n > 0 {
		if _, packed := b.shelf.best(tokens[:len(tokens)-1], h.kind); packed >= n+worthKeeping {
			n = 0 // it has all of it, and a copy would be in vain
		}
	}
	if n > 0 {
		b.share(from, h, tokens[:n])
	}
	if !b.whole {
		b.unpack(h, tokens)
	}
	return h.Len()
}

func (b *Book) share(from, h *Held, tokens []int32) {
	b.touch(from)
	if b.whole {
		h.ID, from.ID = from.ID, h.ID
		h.cells, from.cells = from.cells, nil
		h.tokens, from.tokens = tokens, nil
		b.mark(h.cells, 1)
		b.remove(from)
		return
	}
	switch {
	case !b.memory.Share(from.ID, h.ID, len(tokens)):
		return
	case b.apart:
		b.Grow(h, tokens)
		return
	}
	h.tokens = tokens
	h.cells = append(h.cells[:0], from.cells[:len(tokens)]...)
	for _, c := range h.cells {
		b.refs[c]++
	}
	b.mark(h.cells, 1)
}

// unpack adds to a sequence what was packed of its tokens.
func (b *Book) unpack(h *Held, tokens []int32) {
	last, n := b.shelf.best(tokens[:len(tokens)-1], h.kind)
	if n < h.Len()+worthKeeping {
		return
	}
	list := path(last)
	b.shelf.touch(list)
	// A parcel is unpacked whole. To make room may cost the shelf others.
	if !b.apart && !b.Room(n-h.Len()+parcelTokens) {
		return
	}
	var parcels []Parcel
	at := h.Len()
	for i, p := range list {
		to := n
		if i+1 < len(list) {
			to = list[i+1].from
		}
		if to <= at {
			continue
		}
		if p.data == nil {
			break
		}
		parcels = append(parcels, Parcel{p.data, at, to})
		at = to
	}
	if to := b.memory.Unpack(parcels, h.ID); to > h.Len() {
		b.Grow(h, tokens[:to])
	}
}

// Grow notes that a sequence now holds the tokens, of which it held the first
// already. Room must have said yes to the others.
func (b *Book) Grow(h *Held, tokens []int32) {
	for range len(tokens) - len(h.cells) {
		c := b.free[len(b.free)-1]
		b.free = b.free[:len(b.free)-1]
		b.refs[c], b.live[c] = 1, 1
		b.used++
		b.busy++
		h.cells = append(h.cells, c)
	}
	h.tokens = tokens
}

// Cut lets a sequence hold its first n tokens only.
func (b *Book) Cut(h *Held, n int) {
	if n >= len(h.cells) {
		return
	}
	b.memory.Cut(h.ID, n)
	b.release(h, n)
}

func (b *Book) release(h *Held, n int) {
	if h.running {
		b.mark(h.cells[n:], -1)
	}
	for _, c := range h.cells[n:] {
		if b.refs[c]--; b.refs[c] == 0 {
			b.free = append(b.free, c)
			b.used--
		}
	}
	h.cells, h.tokens = h.cells[:n], h.tokens[:n]
	h.packed = min(h.packed, n)
}

// mark counts cells as those of one running sequence more or less.
func (b *Book) mark(cells []int32, by int) {
	for _, c := range cells {
		if by > 0 {
			if b.live[c]++; b.live[c] == 1 {
				b.busy++
			}
		} else if b.live[c]--; b.live[c] == 0 {
			b.busy--
		}
	}
}

// Room makes room for n cells, if it must at the cost of what was not used for
// the longest time. It is false if running sequences leave no such room.
func (b *Book) Room(n int) bool {
	for len(b.free) < n {
		h := b.oldest()
		if h == nil {
			return false
		}
		b.putAway(h, n-len(b.free))
	}
	return true
}

// putAway packs what is only kept. Where that can't be it cuts about n tokens off
// the end, or drops it.
func (b *Book) putAway(h *Held, n int) {
	if !b.whole && b.shelf.limit > 0 {
		b.shelf.put(h, h.Len(), math.MaxInt)
		b.drop(h)
		return
	}
	keep := len(h.cells) - max(n, cutAtOnce)
	if b.whole || keep < worthKeeping {
		b.drop(h)
		return
	}
	b.Cut(h, keep)
}

const (
	cutAtOnce    = 64 // tokens that are cut from the end of what is kept, so that it happens rarely
	worthKeeping = 16 // tokens; what is shorter is dropped
	worthSharing = 4
	worthCopying = 64 // tokens that are copied as fast as one is computed, and faster
)

// oldest is the kept sequence that was not used for the longest time, nil if there is none.
func (b *Book) oldest() *Held {
	var old *Held
	for _, h := range b.held {
		if !h.running && (old == nil || h.touched < old.touched) {
			old = h
		}
	}
	return old
}

// Finish keeps a sequence that ended for later prompts, unless another one holds the same.
func (b *Book) Finish(h *Held) {
	b.mark(h.cells, -1)
	h.running, h.Steady = false, false
	b.touch(h)
	h.tokens = slices.Clone(h.tokens) // its array may have grown much larger
	if len(h.tokens) < worthKeeping {
		b.drop(h)
		return
	}
	for i := len(b.held) - 1; i >= 0; i-- {
		other := b.held[i]
		if other == h || other.kind != h.kind {
			continue
		}
		c := Common(other.tokens, h.tokens)
		switch {
		case c == len(h.tokens) && !b.whole:
			b.drop(h)
			return
		case c == len(other.tokens) && !other.running && !b.whole:
			b.drop(other)
		}
	}
}

// Drop forgets a sequence.
func (b *Book) Drop(h *Held) { b.drop(h) }

// Clear forgets what is only kept in the KV cache.
func (b *Book) Clear() {
	for h := b.oldest(); h != nil; h = b.oldest() {
		b.drop(h)
	}
}

func (b *Book) drop(h *Held) {
	b.memory.Cut(h.ID, 0)
	b.release(h, 0)
	b.remove(h)
}

// remove takes a sequence that holds nothing off the list.
func (b *Book) remove(h *Held) {
	b.held = slices.DeleteFunc(b.held, func(o *Held) bool { return o == h })
	b.spare = append(b.spare, h.ID)
	h.running = false
}

func (b *Book) touch(h *Held) {
	b.clock++
	h.touched = b.clock
}
