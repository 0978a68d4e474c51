package llamacpp

import (
	"cmp"
	"slices"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee/worker/engine/slots"
)

// apart is a KV cache in which each sequence has cells of its own, a stream as
// llama.cpp calls it. A row passes over the cells of its own sequence only.
//
// llama.cpp computes rows of several sequences in one go if the sequences' numbers
// follow one another and each has as many rows; other batches it splits. So those that
// decode are sorted, and where a number is missing, some row of it fills the gap, or
// the sequences are brought together. Prompts are sorted the other way around: in
// one go they would be cut to the length of the shortest.
type apart struct {
	*Engine
	each   int   // cells of each sequence
	limit  int   // bytes of a state that is read
	padded []pad // of the batch
	moving int   // most tokens of a sequence that is to be moved into a gap of the last rows

	state   []byte // of a sequence; fresh memory for it would take longer than to read it
	stateOf int
	valid   int // its first cells that are still those of the sequence
}

// pad is a sequence with rows that nobody needs, from a position on.
type pad struct{ id, from int }

const (
	mostState  = 16 << 20  // bytes of a state that are kept while nobody computes
	leastState = 256 << 20 // bytes of one that there must be room for
)

// read gives the state of a sequence, at least of its first n tokens.
func (a *apart) read(seq, n int) []byte {
	if a.stateOf == seq && a.valid >= n {
		return a.state
	}
	a.valid = 0
	size := int(llama.StateSeqGetSize(a.context, llama.SeqId(seq)))
	if size > a.limit {
		return nil
	}
	a.state = slices.Grow(a.state[:0], size)[:size]
	if got := llama.StateSeqGetData(a.context, a.state, llama.SeqId(seq)); got == 0 || int(got) != size {
		return nil
	}
	a.stateOf, a.valid = seq, a.book.Holds(seq)
	return a.state
}

// write gives a sequence the tokens of a state, which has n at least.
func (a *apart) write(state []byte, seq, n int) bool {
	if state == nil || llama.StateSeqSetData(a.context, state, llama.SeqId(seq)) == 0 {
		a.Cut(seq, 0)
		return false
	}
	a.Cut(seq, n)
	return true
}

// Share implements slots.Memory.
func (a *apart) Share(from, to, n int) bool { return a.write(a.read(from, n), to, n) }

// Cut implements slots.Memory.
func (a *apart) Cut(seq, n int) {
	cut(a.memory, seq, n)
	if seq == a.stateOf {
		a.valid = min(a.valid, n)
	}
}

// Pack implements slots.Memory.
func (a *apart) Pack(seq, from, to int, memory func(bytes int) []byte) []byte {
	s, ok := readState(a.read(seq, to))
	if !ok || s.from > from || s.from+s.cells < to {
		return nil
	}
	return joined([]cutting{{s, from, to}}, memory)
}

// Unpack implements slots.Memory: a state replaces all that a sequence has.
func (a *apart) Unpack(parcels []slots.Parcel, seq int) int {
	var cuttings []cutting
	for _, p := range parcels {
		s, ok := readState(p.Data)
		if !ok {
			return 0
		}
		cuttings = append(cuttings, cutting{s, p.From, p.To})
	}
	if len(parcels) == 0 || parcels[0].From > 0 {
		return 0
	}
	a.valid = 0
	a.state = joined(cuttings, func(bytes int) []byte { return slices.Grow(a.state[:0], bytes)[:bytes] })
	n := parcels[len(parcels)-1].To
	if !a.write(a.state, seq, n) {
		return 0
	}
	a.stateOf, a.valid = seq, n
	return n
}

func (a *apart) rows(ready []*sequence) {
	if a.moving > 0 && a.book.Close(a.moving) { // it was not filled by a request that came at once
		for _, seq := range a.active {
			seq.setID()
		}
	}
	slices.SortFunc(ready, func(x, y *sequence) int { return cmp.Compare(x.held.ID, y.held.ID) })
	longest, drafts := 0, false
	for _, seq := range ready {
		longest, drafts = max(longest, seq.held.Len()), drafts || len(seq.draft) > 0
	}
	// A pad that is longer would have all rows take as long as it.
	fits := func(id int) bool { return id >= 0 && id < a.info.Slots && a.book.Holds(id) <= longest }
	a.moving = 0
	var pads []int
	for i := 1; i < len(ready); i++ {
		from, to := ready[i-1].held.ID+1, ready[i].held.ID
		for id := from; id < to; id++ {
			if (to-from)*worthFilling <= len(ready) && fits(id) {
				pads = append(pads, id)
				a.moving = max(a.moving, worthMoving)
			} else {
				a.moving = a.each
			}
		}
	}
	if n := a.pace.times.padding(len(ready) + len(pads)); n > 0 && !drafts {
		before, after := ready[0].held.ID-1, ready[len(ready)-1].held.ID+1
		for ; n > 0 && fits(after); n, after = n-1, after+1 {
			pads = append(pads, after)
		}
		for ; n > 0 && fits(before); n, before = n-1, before-1 {
			pads = append(pads, before)
		}
		slices.Sort(pads)
	}
	for _, seq := range ready {
		pads = a.addPads(pads, seq.held.ID)
		a.addDecode(seq)
	}
	a.addPads(pads, a.info.Slots)
}

// addPads adds a row for each number below the limit, and returns the others.
func (a *apart) addPads(ids []int, limit int) []int {
	for len(ids) > 0 && ids[0] < limit {
		a.add1(ids[0], a.book.Holds(ids[0]))
		ids = ids[1:]
	}
	return ids
}

const (
	worthFilling = 3   // rows that are worth one that nobody needs
	worthMoving  = 512 // tokens of a sequence that is moved rather than to have such a row in each step
)

// add1 adds a row that nobody needs to a sequence that has so many tokens in the
// batch and before it; false if it has no cell for it.
func (a *apart) add1(id, at int) bool {
	if at >= a.each || int(a.batch.NTokens) >= batchTokens {
		return false
	}
	_ = a.batch.Add(0, llama.Pos(at), []llama.SeqId{llama.SeqId(id)}, false)
	if n := len(a.padded); n == 0 || a.padded[n-1].id != id {
		a.padded = append(a.padded, pad{id, at})
	}
	a.padding++
	return true
}

func (a *apart) prompts(pieces []piece) {
	slices.SortFunc(pieces, func(x, y piece) int { return cmp.Compare(y.seq.held.ID, x.seq.held.ID) })
	room := batchTokens - int(a.batch.NTokens)
	for _, p := range pieces {
		room -= p.n
	}
	for _, p := range pieces {
		a.addPiece(p)
		n := -p.n & (rowBlock - 1)
		if n > mostPads || n > room || p.seq.fed+n > a.each {
			continue // the rows would take longer
		}
		room -= n
		for i := range n {
			a.add1(p.seq.held.ID, p.seq.fed+i)
		}
	}
}

func (a *apart) unpad() {
	for _, p := range a.padded {
		a.Cut(p.id, p.from)
	}
	a.padded = a.padded[:0]
}

func (a *apart) idle() {
	if cap(a.state) > mostState {
		a.state, a.valid = nil, 0
	}
}
