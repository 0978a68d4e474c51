package llamacpp

import (
	"slices"
	"time"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

// reserve is how many tokens of its answer a request must have room for, beside
// its prompt, to get a slot. The rest it takes as it comes.
const reserve = 64

// worthWaiting is how many tokens of a prompt must be about to be computed for
// another request to make it worth while to wait for them.
const worthWaiting = 32

// line is where requests wait. Its fields are guarded by the engine's mutex.
type line struct {
	waiting []*sequence // in the order of arrival, those put back included
	inside  int         // requests that wait or have a slot
	next    uint64
	closed  bool
	held    time.Duration // for which a request has a slot, of late
}

// enter puts a request in line, or refuses it.
func (e *Engine) enter(seq *sequence) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := &e.line
	if l.closed {
		return engine.ErrClosed()
	}
	if l.inside >= e.info.Slots+e.queue {
		return engine.ErrBusy(e.info.Slots, min(l.inside, e.info.Slots), e.wait())
	}
	l.inside++
	l.next++
	seq.number = l.next
	l.waiting = append(l.waiting, seq)
	e.nudge()
	return nil
}

// wait estimates when one more request could come in: as long as those before
// it need at the pace of those that ended.
func (e *Engine) wait() time.Duration {
	ahead := len(e.line.waiting) + 1
	return e.line.held * time.Duration(ahead) / time.Duration(e.info.Slots)
}

// forget takes a sequence out of the line; false if it has a slot, or ended.
func (e *Engine) forget(seq *sequence) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.Index(e.line.waiting, seq)
	if i < 0 {
		return false
	}
	e.line.waiting = slices.Delete(e.line.waiting, i, i+1)
	e.line.inside--
	if i == 0 {
		e.nudge() // it may have been in the way of one that fits
	}
	return true
}

// admit gives slots to those who wait, in their order, as long as they fit.
func (e *Engine) admit() {
	for len(e.spareSlots) > 0 {
		e.mu.Lock()
		var seq *sequence
		if len(e.line.waiting) > 0 && e.fits(e.line.waiting[0]) {
			seq = e.line.waiting[0]
			e.line.waiting = slices.Delete(e.line.waiting, 0, 1)
		}
		e.mu.Unlock()
		if seq == nil {
			return
		}
		e.place(seq)
	}
}

// fits says whether there are KV cells for a sequence beside what those with
// slots are still going to compute of their prompts.
func (e *Engine) fits(seq *sequence) bool {
	promised := 0
	for _, other := range e.active {
		promised += max(0, other.rest()-other.shared)
	}
	tokens := seq.tokens
	leader, shared := e.leaderFor(seq)
	if leader != nil {
		// It will share what the leader is going to compute.
		promised -= shared - e.book.Reusable(tokens, seq.mix.kind())
	}
	return e.book.Fits(tokens, seq.mix.kind(), min(reserve, seq.limit-seq.made()), promised)
}

// leaderFor finds who is about to compute a beginning of the sequence's tokens
// that nothing in the KV cache has yet, and how long it is.
func (e *Engine) leaderFor(seq *sequence) (leader *sequence, shared int) {
	if e.noReuse || e.whole {
		return nil, 0
	}
	most := seq.tokens[:len(seq.tokens)-1]
	there := e.book.Reusable(seq.tokens, seq.mix.kind())
	for _, other := range e.active {
		if other.rest() <= 1 || other.leader != nil || other.mix != seq.mix {
			continue
		}
		if n := slots.Common(other.tokens, most); n > other.fed && n >= there+worthWaiting && n > shared {
			leader, shared = other, n
		}
	}
	return leader, shared
}

// place gives a sequence a slot and what it can reuse.
func (e *Engine) place(seq *sequence) {
	seq.slot = e.spareSlots[len(e.spareSlots)-1]
	e.spareSlots = e.spareSlots[:len(e.spareSlots)-1]
	fresh := seq.began.IsZero()
	if fresh {
		seq.began = time.Now()
		e.count.Requests++
		e.equip(seq)
	}
	seq.leader, seq.shared = e.leaderFor(seq)
	seq.held = e.book.Start(seq.tokens, seq.mix.kind())
	if seq.leader == nil || seq.held.Len() > 0 {
		e.reuse(seq)
	}
	e.active = append(e.active, seq)
	if len(e.active) == 1 { // else others would have to wait: see gather
		e.book.Keep(e.keepable())
	}
}

