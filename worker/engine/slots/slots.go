// Package slots hands out an engine's slots and KV cells, first come, first
// served, with a bounded queue. It knows nothing of models.
package slots

import (
	"context"
	"errors"
	"sync"
)

// The reasons why Enter refuses.
var (
	ErrFull   = errors.New("no slot is free and the queue is full")
	ErrClosed = errors.New("the gate is closed")
)

// Gate is the door to a fixed number of slots that share KV cells.
type Gate struct {
	total, cells, queue int

	mu      sync.Mutex
	free    []int // slots, the last one is handed out next
	unused  int   // KV cells
	waiting []*waiter
	closed  bool
	entered uint64
}

type waiter struct {
	cells int
	slot  int           // set before ready is closed; -1 if the gate closed
	ready chan struct{} // closed by whoever takes the waiter off the list
}

// New makes a gate to so many slots, that share so many KV cells, with room
// for so many to wait.
func New(total, cells, queue int) *Gate {
	g := &Gate{total: total, cells: cells, queue: queue, unused: cells}
	for s := total - 1; s >= 0; s-- {
		g.free = append(g.free, s)
	}
	return g
}

// Enter blocks until a slot and so many KV cells are free and takes them, or
// until ctx ends. It returns ErrFull at once if it would have to wait and the
// queue is full, ErrClosed if the gate is or gets closed, or ctx's error.
func (g *Gate) Enter(ctx context.Context, cells int) (slot int, err error) {
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	w, slot, err := g.ask(cells)
	if w == nil {
		return slot, err
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		if !g.forget(w) {
			// The waiter got its slot, or the gate closed, at the same moment.
			if w.slot >= 0 {
				g.Leave(w.slot, cells)
			}
		}
		return -1, ctx.Err()
	}
	if w.slot < 0 {
		return -1, ErrClosed
	}
	return w.slot, nil
}

// ask takes a slot at once, or queues, or refuses.
func (g *Gate) ask(cells int) (*waiter, int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return nil, -1, ErrClosed
	case len(g.waiting) == 0 && g.fits(cells):
		return nil, g.take(cells), nil
	case len(g.waiting) >= g.queue:
		return nil, -1, ErrFull
	}
	w := &waiter{cells: cells, slot: -1, ready: make(chan struct{})}
	g.waiting = append(g.waiting, w)
	return w, -1, nil
}

func (g *Gate) fits(cells int) bool { return len(g.free) > 0 && cells <= g.unused }

func (g *Gate) take(cells int) int {
	slot := g.free[len(g.free)-1]
	g.free = g.free[:len(g.free)-1]
	g.unused -= cells
	g.entered++
	return slot
}

// forget takes a waiter off the list; false if it is no longer on it. One who
// gives up may have been in the way of others that fit.
func (g *Gate) forget(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.waiting {
		if other == w {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			g.admit()
			return true
		}
	}
	return false
}

// admit lets waiters in as far as there is room, in their order.
func (g *Gate) admit() {
	for len(g.waiting) > 0 && g.fits(g.waiting[0].cells) {
		w := g.waiting[0]
		g.waiting = g.waiting[1:]
		w.slot = g.take(w.cells)
		close(w.ready)
	}
}

// Leave gives back a slot and the KV cells that came with it.
func (g *Gate) Leave(slot, cells int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free = append(g.free, slot)
	g.unused += cells
	g.admit()
}

// Close refuses all who wait and all who come. Those inside still leave.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, w := range g.waiting {
		close(w.ready)
	}
	g.waiting = nil
}

// Counts are figures of one moment.
type Counts struct {
	Busy, Queued, CellsUsed int
	Entered                 uint64 // since New
}

// Counts tells how full it is.
func (g *Gate) Counts() Counts {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Counts{
		Busy: g.total - len(g.free), Queued: len(g.waiting),
		CellsUsed: g.cells - g.unused, Entered: g.entered,
	}
}
