//go:build linux

package e2e

import (
	"path/filepath"
	"syscall"
	"testing"

	"rbee"
	"rbee/bench/ggufgen"
)

// The column of SIGKILL of the kill table, with the real engine in the worker.
// Its model has random weights and is slow enough to be caught loading and
// generating.
func TestKillTableWithTheRealEngine(t *testing.T) {
	t.Parallel()
	shape, err := ggufgen.Preset("125m")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "random.gguf")
	if err := ggufgen.WriteFile(path, shape); err != nil {
		t.Fatal(err)
	}
	for _, victim := range []victim{keeperVictim, hiveVictim, workerVictim} {
		for _, state := range []rbee.WorkerState{rbee.WorkerLoading, rbee.WorkerIdle, rbee.WorkerBusy} {
			t.Run(string(victim)+"/"+string(state), func(t *testing.T) {
				c := newColony(t)
				c.noted(filepath.Join(programs.dir, "llm-worker-rbee"))
				s := &scene{colony: c, end: func() {}}
				s.set(state, "file:"+path)
				s.kill(victim, syscall.SIGKILL)
				s.check(victim, state, syscall.SIGKILL)
			})
		}
	}
}
