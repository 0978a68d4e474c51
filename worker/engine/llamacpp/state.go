package llamacpp

import (
	"encoding/binary"
	"slices"
)

// state is what llama.cpp writes of the KV cache of one sequence
// (llama_kv_cache::state_write): how many cells each stream has, for the sequence's
// position and number of each cell, then, for each layer, a row of each cell. It
// is taken apart so that parts of it can be kept.
//
// Nothing is trusted: what does not look so is no state, and is not kept.
type state struct {
	from, cells int
	parts       []rows
	end         []byte
}

// rows are some bytes for each cell, and what is before them.
type rows struct {
	head, data []byte
	row        int // bytes
}

const (
	stateHead = 12 // bytes of a magic number, a version and the number of streams
	cellHead  = 12 // bytes of a position, the number of sequences, which is one, and its number
)

// readState takes the bytes of a state apart; false if they are none.
func readState(data []byte) (s state, ok bool) {
	r := reader{data: data}
	r.skip(stateHead - 4)
	streams := r.uint32()
	for s.cells == 0 && streams > 0 && !r.failed {
		s.cells, streams = int(r.uint32()), streams-1
	}
	if s.cells < 1 || !s.add(&r, cellHead) {
		return s, false
	}
	for i := range s.cells {
		cell := s.parts[0].data[i*cellHead:]
		position := int(binary.LittleEndian.Uint32(cell))
		if i == 0 {
			s.from = position
		}
		if position != s.from+i || binary.LittleEndian.Uint32(cell[4:]) != 1 {
			return s, false
		}
	}
	transposed, layers := r.uint32(), int(r.uint32())
	plain := func() bool {
		r.skip(4)
		size := r.uint64()
		return size < 1<<24 && s.add(&r, int(size))
	}
	for range layers {
		if !plain() { // keys
			return s, false
		}
	}
	for range layers { // values
		if transposed == 0 {
			if !plain() {
				return s, false
			}
			continue
		}
		r.skip(4)
		size, n := r.uint32(), r.uint32()
		for range n {
			if size > 1<<10 || !s.add(&r, int(size)) {
				return s, false
			}
		}
	}
	s.end = r.rest(4 * int(streams))
	return s, !r.failed && len(r.data) == 0
}

// add takes up what was read and a row of each cell.
func (s *state) add(r *reader, row int) bool {
	head := r.read
	r.read = nil
	data := r.rest(row * s.cells)
	s.parts = append(s.parts, rows{head, data, row})
	return !r.failed
}

// cutting is the cells [from, to) of a state, by their positions.
type cutting struct {
	state
	first, last int
}

// joined makes one state of cuttings that follow one another, in memory that it
// asks for; nil if they are not of one shape.
func joined(cuttings []cutting, memory func(bytes int) []byte) []byte {
	base := cuttings[0].state
	cells, size := 0, len(base.end)
	for _, c := range cuttings {
		same := slices.EqualFunc(c.parts[1:], base.parts[1:], func(a, b rows) bool { return slices.Equal(a.head, b.head) })
		if !same || c.first < c.from || c.last > c.from+c.cells {
			return nil
		}
		cells += c.last - c.first
	}
	for _, p := range base.parts {
		size += len(p.head) + p.row*cells
	}
	data := memory(size)[:0]
	for i, p := range base.parts {
		data = append(data, p.head...)
		if i == 0 {
			binary.LittleEndian.PutUint32(data[len(data)-4:], uint32(cells))
		}
		for _, c := range cuttings {
			data = append(data, c.parts[i].data[(c.first-c.from)*p.row:(c.last-c.from)*p.row]...)
		}
	}
	return append(data, base.end...)
}

// reader takes bytes off the front of data, and notes what it read.
type reader struct {
	data, read []byte
	failed     bool
}

func (r *reader) rest(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.failed = true
		n = 0
	}
	out := r.data[:n:n]
	r.data = r.data[n:]
	return out
}

func (r *reader) skip(n int) []byte {
	out := r.rest(n)
	r.read = append(r.read, out...)
	return out
}

func (r *reader) uint32() uint32 {
	if b := r.skip(4); len(b) == 4 {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.skip(8); len(b) == 8 {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}
