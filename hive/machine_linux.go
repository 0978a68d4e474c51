package hive

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processMemory is the main memory of a process: what it has for itself, that
// is anonymous and shared memory and what of it is swapped out
// (proc_pid_status(5)), and what it has mapped of a file and its parts
// (proc_pid_maps(5)).
func processMemory(pid int, path string) (own, mapped int64, ok bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "RssAnon", "RssShmem", "VmSwap":
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, 0, false
			}
			own += kib << 10
			ok = true
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, false
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	for line := range strings.Lines(string(maps)) {
		span, rest, _ := strings.Cut(line, " ")
		if at := strings.IndexByte(rest, '/'); at < 0 || !sameModel(strings.TrimSuffix(rest[at:], "\n"), path) {
			continue
		}
		var from, to int64
		if n, err := fmt.Sscanf(span, "%x-%x", &from, &to); err == nil && n == 2 {
			mapped += to - from
		}
	}
	return own, mapped, ok
}

// sameModel says whether a file is that at path, or a part of the same split model.
func sameModel(file, path string) bool {
	if file == path {
		return true
	}
	prefix, _, split := strings.Cut(filepath.Base(path), "-00001-of-")
	return split && filepath.Dir(file) == filepath.Dir(path) && strings.HasPrefix(filepath.Base(file), prefix+"-0")
}

// onBattery asks the kernel for the machine's power supplies
// (Documentation/ABI/testing/sysfs-class-power). It is not known where there is
// none, as in most servers.
func onBattery() (battery, known bool) {
	supplies, _ := filepath.Glob("/sys/class/power_supply/*") // the pattern is right
	read := func(supply, name string) string {
		b, err := os.ReadFile(filepath.Join(supply, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	for _, s := range supplies {
		if read(s, "scope") == "Device" {
			continue // of a mouse or a phone
		}
		switch read(s, "type") {
		case "Mains", "USB":
			if read(s, "online") == "1" {
				return false, true
			}
		case "Battery":
			known = true
			battery = battery || read(s, "status") == "Discharging"
		}
	}
	return battery, known
}
