package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/internal/supervise"
)

// installEnv names the directory in which the test binary, run again, installs.
const installEnv = "ENGINES_TEST_INSTALL"

// slowNPM puts an npm first in the PATH that never ends, and returns a function
// that waits until n of its processes run and gives their ids.
func slowNPM(t *testing.T, last string) func(n int) []int {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\npids=%q\n%s\n", filepath.Join(dir, "pids"), last)
	must(t, os.WriteFile(filepath.Join(dir, "npm"), []byte(script), 0o700)) //nolint:gosec // a program
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return func(n int) []int {
		var pids []int
		eventually(t, "npm runs", func() bool {
			b, _ := os.ReadFile(filepath.Join(dir, "pids"))
			pids = nil
			for line := range strings.Lines(string(b)) {
				pid, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
				must(t, err)
				pids = append(pids, pid)
			}
			return len(pids) == n
		})
		return pids
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d of npm ends", pid), func() bool {
			_, err := supervise.StartTime(pid)
			return errors.Is(err, supervise.ErrNoProcess)
		})
	}
}

func slowStore(dir string) *Store {
	s := Open(filepath.Join(dir, "engines"))
	s.pins = []pin{testPin(rbee.BackendCPU, "@test/cpu", nil)}
	return s
}

func TestNPMDiesWithAnInstallationThatIsKilled(t *testing.T) {
	if dir := os.Getenv(installEnv); dir != "" {
		_, err := slowStore(dir).Ensure(t.Context(), rbee.BackendCPU, nil)
		t.Fatalf("the installation ended: %v", err)
	}
	running := slowNPM(t, `echo $$ >>"$pids"; exec sleep 60`)
	parent := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$") //nolint:gosec // the test itself
	parent.Env = append(os.Environ(), installEnv+"="+t.TempDir())
	must(t, parent.Start())
	pids := running(2) // npm pack and npm config
	must(t, parent.Process.Kill())
	_ = parent.Wait()
	gone(t, pids)
}

func TestACancelledInstallationEndsTheChildrenOfNPM(t *testing.T) {
	running := slowNPM(t, `[ "$1" = config ] && exit 1; sleep 60 & echo $$ >>"$pids"; echo $! >>"$pids"; wait`)
	ctx, cancel := context.WithCancelCause(t.Context())
	var installation sync.WaitGroup
	var err error
	installation.Go(func() { _, err = slowStore(t.TempDir()).Ensure(ctx, rbee.BackendCPU, nil) })
	pids := running(2)
	cancel(errors.New("the user left"))
	installation.Wait()
	if rbee.CodeOf(err) != rbee.CodeRequestCanceled || !strings.Contains(err.Error(), "the user left") {
		t.Error(err)
	}
	gone(t, pids)
}

func TestNPMGetsNoSecrets(t *testing.T) {
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = config ] || env >%q\nexit 7\n", filepath.Join(dir, "env"))
	must(t, os.WriteFile(filepath.Join(dir, "npm"), []byte(script), 0o700)) //nolint:gosec // a program
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	for _, name := range []string{"RBEE_HIVE_KEY", "RBEE_WORKER_KEY", "RBEE_CALLBACK_KEY", "RBEE_KEY_FILE", "HF_TOKEN"} {
		t.Setenv(name, "a secret of "+name)
	}
	t.Setenv("NPM_TOKEN", "for npm")
	_, err := slowStore(dir).Ensure(t.Context(), rbee.BackendCPU, nil)
	refused(t, err, rbee.CodeDownloadFailed, "npm: exit status 7")
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	must(t, err)
	if strings.Contains(string(env), "a secret of") || !strings.Contains(string(env), "NPM_TOKEN=for npm") {
		t.Errorf("npm got\n%s", env)
	}
}

func TestAFullDiskIsNoFaultOfTheNetwork(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho 'npm error code ENOSPC' >&2\nexit 228\n"
	must(t, os.WriteFile(filepath.Join(dir, "npm"), []byte(script), 0o700)) //nolint:gosec // a program
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	_, err := slowStore(dir).Ensure(t.Context(), rbee.BackendCPU, nil)
	refused(t, err, rbee.CodeInsufficientDisk, "the disk is full")
}
