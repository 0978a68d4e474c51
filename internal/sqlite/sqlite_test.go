package sqlite_test

import (
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"rbee"
	"rbee/internal/sqlite"
)

func schema(versions ...string) fs.FS {
	m := fstest.MapFS{}
	for _, v := range versions {
		m[v+"_t.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE t" + v + " (a INTEGER);\n-- +goose Down\nDROP TABLE t" + v + ";\n")}
	}
	return m
}

func open(t *testing.T, path string, m fs.FS) *sql.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path, m)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestOpenMigratesAndKeepsRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd name?#%20.db")
	db := open(t, path, schema("00001"))
	if _, err := db.Exec("INSERT INTO t00001 VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the file has another name than asked for: %v", err)
	}
	db = open(t, path, schema("00001", "00002"))
	var a int
	if err := db.QueryRow("SELECT a FROM t00001").Scan(&a); err != nil || a != 7 {
		t.Fatalf("row after the second migration: %d, %v", a, err)
	}
	if _, err := db.Exec("INSERT INTO t00002 VALUES (1)"); err != nil {
		t.Fatalf("the second migration did not run: %v", err)
	}
}

func TestEveryConnectionHasThePragmas(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "a.db"), schema("00001"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "busy_timeout": "5000", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, want %q (%v)", pragma, got, want, err)
		}
	}
}

func TestANewerSchemaIsRefusedInOneSentence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	_ = open(t, path, schema("00001", "00002")).Close()
	_, err := sqlite.Open(t.Context(), path, schema("00001"))
	if rbee.CodeOf(err) != rbee.CodeVersionMismatch || errors.Is(err, sqlite.ErrCorrupt) {
		t.Fatalf("error is %v", err)
	}
	if s := err.Error(); strings.Contains(s, "\n") || !strings.Contains(s, path) || !strings.Contains(s, "schema 2") {
		t.Errorf("the sentence does not tell: %q", s)
	}
}

func TestDamagedFilesAreCorruptAndSetAside(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"text instead of a database": func(t *testing.T, path string) {
			write(t, path, []byte(strings.Repeat("no database ", 1000)))
		},
		"page of zeros in the middle": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 4096; i < min(len(b), 3*4096); i++ {
				b[i] = 0
			}
			write(t, path, b)
		},
		"cut short": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, b[:4096+100])
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a.db")
			_ = open(t, path, schema("00001", "00002")).Close()
			damage(t, path)
			_, err := sqlite.Open(t.Context(), path, schema("00001", "00002"))
			if !errors.Is(err, sqlite.ErrCorrupt) {
				t.Fatalf("error is %v, want ErrCorrupt", err)
			}
			aside, err := sqlite.SetAside(path, time.Now())
			if err != nil || !strings.HasPrefix(aside, path+".corrupt-") {
				t.Fatalf("SetAside: %q, %v", aside, err)
			}
			if _, err := os.Stat(aside); err != nil {
				t.Errorf("the damaged file is not kept: %v", err)
			}
			open(t, path, schema("00001", "00002"))
		})
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestADiskThatTakesNothingIsExplained(t *testing.T) {
	err := sqlite.Explain("write the catalog", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	if rbee.CodeOf(err) != rbee.CodeInsufficientDisk || rbee.AsError(err).Suggestion() == "" {
		t.Errorf("full disk: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	_, err = sqlite.Open(t.Context(), filepath.Join(file, "a.db"), schema("00001"))
	if rbee.CodeOf(err) != rbee.CodeInvalidRequest || rbee.AsError(err).Suggestion() == "" {
		t.Errorf("a directory that cannot hold a file: %v", err)
	}
}
