package slots

import "slices"

// parcelTokens is how many tokens are packed at a time: a beginning can be taken
// off the shelf without what follows it, and parcels of one size can use the
// memory of one another.
const parcelTokens = 128

// shelf keeps what sequences held in main memory, outside the KV cache, where it
// costs no time: each row of a batch passes over all cells in use, also over
// those that are only kept.
//
// It is a tree. A parcel is some tokens that follow others, which its base and
// those below that have. What texts have in common is kept once. When the shelf is full, what
// was not used for the longest time goes, from the ends of texts.
type shelf struct {
	memory  Memory
	limit   int // bytes
	size    int
	tokens  int
	clock   uint64
	roots   []*parcel
	emptied [][]byte // memory of parcels that went, for the next ones
}

type parcel struct {
	kind    uint64
	from    int     // position of the first token
	tokens  []int32 // the own ones
	base    *parcel // has the tokens before; nil for the beginning of a text
	next    []*parcel
	data    []byte
	touched uint64
}

// best finds the parcel with which most of the tokens can be had, and how many that is.
func (s *shelf) best(tokens []int32, kind uint64) (last *parcel, n int) {
	var look func(among []*parcel, matched int)
	look = func(among []*parcel, matched int) {
		for _, p := range among {
			if p.from > matched || p.kind != kind {
				continue
			}
			m := p.from + Common(p.tokens, tokens[p.from:])
			if m > n {
				last, n = p, m
			}
			if m > p.from {
				look(p.next, m)
			}
		}
	}
	look(s.roots, 0)
	return last, n
}

// path lists the parcels that lead to p, and p.
func path(p *parcel) (list []*parcel) {
	for ; p != nil; p = p.base {
		list = append(list, p)
	}
	slices.Reverse(list)
	return list
}

func (s *shelf) touch(list []*parcel) {
	for _, p := range list {
		s.clock++
		p.touched = s.clock
	}
}

// put packs the first tokens of a sequence, as far as they are not there already, in so
// many parcels at most. It says whether no more is to be packed.
func (s *shelf) put(h *Held, tokens, parcels int) (done bool) {
	base, from := s.best(h.tokens[:tokens], h.kind)
	s.touch(path(base))
	for ; tokens-from >= worthKeeping; parcels-- {
		if parcels == 0 {
			return false
		}
		to := min(from+parcelTokens, tokens)
		data := s.memory.Pack(h.ID, from, to, s.spare)
		if data == nil {
			return true
		}
		p := &parcel{kind: h.kind, from: from, tokens: slices.Clone(h.tokens[from:to]), base: base, data: data}
		if base == nil {
			s.roots = append(s.roots, p)
		} else {
			base.next = append(base.next, p)
		}
		s.size += len(data)
		s.tokens += len(p.tokens)
		s.touch([]*parcel{p})
		for s.size > s.limit {
			s.discard(s.oldest(s.roots, nil))
		}
		if p.data == nil {
			return true // there is no room for one text
		}
		base, from = p, to
	}
	return true
}

// oldest is the parcel on which none builds that was not used for the longest time.
func (s *shelf) oldest(among []*parcel, old *parcel) *parcel {
	for _, p := range among {
		if len(p.next) > 0 {
			old = s.oldest(p.next, old)
		} else if old == nil || p.touched < old.touched {
			old = p
		}
	}
	return old
}

const emptiedParcels = 8

func (s *shelf) discard(p *parcel) {
	among := &s.roots
	if p.base != nil {
		among = &p.base.next
	}
	*among = slices.DeleteFunc(*among, func(o *parcel) bool { return o == p })
	s.size -= len(p.data)
	s.tokens -= len(p.tokens)
	if len(s.emptied) < emptiedParcels {
		s.emptied = append(s.emptied, p.data)
	}
	p.data = nil
}

// spare is memory for a parcel of so many bytes.
func (s *shelf) spare(bytes int) []byte {
	for i, data := range s.emptied {
		if cap(data) >= bytes && cap(data) < 2*bytes {
			s.emptied = slices.Delete(s.emptied, i, i+1)
			return data[:bytes]
		}
	}
	return make([]byte, bytes)
}
