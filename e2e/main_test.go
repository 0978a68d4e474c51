//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository.
const root = ".."

// bins is where TestMain puts the programs. All tests share it.
type bins struct {
	dir  string // rbee, rbee-hive, llm-worker-rbee, queen-rbee
	fake string // a worker with the fake engine
	// noted is another directory with the programs: its hive and its workers
	// note what they write to standard error in the directory E2E_NOTES, and its
	// worker waits for the gate E2E_GATE before it runs, if there is one.
	noted       string
	notedWorker string
}

var programs = bins{}

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rbee-e2e-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = errors.Join(dependOnSources(), programs.build(dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// dependOnSources looks at all files that the programs are made of: Go's test
// cache knows the files that a test reads, not those that a build in it reads.
func dependOnSources() error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() {
			_, err = os.Stat(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since the directory was read
		}
		return err
	})
}

func (b *bins) build(dir string) error {
	b.dir, b.noted = filepath.Join(dir, "bin"), filepath.Join(dir, "noted")
	b.fake = filepath.Join(dir, "fakeworker")
	b.notedWorker = filepath.Join(dir, "notedworker")
	for _, target := range [][2]string{{b.dir + "/", "./cmd/..."}, {b.fake, "./worker/workertest/fakeworker"}} {
		build := exec.Command("go", "build", "-race", "-o", target[0], target[1])
		build.Dir = root
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", target[1], err, out)
		}
	}
	if err := os.Mkdir(b.noted, 0o700); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(b.dir, "rbee"), filepath.Join(b.noted, "rbee")); err != nil {
		return err
	}
	hive := "#!/bin/sh\nexec '" + filepath.Join(b.dir, "rbee-hive") + `' "$@" 2>>"$E2E_NOTES/hive.$$"` + "\n"
	worker := `#!/bin/sh
if [ "$1" != devices ] && [ -n "$E2E_GATE" ]; then read -r _ <"$E2E_GATE"; fi
exec "$E2E_WORKER" "$@" 2>>"$E2E_NOTES/worker.$$"
`
	return errors.Join(
		os.WriteFile(filepath.Join(b.noted, "rbee-hive"), []byte(hive), 0o700),
		os.WriteFile(b.notedWorker, []byte(worker), 0o700))
}
