// Package threads decides how many threads compute. The threads of ggml wait
// for each other in a busy loop many times in a step; if one of them has no CPU
// of its own, all stand still until the system lets it run, and a step may take
// a hundred times as long. So there should never be more of them than CPUs that
// are free, and that changes while a model runs.
package threads

import (
	"math/bits"
	"time"
)

// Step is one computed batch.
type Step struct {
	Tokens int           // in the batch
	Rows   int           // of these, the ones that decode
	Time   time.Duration // that it took
	CPU    time.Duration // that the process had the CPU meanwhile, 0 if unknown
}

// Policy watches steps and says how many threads the next one should have.
// It is a function of what it sees: it reads no clock and no files but through
// Idle. The zero value is no policy; see NewPolicy.
type Policy struct {
	most int
	now  int
	idle func() float64 // CPUs that nobody uses, of late; negative if unknown

	best    map[shape]time.Duration // of each shape with most threads
	stalled int                     // steps of late that stood still
	trial   int                     // steps that the present number has yet to prove itself
	retryAt time.Time
	pause   time.Duration
}

// shape is a class of steps that take about the same time.
type shape struct{ threads, tokens, rows int }

const (
	stallFactor = 2.5  // a step that takes so many times the best of its shape stood still
	stallShare  = 0.85 // and so did one whose threads had the CPU for less than this part of the time
	stallsToAct = 2    // stalls, not far apart, that cost a thread

	firstPause = 500 * time.Millisecond // before a thread is tried again
	mostPause  = 2 * time.Second
	trialSteps = 3
	clearStall = 40 * time.Millisecond // a step shorter than this is too short to tell by its CPU time
)

// NewPolicy begins with most threads. Idle, which may be nil, says how many
// CPUs nobody used since it was last asked.
func NewPolicy(most int, idle func() float64) Policy {
	return Policy{most: most, now: most, idle: idle, best: map[shape]time.Duration{}, pause: firstPause}
}

// Next hears of a step and says how many threads the next one should have.
func (p *Policy) Next(s Step, now time.Time) int {
	if p.most <= 1 {
		return p.now
	}
	stood := p.stood(s)
	switch {
	case stood && p.now > 1:
		p.stalled += 2
		if p.trial > 0 || p.stalled >= 2*stallsToAct {
			p.drop(now)
		}
	case stood:
	case p.trial > 0:
		if p.trial--; p.trial == 0 {
			p.pause = firstPause
		}
	default:
		p.stalled = max(0, p.stalled-1)
	}
	if p.now < p.most && p.trial == 0 && !now.Before(p.retryAt) {
		p.retry(now)
	}
	return p.now
}

// stood says whether the step waited for a thread that had no CPU.
func (p *Policy) stood(s Step) bool {
	k := shape{p.now, class(s.Tokens), class(s.Rows)}
	best, known := p.best[k]
	expected, guessed := p.expect(k)
	starved := s.CPU > 0 && s.Time >= clearStall && s.CPU.Seconds() < stallShare*float64(p.now)*s.Time.Seconds()
	slow := guessed && s.Time.Seconds() > stallFactor*expected.Seconds()
	switch {
	case slow || starved:
		if known {
			// What is slow for ever is no stall: contexts grow, machines throttle.
			p.best[k] = best + best/50
		}
		return true
	case !known || s.Time < best:
		p.best[k] = s.Time
	default:
		p.best[k] = best + (s.Time-best)/50
	}
	return false
}

// expect is how long a step should take: as long as others of its shape, if
// none is known as long as with another number of threads would be fair.
func (p *Policy) expect(k shape) (expected time.Duration, known bool) {
	if best, ok := p.best[k]; ok {
		return best, true
	}
	for n := 1; n <= p.most; n++ {
		other := k
		other.threads = n
		if best, ok := p.best[other]; ok {
			fair := max(best, best*time.Duration(n)/time.Duration(k.threads))
			if !known || fair < expected {
				expected, known = fair, true
			}
		}
	}
	return expected, known
}

// class is a number for small numbers and a range of an eighth for larger ones.
func class(n int) int {
	shift := max(0, bits.Len(uint(n))-4)
	return n>>shift<<4 | shift
}

func (p *Policy) drop(now time.Time) {
	if p.trial > 0 {
		p.pause = min(2*p.pause, mostPause)
	}
	p.now--
	p.trial, p.stalled = 0, 0
	p.retryAt = now.Add(p.pause)
	if p.idle != nil {
		p.idle() // begins the time that the next answer is about
	}
}

// retry takes a thread more if there may be a CPU for it.
func (p *Policy) retry(now time.Time) {
	if p.idle != nil {
		if free := p.idle(); free >= 0 && free < freeCPU {
			p.retryAt = now.Add(p.pause)
			return
		}
	}
	p.now++
	p.trial, p.stalled = trialSteps, 0
	p.retryAt = now.Add(p.pause)
}

// freeCPU is how much of a CPU has to be unused for one more thread to be tried.
const freeCPU = 0.7
