package llamacpp

import (
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/shirou/gopsutil/v4/mem"

	"rbee"
)

type device struct {
	info   rbee.Device
	handle llama.GGMLBackendDevice
}

// Devices lists what the libraries of a directory can compute on. It loads
// them into the process, GPU drivers included, which takes memory and may
// crash on broken drivers: call it from a process that is short-lived.
func Devices(libDir string, logger *slog.Logger) (rbee.DeviceList, error) {
	lib, err := open(libDir, logger)
	if err != nil {
		return rbee.DeviceList{}, err
	}
	list := rbee.DeviceList{Devices: []rbee.Device{}, Backends: []rbee.BackendStatus{}}
	for _, d := range lib.devices() {
		list.Devices = append(list.Devices, d.info)
	}
	for _, b := range rbee.Backends() {
		status := rbee.BackendStatus{Backend: b}
		status.Available = slices.ContainsFunc(list.Devices, func(d rbee.Device) bool { return d.Kind == b })
		if !status.Available {
			status.Reason = lib.reasonAgainst(b)
		}
		list.Backends = append(list.Backends, status)
	}
	return list, nil
}

// devices asks llama.cpp for its devices.
func (l *library) devices() []device {
	var out []device
	count := map[rbee.Backend]int{}
	for i := range llama.GGMLBackendDeviceCount() {
		handle := llama.GGMLBackendDeviceGet(i)
		kind, ok := kindOf(llama.GGMLBackendRegName(llama.GGMLBackendDeviceBackendReg(handle)))
		if !ok {
			continue // helpers of the CPU such as BLAS
		}
		free, total := llama.GGMLBackendDeviceMemory(handle)
		id := rbee.DeviceID(kind)
		if kind != rbee.BackendCPU {
			id += rbee.DeviceID(strconv.Itoa(count[kind]))
		}
		count[kind]++
		if kind == rbee.BackendCPU {
			// llama.cpp takes all of the memory for free.
			if m, err := mem.VirtualMemory(); err == nil {
				free, total = m.Available, m.Total
			}
		}
		out = append(out, device{handle: handle, info: rbee.Device{
			ID: id, Kind: kind, Name: strings.TrimSpace(llama.GGMLBackendDeviceDescription(handle)),
			MemoryTotal: int64(total), MemoryFree: int64(free),
		}})
	}
	return out
}

// kindOf names the backend that llama.cpp registers under a name.
func kindOf(registered string) (rbee.Backend, bool) {
	switch strings.ToLower(registered) {
	case "cpu":
		return rbee.BackendCPU, true
	case "cuda":
		return rbee.BackendCUDA, true
	case "vulkan":
		return rbee.BackendVulkan, true
	case "metal", "mtl":
		return rbee.BackendMetal, true
	}
	return "", false
}

func (l *library) hasBackend(b rbee.Backend) bool {
	for i := range llama.GGMLBackendRegCount() {
		if kind, ok := kindOf(llama.GGMLBackendRegName(llama.GGMLBackendRegGet(i))); ok && kind == b {
			return true
		}
	}
	return false
}

func (l *library) reasonAgainst(b rbee.Backend) string {
	switch {
	case b == rbee.BackendMetal && runtime.GOOS != "darwin":
		return "metal is for macOS only"
	case l.hasBackend(b):
		return "the engine supports it but finds no device; check the driver"
	case b == rbee.BackendCPU:
		return "no library of the engine fits this CPU; run 'rbee engine install'"
	}
	return "the installed engine has no library for it, or the driver's libraries are missing; run 'rbee engine install --backend " + string(b) + "'"
}

// choose finds the device to load on: the one with the id, or the first of the backend.
func (l *library) choose(b rbee.Backend, id rbee.DeviceID) (device, error) {
	if b == "" {
		b = rbee.BackendCPU
	}
	var of []string
	for _, d := range l.devices() {
		if d.info.Kind != b {
			continue
		}
		if id == "" || d.info.ID == id {
			return d, nil
		}
		of = append(of, string(d.info.ID))
	}
	if len(of) == 0 {
		return device{}, rbee.Errorf(rbee.CodeBackendUnavailable, "cannot use the backend %s: %s", b, l.reasonAgainst(b)).
			Suggest("run 'rbee engine list' to see what is usable")
	}
	return device{}, rbee.Errorf(rbee.CodeBackendUnavailable, "cannot use the device %s: the backend %s has %s", id, b, strings.Join(of, ", "))
}
