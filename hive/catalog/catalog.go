// Package catalog is the table of the models on the disk of a machine: which
// there are, where they lie, and what is known of them. The rows live in SQLite
// and survive everything.
//
// A row is a claim about files that package store checks. The catalog touches
// no model file and knows nothing of workers.
package catalog

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"rbee"
	"rbee/internal/durable"
	"rbee/internal/sqlite"
)

// Catalog is the table of models. It reports what was written, and does not
// look at files.
type Catalog interface {
	// Model finds a row; there is none: ErrNoRow.
	Model(ctx context.Context, ref rbee.ModelRef) (rbee.Model, error)
	// Models lists all rows by provider and reference; never nil.
	Models(ctx context.Context) ([]rbee.Model, error)
	// ByPath lists the rows whose model lies at a path, by provider and reference.
	ByPath(ctx context.Context, path string) ([]rbee.Model, error)
	// Put makes the row of m, or replaces it; the use of a replaced row is kept.
	Put(ctx context.Context, m rbee.Model) error
	// Remove deletes a row; one that is not there is no error.
	Remove(ctx context.Context, ref rbee.ModelRef) error
	// Touch counts one use. The models stay in the order of their use: a use that
	// is dated well before one that was counted earlier, since the clock was set
	// back or had been wrong, is counted as one right after that.
	Touch(ctx context.Context, ref rbee.ModelRef, at time.Time) error
}

// ErrNoRow says that the catalog does not have a model.
var ErrNoRow = errors.New("the model is not in the catalog")

//go:embed migrations/*.sql
var embedded embed.FS

// lockWait is how long Open waits for another process that opens the same database.
const lockWait = 10 * time.Second

// Database is the Catalog in SQLite. Several processes may share the file.
type Database struct {
	db   *sql.DB
	path string
	list cache
}

// Open opens or makes the database at path. It reports fresh when the file lacks
// the rows of an earlier life: it was made, or a damaged one was set aside under
// a new name, which is logged. It does so until Filled, however many programs
// were killed on the way.
func Open(ctx context.Context, path string, log *slog.Logger) (d *Database, fresh bool, err error) {
	release, err := alone(ctx, path)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return openAlone(ctx, path, log)
}

// alone waits until no other process opens the database at path: two that find
// it damaged must not both set it aside.
func alone(ctx context.Context, path string) (release func() error, err error) {
	lock := flock.New(path + ".lock")
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	if _, err := lock.TryLockContext(wait, 20*time.Millisecond); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, rbee.Errorf(rbee.CodeConflict, "cannot open %s: another program has been opening it for %s", path, lockWait).
				Suggest("stop the other rbee programs of this state directory")
		}
		return nil, sqlite.Explain("open "+path, err)
	}
	return lock.Unlock, nil
}

// openAlone is Open for a caller that nobody else can disturb.
func openAlone(ctx context.Context, path string, log *slog.Logger) (d *Database, fresh bool, err error) {
	migrations, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return nil, false, err
	}
	if fresh, err = lacksRows(path); err != nil {
		return nil, false, err
	}
	db, err := open(ctx, path, migrations)
	if errors.Is(err, sqlite.ErrCorrupt) {
		if err := mark(path); err != nil {
			return nil, false, err
		}
		aside, asideErr := sqlite.SetAside(path, time.Now())
		if asideErr != nil {
			return nil, false, sqlite.Explain("replace the damaged "+path, asideErr)
		}
		log.WarnContext(ctx, "the model catalog was damaged; it is kept under another name and made anew from the model files",
			"path", path, "kept", aside, "err", err)
		fresh = true
		db, err = open(ctx, path, migrations)
	}
	if err != nil {
		return nil, false, err
	}
	return &Database{db: db, path: path}, fresh, nil
}

// lacksRows says whether the database at path is to be filled from the model
// files, and marks one that is about to be made.
func lacksRows(path string) (bool, error) {
	if _, err := os.Stat(markPath(path)); err == nil {
		return true, nil
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, nil // what cannot be reached is explained by its opening
	}
	return true, mark(path)
}

// markPath is a file that lies beside a database from before it is made until
// it has its rows: a program killed in between leaves a healthy, empty database
// that nothing else tells from a full one.
func markPath(path string) string { return path + ".rebuild" }

func mark(path string) error {
	f, err := os.OpenFile(markPath(path), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return sqlite.Explain("make "+markPath(path), err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return sqlite.Explain("make "+markPath(path), err)
	}
	return sqlite.Explain("make "+markPath(path), durable.SyncDir(filepath.Dir(path)))
}

// Filled says that a fresh database has its rows.
func (d *Database) Filled() error {
	if err := os.Remove(markPath(d.path)); !errors.Is(err, fs.ErrNotExist) {
		return sqlite.Explain("remove "+markPath(d.path), err)
	}
	return nil
}

// open also takes a database whose tables are not those of this program for damaged.
func open(ctx context.Context, path string, migrations fs.FS) (*sql.DB, error) {
	db, err := sqlite.Open(ctx, path, migrations)
	if err != nil {
		return nil, err
	}
	if err := probe(ctx, db, path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// probe is ErrCorrupt only where the file itself is at fault: a start that is
// cancelled or finds the disk failing must not set a healthy catalog aside.
func probe(ctx context.Context, db *sql.DB, path string) error {
	rows, err := db.QueryContext(ctx, "SELECT "+columns+" FROM models LIMIT 0")
	if err == nil {
		err = errors.Join(rows.Err(), rows.Close())
	}
	if sqlite.IsCorrupt(err) || sqlite.IsMismatch(err) && ctx.Err() == nil {
		return fmt.Errorf("%w: %s: %w", sqlite.ErrCorrupt, path, err)
	}
	return sqlite.Explain("open "+path, err)
}

// Close closes the database.
func (d *Database) Close() error { return d.db.Close() }
