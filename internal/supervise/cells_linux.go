package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	supervisorName = "supervisor"
	cellsPrefix    = "cells-"
	// cellTime is how long the processes of a killed group may take to end.
	cellTime = 2 * time.Second
)

// cells are the control groups (version 2) of contained children:
//
//	rbee-hive.service     given to this program, which began in it
//	├─ supervisor         and moves here: a group with processes cannot bound those below
//	└─ cells-PID-START    all contained children, with one bound on their memory
//	   ├─ 1               one child with all that it starts
//	   └─ 2
//
// They are made only in a group that was delegated, as systemd does for a
// unit with Delegate=yes: any other belongs to somebody else, even where root
// could write to it. All methods do nothing on a nil *cells.
type cells struct {
	dir    string // cells-PID-START
	memory bool   // memory can be bounded and counted
	bound  int64  // memory.max as it was set; 0 is none
	next   int
}

// cell is the control group of one child. All methods do nothing on a nil *cell.
type cell struct{ dir string }

// openCells finds the group that was given to this program and makes the one
// of its children in it; nil where none was given.
func openCells(log *slog.Logger) *cells {
	unit, err := ownGroup("/proc/self")
	if err != nil || !delegated(unit) {
		return nil
	}
	start, err := StartTime(os.Getpid())
	if err != nil {
		return nil
	}
	sweepCells(unit)
	c, err := newCells(unit, cellsPrefix+strconv.Itoa(os.Getpid())+"-"+start)
	if err != nil {
		log.Warn("cannot use the control group of this program; its children share it", "path", unit, "err", err)
		return nil
	}
	log.Debug("children get control groups of their own", "path", c.dir, "memory", c.memory)
	return c
}

// ownGroup is the directory of the control group of a process, which is given
// by its directory in /proc.
func ownGroup(proc string) (string, error) {
	list, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(list)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for mount := range strings.Lines(string(mounts)) { // proc_pid_mountinfo(5)
			fields, after, _ := strings.Cut(mount, " - ")
			f := strings.Fields(fields)
			if len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
				continue
			}
			if below, err := filepath.Rel(f[3], group); err == nil && filepath.IsLocal(below) {
				return filepath.Join(f[4], below), nil
			}
		}
	}
	return "", errors.New("there is no control group of version 2")
}

// delegated says whether a group was handed over, by the mark that systemd
// puts on such groups.
func delegated(dir string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		mark := make([]byte, 8)
		if n, err := unix.Getxattr(dir, name, mark); err == nil && string(mark[:n]) == "1" {
			return true
		}
	}
	return false
}

// newCells makes the group of the children below unit.
func newCells(unit, name string) (*cells, error) {
	if err := leaveToSupervisor(unit); err != nil {
		return nil, err
	}
	c := &cells{dir: filepath.Join(unit, name)}
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	controllers, err := os.ReadFile(filepath.Join(unit, "cgroup.controllers"))
	if err == nil && bytes.Contains(controllers, []byte("memory")) {
		c.memory = set(unit, "cgroup.subtree_control", "+memory") == nil && set(c.dir, "cgroup.subtree_control", "+memory") == nil
	}
	return c, nil
}

// leaveToSupervisor moves this process, and what it started before, from unit
// into a group below. Others stay: where there are some, memory is not bounded.
func leaveToSupervisor(unit string) error {
	pids, err := os.ReadFile(filepath.Join(unit, "cgroup.procs"))
	if err != nil {
		return err
	}
	below := filepath.Join(unit, supervisorName)
	if err := os.Mkdir(below, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for text := range strings.FieldsSeq(string(pids)) {
		pid, err := strconv.Atoi(text)
		if err != nil || pid != os.Getpid() && parentOf(pid) != os.Getpid() {
			continue
		}
		if err := set(below, "cgroup.procs", text); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot move process %d: %w", pid, err)
		}
	}
	return nil
}

// parentOf is the parent of a process, 0 for one that is not there.
func parentOf(pid int) int {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // proc_pid_stat(5): state, parent
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}

// sweepCells ends what the children of a program that was killed left behind.
func sweepCells(unit string) {
	old, err := filepath.Glob(filepath.Join(unit, cellsPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		pid, start, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cellsPrefix), "-")
		n, err := strconv.Atoi(pid)
		if err != nil || (identity{n, start}).alive() {
			continue
		}
		(&cells{dir: dir}).close()
	}
}

// make makes the group of one child, and bounds the memory of all children.
func (c *cells) make(memoryBytes int64) *cell {
	if c == nil {
		return nil
	}
	if c.memory && memoryBytes != c.bound {
		bound := "max"
		if memoryBytes > 0 {
			bound = strconv.FormatInt(memoryBytes, 10)
		}
		if set(c.dir, "memory.max", bound) == nil {
			c.bound = memoryBytes
		}
	}
	c.next++
	one := &cell{dir: filepath.Join(c.dir, strconv.Itoa(c.next))}
	if err := os.Mkdir(one.dir, 0o700); err != nil {
		return nil
	}
	if c.memory {
		_ = set(one.dir, "memory.oom.group", "1") // half a worker is of no use
	}
	return one
}

// close kills what is left in the groups and removes them.
func (c *cells) close() {
	if c == nil {
		return
	}
	left, _ := filepath.Glob(filepath.Join(c.dir, "[0-9]*"))
	for _, dir := range left {
		one := &cell{dir}
		one.kill()
		one.remove()
	}
	_ = os.Remove(c.dir)
}

// join makes cmd start in the group. The function that is returned is called
// when it has.
func (c *cell) join(cmd *exec.Cmd) (done func()) {
	if c == nil {
		return func() {}
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return func() {}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return func() { _ = dir.Close() }
}

// take moves a process that runs into the group.
func (c *cell) take(pid int) error { return set(c.dir, "cgroup.procs", strconv.Itoa(pid)) }

// kill ends all processes in the group.
func (c *cell) kill() {
	if c != nil {
		_ = set(c.dir, "cgroup.kill", "1")
	}
}

// remove waits a moment for the last process to end, and removes the group.
func (c *cell) remove() {
	if c == nil {
		return
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(cellTime); time.Now().Before(deadline); {
		if err := os.Remove(c.dir); !errors.Is(err, unix.EBUSY) {
			return
		}
		<-tick.C
	}
}

// oomKills is how many processes of the group the kernel ended for memory.
func (c *cell) oomKills() int {
	if c == nil {
		return 0
	}
	events, err := os.ReadFile(filepath.Join(c.dir, "memory.events"))
	if err != nil {
		return 0
	}
	return int(counter(events, "oom_kill"))
}

// set writes a file of a control group.
func set(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600)
}
