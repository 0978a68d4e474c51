package hive

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/mem"

	"rbee"
)

const (
	devicesFresh   = 3 * time.Second  // how old an answer may be
	devicesTimeout = 20 * time.Second // of the child that is asked
)

// devices knows what models can be loaded on. Which devices there are, only
// the engine knows, and asking it means to load it: a short-lived child does
// that, since no driver shall be loaded into the daemon.
type devices struct {
	ask      func(context.Context) (rbee.DeviceList, error)
	backends func() []rbee.BackendStatus

	mu   sync.Mutex // also: one child at a time
	at   time.Time
	last rbee.DeviceList
}

func (h *Hive) askDevices(ctx context.Context) (rbee.DeviceList, error) {
	out, err := h.run(ctx, "devices", "--engine-dir", h.engines.Dir())
	if err != nil {
		return rbee.DeviceList{}, err
	}
	var list rbee.DeviceList
	if err := json.Unmarshal(out, &list); err != nil {
		return rbee.DeviceList{}, fmt.Errorf("cannot read what %s says of the devices: %w", workerName, err)
	}
	return list, nil
}

// list is the devices and backends of the machine, some seconds old at most.
// Where the engine cannot be asked, the reason is the CPU backend's.
func (d *devices) list(ctx context.Context) rbee.DeviceList {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at) < devicesFresh && d.last.Devices != nil {
		return d.last
	}
	backends := d.backends()
	list := rbee.DeviceList{Devices: []rbee.Device{}, Backends: backends}
	if usable(backends, rbee.BackendCPU) == "" {
		ctx, cancel := context.WithTimeout(ctx, devicesTimeout)
		defer cancel()
		seen, err := d.ask(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return rbee.DeviceList{Devices: []rbee.Device{cpuDevice()}, Backends: backends}
			}
			setReason(list.Backends, rbee.BackendCPU, "the engine does not load: "+err.Error())
		}
		list.Devices = append(list.Devices, seen.Devices...)
		for i, b := range list.Backends {
			// A library that loads and finds nothing to drive is of no use.
			if b.Available && err == nil && b.Backend != rbee.BackendCPU && !hasKind(seen.Devices, b.Backend) {
				list.Backends[i].Available = false
				list.Backends[i].Reason = "the engine finds no device for it"
			}
		}
	}
	if !hasKind(list.Devices, rbee.BackendCPU) {
		list.Devices = append(list.Devices, cpuDevice())
	}
	for i, dev := range list.Devices {
		if dev.Kind == rbee.BackendCPU {
			cpu := cpuDevice()
			list.Devices[i].MemoryTotal, list.Devices[i].MemoryFree = cpu.MemoryTotal, cpu.MemoryFree
		}
	}
	d.last, d.at = list, time.Now()
	return list
}

func hasKind(list []rbee.Device, kind rbee.Backend) bool {
	return slices.ContainsFunc(list, func(d rbee.Device) bool { return d.Kind == kind })
}

// usable is "" if a backend can be used, else the reason why not.
func usable(list []rbee.BackendStatus, b rbee.Backend) string {
	for _, s := range list {
		if s.Backend == b && s.Available {
			return ""
		}
		if s.Backend == b {
			return s.Reason
		}
	}
	return "this rbee does not know it"
}

func setReason(list []rbee.BackendStatus, b rbee.Backend, reason string) {
	for i := range list {
		if list[i].Backend == b {
			list[i].Available, list[i].Reason = false, reason
		}
	}
}

// cpuDevice is the CPU as the operating system tells of it.
func cpuDevice() rbee.Device {
	d := rbee.Device{ID: "cpu", Kind: rbee.BackendCPU, Name: fmt.Sprintf("%s, %d threads", runtime.GOARCH, runtime.NumCPU())}
	if m, err := mem.VirtualMemory(); err == nil {
		d.MemoryTotal, d.MemoryFree = int64(m.Total), int64(m.Available)
	}
	return d
}
