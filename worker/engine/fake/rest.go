package fake

import "rbee/worker/engine"

// Rest implements engine.Engine.
func (e *Engine) Rest() error {
	if e.isClosed() {
		return engine.ErrClosed()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inside > 0 {
		return engine.ErrRunning(e.inside)
	}
	e.resting = true
	if e.prompts != nil {
		e.prompts.forget()
	}
	return nil
}

func (e *Engine) rests() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resting
}

// come counts a request, which ends a rest, until it goes.
func (e *Engine) come() (leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inside++
	e.resting = false
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.inside--
	}
}
