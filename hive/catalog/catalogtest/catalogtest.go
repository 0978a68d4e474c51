// Package catalogtest is the contract of catalog.Catalog as a test suite, and
// a catalog in memory that keeps it, for tests of what stands on a catalog.
package catalogtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/hive/catalog"
)

// Memory is a Catalog without a disk. The zero value is empty and ready.
type Memory struct {
	mu   sync.Mutex
	rows map[rbee.ModelRef]rbee.Model
}

// Model implements catalog.Catalog.
func (c *Memory) Model(_ context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.rows[ref]
	if !ok {
		return rbee.Model{}, fmt.Errorf("cannot find %s: %w", ref, catalog.ErrNoRow)
	}
	return m, nil
}

// Models implements catalog.Catalog.
func (c *Memory) Models(context.Context) ([]rbee.Model, error) {
	return c.list(func(rbee.Model) bool { return true }), nil
}

// ByPath implements catalog.Catalog.
func (c *Memory) ByPath(_ context.Context, path string) ([]rbee.Model, error) {
	return c.list(func(m rbee.Model) bool { return m.LocalPath == path }), nil
}

func (c *Memory) list(has func(rbee.Model) bool) []rbee.Model {
	c.mu.Lock()
	defer c.mu.Unlock()
	models := make([]rbee.Model, 0, len(c.rows))
	for _, m := range c.rows {
		if has(m) {
			models = append(models, m)
		}
	}
	slices.SortFunc(models, func(a, b rbee.Model) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Reference, b.Reference))
	})
	return models
}

// Put implements catalog.Catalog.
func (c *Memory) Put(_ context.Context, m rbee.Model) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil {
		c.rows = map[rbee.ModelRef]rbee.Model{}
	}
	if old, ok := c.rows[m.Ref()]; ok {
		m.LastUsed, m.UseCount = old.LastUsed, old.UseCount
	}
	c.rows[m.Ref()] = m
	return nil
}

// Remove implements catalog.Catalog.
func (c *Memory) Remove(_ context.Context, ref rbee.ModelRef) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rows, ref)
	return nil
}

// Touch implements catalog.Catalog.
func (c *Memory) Touch(_ context.Context, ref rbee.ModelRef, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last time.Time
	for _, m := range c.rows {
		if m.LastUsed.After(last) {
			last = m.LastUsed
		}
	}
	if m, ok := c.rows[ref]; ok {
		m.LastUsed, m.UseCount = catalog.Use(at, last), m.UseCount+1
		c.rows[ref] = m
	}
	return nil
}

// Full is a row with every column set.
func Full() rbee.Model {
	at := time.Date(2026, 11, 1, 12, 30, 15, 123456789, time.UTC)
	return rbee.Model{
		Reference: "/models/a b.gguf", Provider: rbee.ProviderFile, LocalPath: "/models/a b.gguf", SizeBytes: 1 << 40,
		DownloadedAt: at, SHA256: "ab12", Quantisation: "Q4_K_M", Architecture: "llama", ContextLength: 8192,
		Parameters: 7_000_000_000, Revision: "main", ETag: `"e"`, LastUsed: at.Add(time.Hour), UseCount: 3,
		Name: "A B", FileName: "q/a b-00001-of-00002.gguf",
		Parts: []rbee.ModelFile{{Path: "/models/a b.gguf", SizeBytes: 1, SHA256: "ef"}, {Path: "/models/a c.gguf", SizeBytes: 1<<40 - 1}},
	}
}

