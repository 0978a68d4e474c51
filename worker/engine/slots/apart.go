package slots

import "slices"

// NewBookApart keeps the books of a memory in which each sequence has so many
// cells of its own. None shares cells with another, so what one can have of another is
// copied, and there is a place for each sequence that runs, whatever else is there.
//
// Rows of sequences whose numbers follow one another are computed in one go. So
// those that run are kept together, and what is only kept makes place for them.
func NewBookApart(sequences, each int, memory Memory, bytes int) *Book {
	b := NewBook(sequences, sequences*each, memory, false, bytes)
	b.apart = true
	return b
}

// Close brings running sequences closer together where there is a place between
// them that none has, one of at most so many tokens at a time: its number is another one
// then. It says whether it did.
func (b *Book) Close(most int) bool {
	by, lo, hi := b.byNumber()
	gap := b.gap(by, lo, hi)
	if gap < 0 {
		return false
	}
	h := by[hi]
	if by[lo].Len() < h.Len() {
		h = by[lo]
	}
	if h.Len() > most {
		return false
	}
	b.vacate(gap)
	return b.move(h, gap)
}

// byNumber lists sequences by their numbers, nil for spare ones, and the first and
// last running one; lo is greater if none runs.
func (b *Book) byNumber() (by []*Held, lo, hi int) {
	by = make([]*Held, len(b.held)+len(b.spare))
	lo, hi = len(by), -1
	for _, h := range b.held {
		by[h.ID] = h
		if h.running {
			lo, hi = min(lo, h.ID), max(hi, h.ID)
		}
	}
	return by, lo, hi
}

// gap is a number between two of running sequences that none has, -1 if there is none.
func (b *Book) gap(by []*Held, lo, hi int) int {
	for id := lo; id < hi; id++ {
		if by[id] == nil || !by[id].running {
			return id
		}
	}
	return -1
}

// place has the number next to those that run be the next one that is handed out.
func (b *Book) place() {
	by, lo, hi := b.byNumber()
	id := b.gap(by, lo, hi)
	switch {
	case id >= 0:
	case hi < 0 && len(b.spare) > 0:
		id = b.spare[len(b.spare)-1]
	case hi < 0:
		id = b.oldest().ID
	case lo == 0 || hi+1 < len(by) && (by[hi+1] == nil || by[lo-1] != nil):
		id = hi + 1
	default:
		id = lo - 1
	}
	b.vacate(id)
	at := slices.Index(b.spare, id)
	last := len(b.spare) - 1
	b.spare[at], b.spare[last] = b.spare[last], b.spare[at]
}

// vacate makes a number spare that no running sequence has. What is kept there is
// packed, which takes less than to give it another number; where it cannot be, it gets
// one, if need be in the place of what was not used for the longest time.
func (b *Book) vacate(id int) {
	at := slices.IndexFunc(b.held, func(h *Held) bool { return h.ID == id })
	if at < 0 {
		return
	}
	h := b.held[at]
	old := h
	if b.shelf.limit == 0 {
		old = b.oldest()
	}
	if old == h || len(b.spare) == 0 {
		b.putAway(old, old.Len())
	}
	if old != h && !b.move(h, b.spare[len(b.spare)-1]) {
		b.drop(h)
	}
}

// packAhead packs a parcel of something long that is only kept, or runs and has its
// prompt: when its number is needed there is little left to pack.
func (b *Book) packAhead() {
	if b.shelf.limit == 0 {
		return
	}
	if !slices.Contains(b.held, b.ahead) || b.ahead.unpacked() == 0 {
		b.ahead = nil
		for _, h := range b.held {
			if n := h.unpacked(); n >= longParcels*parcelTokens && (b.ahead == nil || n > b.ahead.unpacked()) {
				b.ahead = h
			}
		}
	}
	if h := b.ahead; h != nil {
		n := h.unpacked()
		b.shelf.put(h, h.packed+n, 1)
		h.packed += min(n, parcelTokens)
	}
}

// longParcels is how many parcels take long enough to pack that it is done ahead.
const longParcels = 4

// unpacked is how many tokens there are to pack. Of what runs they are whole parcels.
func (h *Held) unpacked() int {
	n := h.Len() - h.packed
	switch {
	case h.running && !h.Steady:
		return 0
	case h.running:
		return n / parcelTokens * parcelTokens
	case n < worthKeeping:
		return 0
	}
	return n
}

// move gives a sequence another number, which must be a spare one.
func (b *Book) move(h *Held, to int) bool {
	if h.Len() > 0 && !b.memory.Share(h.ID, to, h.Len()) {
		return false
	}
	b.memory.Cut(h.ID, 0)
	b.spare[slices.Index(b.spare, to)] = h.ID
	h.ID = to
	return true
}
