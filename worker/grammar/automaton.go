package grammar

import (
	"encoding/binary"
	"sync"
)

// Bounds of what a grammar may cost at run time. Beyond the first three a
// matcher allows less than the grammar, never more.
const (
	maxDepth  = 2000    // rules inside one another
	maxVisits = 1 << 14 // steps looked at for one byte
	maxEffort = 1 << 18 // steps looked at for one mask
	maxMemory = 32 << 20
)

// frame is a rule that a place is in: where it goes on after it, and the frame
// around it. Equal frames are the same frame.
type frame struct {
	back   int32
	depth  int32
	around *frame
	number int32
}

type frameKey struct {
	back   int32
	around *frame
}

// place is where a text may stand: before the character of a step, or inside
// of one, before byte span inside.
type place struct {
	at     int32
	inside int32 // -1 before a character
	frame  *frame
}

// state is all places where a text may stand.
type state struct {
	places     []place
	ends       bool     // the text may end here
	next       []*state // by class of byte, nil if it was not looked at yet
	mask       []uint64 // a bit per token that may come next, nil if it was not looked at yet
	generation int
}

// automaton keeps the states of a program that came up. Where they take too
// much memory it forgets all of them, and a matcher brings its own back.
type automaton struct {
	program    *program
	vocabulary *Vocabulary
	dead       *state // no place is left
	start      *state

	mu         sync.Mutex
	generation int
	states     map[string]*state
	frames     map[frameKey]*frame
	memory     int
	visits     int
	cut        bool // a state has less than all places

	// Of the state that is being made:
	seen   map[place]struct{}
	places []place
	ends   bool
	work   []place
	key    []byte
	path   []*state
}

func newAutomaton(p *program, v *Vocabulary) *automaton {
	a := &automaton{
		program: p, vocabulary: v, dead: &state{},
		states: map[string]*state{}, frames: map[frameKey]*frame{}, seen: map[place]struct{}{},
	}
	a.dead.mask = make([]uint64, v.words())
	a.reach(p.start[0], nil)
	a.start = a.made()
	return a
}

// visit notes a place and says whether it is new, and still within bounds.
func (a *automaton) visit(p place) bool {
	if _, ok := a.seen[p]; ok {
		return false
	}
	if len(a.seen) >= maxVisits {
		a.cut = true
		return false
	}
	a.seen[p] = struct{}{}
	a.visits++
	return true
}

// reach adds what can be reached from a step without a character.
func (a *automaton) reach(at int32, f *frame) {
	a.work = append(a.work[:0], place{at, -1, f})
	for len(a.work) > 0 {
		p := a.work[len(a.work)-1]
		a.work = a.work[:len(a.work)-1]
		if !a.visit(p) {
			continue
		}
		switch s := a.program.steps[p.at]; s.op {
		case opSet:
			a.places = append(a.places, p)
		case opSplit:
			// The way out of a repetition is looked at first, so that it is within bounds.
			a.work = append(a.work, place{s.x, -1, p.frame}, place{s.y, -1, p.frame})
		case opJump:
			a.work = append(a.work, place{s.x, -1, p.frame})
		case opCall:
			if inner, ok := a.enter(p.at+1, p.frame); ok {
				a.work = append(a.work, place{a.program.start[s.x], -1, inner})
			}
		case opEnd:
			if p.frame == nil {
				a.ends = true
			} else {
				a.work = append(a.work, place{p.frame.back, -1, p.frame.around})
			}
		}
	}
}

// enter is the frame of a call. One that is the last thing of its rule needs
// none, so that a list written as a recursion does not pile up frames.
func (a *automaton) enter(back int32, around *frame) (*frame, bool) {
	for a.program.steps[back].op == opJump {
		back = a.program.steps[back].x
	}
	if a.program.steps[back].op == opEnd {
		return around, true
	}
	return a.frame(back, around)
}

func (a *automaton) frame(back int32, around *frame) (*frame, bool) {
	key := frameKey{back, around}
	if f := a.frames[key]; f != nil {
		return f, true
	}
	f := &frame{back: back, depth: 1, around: around, number: int32(len(a.frames) + 1)}
	if around != nil {
		f.depth += around.depth
	}
	if f.depth > maxDepth {
		return nil, false
	}
	a.frames[key] = f
	a.memory += 100
	return f, true
}

