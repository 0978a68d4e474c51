//go:build linux

package e2e

import (
	"debug/buildinfo"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestBehaviourEverythingBuildsWithoutCgo(t *testing.T) {
	build := exec.Command("go", "build", "./...")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBehaviourTheProgramsHaveTheirFourNames(t *testing.T) {
	entries, err := os.ReadDir(programs.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"llm-worker-rbee", "queen-rbee", "rbee", "rbee-hive"}; !slices.Equal(names, want) {
		t.Fatalf("cmd builds %v, want %v", names, want)
	}
	c := newColony(t)
	versions := map[string]string{"rbee": "version", "rbee-hive": "version", "queen-rbee": "version", "llm-worker-rbee": "--version"}
	for _, name := range names {
		for arg, want := range map[string]string{versions[name]: "0.1.0", "--help": "Usage:"} {
			r := c.run(name, arg)
			r.mustExit("exit status 0")
			if text := r.stdout(); !strings.Contains(text, want) || !strings.Contains(text, name) {
				t.Errorf("%s %s prints %q", name, arg, text)
			}
		}
	}
}

func TestBehaviourNoSQLIsReachableFromTheRegistryOrTheWorker(t *testing.T) {
	info, err := buildinfo.ReadFile(filepath.Join(programs.dir, "llm-worker-rbee"))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) == 0 {
		t.Error("the worker's list of modules is empty")
	}
	for _, module := range info.Deps {
		if isSQL(module.Path) {
			t.Errorf("the worker is built with %s", module.Path)
		}
	}
	for _, start := range []string{"rbee/hive/registry", "rbee/worker", "rbee/cmd/llm-worker-rbee"} {
		importedBy := map[string]string{}
		ownImports(t, start, importedBy)
		for path, by := range importedBy {
			if isSQL(path) {
				t.Errorf("%s reaches %s through %s", start, path, by)
			}
		}
		if len(importedBy) == 0 {
			t.Errorf("%s imports nothing", start)
		}
	}
}

func isSQL(path string) bool {
	for _, bad := range []string{"database/sql", "modernc.org/sqlite", "github.com/pressly/goose", "rbee/internal/sqlite"} {
		if path == bad || strings.HasPrefix(path, bad+"/") {
			return true
		}
	}
	return false
}

// ownImports follows the imports of a package of this module, and notes who imports what.
func ownImports(t *testing.T, pkg string, importedBy map[string]string) {
	t.Helper()
	dir := filepath.Join(root, strings.TrimPrefix(strings.TrimPrefix(pkg, "rbee"), "/"))
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if importedBy[path] != "" {
				continue
			}
			importedBy[path] = pkg
			if path == "rbee" || strings.HasPrefix(path, "rbee/") {
				ownImports(t, path, importedBy)
			}
		}
	}
}
