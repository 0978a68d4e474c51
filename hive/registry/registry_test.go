package registry_test

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"rbee"
	"rbee/hive/registry"
)

func ref(n int) rbee.ModelRef {
	return rbee.ModelRef{Provider: rbee.ProviderFile, Reference: fmt.Sprintf("/m/%d.gguf", n)}
}

func id(n int) rbee.WorkerID { return rbee.WorkerID(fmt.Sprintf("w-%d", n)) }

func TestBehaviourRegistryFindsByIDAndByModel(t *testing.T) {
	var r registry.Registry
	for n := range 9 {
		r.Put(rbee.Worker{ID: id(n), ModelRef: ref(n % 3)})
	}
	if w, ok := r.Worker(id(4)); !ok || w.ModelRef != ref(1) {
		t.Errorf("by id: %v, %v", w, ok)
	}
	var ids []rbee.WorkerID
	for _, w := range r.ByModel(ref(1)) {
		ids = append(ids, w.ID)
	}
	slices.Sort(ids)
	if want := []rbee.WorkerID{id(1), id(4), id(7)}; !slices.Equal(ids, want) {
		t.Errorf("by model: %v, want %v", ids, want)
	}
	if _, ok := r.Worker("nobody"); ok || len(r.ByModel(ref(99))) != 0 {
		t.Error("found what is not there")
	}
}

func TestAnEmptyRegistryListsAnEmptyArray(t *testing.T) {
	b, err := json.Marshal(rbee.WorkerList{Workers: new(registry.Registry).List()})
	if err != nil || string(b) != `{"workers":[]}` {
		t.Errorf("list is %s, %v", b, err)
	}
}

// TestRegistryAgreesWithAMap drives the registry and a plain map with the same
// random steps and compares all views after each.
func TestRegistryAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r registry.Registry
		want := map[rbee.WorkerID]rbee.Worker{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				w := rbee.Worker{ID: id(rapid.IntRange(0, 7).Draw(t, "id")), ModelRef: ref(rapid.IntRange(0, 2).Draw(t, "model")), PID: rapid.Int().Draw(t, "pid")}
				r.Put(w)
				want[w.ID] = w
			},
			"remove": func(t *rapid.T) {
				gone := id(rapid.IntRange(0, 7).Draw(t, "id"))
				r.Remove(gone)
				delete(want, gone)
			},
			"clear": func(*rapid.T) { r.Clear(); clear(want) },
			"": func(t *rapid.T) {
				if n := len(r.List()); n != len(want) {
					t.Fatalf("lists %d, want %d", n, len(want))
				}
				perModel := 0
				for m := range 3 {
					for _, w := range r.ByModel(ref(m)) {
						perModel++
						if w.ModelRef != ref(m) || want[w.ID].PID != w.PID {
							t.Fatalf("model %d lists %+v", m, w)
						}
					}
				}
				if perModel != len(want) {
					t.Fatalf("models list %d workers, want %d", perModel, len(want))
				}
				for i := range maps.Keys(want) {
					if w, ok := r.Worker(i); !ok || w.PID != want[i].PID {
						t.Fatalf("worker %s is %v, %v", i, w, ok)
					}
				}
			},
		})
	})
}

func TestBehaviourRegistryIsRaceFree(t *testing.T) {
	var r registry.Registry
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 500 {
				r.Put(rbee.Worker{ID: id(g*1000 + n%50), ModelRef: ref(n % 5)})
				_, _ = r.Worker(id(n % 50))
				_ = r.ByModel(ref(n % 5))
				_ = r.List()
				r.Remove(id(g*1000 + (n+25)%50))
			}
		})
	}
	wg.Wait()
	for _, w := range r.List() {
		r.Remove(w.ID)
	}
	if n := len(r.List()); n != 0 {
		t.Errorf("%d workers left", n)
	}
}

// TestBehaviourRegistryReachesNoSQL follows the imports of the package through
// this module by reading the files.
func TestBehaviourRegistryReachesNoSQL(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var visit func(pkg, from string)
	visit = func(pkg, from string) {
		if seen[pkg] {
			return
		}
		seen[pkg] = true
		if strings.Contains(strings.ToLower(pkg), "sql") {
			t.Errorf("%s imports %s", from, pkg)
		}
		if pkg != "rbee" && !strings.HasPrefix(pkg, "rbee/") {
			if strings.Contains(pkg, ".") {
				t.Errorf("%s imports %s, of which nobody here knows what it reaches", from, pkg)
			}
			return
		}
		files, err := filepath.Glob(filepath.Join(root, strings.TrimPrefix(pkg, "rbee"), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("package %s has no files (%v)", pkg, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			tree, err := parser.ParseFile(token.NewFileSet(), f, src, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, imp := range tree.Imports {
				visit(strings.Trim(imp.Path.Value, `"`), pkg)
			}
		}
	}
	visit("rbee/hive/registry", "the test")
	if !seen["rbee"] {
		t.Error("the walk did not follow any import")
	}
}

// BenchmarkLookup shows that a lookup takes well under 1 ms with 100,000
// workers, also when all of them serve one model.
func BenchmarkLookup(b *testing.B) {
	const workers = 100_000
	for _, models := range []int{1, 1000} {
		var r registry.Registry
		for n := range workers {
			r.Put(rbee.Worker{ID: id(n), ModelRef: ref(n % models)})
		}
		b.Run(fmt.Sprintf("by=id/models=%d", models), func(b *testing.B) {
			wanted := id(workers / 2)
			for b.Loop() {
				if _, ok := r.Worker(wanted); !ok {
					b.Fatal("not found")
				}
			}
		})
		b.Run(fmt.Sprintf("by=model/models=%d", models), func(b *testing.B) {
			wanted := ref(0)
			for b.Loop() {
				if len(r.ByModel(wanted)) != workers/models {
					b.Fatal("not all found")
				}
			}
		})
	}
}
