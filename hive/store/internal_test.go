package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
)

// Settled waits for a rebuild.
func (s *Store) Settled(ctx context.Context) error { return s.settled(ctx) }

// Temporary makes a file for a copy.
func (f Files) Temporary(dir string) (*os.File, error) { return f.temporary(dir) }

// Writing keeps collectors out.
func (f Files) Writing() (func() error, error) { return f.writing() }

// WithoutLinks makes a store that lies on another disk than everything else.
func (s *Store) WithoutLinks() {
	s.share = func(content, string) error { return errors.ErrUnsupported }
}

func TestASurveyIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.gguf", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct{ entries, files, faults int }{
		"few":      {0, 5, 0},
		"too many": {maxEntries - 3, 3, 1},
		"enough":   {maxEntries, 0, 0}, // which was said already
	} {
		t.Run(name, func(t *testing.T) {
			tr := tree{ctx: t.Context(), entries: c.entries}
			tr.scan(dir, 0)
			if len(tr.files) != c.files || len(tr.faults) != c.faults {
				t.Errorf("found %v, faults %v", tr.files, tr.faults)
			}
		})
	}
}

func TestNamesOfExportedFilesArePlain(t *testing.T) {
	for name, c := range map[string]struct {
		m    rbee.Model
		want string
	}{
		"a name of the hub":  {rbee.Model{FileName: "q/Model Q4.gguf"}, "Model Q4.gguf"},
		"a way out":          {rbee.Model{FileName: "../../..", Reference: "x/..", Name: "../../etc/x"}, "etc-x.gguf"},
		"a separator":        {rbee.Model{Name: `a\b:c/d`}, "a-b-c-d.gguf"},
		"nothing but dots":   {rbee.Model{Name: "../.."}, "model.gguf"},
		"hidden":             {rbee.Model{FileName: ".gguf"}, "model.gguf"},
		"control characters": {rbee.Model{Name: "a\x00b\nc\xff"}, "a-b-c-.gguf"},
		"4 KiB":              {rbee.Model{FileName: strings.Repeat("é", 2048) + ".gguf"}, strings.Repeat("é", 100) + ".gguf"},
		"a file":             {rbee.Model{Reference: "/a/b.gguf", Name: "c"}, "b.gguf"},
		"a part":             {rbee.Model{FileName: "x/b-00001-of-00002.gguf", Parts: make([]rbee.ModelFile, 2)}, "b-00002-of-00002.gguf"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := exportName(c.m, len(c.m.Parts)/2); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