// Run checks that the catalogs that open makes, each empty, keep the contract.
func Run(t *testing.T, open func(t *testing.T) catalog.Catalog) {
	t.Run("a row comes back as it was put", func(t *testing.T) {
		c, want := open(t), Full()
		must(t, c.Put(t.Context(), want))
		got, err := c.Model(t.Context(), want.Ref())
		must(t, err)
		if d := gocmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
	t.Run("a row that is not there is ErrNoRow", func(t *testing.T) {
		if _, err := open(t).Model(t.Context(), Full().Ref()); !errors.Is(err, catalog.ErrNoRow) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("the key is reference and provider", func(t *testing.T) {
		c, a, b := open(t), Full(), Full()
		b.Provider, b.SizeBytes = rbee.ProviderHF, 5
		must(t, c.Put(t.Context(), a))
		must(t, c.Put(t.Context(), b))
		got, err := c.Models(t.Context())
		must(t, err)
		if d := gocmp.Diff([]rbee.Model{a, b}, got); d != "" {
			t.Error(d)
		}
	})
	t.Run("put replaces a row and keeps its use", func(t *testing.T) {
		c, m := open(t), Full()
		must(t, c.Put(t.Context(), m))
		again := m
		again.SizeBytes, again.SHA256, again.UseCount, again.LastUsed = 9, "cd34", 0, time.Time{}
		again.Name, again.FileName, again.Parts = "C", "c.gguf", nil
		must(t, c.Put(t.Context(), again))
		again.UseCount, again.LastUsed = m.UseCount, m.LastUsed
		got, err := c.Model(t.Context(), m.Ref())
		must(t, err)
		if d := gocmp.Diff(again, got); d != "" {
			t.Error(d)
		}
	})
	t.Run("the rows of one path are found", func(t *testing.T) {
		c, a, b, other := open(t), Full(), Full(), Full()
		b.Provider, other.Reference, other.LocalPath = rbee.ProviderHF, "/other.gguf", "/other.gguf"
		for _, m := range []rbee.Model{b, a, other} {
			must(t, c.Put(t.Context(), m))
		}
		got, err := c.ByPath(t.Context(), a.LocalPath)
		must(t, err)
		if d := gocmp.Diff([]rbee.Model{a, b}, got); d != "" {
			t.Error(d)
		}
		if got, err := c.ByPath(t.Context(), "/none"); err != nil || len(got) != 0 {
			t.Errorf("of a path without rows: %v, %v", got, err)
		}
	})
	t.Run("each list is of the moment and the caller's own", func(t *testing.T) {
		c, m := open(t), Full()
		list := func() []rbee.Model {
			got, err := c.Models(t.Context())
			must(t, err)
			return got
		}
		must(t, c.Put(t.Context(), m))
		list()[0].Name = "scribble"
		if got := list(); got[0].Name != m.Name {
			t.Errorf("a caller changed the list of another: %q", got[0].Name)
		}
		must(t, c.Touch(t.Context(), m.Ref(), m.LastUsed))
		if got := list(); got[0].UseCount != m.UseCount+1 {
			t.Errorf("after a use the list says %d", got[0].UseCount)
		}
		must(t, c.Remove(t.Context(), m.Ref()))
		if got := list(); len(got) != 0 {
			t.Errorf("after the removal: %v", got)
		}
	})
	t.Run("touch counts a use", func(t *testing.T) {
		c, m := open(t), Full()
		must(t, c.Put(t.Context(), m))
		at := m.LastUsed.Add(time.Minute)
		must(t, c.Touch(t.Context(), m.Ref(), at))
		got, err := c.Model(t.Context(), m.Ref())
		must(t, err)
		if !got.LastUsed.Equal(at) || got.UseCount != m.UseCount+1 {
			t.Errorf("used %d times, last %s", got.UseCount, got.LastUsed)
		}
		must(t, c.Touch(t.Context(), rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "no/body"}, at))
	})
	t.Run("uses stay in their order when the clock is set back", func(t *testing.T) {
		c, m := open(t), Full()
		must(t, c.Put(t.Context(), m))
		other := m
		other.Reference, other.LastUsed = "/models/other.gguf", time.Time{}
		must(t, c.Put(t.Context(), other))
		latest := m.LastUsed
		for _, ref := range []rbee.ModelRef{other.Ref(), m.Ref(), other.Ref()} {
			must(t, c.Touch(t.Context(), ref, m.LastUsed.AddDate(-10, 0, 0)))
			got, err := c.Model(t.Context(), ref)
			must(t, err)
			if !got.LastUsed.After(latest) || got.LastUsed.Sub(m.LastUsed) > time.Minute {
				t.Errorf("%s was used at %s, after a use at %s", ref, got.LastUsed, latest)
			}
			latest = got.LastUsed
		}
	})
	t.Run("remove is idempotent", func(t *testing.T) {
		c, m := open(t), Full()
		must(t, c.Put(t.Context(), m))
		must(t, c.Remove(t.Context(), m.Ref()))
		must(t, c.Remove(t.Context(), m.Ref()))
		got, err := c.Models(t.Context())
		must(t, err)
		if got == nil || len(got) != 0 {
			t.Errorf("left: %#v", got)
		}
	})
	t.Run("writers do not lose one another's rows", func(t *testing.T) {
		c := open(t)
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				m := Full()
				m.Reference = fmt.Sprintf("/m/%d.gguf", n)
				if err := c.Put(t.Context(), m); err != nil {
					t.Error(err)
				}
				if err := c.Touch(t.Context(), m.Ref(), m.LastUsed); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got, err := c.Models(t.Context())
		must(t, err)
		if len(got) != 8 || got[0].UseCount != Full().UseCount+1 {
			t.Errorf("%d rows, used %d times", len(got), got[0].UseCount)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
