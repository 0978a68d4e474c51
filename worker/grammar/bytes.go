package grammar

import "unicode/utf8"

// byteSpan is one byte of an encoded character, and what must follow it.
type byteSpan struct {
	low, high byte
	next      int32 // number of the byteSpan that follows, -1 for none
}

// byteSets are sets of characters as the bytes that encode them in UTF-8.
type byteSets struct {
	spans []byteSpan
	known map[byteSpan]int32
}

func (s *byteSets) number(b byteSpan) int32 {
	if n, ok := s.known[b]; ok {
		return n
	}
	n := int32(len(s.spans))
	s.spans = append(s.spans, b)
	s.known[b] = n
	return n
}

// encode adds to starts the numbers of the first bytes of the characters from
// low to high. Halves of surrogate pairs have no encoding.
func (s *byteSets) encode(starts []int32, low, high rune) []int32 {
	for _, part := range []span{{0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, utf8.MaxRune}} {
		if l, h := max(low, part.low), min(high, part.high); l <= h {
			starts = s.encodeAlike(starts, l, h)
		}
	}
	return starts
}

// encodeAlike is encode for characters of one length.
func (s *byteSets) encodeAlike(starts []int32, low, high rune) []int32 {
	// A range of encodings is a product of ranges of bytes only if all but the
	// first byte that differs run through all their values.
	for bits := 6; bits < 6*utf8.RuneLen(low); bits += 6 {
		mask := rune(1)<<bits - 1
		if low>>bits == high>>bits {
			continue
		}
		if low&mask != 0 {
			starts = s.encodeAlike(starts, low, low|mask)
			return s.encodeAlike(starts, (low|mask)+1, high)
		}
		if high&mask != mask {
			starts = s.encodeAlike(starts, low, high&^mask-1)
			return s.encodeAlike(starts, high&^mask, high)
		}
	}
	var from, to [utf8.UTFMax]byte
	n := utf8.EncodeRune(from[:], low)
	utf8.EncodeRune(to[:], high)
	next := int32(-1)
	for i := n - 1; i >= 0; i-- {
		next = s.number(byteSpan{from[i], to[i], next})
	}
	return append(starts, next)
}
