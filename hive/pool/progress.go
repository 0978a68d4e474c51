package pool

import (
	"time"

	"rbee"
)

// Progress says how far a worker that loads has come, from 0 to 1, and how long
// ago its process was started; 0 for a worker that has none.
func (p *Pool) Progress(id rbee.WorkerID) (fraction float64, since time.Duration) {
	l := p.life(id)
	if l == nil {
		return 0, 0
	}
	l.ask(func() {
		if n := l.progress.LayersTotal; n > 0 {
			fraction = float64(l.progress.LayersLoaded) / float64(n)
		}
		if !l.launched.IsZero() {
			since = l.pool.cfg.Now().Sub(l.launched)
		}
	})
	return fraction, since
}
