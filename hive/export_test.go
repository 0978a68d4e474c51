package hive

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// WeighNothing has workers keep their estimates: what a fake engine takes says
// nothing of the model.
func (h *Hive) WeighNothing() {
	h.host.weigh = func(int, string) (own, mapped int64, ok bool) { return 0, 0, false }
}

// Remembers is of how many workers the hive keeps what requests did there.
func (h *Hive) Remembers() int {
	h.traffic.mu.Lock()
	defer h.traffic.mu.Unlock()
	return len(h.traffic.workers)
}

// Clock has the hive read another clock, and compare it with the time that
// passes as often as said.
func (h *Hive) Clock(read func() time.Time, every time.Duration) {
	h.clock.read, h.standing.every = read, every
}

// Wall is the clock of a machine that a test may set, which no test may do to
// the machine's own.
type Wall struct{ ahead atomic.Int64 } // seconds

// Jump sets the clock.
func (w *Wall) Jump(by time.Duration) { w.ahead.Add(int64(by / time.Second)) }

// Now is what time.Now is on a machine whose clock was set: the date jumps and
// the monotonic reading does not. No function of package time makes such a
// time; in one that has both readings, bit 30 of the first word is a second of
// the date.
func (w *Wall) Now() time.Time {
	t := time.Now()
	*(*uint64)(unsafe.Pointer(&t)) += uint64(w.ahead.Load()) << 30 //nolint:gosec // as described
	return t
}
