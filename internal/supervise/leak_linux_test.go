package supervise_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"rbee/internal/supervise"
)

// The kernel takes the end of the thread that forked for the death of the
// parent, and a goroutine that ends while it is locked to its thread takes the
// thread along. The children of a thread are listed in proc(5).
func TestAllChildrenAreForkedFromOneThread(t *testing.T) {
	s := spawner(t, nil)
	children := make([]*supervise.Process, 4)
	for i := range children {
		children[i] = begin(t, s, "deaf")
		nextLine(t, children[i])
		var retire sync.WaitGroup
		for range 20 {
			retire.Go(runtime.LockOSThread)
		}
		retire.Wait()
	}
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Fatalf("cannot list the children of the threads: %v", err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread is gone
		}
		here := 0
		for _, pid := range strings.Fields(string(text)) {
			if slices.ContainsFunc(children, func(p *supervise.Process) bool { return strconv.Itoa(p.PID()) == pid }) {
				here++
			}
		}
		if here != 0 && here != len(children) {
			t.Errorf("%d of %d children are those of %s", here, len(children), list)
		}
	}
}

func TestSiblingsDoNotHoldEachOthersDeathPipe(t *testing.T) {
	inherited := pipesOf(t, os.Getpid()) // from whoever runs the tests
	s := spawner(t, nil)
	children := make([]*supervise.Process, 8)
	for i := range children {
		children[i] = begin(t, s, "obey")
	}
	own := map[string]int{} // pipe → children that have it
	for _, p := range children {
		nextLine(t, p)
		for pipe := range pipesOf(t, p.PID()) {
			own[pipe]++
		}
	}
	for pipe, holders := range own {
		if holders > 1 && !inherited[pipe] {
			t.Errorf("%s is open in %d children", pipe, holders)
		}
	}
}

func pipesOf(t *testing.T, pid int) map[string]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	pipes := map[string]bool{}
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.HasPrefix(target, "pipe:") {
			pipes[target] = true
		}
	}
	return pipes
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestManyStartsLeakNothing(t *testing.T) {
	ledger, err := supervise.OpenLedger(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := spawner(t, ledger)
	spec := supervise.Spec{Path: "true"}
	once := func() {
		p, err := s.Start(spec)
		if err != nil {
			t.Error(err)
			return
		}
		if got := p.Exit(); !got.Success() {
			t.Error(got)
		}
	}
	once()
	files := openFiles(t)
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			for range 250 {
				once()
			}
		})
	}
	starters.Wait()
	if after := openFiles(t); after > files {
		t.Errorf("%d open files before 1000 starts, %d after", files, after)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err == nil && len(children) > 0 {
		t.Errorf("children are left: %s", children)
	}
	if pids := zombies(t); len(pids) > 0 {
		t.Errorf("zombies are left: %v", pids)
	}
}

// zombies lists the children of this process that nobody collected.
func zombies(t *testing.T) []string {
	t.Helper()
	tasks, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, task := range tasks {
		stat, err := os.ReadFile("/proc/" + task.Name() + "/stat")
		if err != nil {
			continue
		}
		after := string(stat[strings.LastIndex(string(stat), ")")+1:])
		if strings.HasPrefix(after, fmt.Sprintf(" Z %d ", os.Getpid())) {
			found = append(found, task.Name())
		}
	}
	return found
}
