//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// delegatedGroup makes a control group (version 2) that is handed over, as
// systemd does for a unit with Delegate=yes.
func delegatedGroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.Contains(line, " - cgroup2 ") && len(f) > 4 {
			root = f[4]
		}
	}
	dir := filepath.Join(root, groupOf(t, os.Getpid()), "rbee-e2e-"+strconv.Itoa(os.Getpid()))
	if root == "" || os.Mkdir(dir, 0o700) != nil {
		t.Skip("no permission to make a control group")
	}
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o600)
		eventually(t, "the control group is gone", func() bool {
			for _, below := range []string{"*/*", "*"} {
				groups, _ := filepath.Glob(filepath.Join(dir, below, "cgroup.procs"))
				for _, procs := range groups {
					_ = os.Remove(filepath.Dir(procs))
				}
			}
			return os.Remove(dir) == nil
		})
	})
	if err := unix.Setxattr(dir, "user.delegate", []byte("1"), 0); err != nil {
		t.Skip("control groups of this system take no marks:", err)
	}
	return dir
}

// groupOf is the control group of a process.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if group, ok := bytes.CutPrefix(line, []byte("0::")); ok {
			return string(bytes.TrimSpace(group))
		}
	}
	return ""
}

func TestWorkersOfAServiceHaveControlGroupsThatDieWithThem(t *testing.T) {
	t.Parallel()
	dir := delegatedGroup(t)
	c := newColony(t)
	c.plainFake("")
	start := func(name string) *running {
		cmd := c.hiveCommand()
		enter := exec.Command("sh", append([]string{"-c", `echo $$ >"$0/cgroup.procs"; exec "$@"`, dir}, cmd.Args...)...)
		enter.Stderr = c.noteFile(name)
		return c.startCmd(enter)
	}
	hive := start("first")
	calls := c.daemonOf(hive)
	first, second := c.spawn(calls, tiny), c.spawn(calls, tiny)
	one, two := groupOf(t, first.PID), groupOf(t, second.PID)
	if one == two || filepath.Dir(one) != filepath.Dir(two) || !strings.HasPrefix(filepath.Base(filepath.Dir(one)), "cells-"+strconv.Itoa(hive.pid())) {
		t.Errorf("the workers are in %s and %s", one, two)
	}
	if got := filepath.Base(groupOf(t, hive.pid())); got != "supervisor" {
		t.Errorf("the hive is in %s", got)
	}
	groups := func() []string {
		found, _ := filepath.Glob(filepath.Join(dir, "cells-*", "*", "cgroup.procs"))
		return found
	}
	if err := calls.StopWorker(t.Context(), first.ID); err != nil {
		t.Error(err)
	}
	if left := groups(); len(left) != 1 {
		t.Errorf("groups after the end of a worker: %v", left)
	}
	kill(t, hive.pid(), syscall.SIGKILL)
	hive.mustExit("signal: killed")
	again := start("second")
	calls = c.daemonOf(again)
	c.works(calls) // from the first worker on there are groups
	if left := groups(); len(left) > 0 {
		t.Errorf("groups that nobody is in: %v", left)
	}
	kill(t, again.pid(), syscall.SIGTERM)
	again.mustExit("exit status 0")
	if left, _ := filepath.Glob(filepath.Join(dir, "cells-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
