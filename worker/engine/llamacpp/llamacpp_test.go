package llamacpp_test

import (
	"os"
	"path/filepath"
	"testing"

	"rbee/internal/engines/enginestest"
	"rbee/models"
	"rbee/worker/engine"
	"rbee/worker/engine/enginetest"
	"rbee/worker/engine/llamacpp"
)

// options are those of bee-tiny on one thread: more would fight over the CPUs
// with the other packages' tests.
func options(t testing.TB) engine.Options {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bee-tiny.gguf")
	if err := os.WriteFile(path, models.BeeTiny(), 0o600); err != nil {
		t.Fatal(err)
	}
	return engine.Options{ModelPath: path, LibDir: enginestest.LibDir(t), Threads: 1}
}

func TestContract(t *testing.T) { enginetest.Run(t, llamacpp.Load, options(t)) }
