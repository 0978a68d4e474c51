package download

import "slices"

// span is the bytes [From, To) of a file.
type span struct{ From, To int64 }

func (s span) size() int64 { return s.To - s.From }

// spans are spans in order that do not touch one another.
type spans []span

// add joins s to the others.
func (l spans) add(s span) spans {
	if s.size() <= 0 {
		return l
	}
	i := 0
	for i < len(l) && l[i].To < s.From {
		i++
	}
	j := i
	for ; j < len(l) && l[j].From <= s.To; j++ {
		s.From, s.To = min(s.From, l[j].From), max(s.To, l[j].To)
	}
	return slices.Replace(l, i, j, s)
}

// total is the number of bytes.
func (l spans) total() (n int64) {
	for _, s := range l {
		n += s.size()
	}
	return n
}

// front is how far the bytes reach from the beginning without a gap.
func (l spans) front() int64 {
	if len(l) == 0 || l[0].From != 0 {
		return 0
	}
	return l[0].To
}

// gap is the first span of [0, size) that is missing, empty if none is.
func (l spans) gap(size int64) span {
	from := int64(0)
	for _, s := range l {
		if s.From > from {
			return span{from, s.From}
		}
		from = s.To
	}
	return span{from, max(from, size)}
}

// within says whether the spans are in order, apart, and inside [0, size).
func (l spans) within(size int64) bool {
	end := int64(-1)
	for _, s := range l {
		if s.From <= end || s.size() <= 0 || s.To > size {
			return false
		}
		end = s.To
	}
	return true
}
