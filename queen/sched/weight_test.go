package sched_test

import (
	"fmt"
	"runtime"
	"testing"

	"rbee"
	"rbee/queen/sched"
)

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// Decisions are kept after the reports that they were made of.
func TestADecisionHoldsAboutWhatItSays(t *testing.T) {
	const kept = 4
	before := heap()
	var held []*sched.Decision
	said := 0
	for i := range kept {
		s, _ := colonyOf(100)
		d := sched.Decide(s, &rbee.RouteRequest{ModelRef: ref(i), PromptTokens: 100, Prefix: chain(1, 40)})
		held, said = append(held, d), said+d.Weight()
	}
	got := heap() - before
	runtime.KeepAlive(held)
	if t.Logf("%d KiB are held by %d decisions, which say %d", got>>10, kept, said>>10); got > 2*said {
		t.Error("that is more than they say")
	}
}

func TestASnapshotKeepsFewerMarketsOfMoreHives(t *testing.T) {
	for hives, want := range map[int]int{1: 3000, 400: 500} {
		list := make([]*sched.Hive, hives)
		for i := range list {
			list[i] = &sched.Hive{ID: rbee.HiveID(fmt.Sprint(i))}
		}
		f := sched.NewFlights()
		s := sched.NewSnapshot(list, f)
		for i := range 3000 {
			req := rbee.RouteRequest{ModelRef: ref(i)}
			if _, ok := sched.Pick(s, &req); !ok {
				t.Fatal("a request for a model that is on a hub goes nowhere")
			}
		}
		if s.Markets() != want || f.Doors() != hives*want {
			t.Errorf("%d hives: %d markets, want %d, and %d counts", hives, s.Markets(), want, f.Doors())
		}
		// Without a market that is kept the next request still sees those before it.
		req := rbee.RouteRequest{ModelRef: ref(5000), PromptTokens: 100_000}
		for range 3 {
			r, _ := sched.Pick(s, &req)
			f.Begin(&r, &req)
		}
		if in := sched.Decide(s, &req).Input(); sent(in) != 3 && hives > 1 {
			t.Errorf("%d of 3 requests are seen", sent(in))
		}
	}
}

func sent(in rbee.RouteInput) (n int) {
	for _, h := range in.Hives {
		n += h.Sent
	}
	return n
}
