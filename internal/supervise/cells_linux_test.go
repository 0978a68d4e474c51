package supervise_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rbee/internal/supervise"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func text(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestTheOwnControlGroupIsFound(t *testing.T) {
	const mounts = `22 1 254:0 / / rw - ext4 /dev/root rw
30 22 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 22 0:27 %s /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
`
	for name, c := range map[string]struct{ groups, root, want string }{
		"a unit":              {"0::/user.slice/rbee-hive.service\n", "/", "/sys/fs/cgroup/user.slice/rbee-hive.service"},
		"beside version 1":    {"4:memory:/x\n0::/b\n", "/", "/sys/fs/cgroup/b"},
		"the root":            {"0::/\n", "/", "/sys/fs/cgroup"},
		"a part that is seen": {"0::/pod/a\n", "/pod", "/sys/fs/cgroup/a"},
		"outside what is":     {"0::/elsewhere\n", "/pod", ""},
		"version 1 alone":     {"4:memory:/x\n", "/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			write(t, proc, map[string]string{"cgroup": c.groups, "mountinfo": fmt.Sprintf(mounts, c.root)})
			got, err := supervise.OwnGroup(proc)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("group = %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// The files of a control group, as a directory like any other.
func TestTheMemoryOfContainedChildrenIsBounded(t *testing.T) {
	unit := t.TempDir()
	child := begin(t, spawner(t, nil), "obey").PID()
	procs := fmt.Sprintf("%d\n%d\n1\n", os.Getpid(), child) // and one that is not ours
	write(t, unit, map[string]string{"cgroup.procs": procs, "cgroup.controllers": "cpu memory pids\n"})
	c, err := supervise.NewCells(unit, "cells-1-2")
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, unit, "supervisor", "cgroup.procs"); got != strconv.Itoa(child) { // each write is a move
		t.Errorf("the last process that was moved is %q", got)
	}
	one, two := c.Make(5e9), c.Make(0)
	if one == "" || two == "" || one == two || filepath.Dir(one) != filepath.Join(unit, "cells-1-2") {
		t.Fatalf("groups %q and %q", one, two)
	}
	for _, file := range []struct{ path, want string }{
		{filepath.Join(unit, "cgroup.subtree_control"), "+memory"},
		{filepath.Join(unit, "cells-1-2", "cgroup.subtree_control"), "+memory"},
		{filepath.Join(unit, "cells-1-2", "memory.max"), "max"}, // by the word of the second
		{filepath.Join(one, "memory.oom.group"), "1"},
	} {
		if got := text(t, file.path); got != file.want {
			t.Errorf("%s = %q, want %q", file.path, got, file.want)
		}
	}
	if c.Make(6e9); text(t, unit, "cells-1-2", "memory.max") != "6000000000" {
		t.Error("the bound was not set anew")
	}
	if n := supervise.OOMKillsOf(two); n != 0 {
		t.Errorf("%d kills without a count", n)
	}
	write(t, one, map[string]string{"memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 1\n"})
	if n := supervise.OOMKillsOf(one); n != 1 {
		t.Errorf("%d kills, want 1", n)
	}
}

func TestWithoutTheMemoryControllerThereIsNoBound(t *testing.T) {
	unit := t.TempDir()
	write(t, unit, map[string]string{"cgroup.procs": "", "cgroup.controllers": "cpu pids\n"})
	c, err := supervise.NewCells(unit, "cells-1-2")
	if err != nil {
		t.Fatal(err)
	}
	one := c.Make(5e9)
	if left, _ := filepath.Glob(filepath.Join(unit, "*", "memory.*")); one == "" || len(left) > 0 {
		t.Errorf("group %q, files %v", one, left)
	}
}

// unit makes a control group that is handed over, as systemd would.
func unit(t *testing.T) string {
	t.Helper()
	above, err := supervise.OwnGroup("/proc/self")
	if err != nil {
		t.Skip("this system has no control groups of version 2:", err)
	}
	dir := filepath.Join(above, "rbee-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Skip("no permission to make a control group:", err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o600)
		eventually(t, "the control group is gone", func() bool {
			below, _ := filepath.Glob(filepath.Join(dir, "*", "*", "cgroup.procs"))
			and, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
			for _, procs := range append(below, and...) {
				_ = os.Remove(filepath.Dir(procs))
			}
			return os.Remove(dir) == nil
		})
	})
	if err := unix.Setxattr(dir, "user.delegate", []byte("1"), 0); err != nil {
		t.Skip("control groups of this system take no marks:", err)
	}
	return dir
}

func groupOf(t *testing.T, pid int) string {
	t.Helper()
	for line := range bytes.Lines([]byte(text(t, fmt.Sprintf("/proc/%d/cgroup", pid)))) {
		if group, ok := bytes.CutPrefix(line, []byte("0::")); ok {
			return string(bytes.TrimSpace(group))
		}
	}
	return ""
}

// A program in a group of its own contains a child whose own child has left
// the process group. Nothing of it outlives the child, nor the program.
func TestWhatLeftTheProcessGroupDiesWithTheControlGroup(t *testing.T) {
	dir := unit(t)
	for name, end := range map[string]func(parent *supervise.Process, child int){
		"the child is killed": func(_ *supervise.Process, child int) { _ = syscall.Kill(child, syscall.SIGKILL) },
		"the program is killed": func(parent *supervise.Process, _ int) {
			_ = parent.Signal(syscall.SIGKILL)
			<-parent.Done()
			next := begin(t, spawner(t, nil), "contain "+dir+" obey") // and another starts
			nextLine(t, next)
			next.Stop(t.Context(), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			parent := begin(t, spawner(t, nil), "contain "+dir+" runaway")
			child, escaped := 0, 0
			if _, err := fmt.Sscan(nextLine(t, parent), &child, &escaped); err != nil {
				t.Fatalf("%v: %v", parent.Log().Lines(), err)
			}
			in := groupOf(t, child)
			if !strings.Contains(in, "/cells-"+strconv.Itoa(parent.PID())+"-") || groupOf(t, escaped) != in {
				t.Errorf("the child is in %q, its own child in %q", in, groupOf(t, escaped))
			}
			if got := groupOf(t, parent.PID()); filepath.Base(got) != "supervisor" {
				t.Errorf("the program is in %q", got)
			}
			if gid, _ := syscall.Getpgid(escaped); gid == child {
				t.Error("the runaway is in the process group")
			}
			end(parent, child)
			eventually(t, "the runaway is gone", gone(escaped))
			parent.Stop(t.Context(), time.Minute)
			eventually(t, "the group of the child is gone", func() bool { return !exists(filepath.Join(filepath.Dir(dir), in)) })
		})
	}
}

// barClone3 refuses the system call that starts a process in a control group,
// as systemd's RestrictNamespaces= does.
func barClone3() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{ // seccomp(2): the number of the call is at offset 0
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE3, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		return fmt.Errorf("the call is not barred: %w", errno)
	}
	return nil
}

func TestAChildIsMovedIntoItsGroupWhereItCannotStartThere(t *testing.T) {
	dir := unit(t)
	spec := testSpec("contain " + dir + " obey")
	spec.Env = append(spec.Env, barEnv+"=1")
	parent, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	child := 0
	if _, err := fmt.Sscan(nextLine(t, parent), &child); err != nil {
		t.Fatalf("%v: %v", parent.Log().Lines(), err)
	}
	if in := groupOf(t, child); !strings.Contains(in, "/cells-"+strconv.Itoa(parent.PID())+"-") {
		t.Errorf("the child is in %q", in)
	}
	parent.Stop(t.Context(), time.Minute)
	if left, _ := filepath.Glob(filepath.Join(dir, "cells-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAControlGroupOfSomebodyElseIsLeftAlone(t *testing.T) {
	if supervise.OpenCells() {
		t.Error("this program was not given a group, and uses one")
	}
}
