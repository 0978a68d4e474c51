// Package store keeps the model files of a machine: it brings a model that is
// not there yet, once however many ask; checks what it has; takes files in and
// gives them out; and says what may go. Files lie under models/ or, for a GGUF
// file that is used in place, wherever the user keeps it.
//
// No model file is deleted but by Remove, and by GC and the quota, which say so.
// The package knows nothing of workers.
//
// Each step is durable before the next begins, so whatever kills the program
// leaves what is harmless:
//
//	taking in   files, note, row    files without a row, which GC names
//	removing    row, files, note    files without a row; a note without a file, which GC names
//	evicting    as removing, all rows of the files first
//	verifying   quarantine, rows    a row whose file is gone, which is not served and is repaired
//	rebuilding  digests, row        a catalog that lacks rows, with a mark that says so
//
// A lock of the directory keeps who takes files out apart from who has put files
// in and is about to write the row. A file without a row may be damaged, since
// nobody verifies it: who takes it up reads it first (Files.Holds).
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"rbee"
	"rbee/hive/catalog"
	"rbee/internal/durable"
	"rbee/internal/sqlite"
)

// Provider brings models of one kind to the disk of this machine.
type Provider interface {
	// Name is the provider of the references that Fetch understands.
	Name() rbee.Provider
	// Fetch blocks until the bytes of the model are on disk, whole and checked.
	// It may find them there already.
	Fetch(ctx context.Context, t Terms) (Delivery, error)
}

// Terms say what to fetch and how.
type Terms struct {
	Ref       rbee.ModelRef
	Report    func(rbee.DownloadProgress) // takes the progress; does not block
	PerSecond float64                     // most bytes per second, 0 for no bound
}

// Delivery is a model that was fetched: its row, and the files that become the
// store's at the moment when the row is written.
type Delivery struct {
	Model   rbee.Model
	Moves   []Move
	Release func() error // gives up what the fetch holds, when the row is written or will never be; may be nil
}

// Move is a synced file and the place in the store that it is for.
type Move struct{ From, To string }

// Inspect reads the header of a GGUF file: size, architecture, quantisation,
// context length, parameters. It refuses a file that is no whole GGUF file.
type Inspect func(path string) (rbee.Model, error)

// Config makes a Store.
type Config struct {
	Catalog   catalog.Catalog
	Dir       string     // absolute path of models/
	Providers []Provider // one of each name
	Inspect   Inspect
	// QuotaBytes is the most that the store may hold, 0 for no bound.
	QuotaBytes int64
	// InUse says what uses a model that must not go, or ""; may be nil.
	InUse   func(rbee.Model) (why string)
	Changed func(rbee.EventKind, rbee.Model) // told of each change; may be nil
	// Downloading is told the progress of each fetch; may be nil.
	Downloading func(rbee.Download)
	Log         *slog.Logger
}

// Store is the models of a machine: the catalog, the directory with the files
// that it owns, and the providers that bring more. It is safe for concurrent use.
type Store struct {
	cfg       Config
	files     Files
	providers map[rbee.Provider]Provider
	jobs      *jobs
	rebuild   *rebuild                    // nil unless Open began one
	share     func(content, string) error // Files.share, which tests make fail
}

// NewStore makes a store of a directory, which it creates, and sweeps what an
// earlier life left half written there.
func NewStore(cfg Config) (*Store, error) {
	if err := durable.MkdirAll(cfg.Dir); err != nil {
		return nil, sqlite.Explain("make the model directory "+cfg.Dir, err)
	}
	if cfg.InUse == nil {
		cfg.InUse = func(rbee.Model) string { return "" }
	}
	if cfg.Changed == nil {
		cfg.Changed = func(rbee.EventKind, rbee.Model) {}
	}
	if cfg.Downloading == nil {
		cfg.Downloading = func(rbee.Download) {}
	}
	s := &Store{cfg: cfg, files: FilesAt(cfg.Dir), share: FilesAt(cfg.Dir).share, providers: map[rbee.Provider]Provider{}}
	s.jobs = newJobs(s)
	for _, p := range cfg.Providers {
		s.providers[p.Name()] = p
	}
	return s, s.files.sweep()
}

// Used counts one use of a model.
func (s *Store) Used(ctx context.Context, ref rbee.ModelRef, at time.Time) error {
	return s.cfg.Catalog.Touch(ctx, ref, at)
}

