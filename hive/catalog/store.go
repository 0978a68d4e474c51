package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/singleflight"

	"rbee"
	"rbee/internal/sqlite"
)

// Provider brings models of one kind to the disk of this machine.
type Provider interface {
	// Name is the provider of the references that Fetch understands.
	Name() rbee.Provider
	// Fetch blocks until the file of the model is on disk, whole and checked,
	// and returns its row. It may find the file there already.
	Fetch(ctx context.Context, ref rbee.ModelRef) (rbee.Model, error)
}

// Inspect reads the header of a GGUF file: size, architecture, quantisation,
// context length, parameters. It refuses a file that is no whole GGUF file.
type Inspect func(path string) (rbee.Model, error)

// Config makes a Store.
type Config struct {
	Catalog   Catalog
	Dir       string     // absolute path of models/
	Providers []Provider // one of each name
	Inspect   Inspect
	Changed   func(rbee.EventKind, rbee.Model) // told of each change; may be nil
	Log       *slog.Logger
}

// Store is the models of a machine: the catalog, the directory with the files
// that it owns, and the providers that bring more. It is safe for concurrent use.
type Store struct {
	cfg       Config
	providers map[rbee.Provider]Provider
	flight    singleflight.Group
}

// NewStore makes a store of a directory, which it creates, and sweeps what an
// earlier life left half written there.
func NewStore(cfg Config) (*Store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, sqlite.Explain("make the model directory "+cfg.Dir, err)
	}
	if cfg.Changed == nil {
		cfg.Changed = func(rbee.EventKind, rbee.Model) {}
	}
	s := &Store{cfg: cfg, providers: map[rbee.Provider]Provider{}}
	for _, p := range cfg.Providers {
		s.providers[p.Name()] = p
	}
	return s, sweep(cfg.Dir)
}

// Resolve returns the row of a model whose file is on disk. A model that is not
// in the catalog, or whose file has gone or changed its size, is brought by its
// provider first, once however many ask; one that is there is not touched. It
// blocks until then.
func (s *Store) Resolve(ctx context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	s.cfg.Log.InfoContext(ctx, fmt.Sprintf("Checking model catalog for %s/%s", ref.Provider, ref.Reference))
	m, err := s.cfg.Catalog.Model(ctx, ref)
	switch {
	case err == nil:
		why := fault(m)
		if why == "" {
			s.cfg.Log.InfoContext(ctx, "Model found in catalog: "+m.LocalPath)
			return m, nil
		}
		s.cfg.Log.WarnContext(ctx, "a catalogued model cannot be served as it is", "model", ref.String(), "path", m.LocalPath, "reason", why)
	case !errors.Is(err, ErrNoRow):
		return rbee.Model{}, err
	}
	p, ok := s.providers[ref.Provider]
	if !ok {
		return rbee.Model{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot find the model %s on this machine", ref).
			Suggest("bring a GGUF file in with 'rbee models import PATH' and name it as file:PATH, or use builtin:bee-tiny")
	}
	// The work goes on for the others when the first to ask goes away.
	got, err, _ := s.flight.Do(ref.String(), func() (any, error) { return s.fetch(context.WithoutCancel(ctx), p, ref) })
	if err != nil {
		return rbee.Model{}, err
	}
	return got.(rbee.Model), nil
}

func (s *Store) fetch(ctx context.Context, p Provider, ref rbee.ModelRef) (rbee.Model, error) {
	m, err := p.Fetch(ctx, ref)
	if err != nil {
		return rbee.Model{}, err
	}
	return m, s.put(ctx, m)
}

// put catalogues a file that is on disk.
func (s *Store) put(ctx context.Context, m rbee.Model) error {
	if err := s.cfg.Catalog.Put(ctx, m); err != nil {
		return err
	}
	if err := s.note(ctx, m.LocalPath); err != nil {
		return err
	}
	s.cfg.Changed(rbee.EventModel, m)
	return nil
}

// Used counts one use of a model.
func (s *Store) Used(ctx context.Context, ref rbee.ModelRef, at time.Time) error {
	return s.cfg.Catalog.Touch(ctx, ref, at)
}

// Models lists the models that can be served as they are.
func (s *Store) Models(ctx context.Context) ([]rbee.Model, error) {
	all, err := s.cfg.Catalog.Models(ctx)
	if err != nil {
		return nil, err
	}
	intact := make([]rbee.Model, 0, len(all))
	for _, m := range all {
		if fault(m) == "" {
			intact = append(intact, m)
		}
	}
	return intact, nil
}

// Remove takes a model out of the catalog, and its file out of the store when
// no other reference has it. A file that was used in place stays where it is. A
// model that is not there is no error.
func (s *Store) Remove(ctx context.Context, ref rbee.ModelRef) error {
	m, err := s.cfg.Catalog.Model(ctx, ref)
	if errors.Is(err, ErrNoRow) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.cfg.Catalog.Remove(ctx, ref); err != nil {
		return err
	}
	s.cfg.Changed(rbee.EventModelRemoved, m)
	if !s.owns(m.LocalPath) {
		return nil
	}
	others, err := s.sharing(ctx, m.LocalPath)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return s.note(ctx, m.LocalPath)
	}
	for _, path := range []string{m.LocalPath, notePath(m.LocalPath)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return sqlite.Explain("remove "+path, err)
		}
	}
	return nil
}

