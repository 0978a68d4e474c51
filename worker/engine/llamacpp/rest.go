package llamacpp

import (
	"slices"

	"rbee"
	"rbee/worker/engine"
)

// Rest implements engine.Engine.
func (e *Engine) Rest() error {
	answer := make(chan error, 1)
	e.mu.Lock()
	if e.line.closed {
		e.mu.Unlock()
		return engine.ErrClosed()
	}
	e.rests = append(e.rests, answer)
	e.mu.Unlock()
	e.nudge()
	return <-answer
}

// settle gives the contexts back for those who ask for a rest, and makes the one
// that requests need if one waits.
func (e *Engine) settle() {
	e.mu.Lock()
	asked, requests := e.rests, e.line.inside+len(e.embeds.waiting)
	e.rests = nil
	e.mu.Unlock()
	for _, answer := range asked {
		if requests > 0 {
			answer <- engine.ErrRunning(requests)
			continue
		}
		e.rest()
		answer <- nil
	}
	for e.resting && e.waited() {
		if err := e.wakeUp(); err != nil {
			e.refuseFirst(err)
		}
	}
}

// waited says whether a request waits for a slot.
func (e *Engine) waited() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.line.waiting) > 0
}

// refuseFirst ends the request that waits for the longest time, if it still does.
func (e *Engine) refuseFirst(err error) {
	e.mu.Lock()
	var first *sequence
	if len(e.line.waiting) > 0 {
		first = e.line.waiting[0]
		e.line.waiting = slices.Delete(e.line.waiting, 0, 1)
	}
	e.mu.Unlock()
	if first != nil {
		e.end(first, "", err)
	}
}

// rest gives the contexts back. What is kept for later prompts goes to main memory,
// as far as that has room for it.
func (e *Engine) rest() {
	e.resting = true
	e.book.Keep(0)
	e.book.Clear()
	e.freeContext()
	e.freeEmbeds()
	e.publish()
}

// wakeUp makes the context anew. The loads of a process share the log that says
// why it failed.
func (e *Engine) wakeUp() error {
	e.lib.loading.Lock()
	defer e.lib.loading.Unlock()
	e.lib.log.begin(e.options.Logger)
	if err := e.makeContext(); err != nil {
		e.freeContext()
		return rbee.AsError(err).Suggest("try again when other programs need less memory")
	}
	e.resting = false
	return nil
}

// endRests answers those whom the loop did not come to.
func (e *Engine) endRests() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, answer := range e.rests {
		answer <- engine.ErrClosed()
	}
	e.rests = nil
}
