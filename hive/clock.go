package hive

import (
	"context"
	"sync"
	"time"

	"rbee"
)

// clockSlack is how much a clock may gain or lose between two looks and be called
// right: the system keeps it so by small steps.
const clockSlack = 5 * time.Second

// clock is the time of this machine. The clock on the wall may be set at any
// moment, and goes on while the machine sleeps; how long something takes is
// told by the monotonic reading that a time has as long as it stays in this
// process. So only what people or files say goes by the wall.
type clock struct {
	read  func() time.Time // time.Now
	began time.Time

	mu   sync.Mutex
	last time.Time // of the last look
	jump *rbee.ClockJump
}

func newClock() *clock {
	now := time.Now()
	return &clock{read: time.Now, began: now, last: now}
}

func (c *clock) now() time.Time { return c.read() }

// steady is the time by the wall if nobody had set that since the hive began.
func (c *clock) steady() time.Time { return c.began.Add(c.now().Sub(c.began)) }

// look says how far the wall has moved from the time that passed since the last
// look; 0 for next to nothing.
func (c *clock) look() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	by := now.Round(0).Sub(c.last.Round(0)) - now.Sub(c.last)
	c.last = now
	if by.Abs() < clockSlack {
		return 0
	}
	c.jump = &rbee.ClockJump{At: now, BySeconds: by.Round(time.Second).Seconds()}
	return by
}

// jumped is the last jump; nil for none.
func (c *clock) jumped() *rbee.ClockJump {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jump
}

// attendClock tells of a jump of the clock, once.
func (h *Hive) attendClock(ctx context.Context) {
	by := h.clock.look()
	if by == 0 {
		return
	}
	reason := "it was set, or the machine slept"
	if by < 0 {
		reason = "it was set back"
	}
	h.log.WarnContext(ctx, "the clock of this machine jumped", "by", by.Round(time.Second).String(), "reason", reason)
}
