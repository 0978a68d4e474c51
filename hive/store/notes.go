package store

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"

	"rbee"
	"rbee/internal/sqlite"
)

// notePath is where the rows of a file in the store are written down beside
// it, so that the catalog can be made anew from the directory alone. The note
// of a split model lies beside its first part.
func notePath(file string) string { return file + ".json" }

// noting is held, alone, from reading the rows of a file until its note, or the
// row that the note tells of, is written: the last note must know all rows.
func (f Files) noting() (release func() error, err error) {
	lock := flock.New(filepath.Join(f.dir, noteLockName))
	if err := lock.Lock(); err != nil {
		return nil, sqlite.Explain("write to "+f.dir, err)
	}
	return lock.Unlock, nil
}

// note writes the rows of a file that the store owns beside it. The caller
// holds writing, or is alone.
func (s *Store) note(ctx context.Context, path string) (err error) {
	if !s.files.Owns(path) {
		return nil
	}
	release, err := s.files.noting()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	rows, err := s.cfg.Catalog.ByPath(ctx, path)
	if err != nil {
		return err
	}
	return s.writeNote(path, rows)
}

// noteAndPut writes the note of a model, then its row: a note without a row is
// spare, a row without a note would lose its reference with the catalog.
func (s *Store) noteAndPut(ctx context.Context, m rbee.Model) (err error) {
	release, err := s.files.noting()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if s.files.Owns(m.LocalPath) {
		rows, err := s.cfg.Catalog.ByPath(ctx, m.LocalPath)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(n rbee.Model) bool { return n.Ref() == m.Ref() })
		if err := s.writeNote(m.LocalPath, append(rows, m)); err != nil {
			return err
		}
	}
	return s.cfg.Catalog.Put(ctx, m)
}

func (s *Store) writeNote(path string, rows []rbee.Model) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return s.files.place(notePath(path), func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
}

// readNote reads the rows that are noted beside a file; none if there is no note.
func readNote(path string) ([]rbee.Model, error) {
	b, err := os.ReadFile(notePath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var noted []rbee.Model
	return noted, json.Unmarshal(b, &noted)
}
