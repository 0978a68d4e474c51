package supervise_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"rbee/internal/supervise"
)

func TestExitSaysWhetherMemoryRanOut(t *testing.T) {
	for name, c := range map[string]struct {
		ours       bool
		ofTheGroup int
		anywhere   bool
		want       string
	}{
		"killed by somebody":                  {want: "signal: killed"},
		"killed by us":                        {ours: true, want: "signal: killed"},
		"counted in its own group":            {ofTheGroup: 1, anywhere: true, want: "signal: killed (out of memory)"},
		"counted in its own group, and by us": {ours: true, ofTheGroup: 2, anywhere: true, want: "signal: killed (out of memory)"},
		"the kernel killed somebody":          {anywhere: true, want: "signal: killed (probably out of memory)"},
		"the kernel killed another, we this":  {ours: true, anywhere: true, want: "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			e := supervise.Exit{Code: -1, Signal: syscall.SIGKILL.String(), OOM: supervise.Blame(c.ours, c.ofTheGroup, c.anywhere)}
			if got := e.String(); got != c.want {
				t.Errorf("exit = %q, want %q", got, c.want)
			}
		})
	}
}

func TestAKillFromOutsideIsNoLackOfMemory(t *testing.T) {
	s := spawner(t, nil)
	p := begin(t, s, "deaf")
	nextLine(t, p)
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := p.Exit(); got.OOM != supervise.NotOOM || got.Signal != "killed" {
		t.Errorf("exit = %+v", got)
	}
}

func TestCountersOfTheKernel(t *testing.T) {
	text := "oom 3\noom_kill 12\noom_group_kill 5\n"
	for name, want := range map[string]uint64{"oom": 3, "oom_kill": 12, "oom_group_kill": 5, "max": 0} {
		if got := supervise.Counter(text, name); got != want {
			t.Errorf("%s = %d, want %d", name, got, want)
		}
	}
}

// A control group of version 1 with little memory is what this system lets root
// make everywhere; the kernel then really ends the child.
func TestTheKernelsOwnKillIsToldApart(t *testing.T) {
	group := filepath.Join("/sys/fs/cgroup/memory", "rbee-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o700); err != nil {
		t.Skip("no permission to bound the memory of a child:", err)
	}
	t.Cleanup(func() {
		eventually(t, "the control group is gone", func() bool { return os.Remove(group) == nil })
	})
	for _, file := range []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"} { // the second where there is swap
		if err := os.WriteFile(filepath.Join(group, file), []byte("67108864"), 0o600); err != nil && file == "memory.limit_in_bytes" {
			t.Skip("no permission to bound the memory of a child:", err)
		}
	}
	s := spawner(t, nil)
	p := begin(t, s, "glutton "+filepath.Join(group, "cgroup.procs"))
	got := p.Exit()
	if got.OOM != supervise.LikelyOOM || got.String() != "signal: killed (probably out of memory)" {
		t.Errorf("exit = %+v (%s)\n%s", got, got, strings.Join(p.Log().Lines(), "\n"))
	}
}
