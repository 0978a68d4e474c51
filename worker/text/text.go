// Package text turns the bytes of a model's tokens into text that can be shown
// as it comes: whole UTF-8 characters only, and nothing of a stop string.
//
// It is pure: it knows neither tokens nor requests, and reads no clock.
package text

import (
	"unicode/utf8"
)

// Stream is the text of one generation. The zero value has no stop strings; a
// Stream is for one goroutine.
//
// Bytes that are no UTF-8 become U+FFFD, one for each byte. Of several stop
// strings the one whose end comes first wins, and of those that end at the same
// byte the longest. What comes out in all is the same however the bytes were
// cut into pieces.
type Stream struct {
	stops   []matcher
	tail    [utf8.UTFMax]byte // beginning of a character that is not complete
	tailLen int
	buf     []byte // text given out by the last call, then text held back
	out     int    // bytes of buf that the last call gave out
	stopped bool
}

// NewStream makes a Stream that ends at the first of the stop strings. Empty
// stop strings are ignored.
func NewStream(stops []string) *Stream {
	s := &Stream{}
	for _, stop := range stops {
		if stop != "" {
			s.stops = append(s.stops, newMatcher(stop))
		}
	}
	return s
}

// Push adds bytes and returns the text that is certain now. It shares memory
// with the Stream and is valid until the next call. stopped says that a stop
// string came: what is returned is the last text, and nothing follows.
func (s *Stream) Push(b []byte) (text []byte, stopped bool) {
	if s.stopped {
		return nil, true
	}
	from := s.dropGiven()
	s.decode(b)
	return s.give(from)
}

// Flush ends the Stream and returns what was held back: a character that never
// became complete is U+FFFD, and the beginning of a stop string is text.
func (s *Stream) Flush() []byte {
	if s.stopped {
		return nil
	}
	from := s.dropGiven()
	for range s.tailLen {
		s.buf = utf8.AppendRune(s.buf, utf8.RuneError)
	}
	s.tailLen = 0
	text, stopped := s.give(from)
	s.stopped = true
	if stopped {
		return text
	}
	return s.buf
}

// dropGiven leaves in buf what was held back, and returns its length.
func (s *Stream) dropGiven() int {
	n := copy(s.buf, s.buf[s.out:])
	s.buf = s.buf[:n]
	s.out = 0
	return n
}

// decode appends the complete characters of tail and b to buf; the rest becomes the tail.
func (s *Stream) decode(b []byte) {
	for s.tailLen > 0 && len(b) > 0 {
		s.tail[s.tailLen] = b[0]
		s.tailLen++
		b = b[1:]
		for s.tailLen > 0 && utf8.FullRune(s.tail[:s.tailLen]) {
			c, size := utf8.DecodeRune(s.tail[:s.tailLen])
			s.buf = utf8.AppendRune(s.buf, c)
			s.tailLen = copy(s.tail[:], s.tail[size:s.tailLen])
		}
	}
	if utf8.Valid(b) {
		s.buf = append(s.buf, b...)
		return
	}
	for len(b) > 0 {
		if !utf8.FullRune(b) {
			s.tailLen = copy(s.tail[:], b)
			return
		}
		c, size := utf8.DecodeRune(b)
		s.buf = utf8.AppendRune(s.buf, c)
		b = b[size:]
	}
}

// give looks for stop strings in buf from the offset on, and gives out all that
// cannot belong to one. A stop string begins with a whole character, so the cut
// is always between two.
func (s *Stream) give(from int) ([]byte, bool) {
	if len(s.stops) == 0 {
		s.out = len(s.buf)
		return s.buf, false
	}
	held := 0
	for i := from; i < len(s.buf); i++ {
		longest := 0
		held = 0
		for k := range s.stops {
			m := &s.stops[k]
			matched := m.next(s.buf[i])
			held = max(held, matched)
			if matched == len(m.stop) {
				longest = max(longest, matched)
			}
		}
		if longest > 0 {
			s.stopped = true
			s.out = i + 1 - longest
			return s.buf[:s.out], true
		}
	}
	if from == len(s.buf) { // nothing new, so what was held back still is
		held = from
	}
	s.out = len(s.buf) - held
	return s.buf[:s.out], false
}

// matcher finds one stop string in a text that comes byte by byte (Knuth,
// Morris and Pratt, "Fast pattern matching in strings", 1977).
type matcher struct {
	stop    string
	border  []int // border[i]: longest proper prefix of stop[:i+1] that is also its suffix
	matched int   // bytes of stop that the text ends with
}

func newMatcher(stop string) matcher {
	m := matcher{stop: stop, border: make([]int, len(stop))}
	for i, k := 1, 0; i < len(stop); i++ {
		for k > 0 && stop[i] != stop[k] {
			k = m.border[k-1]
		}
		if stop[i] == stop[k] {
			k++
		}
		m.border[i] = k
	}
	return m
}

// next takes one byte and returns how many bytes of stop the text now ends
// with. After a full match the text has ended, so it is not called again.
func (m *matcher) next(c byte) int {
	for m.matched > 0 && m.stop[m.matched] != c {
		m.matched = m.border[m.matched-1]
	}
	if m.stop[m.matched] == c {
		m.matched++
	}
	return m.matched
}
