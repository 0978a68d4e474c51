package sched_test

import (
	"fmt"
	"testing"
)

// seeds is how many traces are drawn.
const seeds = 3

func TestTheFirstTokenComesSooner(t *testing.T) {
	for _, c := range []struct {
		name                 string
		room, models, shared int
		perSec               float64
		ofRoundRobin         float64
		ofLeastLoaded        float64
	}{
		{"one model, light load", 1, 1, 0, 0.5, 0.7, 0.85},
		{"one model", 1, 1, 0, 1.5, 0.7, 0.85},
		{"one model, heavy load", 1, 1, 0, 1.7, 0.7, 0.85},
		{"three models, room for two", 2, 3, 0, 1, 0.7, 0.85},
		{"five models, room for two", 2, 5, 0, 1, 0.7, 0.85},
		{"shared prefixes", 1, 1, 12, 1.5, 0.5, 0.85},
		{"many shared prefixes", 1, 1, 100, 1.5, 0.5, 0.85},
		{"shared prefixes of two models", 2, 2, 12, 1.5, 0.5, 0.85},
	} {
		t.Run(c.name, func(t *testing.T) {
			var rr, ll, ours float64
			said := ""
			for seed := range uint64(seeds) {
				run := func(policy func(*sim, *job) bool) float64 {
					s := &sim{machines: colony(c.room), models: c.models, policy: policy}
					mean := s.run(trace(seed, 500, c.models, c.shared, c.perSec))
					if seed == 0 {
						said += fmt.Sprintf("\n%.3f s:%s", mean, s)
					}
					return mean
				}
				rr, ll, ours = rr+run(roundRobin)/seeds, ll+run(leastLoaded)/seeds, ours+run(soonest)/seeds
			}
			t.Logf("%.3f s, round robin %.3f s (%.2f), least loaded %.3f s (%.2f)%s", ours, rr, ours/rr, ll, ours/ll, said)
			if ours > c.ofRoundRobin*rr || ours > c.ofLeastLoaded*ll {
				t.Errorf("want at most %.2f and %.2f", c.ofRoundRobin, c.ofLeastLoaded)
			}
		})
	}
}
