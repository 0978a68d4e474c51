//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long something may take that must happen. It bounds a
// broken test, it is no measure of the programs.
const patience = 60 * time.Second

// mayTake is how long the traces of what was killed may take to go. Whoever
// measures sets E2E_LIMIT, on a machine that has nothing else to do.
func mayTake() time.Duration {
	if limit, err := time.ParseDuration(os.Getenv("E2E_LIMIT")); err == nil {
		return limit
	}
	return patience
}

// rounds is how often a table is gone through: E2E_ROUNDS, 1 without it.
func rounds() int {
	n, _ := strconv.Atoi(os.Getenv("E2E_ROUNDS"))
	return max(n, 1)
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not so after %v: %s", patience, what)
		}
	}
}

// proc is a process that runs. A zombie does not.
type proc struct {
	pid  int
	argv []string
}

func (p proc) String() string { return fmt.Sprintf("%d %s", p.pid, strings.Join(p.argv, " ")) }

// flag is the value of a flag of p, "" without it.
func (p proc) flag(name string) string {
	for i, arg := range p.argv {
		if value, ok := strings.CutPrefix(arg, name+"="); ok {
			return value
		}
		if arg == name && i+1 < len(p.argv) {
			return p.argv[i+1]
		}
	}
	return ""
}

// procsOf lists the processes that run with this state directory in their environment.
func procsOf(t *testing.T, home string) []proc {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	want := []byte("\x00RBEE_HOME=" + home + "\x00")
	var found []proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !bytes.Contains(append([]byte{0}, environ...), want) || !runs(pid) {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		found = append(found, proc{pid, strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")})
	}
	return found
}

// environ is a variable in the environment of a process.
func environ(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	for kv := range strings.SplitSeq(string(text), "\x00") {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// runs says whether a process is there and no zombie.
func runs(pid int) bool {
	state, _ := stat(pid)
	return state != 0 && state != 'Z' && state != 'X'
}

// stat is the state of a process and when it started, as in proc_pid_stat(5); 0
// and "" for one that is not there.
func stat(pid int) (state byte, start string) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, ""
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, ""
	}
	return fields[0][0], string(fields[19])
}

// sharedMemory are the files of /dev/shm that a process has open or mapped.
func sharedMemory(pid int) []string {
	var found []string
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(maps)) {
		if i := strings.Index(line, " /dev/shm/"); i >= 0 {
			found = append(found, strings.TrimSpace(line[i:]))
		}
	}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "/dev/shm/") {
			found = append(found, target)
		}
	}
	return found
}

// listeners returns the listening TCP sockets of a process, by inode, as in
// proc(5): inodes, unlike ports, are not taken by somebody else at once.
func listeners(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	all := allListeners()
	var found []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		inode, ok := strings.CutPrefix(target, "socket:[")
		if inode = strings.TrimSuffix(inode, "]"); err == nil && ok && all[inode] != "" {
			found = append(found, inode)
		}
	}
	return found
}

// allListeners maps the inodes of the machine's listening TCP sockets to their
// local addresses.
func allListeners() map[string]string {
	const listen = "0A"
	found := map[string]string{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == listen {
				found[f[9]] = f[1]
			}
		}
	}
	return found
}

// kill sends a signal to one process that is expected to run.
func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("cannot send %v to %d: %v", sig, pid, err)
	}
}