// reuse takes what the KV cache has of the sequence's tokens.
func (e *Engine) reuse(seq *sequence) {
	seq.leader, seq.shared = nil, 0
	if !e.noReuse {
		seq.fed = e.book.Reuse(seq.held, seq.tokens)
	}
	seq.setID()
	seq.short = seq.rest() <= shortPrompt
	n := min(seq.fed, seq.prompt)
	if n > 0 && seq.made() == 0 {
		seq.result.CachedTokens = n
		e.count.CachedTokens += uint64(n)
		e.count.CacheHits++
	}
}

// follow lets go of the leader once it computed what was waited for, or can't any more.
func (e *Engine) follow(seq *sequence) {
	leader := seq.leader
	if leader == nil || leader.held != nil && leader.held.Len() < seq.shared {
		return
	}
	if leader.held == nil {
		if seq.leader, seq.shared = e.leaderFor(seq); seq.leader != nil {
			return
		}
	}
	e.reuse(seq)
}

// putBack takes slot and cells from a sequence that goes on later, where it was.
func (e *Engine) putBack(seq *sequence) {
	e.leave(seq, true)
	e.count.PutBacks++
	e.mu.Lock()
	defer e.mu.Unlock()
	at, _ := slices.BinarySearchFunc(e.line.waiting, seq, func(a, b *sequence) int {
		return int(int64(a.number) - int64(b.number))
	})
	e.line.waiting = slices.Insert(e.line.waiting, at, seq)
}

// leave takes a sequence off the active ones. What it computed is kept, unless
// nobody knows what that is.
func (e *Engine) leave(seq *sequence, known bool) {
	e.active = slices.DeleteFunc(e.active, func(s *sequence) bool { return s == seq })
	e.spareSlots = append(e.spareSlots, seq.slot)
	if known && !e.noReuse {
		e.book.Finish(seq.held)
	} else {
		e.book.Drop(seq.held)
	}
	seq.held, seq.leader, seq.shared, seq.fed = nil, nil, 0, 0
	if len(e.active) == 0 && e.noReuse {
		e.forgetCells()
	}
}

// keepable is how many KV cells may hold what nobody runs. Every row of a batch
// passes over each of them, so they cost time, and in main memory they cost none.
func (e *Engine) keepable() int {
	decode := e.pace.decode.Seconds() / float64(max(1, e.pace.rows))
	if decode == 0 || e.keepsAll {
		return e.info.KVTokens
	}
	return int(min(mostOverhead*decode/e.cellTime*float64(e.pace.threads), float64(e.info.KVTokens)))
}

const (
	mostOverhead = 0.01   // of a step's time
	headTime     = 2.5e-9 // seconds in which a CPU passes over a cell for one head of one layer, about
	deviceTime   = 1e-10  // the same for other devices
)

// end lets go of a sequence: of its KV cells, its slot, and last its reader.
func (e *Engine) end(seq *sequence, reason rbee.StopReason, err error) {
	if seq.held != nil {
		e.leave(seq, err == nil && !seq.lost)
	}
	e.spareSampler(seq)
	e.mu.Lock()
	e.line.inside--
	if !seq.first.IsZero() {
		took := time.Since(seq.began)
		if e.line.held == 0 {
			e.line.held = took
		}
		e.line.held += (took - e.line.held) / 8
	}
	e.mu.Unlock()
	e.publish()
	seq.finished(reason, err)
}

// close ends the line: nobody comes in any more, and those who wait are the loop's to end.
func (e *Engine) closeLine() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.line.closed = true
}

// takeLine empties the line.
func (e *Engine) takeLine() []*sequence {
	e.mu.Lock()
	defer e.mu.Unlock()
	waiting := e.line.waiting
	e.line.waiting = nil
	return waiting
}

// takeQuitters takes those off the line whose readers left while they had a
// slot: the readers wait for the loop.
func (e *Engine) takeQuitters() (quitters []*sequence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.line.waiting = slices.DeleteFunc(e.line.waiting, func(seq *sequence) bool {
		if seq.quit.Load() {
			quitters = append(quitters, seq)
			return true
		}
		return false
	})
	return quitters
}
