package catalog_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"rbee"
	"rbee/hive/catalog"
	"rbee/internal/sqlite"
)

// fuse is a context that is cancelled when it has been looked at so many times.
type fuse struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int64
}

func (f *fuse) burn() {
	if f.left.Add(-1) == 0 {
		f.cancel()
	}
}

func (f *fuse) Done() <-chan struct{} {
	f.burn()
	return f.Context.Done()
}

func (f *fuse) Err() error {
	f.burn()
	return f.Context.Err()
}

func TestACancelledOpenLeavesTheCatalogInPlace(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	resolve(t, s, beeRef)
	end()
	path := filepath.Join(h.dir, "models.db")
	cancelled := 0
	for looks := int64(1); ; looks++ {
		ctx, cancel := context.WithCancel(t.Context())
		f := &fuse{Context: ctx, cancel: cancel}
		f.left.Store(looks)
		db, fresh, err := catalog.OpenDatabase(f, path, slog.New(slog.DiscardHandler))
		burnt := f.left.Load() <= 0
		cancel()
		if err == nil {
			must(t, db.Close())
		} else {
			cancelled++
		}
		if fresh || errors.Is(err, sqlite.ErrCorrupt) {
			t.Errorf("cancelled at look %d: fresh %t, %v", looks, fresh, err)
		}
		if aside, err := filepath.Glob(path + ".corrupt-*"); err != nil || len(aside) != 0 {
			t.Fatalf("cancelled at look %d: set aside as %v, %v", looks, aside, err)
		}
		if !burnt {
			break
		}
	}
	if cancelled == 0 {
		t.Error("no open was cancelled")
	}
	s, _ = h.open()
	if list, err := s.Models(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("after the cancelled opens: %v, %v", list, err)
	}
}

func TestADatabaseOfOtherTablesIsSetAside(t *testing.T) {
	h := newHome(t)
	_, end := h.open()
	end()
	path := filepath.Join(h.dir, "models.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	must(t, err)
	_, err = db.ExecContext(t.Context(), "ALTER TABLE models RENAME TO other")
	must(t, errors.Join(err, db.Close()))
	h.open()
	if aside, err := filepath.Glob(path + ".corrupt-*"); err != nil || len(aside) != 1 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
}

// mark is the file that says that a database lacks its rows.
func (h *home) mark() string { return filepath.Join(h.dir, "models.db.rebuild") }

func TestARebuildThatWasKilledIsDoneAtTheNextStart(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	ref := h.file("a.gguf", "GGUF a")
	_, err := s.Import(t.Context(), rbee.ImportRequest{Path: ref.Reference})
	must(t, err)
	end()
	path := filepath.Join(h.dir, "models.db")
	must(t, os.Remove(path))
	// A program that is killed here has made the tables and no rows.
	for range 2 {
		db, fresh, err := catalog.OpenDatabase(t.Context(), path, slog.New(slog.DiscardHandler))
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
	db, fresh, err := catalog.OpenDatabase(t.Context(), path, slog.New(slog.DiscardHandler))
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
