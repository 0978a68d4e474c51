package supervise

import (
	"sync"
	"syscall"
	"time"
)

// oomWindow is how long before the end of a process the kernel must have ended
// one for memory, at least, that it is taken for the same.
const oomWindow = 10 * time.Second

// oomWatch remembers how many processes the kernel had ended for memory some
// time ago: a kill of last week says nothing about a process that ends now.
type oomWatch struct {
	mu             sync.Mutex
	before, latest uint64 // counted at the last two looks
}

// look counts. It is called once in oomWindow, and twice to begin with.
func (w *oomWatch) look() {
	now := oomKills()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before, w.latest = w.latest, now
}

// judge says what ended a process whose exit status is known.
func (w *oomWatch) judge(p *Process) OOM {
	w.mu.Lock()
	before := w.before
	w.mu.Unlock()
	if p.exit.Signal != syscall.SIGKILL.String() {
		return NotOOM
	}
	return blame(p.killed, p.cell.oomKills(), oomKills() > max(before, p.ooms))
}

// blame says why a process got a SIGKILL: from us or not, with so many
// processes of its own control group ended for memory, and any at all lately.
func blame(ours bool, ofTheGroup int, anywhere bool) OOM {
	switch {
	case ofTheGroup > 0:
		return KilledOOM
	case anywhere && !ours:
		return LikelyOOM
	}
	return NotOOM
}
