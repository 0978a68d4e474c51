package catalog_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

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
