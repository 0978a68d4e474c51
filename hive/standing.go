package hive

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/conf"
	"rbee/internal/httpapi"
)

// retryClosed is what a client is told to wait before it asks a closed hive again.
const retryClosed = 60 // seconds

// standingEvery is how often the settings are compared with the clock and the battery.
const standingEvery = 10 * time.Second

// standing is what the hive takes on: what it was ordered to, and what the
// settings allow now.
type standing struct {
	policy conf.Hive
	power  func() (battery, known bool)
	clock  *clock
	every  time.Duration // between two comparisons with the clock and the battery

	mu      sync.Mutex
	ordered rbee.HiveState
	inside  int           // requests that were taken and are not answered to the end
	changed chan struct{} // closed and renewed with each order, and when nobody is inside any more
}

func newStanding(policy conf.Hive, power func() (battery, known bool), c *clock) *standing {
	return &standing{policy: policy, power: power, clock: c, every: standingEvery, ordered: rbee.HiveOpen, changed: make(chan struct{})}
}

// stand says what a hive takes on. It is pure.
func stand(ordered rbee.HiveState, policy conf.Hive, now time.Time, battery bool) rbee.HiveStanding {
	switch {
	case ordered == rbee.HiveDraining:
		return rbee.HiveStanding{State: ordered, Cause: rbee.ByOperator, Reason: "it was told to drain"}
	case ordered == rbee.HiveCordoned:
		return rbee.HiveStanding{State: ordered, Cause: rbee.ByOperator, Reason: "it was told to start no workers"}
	case policy.Hours != "" && !policy.Hours.Contains(now):
		return rbee.HiveStanding{
			State: rbee.HiveCordoned, Cause: rbee.ByHours,
			Reason: fmt.Sprintf("workers start from %s only (hive.hours)", policy.Hours),
		}
	case battery && policy.OnBattery == "never":
		return rbee.HiveStanding{
			State: rbee.HiveCordoned, Cause: rbee.ByBattery, Reason: "the machine runs on battery (hive.on_battery)",
		}
	}
	return rbee.HiveStanding{State: rbee.HiveOpen}
}

// now is the state at this moment.
func (s *standing) now() rbee.HiveStanding {
	s.mu.Lock()
	ordered := s.ordered
	s.mu.Unlock()
	battery := false
	if s.policy.OnBattery == "never" {
		battery, _ = s.power()
	}
	return stand(ordered, s.policy, s.clock.now(), battery)
}

// order sets what an operator wants.
func (s *standing) order(to rbee.HiveState) rbee.HiveStanding {
	s.mu.Lock()
	s.ordered = to
	s.ring()
	s.mu.Unlock()
	return s.now()
}

// ring needs s.mu.
func (s *standing) ring() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// enter takes a request in, which leaves later. A hive that drains takes none.
func (s *standing) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ordered == rbee.HiveDraining {
		return closed(stand(s.ordered, s.policy, time.Time{}, false))
	}
	s.inside++
	return nil
}

func (s *standing) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inside--; s.inside == 0 && s.ordered == rbee.HiveDraining {
		s.ring()
	}
}

// state is what was ordered, how many requests are inside, and a channel that
// is closed when that changes.
func (s *standing) state() (ordered rbee.HiveState, inside int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ordered, s.inside, s.changed
}

// closed is the error of a hive that does not take what it is asked for.
func closed(s rbee.HiveStanding) error {
	what, try := "starts no workers", "use a worker that it has, or let it start some with 'rbee hive uncordon'"
	switch {
	case s.State == rbee.HiveDraining:
		what, try = "takes no requests", "ask another hive, or open it with 'rbee hive uncordon'"
	case s.Cause != rbee.ByOperator:
		try = "use a worker that it has, or ask again later"
	}
	err := rbee.Errorf(rbee.CodeWorkerNotReady, "the hive %s: %s", what, s.Reason).
		With("hive_state", s.State).With("cause", s.Cause).Suggest("%s", try)
	return httpapi.RetryAfter(err, retryClosed)
}

// attendStanding tells when what the hive takes on or the clock has changed, and ends the workers of
// one that drains, each as soon as no request that was taken needs it, until
// ctx ends.
func (h *Hive) attendStanding(ctx context.Context) {
	last := rbee.HiveStanding{State: rbee.HiveOpen}
	for ctx.Err() == nil {
		moved := h.pool.Changed()
		ordered, inside, changed := h.standing.state()
		h.attendClock(ctx)
		if now := h.standing.now(); now != last {
			last = now
			h.tellStanding(now)
		}
		var workers <-chan struct{} // nobody looks at them unless they are to end
		if ordered == rbee.HiveDraining {
			workers = moved
			for _, w := range h.pool.Workers() {
				if !w.External && (inside == 0 || !h.claims.has(w.ModelRef)) {
					h.pool.Retire(w.ID, inside == 0)
				}
			}
		}
		select {
		case <-workers:
		case <-changed:
		case <-time.After(h.standing.every): // the hours and the battery
		case <-ctx.Done():
		}
	}
}

func (h *Hive) tellStanding(s rbee.HiveStanding) {
	h.log.Info("what the hive takes on has changed", "state", string(s.State), "reason", s.Reason)
	h.pool.Feed().Publish(rbee.Event{Kind: rbee.EventHive, Time: h.clock.now(), Hive: &s})
}

// heldMemory is how the memory of each device is used.
func heldMemory(list []rbee.Device, hold rbee.Holding) []rbee.DeviceMemory {
	out := []rbee.DeviceMemory{}
	for _, d := range list {
		m := rbee.DeviceMemory{Device: d.ID, TotalBytes: d.MemoryTotal, FreeBytes: d.MemoryFree, LeaveBytes: hold.Leave[d.ID]}
		for _, w := range hold.Workers {
			m.PromisedBytes += w.Promised[d.ID]
			m.WorkersBytes += w.Memory[d.ID]
		}
		out = append(out, m)
	}
	return out
}

// loaded and ended keep the books of what workers do.
func (h *Hive) loaded(w rbee.Worker) {
	h.host.changed(w.Device)
	h.metrics.loaded(w)
	h.traffic.loaded(w)
}

func (h *Hive) ended(w rbee.Worker, cause pool.Cause) {
	h.host.gone(w)
	h.metrics.ended(w, cause)
	switch {
	case w.External || w.PID == 0:
	case w.State == rbee.WorkerFailed:
		served := time.Duration(0)
		if w.LoadMS > 0 {
			served = max(1, h.clock.now().Sub(w.StartedAt)-time.Duration(w.LoadMS)*time.Millisecond)
		}
		h.crashes.Failed(w.ModelRef, served, w.Failure, h.clock.now())
	case w.Requests > 0:
		h.crashes.Succeeded(w.ModelRef)
	}
}
