package supervise

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"
	"unicode/utf8"
)

// DefaultLogLines is how many lines a Ring keeps if it is not told.
const DefaultLogLines = 1000

// MaxLineBytes bounds a line; what is longer goes on in the next line.
const MaxLineBytes = 8 << 10

// Ring keeps the last lines written to it. It never blocks its writer: a
// follower that falls behind by more than the ring holds is told how many lines
// it lost. All methods are safe for concurrent use.
type Ring struct {
	mu      sync.Mutex
	lines   []string // circular, line i of the stream at i % cap
	limit   int
	count   int           // lines written so far
	partial []byte        // of the last line, at most MaxLineBytes
	closed  bool          // nothing more comes
	changed chan struct{} // closed and replaced by the writer; nil if nobody waits
}

// NewRing makes a Ring of so many lines; zero means DefaultLogLines.
func NewRing(lines int) *Ring {
	if lines <= 0 {
		lines = DefaultLogLines
	}
	return &Ring{limit: lines}
}

// Write takes output apart into lines. It never fails.
func (r *Ring) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.count
	for rest := b; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		r.append(line)
		if ended {
			r.flush()
		}
		rest = after
	}
	if r.count > before {
		r.wake()
	}
	return len(b), nil
}

// append adds to the last line, and starts new ones where it gets too long.
func (r *Ring) append(text []byte) {
	for {
		room := MaxLineBytes - len(r.partial)
		if len(text) <= room {
			r.partial = append(r.partial, text...)
			return
		}
		r.partial = append(r.partial, text[:room]...)
		text = text[room:]
		cut := runeEnd(r.partial)
		tail := bytes.Clone(r.partial[cut:])
		r.partial = r.partial[:cut]
		r.flush()
		r.partial = append(r.partial, tail...)
	}
}

// runeEnd is the length of b without a character that is cut off at its end.
func runeEnd(b []byte) int {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) && i > 0 {
				return i
			}
			break
		}
	}
	return len(b)
}

// flush ends the last line.
func (r *Ring) flush() {
	line := string(bytes.ToValidUTF8(bytes.TrimSuffix(r.partial, []byte{'\r'}), []byte("\uFFFD")))
	r.partial = r.partial[:0]
	if len(r.lines) < r.limit {
		r.lines = append(r.lines, line)
	} else {
		r.lines[r.count%r.limit] = line
	}
	r.count++
}

func (r *Ring) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Close ends the stream: a last line without its end is kept, and followers
// return after it. Later writes are kept, too, but nobody is told.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if len(r.partial) > 0 {
		r.flush()
	}
	r.closed = true
	r.wake()
}

// Lines returns what the ring holds, oldest first.
func (r *Ring) Lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines, _ := r.from(0)
	return lines
}

// from returns the lines since number next, and how many of them are lost.
func (r *Ring) from(next int) (lines []string, lost int) {
	first := r.count - len(r.lines)
	if next < first {
		lost, next = first-next, first
	}
	lines = make([]string, 0, r.count-next)
	for ; next < r.count; next++ {
		lines = append(lines, r.lines[next%r.limit])
	}
	return lines, lost
}

// Follow yields the lines of the ring and then each new one, until Close or
// until ctx is done. Lines that the reader was too slow for are counted in a
// line of their own.
func (r *Ring) Follow(ctx context.Context) iter.Seq[string] {
	return func(yield func(string) bool) {
		next, begun := 0, false
		for {
			r.mu.Lock()
			lines, lost := r.from(next)
			next = r.count
			ended := r.closed
			if r.changed == nil {
				r.changed = make(chan struct{})
			}
			changed := r.changed
			r.mu.Unlock()
			if begun && lost > 0 && !yield(fmt.Sprintf("[%d lines lost: the reader was too slow]", lost)) {
				return
			}
			begun = true
			for _, line := range lines {
				if ctx.Err() != nil || !yield(line) {
					return
				}
			}
			if ended {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}
