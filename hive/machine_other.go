//go:build !linux

package hive

import "github.com/shirou/gopsutil/v4/process"

// processMemory is the resident memory of a process. These systems do not tell
// what of it is mapped from files, so all of it counts as its own.
func processMemory(pid int, _ string) (own, mapped int64, ok bool) {
	p, err := process.NewProcess(int32(pid)) //nolint:gosec // process ids are small
	if err != nil {
		return 0, 0, false
	}
	m, err := p.MemoryInfo()
	if err != nil {
		return 0, 0, false
	}
	return int64(m.RSS), 0, true //nolint:gosec // so much there is not
}

// onBattery is not known on these systems.
func onBattery() (battery, known bool) { return false, false }
