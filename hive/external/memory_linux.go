package external

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listener is who listens at a port of loopback, as it was found last.
type listener struct {
	socket string // such as socket:[1234]
	pids   []int
}

// grain is what figures are rounded up to, so that not every question is a change.
const grain = 16 << 20

// memory is the main memory of the processes that listen at a port of loopback
// and of their children: what they have for themselves, and what of files they
// have mapped and resident. Both are 0 where that cannot be seen, as with
// processes of others.
func (l *listener) memory(port int) (own, mapped int64) {
	socket := listeningSocket(port)
	if socket == "" {
		*l = listener{}
		return 0, 0
	}
	if socket != l.socket {
		*l = listener{socket: socket, pids: holdersOf(socket)}
	}
	if len(l.pids) == 0 {
		return 0, 0
	}
	children, family, seen := childrenOf(), slices.Clone(l.pids), map[int]bool{}
	for i := 0; i < len(family); i++ {
		pid := family[i]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		family = append(family, children[pid]...)
		o, m := residentOf(pid)
		own, mapped = own+o, mapped+m
	}
	return (own + grain - 1) / grain * grain, (mapped + grain - 1) / grain * grain
}

// listeningSocket finds the socket that takes connections to a port of loopback
// (proc_net_tcp in the kernel's documentation).
func listeningSocket(port int) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			const listens = "0A"
			if len(f) < 10 || f[3] != listens {
				continue
			}
			if at, ok := parseAddr(f[1]); ok && int(at.Port()) == port && (at.Addr().IsLoopback() || at.Addr().IsUnspecified()) {
				return "socket:[" + f[9] + "]"
			}
		}
	}
	return ""
}

// parseAddr reads an address of these tables: words in the machine's byte order.
func parseAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// holdersOf finds the processes that have a socket open, as far as they can be seen.
func holdersOf(socket string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is right
	for _, f := range files {
		if target, err := os.Readlink(f); err == nil && target == socket {
			pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// childrenOf are the children of each process (proc_pid_stat(5)).
func childrenOf() map[int][]int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	children := map[int][]int{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 2 {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		parent, _ := strconv.Atoi(f[1])
		children[parent] = append(children[parent], pid)
	}
	return children
}

// residentOf is the memory of one process (proc_pid_status(5)).
func residentOf(pid int) (own, mapped int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "RssAnon", "RssShmem", "VmSwap":
			own += kib << 10
		case "RssFile":
			mapped += kib << 10
		}
	}
	return own, mapped
}
