package store_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"rbee"
	"rbee/hive/catalog"
)

// mark is the file that says that a database lacks its rows.
func (h *home) mark() string { return filepath.Join(h.dir, "models.db.rebuild") }

func TestARebuildThatWasKilledIsDoneAtTheNextStart(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	ref := h.file("a.gguf", "GGUF a")
	imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	end()
	path := filepath.Join(h.dir, "models.db")
	must(t, os.Remove(path))
	// A program that is killed here has made the tables and no rows.
	for range 2 {
		db, fresh, err := catalog.Open(t.Context(), path, slog.New(slog.DiscardHandler))
		must(t, err)
		if !fresh {
			t.Error("an empty database is taken for a full one")
		}
		must(t, db.Close())
	}
	if _, err := os.Stat(h.mark()); err != nil {
		t.Errorf("the empty database is not marked: %v", err)
	}
	s, end = h.open()
	if list, err := s.Models(t.Context()); err != nil || len(list) != 1 || list[0].Ref() != ref {
		t.Errorf("after the next start: %v, %v", list, err)
	}
	end()
	if _, err := os.Stat(h.mark()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still marked after the rebuild: %v", err)
	}
	db, fresh, err := catalog.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, db.Close())
	if fresh {
		t.Error("a rebuilt database is reported as fresh")
	}
}

func TestAMarkedEmptyDatabaseIsRebuilt(t *testing.T) {
	h := newHome(t)
	_, end := h.open()
	end()
	must(t, os.WriteFile(filepath.Join(h.models(), "a.gguf"), []byte("GGUF a"), 0o600))
	must(t, os.WriteFile(h.mark(), nil, 0o600))
	s, _ := h.open()
	if list, err := s.Models(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("catalog: %v, %v", list, err)
	}
}
