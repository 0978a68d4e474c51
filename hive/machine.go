package hive

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/mem"

	"rbee"
	"rbee/hive/catalog"
	"rbee/hive/pool"
)

// machine is what the hive measures of its machine.
type machine struct {
	memory func() rbee.Device // the CPU, with main memory
	weigh  func(pid int, path string) (own, mapped int64, ok bool)
	power  func() (battery, known bool) // whether the machine runs on battery

	mu    sync.Mutex
	turns map[rbee.DeviceID]int64     // starts and ends on each accelerator
	ended map[rbee.DeviceID]time.Time // the last end on each
	moved map[rbee.DeviceID]time.Time // the last time when a worker took memory or gave it back
}

func newMachine() *machine {
	return &machine{
		memory: cpuDevice, weigh: processMemory, power: onBattery,
		turns: map[rbee.DeviceID]int64{}, ended: map[rbee.DeviceID]time.Time{}, moved: map[rbee.DeviceID]time.Time{},
	}
}

// cpuDevice is the CPU as the operating system tells of it.
func cpuDevice() rbee.Device {
	d := rbee.Device{ID: rbee.MainMemory, Kind: rbee.BackendCPU, Name: fmt.Sprintf("%s, %d threads", runtime.GOARCH, runtime.NumCPU())}
	if m, err := mem.VirtualMemory(); err == nil {
		d.MemoryTotal, d.MemoryFree = int64(m.Total), int64(m.Available)
	}
	return d
}

// mark notes that a worker is about to start on a device with so many bytes free.
func (m *machine) mark(d rbee.DeviceID, free int64) pool.Before {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turns[d]++
	return pool.Before{FreeBytes: free, Turn: m.turns[d]}
}

// gone notes the end of a worker's process.
func (m *machine) gone(w rbee.Worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turns[w.Device]++
	m.ended[w.Device] = time.Now()
	m.moved[w.Device] = m.ended[w.Device]
}

// changed notes that a worker took memory of a device or gave it back.
func (m *machine) changed(d rbee.DeviceID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved[d] = time.Now()
}

// settled is since when the free memory of a device is as good as that of now.
func (m *machine) settled(d rbee.DeviceID) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	recent := time.Now().Add(-devicesFresh)
	if moved := m.moved[d]; moved.After(recent) {
		return moved
	}
	return recent
}

// returning says whether memory of a device may be about to be free. Main memory
// is free when a process has ended.
func (m *machine) returning(d rbee.DeviceID) bool {
	if memoryOf(d) == rbee.MainMemory {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.ended[d]) < memoryReturns
}

// alone says whether nothing else started or ended on a device since then.
func (m *machine) alone(d rbee.DeviceID, b pool.Before) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.turns[d] == b.Turn
}

// weigh measures a worker and remembers it for the next load like this. Main
// memory is what the process has for itself, and the part of the model file that
// it has mapped, resident or not: with less the model would be read from disk
// again and again. Memory of an accelerator is what is less free than before,
// if nothing else of ours changed there meanwhile, else the estimate.
func (h *Hive) weigh(ctx context.Context, w rbee.Worker, s pool.Spec) (pool.Weight, bool) {
	own, mapped, ok := h.host.weigh(w.PID, s.Path)
	if !ok {
		return pool.Weight{}, false
	}
	weight := pool.Weight{Memory: rbee.Memory{}.Plus(s.Weight.Memory), Mapped: mapped}
	weight.Memory[rbee.MainMemory] = own + mapped
	if w.Resting {
		h.host.changed(w.Device)
	}
	sure := !w.Resting
	if memory := memoryOf(w.Device); memory != rbee.MainMemory {
		took := w.Memory[memory]
		if !w.Measured && !w.Resting {
			took, sure = h.tookOn(ctx, w.Device, s)
		}
		weight.Memory[memory] = took
	}
	if !sure {
		return weight, true
	}
	key := catalog.LoadKey{Model: s.Digest, Backend: s.Backend, Device: s.Device, Context: s.Context, KVTokens: s.KVTokens, Slots: s.Slots}
	if err := h.store.Loads().PutLoad(ctx, key, catalog.Load{Memory: weight.Memory, Mapped: weight.Mapped}, h.clock.now()); err != nil && ctx.Err() == nil {
		h.log.WarnContext(ctx, "cannot remember what a load took", "worker", w.ID, "err", err)
	}
	h.traffic.weigh(s.Digest)
	return weight, true
}

// tookOn is what a load took of an accelerator: the measured figure, or the
// estimate and false.
func (h *Hive) tookOn(ctx context.Context, device rbee.DeviceID, s pool.Spec) (int64, bool) {
	estimate := s.Weight.Memory[memoryOf(device)]
	for _, d := range h.devices.list(ctx, time.Now()).Devices {
		took := s.Before.FreeBytes - d.MemoryFree
		if d.ID == device && h.host.alone(device, s.Before) && took > estimate/2 {
			return took, true
		}
	}
	return estimate, false
}
