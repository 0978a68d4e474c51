// Package crashes holds a model back whose workers fail one after another: each
// failure more makes the pause longer before the next worker of it may start.
//
// It counts what it is told, by the clock that it is told, and must not know
// what a worker is nor start one.
package crashes

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"rbee"
)

const (
	// Tolerated is how many failures in a row have no pause after them but the last.
	Tolerated = 3
	// Stable is how long a worker serves until its failure is no longer one in a row.
	Stable = time.Minute
	// Memory is how long after a failure the next one is still in a row with it.
	Memory = 10 * time.Minute

	firstPause = time.Second
	maxPause   = 5 * time.Minute
)

// Log is the failures of models. The zero value is empty and ready; it is safe
// for concurrent use.
type Log struct {
	mu      sync.Mutex
	byModel map[rbee.ModelRef]*row
}

type row struct {
	failures int
	at       time.Time // of the last one
	last     *rbee.Error
}

// pause is how long no worker starts after the last failure.
func (r *row) pause() time.Duration {
	if r.failures < Tolerated {
		return 0
	}
	return min(maxPause, firstPause<<min(r.failures-Tolerated, 20))
}

// Failed counts the failure of a worker that had been ready for so long, zero
// if it never was.
func (l *Log) Failed(ref rbee.ModelRef, served time.Duration, why *rbee.Error, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byModel == nil {
		l.byModel = map[rbee.ModelRef]*row{}
	}
	r := l.byModel[ref]
	if r == nil || served >= Stable || at.Sub(r.at) > Memory {
		r = &row{}
		l.byModel[ref] = r
	}
	r.failures++
	r.at, r.last = at, why
}

// Succeeded forgets the failures of a model.
func (l *Log) Succeeded(ref rbee.ModelRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byModel, ref)
}

// Check says whether a model is held back at a time, and until when.
func (l *Log) Check(ref rbee.ModelRef, at time.Time) (loop rbee.CrashLoop, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.byModel[ref]
	if r == nil || !at.Before(r.at.Add(r.pause())) {
		return rbee.CrashLoop{}, false
	}
	return r.loop(ref, at), true
}

// loop is the row as it is at a time, whose clock also says when the pause ends:
// that of the last failure may have been set since.
func (r *row) loop(ref rbee.ModelRef, at time.Time) rbee.CrashLoop {
	return rbee.CrashLoop{ModelRef: ref, Failures: r.failures, RetryAt: at.Add(r.pause() - at.Sub(r.at)), Last: r.last}
}

// List is the models that failed too often not long ago; never nil.
func (l *Log) List(at time.Time) []rbee.CrashLoop {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []rbee.CrashLoop{}
	for ref, r := range l.byModel {
		if r.failures >= Tolerated && at.Sub(r.at) <= Memory {
			list = append(list, r.loop(ref, at))
		}
	}
	slices.SortFunc(list, func(a, b rbee.CrashLoop) int { return cmp.Compare(a.ModelRef.String(), b.ModelRef.String()) })
	return list
}
