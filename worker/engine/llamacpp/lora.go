package llamacpp

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// Adapters belong to the context, and what is in the KV cache depends on how
// strongly they were applied. So a step computes sequences of one mix only, mixes
// take turns, and prompts reuse the cells of their own mix.

// mix is how strongly each adapter is applied to a request.
type mix struct {
	id     uint64 // 0 for the one of the options
	scales []float32
	turn   uint64 // when it last had one, in turns of all
	seen   uint64 // the last turn of all for which a sequence of it was ready
	stuck  uint64 // one more than the steps when it last found no KV cells
}

// kind tells the KV cells of a mix from those of others.
func (m *mix) kind() uint64 {
	if m == nil { // in tests without a model
		return 0
	}
	return m.id
}

// mixes are those that requests asked for.
type mixes struct {
	known map[string]*mix // guarded by the engine's mutex
	last  uint64          // the same
	plain mix             // of the options

	// The others belong to the loop.
	applied *mix      // that the context has
	current *mix      // whose turn it is
	since   time.Time // that turn began
	clock   uint64    // turns
}

const (
	// Another mix makes llama.cpp plan its graph anew, for about a millisecond or two.
	mixTurn = 20 * time.Millisecond

	// So many mixes are known before they are forgotten, with what was kept for them.
	mostMixes = 1024
)

// mixOf finds the mix with these scales, nil for those of the options.
func (e *Engine) mixOf(scales []float32) *mix {
	if scales == nil || slices.Equal(scales, e.scales) {
		return &e.mixes.plain
	}
	key := make([]byte, 0, 4*len(scales))
	for _, s := range scales {
		key = binary.LittleEndian.AppendUint32(key, math.Float32bits(s+0)) // -0 is 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.mixes.known[string(key)]
	if m == nil {
		if e.mixes.known == nil || len(e.mixes.known) >= mostMixes {
			e.mixes.known = map[string]*mix{}
		}
		e.mixes.last++ // never used again, so that what was kept for others isn't found
		m = &mix{id: e.mixes.last, scales: slices.Clone(scales)}
		e.mixes.known[string(key)] = m
	}
	return m
}

// takeTurns decides which mix the next step computes: of those that can go on the
// one that waits for the longest time, but not another one for each short step.
func (e *Engine) takeTurns() {
	if len(e.adapters) == 0 {
		return
	}
	t := &e.mixes
	var next *mix
	stay := false
	t.clock++
	for _, seq := range e.active {
		seq.waits = false
		if !seq.fills() || seq.decoding() && seq.blocked() {
			continue
		}
		m := seq.mix
		if m.seen+1 < t.clock {
			m.turn = t.clock // it comes in behind the others
		}
		m.seen = t.clock
		stay = stay || m == t.current && !e.isStuck(m)
		if next == nil || e.isStuck(next) && !e.isStuck(m) || e.isStuck(next) == e.isStuck(m) && m.turn < next.turn {
			next = m
		}
	}
	switch {
	case next == nil:
		return
	case stay && time.Since(t.since) < mixTurn:
		next = t.current
	case next != t.current:
		t.current, t.since = next, time.Now()
	}
	next.turn = t.clock
	for _, seq := range e.active {
		seq.waits = seq.mix != next
	}
}

// isStuck says whether a mix had a turn since the last step and found no KV cells.
func (e *Engine) isStuck(m *mix) bool { return m.stuck == e.count.Steps+1 }

// passTurn ends the turn of a mix that can't go on for want of KV cells. It is false
// if no other one can.
func (e *Engine) passTurn() bool {
	t := &e.mixes
	if t.current != nil {
		t.current.stuck = e.count.Steps + 1
	}
	return slices.ContainsFunc(e.active, func(seq *sequence) bool {
		return seq.waits && seq.mix.seen == t.clock && !e.isStuck(seq.mix)
	})
}

// othersWait says whether it would be the turn of others, too.
func (e *Engine) othersWait() bool {
	return slices.ContainsFunc(e.active, func(seq *sequence) bool { return seq.waits })
}

// waitingStreams is how many sequences would decode if it were their mix's turn.
func (e *Engine) waitingStreams() int {
	n := 0
	for _, seq := range e.active {
		if seq.waits && seq.rest() == 1 && seq.leader == nil {
			n++
		}
	}
	return n
}

// decode computes the batch, whose sequences have one mix.
func (e *Engine) decode() (code int32, err error) {
	t := &e.mixes
	if m := e.computed[0].mix; len(e.adapters) > 0 && m != t.applied {
		scales := m.scales
		if m == &t.plain {
			scales = e.scales
		}
		if code = llama.SetAdaptersLora(e.context, e.adapters, scales); code != 0 {
			return code, nil
		}
		t.applied = m
	}
	return llama.Decode(e.context, e.batch)
}
