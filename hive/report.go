package hive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/internal/durable"
)

// hiveID is the id of a state directory's hive, made when there is none.
func hiveID(path string) (rbee.HiveID, error) {
	b, err := os.ReadFile(path)
	if text := strings.TrimSpace(string(b)); err == nil && regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(text) {
		return rbee.HiveID(text), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the id of this hive: %w", err).Suggest("make %s readable for this user", path)
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	text := hex.EncodeToString(id)
	if err := durable.Write(path, ".hive-id-*", []byte(text+"\n")); err != nil {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot write the id of this hive: %w", err).Suggest("make %s writable for this user", path)
	}
	return rbee.HiveID(text), nil
}

// attendColony tells the colony of the hive until that leaves or ctx ends.
func (h *Hive) attendColony(ctx context.Context, m *membership) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	all.Go(func() {
		select {
		case <-m.leave:
			stop()
		case <-watching.Done():
		}
	})
	all.Go(func() { h.attendSpeeds(watching) })
	all.Go(func() {
		for watching.Err() == nil {
			_, changes := h.pool.Feed().Subscribe(watching)
			m.Changed()
			states := map[rbee.WorkerID]rbee.WorkerState{}
			for e, err := range changes {
				switch {
				case err != nil, e.Kind == rbee.EventDecision:
				case e.Kind == rbee.EventWorker && states[e.Worker.ID] == e.Worker.State:
					m.used() // one request more or less; what else there is of it is told within a second
				default:
					m.Changed()
				}
				if e.Worker != nil {
					note(states, e)
				}
			}
		}
	})
	m.Run(watching)
	stop()
	all.Wait()
}

// note keeps the states of the workers that are there.
func note(states map[rbee.WorkerID]rbee.WorkerState, e rbee.Event) {
	if e.Kind == rbee.EventWorkerGone {
		delete(states, e.Worker.ID)
		return
	}
	states[e.Worker.ID] = e.Worker.State
}

// reportNow is what changes with each request.
func (h *Hive) reportNow() rbee.HiveNow {
	now, live := h.clock.now(), h.pool.Workers()
	list := []rbee.Device{h.host.memory()}
	for _, d := range h.devices.known() {
		if memoryOf(d.ID) != rbee.MainMemory {
			list = append(list, d)
		}
	}
	report := rbee.HiveNow{Standing: h.standing.now(), Memory: h.usedMemory(list, live, now), Workers: []rbee.ColonyWorker{}}
	for _, w := range live {
		report.Workers = append(report.Workers, h.reportWorker(w))
	}
	return report
}

func (h *Hive) reportWorker(w rbee.Worker) rbee.ColonyWorker {
	out := rbee.ColonyWorker{
		ID: w.ID, ModelRef: w.ModelRef, Backend: w.Backend, Device: w.Device, State: w.State, External: w.External,
		SlotsTotal: w.SlotsTotal, QueueCapacity: h.cfg.Settings.Worker.Queue, ContextTokens: w.ContextTokens,
		MemoryBytes: w.MemoryBytes, LastActivity: w.LastActivity,
	}
	h.traffic.see(w.ID, func(u *usage) {
		out.SlotsBusy = min(u.running, w.SlotsTotal)
		out.Waiting = u.running - out.SlotsBusy
		if u.queue > 0 {
			out.QueueCapacity = u.queue
		}
		out.PrefillPerSec, out.TokenMS, out.RequestMS = u.speed.PrefillPerSec, u.speed.TokenMS, u.speed.RequestMS
	})
	if w.State == rbee.WorkerStarting || w.State == rbee.WorkerLoading {
		fraction, since := h.pool.Progress(w.ID)
		out.LoadedFraction = fraction
		out.LoadLeftMS = h.loadLeft(w, fraction, since).Milliseconds()
	}
	return out
}

// loadLeft is what a load is going to take yet, at least a little.
func (h *Hive) loadLeft(w rbee.Worker, fraction float64, since time.Duration) time.Duration {
	const least, telling = 50 * time.Millisecond, 0.2
	if since == 0 { // there is no process yet
		left := h.loadTime(w.ModelRef, 0)
		for _, d := range h.store.Downloads() {
			if d.ModelRef == w.ModelRef {
				left += time.Duration(d.ETASeconds * float64(time.Second))
			}
		}
		return left
	}
	left := h.loadTime(w.ModelRef, w.MemoryBytes) - since
	if fraction >= telling {
		left = time.Duration(float64(since) * (1 - fraction) / fraction)
	}
	return max(left, least)
}

// reportPrefixes is what prompts the caches of the workers have.
func (h *Hive) reportPrefixes() map[rbee.WorkerID][]uint32 {
	told, live := map[rbee.WorkerID][]uint32{}, h.pool.Workers()
	for _, w := range live {
		var list []stamped
		h.traffic.see(w.ID, func(u *usage) {
			if w.Resting && u.running == 0 {
				u.caches = cached{}
			}
			list = u.caches.all()
		})
		if len(list) > 0 { // it is sorted while requests go on
			told[w.ID] = newest(list, min(cachedMost(w.KVTokens), mostTold/len(live)))
		}
	}
	return told
}

const (
	// diskBytesPerSecond is how fast models load as long as no load was measured.
	diskBytesPerSecond = 500 * megabyte
	// loadLeast is what a load takes at least: a process and an engine start.
	loadLeast = 300 * time.Millisecond
)

// loadTime is what a load of a model takes: as it was measured, or by its bytes.
func (h *Hive) loadTime(ref rbee.ModelRef, bytes int64) time.Duration {
	if d, ok := h.traffic.loadOf(ref); ok {
		return d
	}
	return loadLeast + time.Duration(float64(bytes)/diskBytesPerSecond*float64(time.Second))
}
