package catalog_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/hive/catalog"
	"rbee/hive/catalog/catalogtest"
	"rbee/internal/sqlite"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) (db *catalog.Database, fresh bool) {
	t.Helper()
	db, fresh, err := catalog.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return db, fresh
}

// alter runs a statement on a database that nobody has open.
func alter(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	must(t, err)
	_, err = db.ExecContext(t.Context(), statement)
	must(t, errors.Join(err, db.Close()))
}

// made is the path of a database that has been made and closed.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "models.db")
	db, _, err := catalog.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, errors.Join(db.Filled(), db.Close()))
	return path
}

func TestCatalogsKeepTheContract(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		catalogtest.Run(t, func(t *testing.T) catalog.Catalog {
			db, fresh := open(t, filepath.Join(t.TempDir(), "models.db"))
			if !fresh {
				t.Error("a new database is not reported as fresh")
			}
			return db
		})
	})
	t.Run("memory", func(t *testing.T) {
		catalogtest.Run(t, func(*testing.T) catalog.Catalog { return &catalogtest.Memory{} })
	})
}

func TestBehaviourCatalogHasTheColumnsAndTheKey(t *testing.T) {
	db, err := sql.Open("sqlite", sqlite.DSN(made(t)))
	must(t, err)
	defer db.Close() //nolint:errcheck // only read
	rows, err := db.QueryContext(t.Context(), "SELECT name, pk FROM pragma_table_info('models')")
	must(t, err)
	defer rows.Close() //nolint:errcheck // only read
	var columns, key []string
	for rows.Next() {
		var name string
		var pk int
		must(t, rows.Scan(&name, &pk))
		columns = append(columns, name)
		if pk > 0 {
			key = append(key, name)
		}
	}
	must(t, rows.Err())
	for _, c := range []string{"reference", "provider", "local_path", "size_bytes", "downloaded_at"} {
		if !slices.Contains(columns, c) {
			t.Errorf("column %s is missing in %v", c, columns)
		}
	}
	if !slices.Equal(key, []string{"reference", "provider"}) {
		t.Errorf("the key is %v", key)
	}
}

func TestACatalogOfTheFirstSchemaKeepsItsRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "models.db")
	all := os.DirFS("migrations")
	first, err := fs.ReadFile(all, "00001_models.sql")
	must(t, err)
	db, err := sqlite.Open(t.Context(), path, fstest.MapFS{"00001_models.sql": {Data: first}})
	must(t, err)
	_, err = db.ExecContext(t.Context(), `INSERT INTO models (reference, provider, local_path, size_bytes, downloaded_at, use_count)
		VALUES ('/a.gguf', 'file', '/a.gguf', 7, '2026-11-01T12:00:00Z', 5)`)
	must(t, errors.Join(err, db.Close()))
	c, fresh := open(t, path)
	got, err := c.Models(t.Context())
	must(t, err)
	want := []rbee.Model{{
		Reference: "/a.gguf", Provider: rbee.ProviderFile, LocalPath: "/a.gguf", SizeBytes: 7,
		DownloadedAt: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), UseCount: 5,
	}}
	if d := gocmp.Diff(want, got); d != "" || fresh {
		t.Errorf("fresh: %t; %s", fresh, d)
	}
}

func TestACatalogOfANewerVersionIsRefusedInOneSentence(t *testing.T) {
	path := made(t)
	alter(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
	_, _, err := catalog.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if rbee.CodeOf(err) != rbee.CodeVersionMismatch || strings.Contains(err.Error(), "\n") || rbee.AsError(err).Suggestion() == "" {
		t.Errorf("error is %v", err)
	}
	if aside, err := filepath.Glob(path + ".corrupt-*"); err != nil || len(aside) != 0 {
		t.Errorf("a newer catalog was set aside: %v, %v", aside, err)
	}
}

func TestAListHasWhatAnotherProgramWrote(t *testing.T) {
	path := made(t)
	a, _ := open(t, path)
	b, _ := open(t, path)
	for n, change := range []func() error{
		func() error { return b.Put(t.Context(), catalogtest.Full()) },
		func() error { return b.Touch(t.Context(), catalogtest.Full().Ref(), time.Now()) },
		func() error { return b.Remove(t.Context(), catalogtest.Full().Ref()) },
	} {
		_, err := a.Models(t.Context())
		must(t, err)
		must(t, change())
		got, err := a.Models(t.Context())
		must(t, err)
		want, err := b.Models(t.Context())
		must(t, err)
		if d := gocmp.Diff(want, got); d != "" {
			t.Errorf("after change %d: %s", n, d)
		}
	}
}

func TestADatabaseOfOtherTablesIsSetAside(t *testing.T) {
	path := made(t)
	alter(t, path, "ALTER TABLE models RENAME TO other")
	if _, fresh := open(t, path); !fresh {
		t.Error("it is not reported as fresh")
	}
	if aside, err := filepath.Glob(path + ".corrupt-*"); err != nil || len(aside) != 1 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
}

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
	path := made(t)
	cancelled := 0
	for looks := int64(1); ; looks++ {
		ctx, cancel := context.WithCancel(t.Context())
		f := &fuse{Context: ctx, cancel: cancel}
		f.left.Store(looks)
		db, fresh, err := catalog.Open(f, path, slog.New(slog.DiscardHandler))
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
}
