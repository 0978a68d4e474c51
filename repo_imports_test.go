package rbee_test

import (
	"slices"
	"strings"
	"testing"
)

// layer is the height of a package: it may import what is below it, and what
// belongs to the same part. The order is cmd, role, client, internal, rbee.
func layer(dir string) (part string, height int) {
	part, _, _ = strings.Cut(dir, "/")
	switch part {
	case ".":
		return part, 0
	case "models":
		return part, 0
	case "internal":
		return part, 1
	case "client":
		return part, 2
	case "keeper", "queen", "hive", "worker":
		return part, 3
	case "cmd":
		return dir, 4
	case "bench":
		return part, 5
	default: // e2e looks at all of it from outside
		return part, 6
	}
}

// packageDir is the directory of an import path of this module.
func packageDir(importPath string) (dir string, ours bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

func TestImportsPointDownwards(t *testing.T) {
	for _, s := range sources(t) {
		part, height := layer(s.dir)
		for _, imported := range s.imports(t) {
			dir, ours := packageDir(imported)
			if !ours {
				continue
			}
			otherPart, otherHeight := layer(dir)
			if part != otherPart && height <= otherHeight {
				t.Errorf("%s imports %s, which is not below it", s.path, imported)
			}
			if height > 4 && (otherHeight == 3 || otherHeight == 4) {
				t.Errorf("%s imports %s, but it looks at the programs from outside", s.path, imported)
			}
		}
	}
}

func TestTheVocabularyImportsTheStandardLibraryOnly(t *testing.T) {
	for _, s := range product(t) {
		if s.dir != "." {
			continue
		}
		for _, imported := range s.imports(t) {
			first, _, _ := strings.Cut(imported, "/")
			if strings.Contains(first, ".") || first == module || slices.Contains([]string{"os", "net", "log"}, first) && imported != "net/http" && imported != "net/url" {
				t.Errorf("%s imports %s", s.path, imported)
			}
		}
	}
}

// graph is what each package of the module imports, without tests.
func graph(t *testing.T) map[string][]string {
	imports := map[string][]string{}
	for _, s := range product(t) {
		imports[s.dir] = append(imports[s.dir], s.imports(t)...)
	}
	return imports
}

// reach are the import paths that a package reaches through packages of the module.
func reach(imports map[string][]string, dir string, seen map[string]bool) {
	for _, imported := range imports[dir] {
		if seen[imported] {
			continue
		}
		seen[imported] = true
		if next, ours := packageDir(imported); ours {
			reach(imports, next, seen)
		}
	}
}

func TestEachThingHasOnePlace(t *testing.T) {
	imports := graph(t)
	for _, rule := range []struct {
		thing   string
		paths   []string // prefixes of what only some packages may import themselves
		home    []string // those packages
		keptOut []string // packages that must not even reach it
	}{
		{
			thing:   "SQL",
			paths:   []string{"database/sql", "modernc.org/sqlite", "github.com/pressly/goose"},
			home:    []string{"hive/catalog", "internal/sqlite"},
			keptOut: []string{"hive/registry", "hive/pool", "worker", "keeper", "queen", "client", "cmd/llm-worker-rbee", "cmd/queen-rbee", "cmd/rbee"},
		},
		{
			thing:   "llama.cpp",
			paths:   []string{"github.com/hybridgroup/yzma", "github.com/jupiterrider/ffi", "github.com/ebitengine/purego"},
			home:    []string{"worker/engine/llamacpp", "bench"},
			keptOut: []string{"keeper", "queen", "hive", "client", "worker", "cmd/rbee", "cmd/queen-rbee", "cmd/rbee-hive"},
		},
		{
			thing:   "the GGUF library, which panics on hostile files",
			paths:   []string{"github.com/gpustack/gguf-parser-go"},
			home:    []string{"internal/gguf"},
			keptOut: []string{"keeper", "queen", "client"},
		},
		{
			thing: "cgo",
			paths: []string{"C"},
		},
	} {
		t.Run(rule.thing, func(t *testing.T) {
			forbidden := func(imported string) bool {
				return slices.ContainsFunc(rule.paths, func(p string) bool {
					return imported == p || strings.HasPrefix(imported, p+"/")
				})
			}
			for dir, direct := range imports {
				if i := slices.IndexFunc(direct, forbidden); i >= 0 && !slices.Contains(rule.home, dir) {
					t.Errorf("%s imports %s; only %q may", dir, direct[i], rule.home)
				}
			}
			for _, dir := range rule.home {
				if !slices.ContainsFunc(imports[dir], forbidden) {
					t.Errorf("%s imports none of %q; the rule is out of date", dir, rule.paths)
				}
			}
			for _, dir := range rule.keptOut {
				if imports[dir] == nil {
					t.Errorf("there is no package %s; the rule is out of date", dir)
				}
				seen := map[string]bool{}
				reach(imports, dir, seen)
				for imported := range seen {
					if forbidden(imported) {
						t.Errorf("%s reaches %s", dir, imported)
					}
				}
			}
		})
	}
}