// listPatience is how long a list waits for a catalog that is being made anew:
// for that of a few models, which takes a moment, it is worth it.
const listPatience = 2 * time.Second

// Models lists the models that can be served as they are, of a catalog that is
// being made anew for long those that it has so far.
func (s *Store) Models(ctx context.Context) ([]rbee.Model, error) {
	patience, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	if err := s.settled(patience); err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	all, err := s.cfg.Catalog.Models(ctx)
	if err != nil {
		return nil, err
	}
	faulty := make([]bool, len(all))
	inParallel(len(all), func(i int) { faulty[i] = fault(all[i]) != "" })
	intact := all[:0]
	for i, m := range all {
		if !faulty[i] {
			intact = append(intact, m)
		}
	}
	return intact, nil
}

// inParallel calls do with each index below n, on all cores where that pays.
func inParallel(n int, do func(i int)) {
	const worthIt = 256
	workers := max(1, min(runtime.GOMAXPROCS(0), n/worthIt))
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			for i := w * n / workers; i < (w+1)*n/workers; i++ {
				do(i)
			}
		})
	}
	work.Wait()
}

// Remove takes a model out of the catalog, and its files out of the store when
// no other reference has them. A file that was used in place stays where it is.
// A model that is not there is no error.
func (s *Store) Remove(ctx context.Context, ref rbee.ModelRef) (err error) {
	if err := s.settled(ctx); err != nil {
		return err
	}
	release, err := s.files.alone(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	m, err := s.cfg.Catalog.Model(ctx, ref)
	if errors.Is(err, catalog.ErrNoRow) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.forget(ctx, m)
}

// forget takes a row out of the catalog, then its files out of the store, if no
// other row has them. The caller is alone.
func (s *Store) forget(ctx context.Context, m rbee.Model) error {
	if err := s.strike(ctx, m); err != nil || !s.files.Owns(m.LocalPath) {
		return err
	}
	others, err := s.cfg.Catalog.ByPath(ctx, m.LocalPath)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return s.note(ctx, m.LocalPath)
	}
	return s.drop(m)
}

// strike takes a row out of the catalog.
func (s *Store) strike(ctx context.Context, m rbee.Model) error {
	if err := s.cfg.Catalog.Remove(ctx, m.Ref()); err != nil {
		return err
	}
	s.cfg.Changed(rbee.EventModelRemoved, m)
	return nil
}

// drop deletes the files of a model that has no row any more. The caller is alone.
func (s *Store) drop(m rbee.Model) error {
	paths := []string{notePath(m.LocalPath)}
	for _, f := range m.Files() {
		paths = append(paths, f.Path)
	}
	for _, path := range paths {
		if !s.files.Owns(path) {
			continue
		}
		if err := ignoreGone(os.Remove(path)); err != nil {
			return sqlite.Explain("remove "+path, err)
		}
	}
	if len(m.Parts) > 0 {
		_ = os.Remove(filepath.Dir(m.LocalPath)) // which fails if anything else is in it
	}
	return nil
}

// catalogue writes the row of a model whose files are where it says. The caller
// holds writing.
func (s *Store) catalogue(ctx context.Context, m rbee.Model) error {
	if why := fault(m); why != "" {
		return rbee.Errorf(rbee.CodeConflict, "cannot catalogue %s: %s", m.Ref(), why).Suggest("try again")
	}
	if err := s.noteAndPut(ctx, m); err != nil {
		return err
	}
	s.cfg.Changed(rbee.EventModel, m)
	return nil
}

// fault says why the files of a row cannot be served, or "".
func fault(m rbee.Model) string {
	if len(m.Parts) == 0 {
		return fileFault(m.LocalPath, m.SizeBytes)
	}
	for i, part := range m.Parts {
		if why := fileFault(part.Path, part.SizeBytes); why != "" {
			return fmt.Sprintf("part %d of %d: %s", i+1, len(m.Parts), why)
		}
	}
	return ""
}

func fileFault(path string, size int64) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the file is gone"
	case err != nil:
		return "the file cannot be reached"
	case !info.Mode().IsRegular():
		return "it is not a file any more"
	case info.Size() != size:
		return fmt.Sprintf("the file has %d bytes and had %d", info.Size(), size)
	}
	return ""
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
