package hive

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

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

	ctx  context.Context // ends the child with the hive
	work sync.WaitGroup

	mu     sync.Mutex
	last   rbee.DeviceList
	at     time.Time // when last was asked for
	flight *flight   // nil while no child is asked
}

// flight is one look at the devices, which all share who came before its end.
type flight struct {
	began time.Time
	done  chan struct{}
	list  rbee.DeviceList
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

// list is the devices and backends of the machine as they were at a time or
// later. Who cannot wait for them gets the CPU alone.
func (d *devices) list(ctx context.Context, since time.Time) rbee.DeviceList {
	for {
		d.mu.Lock()
		if d.last.Devices != nil && !d.at.Before(since) {
			defer d.mu.Unlock()
			return d.last
		}
		if d.flight == nil {
			d.flight = &flight{began: time.Now(), done: make(chan struct{})}
			f := d.flight
			d.work.Go(func() { d.fly(f) })
		}
		f := d.flight
		d.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return rbee.DeviceList{Devices: []rbee.Device{cpuDevice()}, Backends: d.backends()}
		}
		if !f.began.Before(since) {
			return f.list
		}
	}
}

// recent is list for who does not mind some seconds.
func (d *devices) recent(ctx context.Context) rbee.DeviceList {
	return d.list(ctx, time.Now().Add(-devicesFresh))
}

// fly carries out a flight.
func (d *devices) fly(f *flight) {
	ctx, cancel := context.WithTimeout(d.ctx, devicesTimeout)
	defer cancel()
	f.list = d.look(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.at, d.flight = f.list, f.began, nil
	close(f.done)
}

// look asks the engine. Where it cannot be asked, the reason is the CPU backend's.
func (d *devices) look(ctx context.Context) rbee.DeviceList {
	backends := d.backends()
	list := rbee.DeviceList{Devices: []rbee.Device{}, Backends: backends}
	if usable(backends, rbee.BackendCPU) == "" {
		seen, err := d.ask(ctx)
		if err != nil {
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
