package download

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// scheduleAgain is after what part of a pause the schedule is asked anew: it goes by
// the clock on the wall, which may be set, and goes on while a machine sleeps.
const scheduleAgain = 10 * time.Second

// Schedule says how many bytes per second may arrive now, and until when that
// holds at least. Negative is no limit, 0 is a pause.
type Schedule func(now time.Time) (perSecond float64, until time.Time)

// Always is a schedule with one limit; 0 is none.
func Always(perSecond float64) Schedule {
	if perSecond <= 0 {
		perSecond = -1
	}
	return func(now time.Time) (float64, time.Time) { return perSecond, now.Add(time.Hour) }
}

// Limit bounds the bytes per second of all downloads that share it. The nil
// Limit bounds nothing. It is safe for concurrent use.
type Limit struct {
	schedule Schedule
	bucket   *rate.Limiter
}

// NewLimit makes a limit.
func NewLimit(s Schedule) *Limit {
	// A bucket must hold a whole buffer, or nothing would ever fit.
	return &Limit{schedule: s, bucket: rate.NewLimiter(rate.Inf, bufferBytes)}
}

// wait blocks until n bytes, at most a buffer, may have arrived, or ctx ends.
func (l *Limit) wait(ctx context.Context, n int) error {
	if l == nil {
		return nil
	}
	for {
		now := time.Now()
		perSecond, until := l.schedule(now)
		switch {
		case perSecond < 0:
			return nil
		case perSecond > 0:
			if want := rate.Limit(perSecond); l.bucket.Limit() != want {
				l.bucket.SetLimit(want)
			}
			return l.bucket.WaitN(ctx, n)
		}
		timer := time.NewTimer(min(max(until.Sub(now), time.Second), scheduleAgain))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