// sharing lists the rows of one file.
func (s *Store) sharing(ctx context.Context, path string) ([]rbee.Model, error) {
	all, err := s.cfg.Catalog.Models(ctx)
	if err != nil {
		return nil, err
	}
	var rows []rbee.Model
	for _, m := range all {
		if m.LocalPath == path {
			rows = append(rows, m)
		}
	}
	return rows, nil
}

// owns says whether a file lies in the store's directory.
func (s *Store) owns(path string) bool {
	rel, err := filepath.Rel(s.cfg.Dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// fault says why the file of a row cannot be served, or "".
func fault(m rbee.Model) string {
	info, err := os.Stat(m.LocalPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the file is gone"
	case err != nil:
		return "the file cannot be reached"
	case !info.Mode().IsRegular():
		return "it is not a file any more"
	case info.Size() != m.SizeBytes:
		return fmt.Sprintf("the file has %d bytes and had %d", info.Size(), m.SizeBytes)
	}
	return ""
}

// tempPrefix marks files that are being written.
const tempPrefix = ".part-"

// writing is held, shared, by whoever writes into a model directory.
func writing(dir string) (release func() error, err error) {
	lock := flock.New(filepath.Join(dir, ".lock"))
	if err := lock.RLock(); err != nil {
		return nil, sqlite.Explain("write to "+dir, err)
	}
	return lock.Unlock, nil
}

// sweep removes what killed programs left half written, unless one writes now.
func sweep(dir string) (err error) {
	lock := flock.New(filepath.Join(dir, ".lock"))
	alone, err := lock.TryLock()
	if err != nil {
		return sqlite.Explain("write to "+dir, err)
	}
	if !alone {
		return nil
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.HasPrefix(e.Name(), tempPrefix) {
			err = os.Remove(path)
		}
		return err
	})
}

// place makes the file at path out of what write writes: all of it, or none. It
// holds after a power cut.
func place(storeDir, path string, write func(*os.File) error) (err error) {
	release, err := writing(storeDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sqlite.Explain("make "+dir, err)
	}
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return sqlite.Explain("write to "+dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreGone(os.Remove(f.Name())))
		}
	}()
	if err := write(f); err != nil {
		return errors.Join(sqlite.Explain("write "+path, err), f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return sqlite.Explain("write "+path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return sqlite.Explain("write "+path, err)
	}
	return syncDir(dir)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