// made is the state of the places that were added.
func (a *automaton) made() *state {
	places, ends := a.places, a.ends
	a.places, a.ends = a.places[:0], false
	if len(a.seen) > 1000 { // clearing it would stay slow
		a.seen = map[place]struct{}{}
	} else {
		clear(a.seen)
	}
	if len(places) == 0 && !ends {
		return a.dead
	}
	a.key = a.key[:0]
	for _, p := range places {
		number := int32(0)
		if p.frame != nil {
			number = p.frame.number
		}
		a.key = binary.LittleEndian.AppendUint32(a.key, uint32(p.at))
		a.key = binary.LittleEndian.AppendUint32(a.key, uint32(p.inside))
		a.key = binary.LittleEndian.AppendUint32(a.key, uint32(number))
	}
	if ends {
		a.key = append(a.key, 1)
	}
	if s := a.states[string(a.key)]; s != nil {
		return s
	}
	s := &state{
		places: append([]place(nil), places...), ends: ends,
		next: make([]*state, len(a.program.some)), generation: a.generation,
	}
	a.states[string(a.key)] = s
	a.memory += 200 + len(a.key) + 16*len(places) + 8*len(s.next)
	return s
}

// current is the state with its links, also if they were forgotten.
func (a *automaton) current(s *state) *state {
	if a.memory > maxMemory {
		for _, old := range a.states {
			old.next, old.mask = nil, nil
		}
		a.states, a.frames = map[string]*state{}, map[frameKey]*frame{}
		a.memory = 0
		a.generation++
	}
	if s == a.dead || s.generation == a.generation {
		return s
	}
	for _, p := range s.places {
		p.frame = a.renew(p.frame)
		a.places = append(a.places, p)
	}
	a.ends = s.ends
	return a.made()
}

func (a *automaton) renew(f *frame) *frame {
	if f == nil {
		return nil
	}
	f, _ = a.frame(f.back, a.renew(f.around)) // it is not deeper than it was
	return f
}

// after is the state after a byte; s must be current.
func (a *automaton) after(s *state, b byte) *state {
	if s == a.dead {
		return s
	}
	class := a.program.class[b]
	if n := s.next[class]; n != nil {
		return n
	}
	a.visits += len(s.places) / 32 // looking at one is that much cheaper
	for _, p := range s.places {
		if p.inside >= 0 {
			a.pass(p, p.inside, b)
			continue
		}
		for _, inside := range a.program.sets[a.program.steps[p.at].x] {
			a.pass(p, inside, b)
		}
	}
	n := a.made()
	s.next[class] = n
	return n
}

// pass goes on from a place if the byte is in the span.
func (a *automaton) pass(p place, inside int32, b byte) {
	span := a.program.bytes.spans[inside]
	switch {
	case b < span.low || b > span.high:
	case span.next < 0:
		a.reach(p.at+1, p.frame)
	case a.visit(place{p.at, span.next, p.frame}):
		a.places = append(a.places, place{p.at, span.next, p.frame})
	}
}

// walk is the state after several bytes.
func (a *automaton) walk(s *state, text []byte) *state {
	for _, b := range text {
		s = a.after(a.current(s), b)
		if s == a.dead {
			break
		}
	}
	return s
}

// maskOf are the tokens that may come next.
func (a *automaton) maskOf(s *state) []uint64 {
	s = a.current(s)
	if s.mask != nil {
		return s.mask
	}
	v := a.vocabulary
	mask := make([]uint64, v.words())
	if s.ends {
		copy(mask, v.ends)
	}
	if len(a.path) <= v.longest {
		a.path = make([]*state, v.longest+1)
	}
	a.path[0] = s
	limit := a.visits + maxEffort
	for i := int32(0); i < int32(len(v.nodes)) && a.visits < limit; {
		n := &v.nodes[i]
		from := a.current(a.path[n.depth-1])
		a.path[n.depth-1] = from
		to := a.after(from, n.byte)
		if to == a.dead {
			i = n.skip
			continue
		}
		a.path[n.depth] = to
		for _, t := range v.order[v.tokensBefore(i):n.tokens] {
			mask[t>>6] |= 1 << (t & 63)
		}
		i++
	}
	clear(a.path)
	s = a.current(s)
	s.mask = mask
	a.memory += 8 * len(mask)
	return mask
}
