// Package sqlite opens SQLite databases the one way rbee does: pragmas in the
// DSN, so that every connection has them; one connection, so that there is one
// writer; numbered migrations; and a clear word when a database is damaged or
// was written by a newer program.
//
// It knows files and schemas, not what the tables mean. It never deletes a
// database: a damaged one is moved aside.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"rbee"
)

// ErrCorrupt is in the chain of errors that say that the file is not a healthy
// database of this program.
var ErrCorrupt = errors.New("the database is damaged")

// pragmas hold for every connection. The database is small and precious:
// synchronous FULL costs a millisecond per write and survives a power cut.
var pragmas = []string{
	"journal_mode(WAL)",
	"busy_timeout(5000)",
	"synchronous(FULL)",
	"foreign_keys(1)",
}

// DSN is the data source name of the database at an absolute path.
func DSN(path string) string {
	q := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
	slash := filepath.ToSlash(path)
	if !strings.HasPrefix(slash, "/") {
		slash = "/" + slash // a drive letter
	}
	return (&url.URL{Scheme: "file", Path: slash, RawQuery: q.Encode()}).String()
}

// Open opens or makes the database at path, checks it and brings its schema up
// to the newest of the migrations. A damaged file is ErrCorrupt, which leaves
// it as it is. Only one process at a time may be inside Open for one path: the
// caller holds a lock.
func Open(ctx context.Context, path string, migrations fs.FS) (*sql.DB, error) {
	db, err := sql.Open("sqlite", DSN(path))
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if err := prepare(ctx, db, migrations); err != nil {
		return nil, errors.Join(explain(path, err), db.Close())
	}
	return db, nil
}

func prepare(ctx context.Context, db *sql.DB, migrations fs.FS) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, verdict)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, migrations)
	if err != nil {
		return fmt.Errorf("cannot read the migrations: %w", err)
	}
	has, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	knows := int64(0)
	for _, s := range provider.ListSources() {
		knows = max(knows, s.Version)
	}
	if has > knows {
		return rbee.Errorf(rbee.CodeVersionMismatch,
			"the database has schema %d and rbee %s knows schemas up to %d: a newer rbee wrote it", has, rbee.Version, knows).
			Suggest("upgrade rbee on this machine")
	}
	_, err = provider.Up(ctx)
	return err
}

// SetAside renames the database at path to path.corrupt-TIME, together with
// its write-ahead log, and returns the new name.
func SetAside(path string, now time.Time) (string, error) {
	base := path + ".corrupt-" + now.UTC().Format("20060102T150405.000Z")
	for _, suffix := range []string{"-wal", "-shm", ""} { // the database last: until then a retry finds it
		if err := os.Rename(path+suffix, base+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cannot set the damaged %s aside: %w", path, err)
		}
	}
	return base, nil
}

// explain turns what SQLite says into a sentence about the file at path.
func explain(path string, err error) error {
	var known *rbee.Error
	if errors.As(err, &known) {
		return rbee.Errorf(known.Code, "cannot open %s: %s", path, known.Message).Suggest("%s", known.Suggestion())
	}
	if IsCorrupt(err) && !errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return Explain("open "+path, err)
}

// IsCorrupt says whether err means that the file is damaged or no database.
func IsCorrupt(err error) bool {
	switch code(err) {
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return true
	}
	return errors.Is(err, ErrCorrupt)
}

// IsMismatch says whether err means that a statement does not fit the tables of
// the database: SQLite knows no such table or column.
func IsMismatch(err error) bool {
	var e *driver.Error
	return errors.As(err, &e) && e.Code() == lib.SQLITE_ERROR
}

// Explain turns an error of a statement into one that says "cannot WHAT" and
// what to do, where the cause is the disk and not the program.
func Explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case isFull(err):
		return rbee.Errorf(rbee.CodeInsufficientDisk, "cannot %s: the disk is full", what).
			WithCause(err).Suggest("free some space on the disk that holds the state directory")
	case code(err) == lib.SQLITE_READONLY, code(err) == lib.SQLITE_CANTOPEN, code(err) == lib.SQLITE_PERM,
		errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot %s: the state directory cannot be written", what).
			WithCause(err).Suggest("make the directory writable for this user, or set RBEE_HOME to one that is")
	case code(err) == lib.SQLITE_BUSY, code(err) == lib.SQLITE_LOCKED:
		return rbee.Errorf(rbee.CodeConflict, "cannot %s: another program holds the database", what).
			WithCause(err).Suggest("try again; if it lasts, stop the other rbee programs of this state directory")
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// isFull says whether err means that there is no space on the disk. For the
// shared memory beside a database SQLite has a code of its own for that.
func isFull(err error) bool {
	var e *driver.Error
	return code(err) == lib.SQLITE_FULL || errors.Is(err, syscall.ENOSPC) || errors.As(err, &e) && e.Code() == lib.SQLITE_IOERR_SHMSIZE
}

// code is SQLite's primary result code in err's chain, 0 if there is none.
func code(err error) int {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}
