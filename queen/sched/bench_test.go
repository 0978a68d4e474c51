package sched_test

import (
	"fmt"
	"testing"

	"rbee"
	"rbee/queen/sched"
)

func ref(i int) rbee.ModelRef {
	return rbee.ModelRef{Provider: rbee.ProviderHF, Reference: fmt.Sprintf("org/model-%03d", i)}
}

// chain is a chain of hashes of a prompt that is different from others of another seed.
func chain(seed uint32, n int) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = (seed+1)*2654435761 + uint32(i)*40503
	}
	return list
}

// large is a colony of 1,000 hives with 10 workers each, and 100 models that all
// hives have.
func large() (*sched.Snapshot, *sched.Flights) { return colonyOf(100) }

// colonyOf is a large colony with workers of some of its 100 models.
func colonyOf(loaded int) (*sched.Snapshot, *sched.Flights) {
	var hives []*sched.Hive
	for i := range 1000 {
		h := &sched.Hive{ID: rbee.HiveID(fmt.Sprintf("%016x", i)), Name: fmt.Sprintf("bee-%d", i), Seq: 1, Prefixes: map[rbee.WorkerID][]uint32{}}
		for j := range 100 {
			h.Models = append(h.Models, rbee.ColonyModel{ModelRef: ref(j), SizeBytes: 4e9, Verdict: rbee.VerdictStart, LoadMS: 4000 + int64(i*j)%1000})
		}
		for j := range 10 {
			w := rbee.ColonyWorker{
				ID: rbee.WorkerID(fmt.Sprintf("w%d-%d", i, j)), ModelRef: ref((10*i + j) % loaded), Backend: rbee.BackendCUDA, State: rbee.WorkerBusy,
				SlotsTotal: 8, SlotsBusy: (i + j) % 8, QueueCapacity: 16, PrefillPerSec: 1000 + float64(i), TokenMS: 20, RequestMS: 3000,
			}
			h.Workers = append(h.Workers, w)
			h.Prefixes[w.ID] = append(chain(1, 20), chain(uint32(i), 100)...)
		}
		hives = append(hives, h)
	}
	f := sched.NewFlights()
	return sched.NewSnapshot(hives, f), f
}

func BenchmarkPick(b *testing.B) {
	s, f := large()
	for name, prefix := range map[string][]uint32{"fresh": chain(77777, 40), "shared": append(chain(1, 20), chain(77777, 20)...), "none": nil} {
		b.Run(name, func(b *testing.B) {
			reqs := make([]rbee.RouteRequest, 100)
			for i := range reqs {
				reqs[i] = rbee.RouteRequest{ModelRef: ref(i), PromptTokens: 3000, Prefix: prefix}
				r, _ := sched.Pick(s, &reqs[i])
				f.Begin(&r, &reqs[i])
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				sched.Pick(s, &reqs[i%100])
			}
		})
	}
}

// BenchmarkPickOfColdModels is Pick where no worker has the model.
func BenchmarkPickOfColdModels(b *testing.B) {
	s, _ := colonyOf(50)
	req := &rbee.RouteRequest{ModelRef: ref(99), PromptTokens: 3000, Prefix: chain(1, 40)}
	sched.Pick(s, req)
	b.ReportAllocs()
	for b.Loop() {
		sched.Pick(s, req)
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	s, f := large()
	req := &rbee.RouteRequest{ModelRef: ref(7), PromptTokens: 3000, Prefix: chain(1, 40)}
	r, ok := sched.Pick(s, req)
	if !ok {
		t.Fatal("no route")
	}
	f.Begin(&r, req)
	if n := testing.AllocsPerRun(200, func() { sched.Pick(s, req) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	s, f := large()
	hives := s.Hives()
	b.ReportAllocs()
	for b.Loop() {
		s := sched.NewSnapshot(hives, f)
		for i := range 100 {
			sched.Pick(s, &rbee.RouteRequest{ModelRef: ref(i), PromptTokens: 100})
		}
	}
}
