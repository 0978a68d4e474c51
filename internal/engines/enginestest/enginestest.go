// Package enginestest gives tests the real engine. It must not fake one.
package enginestest

import (
	"os"
	"path/filepath"
	"testing"

	"rbee"
	"rbee/internal/engines"
)

// Dir returns the directory of engines that tests share, for
// engines.Open and for RBEE_ENGINE_DIR, with the engine of the CPU installed:
// the one of RBEE_ENGINE_DIR, else one in the user's cache, so that npm is asked
// once per machine. Without a cache directory the test gets its own.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("RBEE_ENGINE_DIR")
	if dir == "" {
		if cache, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(cache, "rbee-test", "engines")
		} else {
			dir = t.TempDir()
		}
	}
	if _, err := engines.Open(dir).Ensure(t.Context(), rbee.BackendCPU, nil); err != nil {
		t.Fatalf("cannot install the engine for the tests: %v (%s)", err, rbee.AsError(err).Suggestion())
	}
	return dir
}

// LibDir is the directory of the libraries below Dir.
func LibDir(t testing.TB) string {
	t.Helper()
	return engines.Open(Dir(t)).LibDir()
}
