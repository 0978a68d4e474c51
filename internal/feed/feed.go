// Package feed spreads changes to many readers: each gets a snapshot, then
// every change after it, with no gap and no duplicate in between. A reader that
// falls behind is cut off and comes again for a new snapshot; it never slows
// the publisher or other readers, and nothing is dropped in silence.
//
// It keeps no history and knows nothing of what the changes mean.
package feed

import (
	"context"
	"errors"
	"iter"
	"sync"
)

// ErrSlow ends the tail of a reader that fell more than the feed's buffer behind.
var ErrSlow = errors.New("the reader is too slow for the feed")

// Feed spreads changes of type E to a state of which S is a snapshot. It is
// safe for concurrent use.
type Feed[S, E any] struct {
	buffer   int
	snapshot func() S

	mu      sync.Mutex
	readers map[*reader[E]]struct{}
	closed  bool
}

// reader is one subscription. Its channel is closed by the feed only, under
// the lock; err is written before that and read after.
type reader[E any] struct {
	events chan E
	err    error
}

// New makes a feed whose readers may fall behind by buffer changes. The
// snapshot function runs under the feed's lock: it must not call the feed, nor
// take a lock that is held while the feed is called.
func New[S, E any](buffer int, snapshot func() S) *Feed[S, E] {
	return &Feed[S, E]{buffer: max(buffer, 1), snapshot: snapshot, readers: map[*reader[E]]struct{}{}}
}

// Publish tells a change that the snapshot already shows, or that it never
// shows. Where a reader must not see a change twice, make it inside Change.
func (f *Feed[S, E]) Publish(e E) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.send(e)
}

// Change runs a change of the state under the feed's lock and spreads what the
// function publishes, so that each reader has the change either in its snapshot
// or in its tail. The function is under the same rules as the snapshot function.
func (f *Feed[S, E]) Change(change func(publish func(E))) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.send)
}

// send gives e to all readers and cuts off those without room. f.mu is held.
func (f *Feed[S, E]) send(e E) {
	for r := range f.readers {
		select {
		case r.events <- e:
		default:
			f.end(r, ErrSlow)
		}
	}
}

// end ends a reader's tail, once; what is in its buffer it still gets. f.mu is held.
func (f *Feed[S, E]) end(r *reader[E], err error) {
	if _, ok := f.readers[r]; !ok {
		return
	}
	delete(f.readers, r)
	r.err = err
	close(r.events)
}

// Subscribe returns a snapshot and the changes after it. The tail is for one
// loop; it blocks until a change comes, and ends with the cause of ctx, with
// ErrSlow, or without an error when the feed is closed. The subscription lives
// until the loop or ctx ends, whichever is first.
func (f *Feed[S, E]) Subscribe(ctx context.Context) (S, iter.Seq2[E, error]) {
	r := &reader[E]{events: make(chan E, f.buffer)}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.snapshot()
	f.readers[r] = struct{}{}
	if f.closed {
		f.end(r, nil)
	}
	// Also without a loop a reader that left must not stay in the set.
	stop := context.AfterFunc(ctx, func() { f.drop(r, context.Cause(ctx)) })
	return s, func(yield func(E, error) bool) {
		defer f.drop(r, nil)
		defer stop()
		for e := range r.events {
			if ctx.Err() != nil {
				break
			}
			if !yield(e, nil) {
				return
			}
		}
		f.mu.Lock()
		err := r.err
		f.mu.Unlock()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			var zero E
			yield(zero, err)
		}
	}
}

func (f *Feed[S, E]) drop(r *reader[E], err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(r, err)
}

// Close ends all tails, after the changes that are in their buffers. Later
// readers get a snapshot and an empty tail; later changes reach nobody.
func (f *Feed[S, E]) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for r := range f.readers {
		f.end(r, nil)
	}
}
