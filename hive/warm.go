package hive

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/shirou/gopsutil/v4/disk"

	"rbee"
)

const (
	warmEvery   = time.Minute
	warmAgain   = time.Hour // the system may have forgotten a file by then
	warmShare   = 4         // a file is read if it is at most this part of what is free
	diskIdleFor = 0.1       // of the time a disk may be busy and still be called idle
)

// keepWarm reads the file of the model that is likely next into the system's
// cache, one at a time, while memory is plentiful and the disk idle, until ctx
// ends. The cache is the system's to drop: it takes nothing from anybody.
func (h *Hive) keepWarm(ctx context.Context) {
	if h.cfg.Settings.Hive.WarmUp != "on" {
		return
	}
	warmed := map[string]time.Time{}
	busy, at := diskTime(), time.Now()
	tick := time.NewTicker(warmEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		was, when := busy, at
		busy, at = diskTime(), time.Now()
		if float64(busy-was) > diskIdleFor*float64(at.Sub(when)) || len(h.store.Downloads()) > 0 {
			continue
		}
		models, err := h.store.Models(ctx)
		if err != nil {
			continue
		}
		free := h.host.memory().MemoryFree - int64(h.cfg.Settings.Hive.LeaveFreeMB)*megabyte
		m, ok := likelyNext(models, h.pool.Workers(), free/warmShare, func(m rbee.Model) bool {
			return at.Sub(warmed[m.LocalPath]) < warmAgain
		})
		if !ok {
			continue
		}
		warmed[m.LocalPath] = at
		for _, f := range m.Files() {
			if err := readAhead(ctx, f.Path, f.SizeBytes); err != nil {
				h.log.DebugContext(ctx, "cannot read a model file ahead", "model", m.Ref().String(), "err", err)
			}
		}
	}
}

// likelyNext is the model that was used most, is not loaded, and is not too
// large. Nothing is likely while something loads.
func likelyNext(models []rbee.Model, live []rbee.Worker, most int64, warm func(rbee.Model) bool) (rbee.Model, bool) {
	loaded := map[rbee.ModelRef]bool{}
	for _, w := range live {
		if !w.State.Ready() {
			return rbee.Model{}, false
		}
		loaded[w.ModelRef] = true
	}
	models = slices.DeleteFunc(slices.Clone(models), func(m rbee.Model) bool {
		return m.UseCount == 0 || m.SizeBytes > most || loaded[m.Ref()] || warm(m)
	})
	if len(models) == 0 {
		return rbee.Model{}, false
	}
	return slices.MaxFunc(models, func(a, b rbee.Model) int {
		return cmp.Or(cmp.Compare(a.UseCount, b.UseCount), a.LastUsed.Compare(b.LastUsed))
	}), true
}

// diskTime is how long the busiest disk has been busy.
func diskTime() time.Duration {
	disks, err := disk.IOCounters()
	if err != nil {
		return 0 // then nothing tells against reading
	}
	most := uint64(0)
	for _, d := range disks {
		most = max(most, d.IoTime)
	}
	return time.Duration(most) * time.Millisecond //nolint:gosec // milliseconds since the start of the machine
}
