package threads

import (
	"io/fs"
	"math"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Default is how many threads to compute with: one for each core that the
// process may use, but one less if nothing would be left for the rest of it, at
// least 1. Root is the file system, such as os.DirFS("/").
func Default(root fs.FS) int { return choose(root, affinity(), runtime.NumCPU()) }

// choose decides for the CPUs that the process may run on.
func choose(root fs.FS, cpus []int, count int) int {
	usable := count
	cores := count
	if len(cpus) > 0 {
		usable, cores = len(cpus), coreCount(root, cpus)
	}
	n := cores
	if cores == usable {
		n-- // there are no second threads of the cores for the rest of the process
	}
	if q := quota(root); q > 0 {
		n = min(n, int(q))
	}
	return max(1, n)
}

// coreCount counts the physical cores of some CPUs.
func coreCount(root fs.FS, cpus []int) int {
	seen := map[string]bool{}
	for _, c := range cpus {
		siblings, err := fs.ReadFile(root, "sys/devices/system/cpu/cpu"+strconv.Itoa(c)+"/topology/thread_siblings_list")
		name := strings.TrimSpace(string(siblings))
		if err != nil || name == "" {
			name = strconv.Itoa(c)
		}
		seen[name] = true
	}
	return len(seen)
}

// quota is how many CPUs the control groups of the process allow it, 0 if there is no limit.
func quota(root fs.FS) float64 {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := math.Inf(1)
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[1] == "": // version 2
			least = min(least, limitUpwards(root, "sys/fs/cgroup", parts[2], limit2))
		case hasController(parts[1], "cpu"): // version 1
			for _, base := range []string{"sys/fs/cgroup/cpu", "sys/fs/cgroup/" + parts[1]} {
				least = min(least, limitUpwards(root, base, parts[2], limit1))
			}
		}
	}
	if math.IsInf(least, 1) {
		return 0
	}
	return least
}

func hasController(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// limitUpwards is the least limit of a group and those around it. In a
// container the path may be that of the host, which is not there.
func limitUpwards(root fs.FS, base, group string, limit func(fs.FS, string) float64) float64 {
	least := math.Inf(1)
	for g := path.Clean("/" + group); ; g = path.Dir(g) {
		if l := limit(root, base+strings.TrimSuffix(g, "/")); l > 0 {
			least = min(least, l)
		}
		if g == "/" {
			return least
		}
	}
}

func limit2(root fs.FS, dir string) float64 {
	text, err := fs.ReadFile(root, dir+"/cpu.max")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) != 2 {
		return 0
	}
	return ratio(fields[0], fields[1]) // "max" is no number and no limit
}

func limit1(root fs.FS, dir string) float64 {
	quota, err := fs.ReadFile(root, dir+"/cpu.cfs_quota_us")
	if err != nil {
		return 0
	}
	period, err := fs.ReadFile(root, dir+"/cpu.cfs_period_us")
	if err != nil {
		return 0
	}
	return ratio(strings.TrimSpace(string(quota)), strings.TrimSpace(string(period)))
}

func ratio(quota, period string) float64 {
	q, err := strconv.ParseFloat(quota, 64)
	if err != nil {
		return 0
	}
	p, err := strconv.ParseFloat(period, 64)
	if err != nil || p <= 0 || q <= 0 {
		return 0
	}
	return q / p
}

// ticksPerSecond is the unit of /proc/stat on every architecture that Go runs on.
const ticksPerSecond = 100

// IdleWatch makes a function that says how many of the CPUs that the process
// may use nobody used since its last call, negative if that is not known.
func IdleWatch(root fs.FS) func() float64 {
	cpus := map[string]bool{}
	for _, c := range affinity() {
		cpus["cpu"+strconv.Itoa(c)] = true
	}
	var mu sync.Mutex
	var last float64
	var at time.Time
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		now, idle := time.Now(), idleTicks(root, cpus)
		before, since := last, now.Sub(at)
		last, at = idle, now
		if idle < 0 || before <= 0 || since < 100*time.Millisecond || since > time.Minute {
			return -1
		}
		return (idle - before) / ticksPerSecond / since.Seconds()
	}
}

// idleTicks adds up the idle time of CPUs, negative if it is not known.
func idleTicks(root fs.FS, cpus map[string]bool) float64 {
	text, err := fs.ReadFile(root, "proc/stat")
	if err != nil {
		return -1
	}
	sum := -1.0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 6 || !cpus[f[0]] {
			continue
		}
		for _, column := range f[4:6] { // idle, and idle while waiting for disks
			v, err := strconv.ParseFloat(column, 64)
			if err != nil {
				return -1
			}
			sum = max(sum, 0) + v
		}
	}
	return sum
}
