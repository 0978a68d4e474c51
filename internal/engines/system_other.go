//go:build !linux

package engines

import (
	"os"
	"path/filepath"
	"runtime"
)

const needsSystemFFI = false

// findLibrary looks for a library where the system looks for one by name. It
// returns the path, or "".
func findLibrary(name string) string {
	dirs := []string{"/usr/lib", "/usr/local/lib", "/opt/homebrew/lib"}
	if runtime.GOOS == "windows" {
		dirs = append([]string{filepath.Join(os.Getenv("SystemRoot"), "System32")}, filepath.SplitList(os.Getenv("PATH"))...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	return ""
}
