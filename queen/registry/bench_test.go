package registry_test

import (
	"fmt"
	"log/slog"
	"testing"

	"rbee"
	"rbee/internal/bus"
	"rbee/queen/registry"
)

// A report of one of 1,000 hives with 10 workers each, and a snapshot of all.
func BenchmarkAThousandHives(b *testing.B) {
	r := registry.New(registry.Config{Log: slog.New(slog.DiscardHandler)})
	nows := make([]rbee.HiveNow, 1000)
	for i := range nows {
		id := rbee.HiveID(fmt.Sprintf("%016x", i))
		nows[i] = rbee.HiveNow{ID: id, Workers: make([]rbee.ColonyWorker, 10)}
		r.Hear(bus.Update{About: &rbee.HiveAbout{ID: id, Models: make([]rbee.ColonyModel, 100)}})
		r.Hear(bus.Update{Now: &nows[i]})
	}
	b.Run("report", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			now := nows[i%len(nows)]
			now.Seq = uint64(i)
			r.Hear(bus.Update{Now: &now})
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Look()
		}
	})
}
