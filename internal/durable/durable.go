// Package durable makes files that are whole or not there, also after a power
// cut: written aside, synced, renamed, and the directory synced.
//
// It knows nothing of what is in a file.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write makes the file at path out of data, or replaces it. Aside is the
// pattern of os.CreateTemp for the name that it has until it is whole.
func Write(path, aside string, data []byte) error {
	return Create(path, aside, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// Create is Write for data that is made on the way.
func Create(path, aside string, write func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	if err := MkdirAll(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, aside)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if gone := os.Remove(f.Name()); !errors.Is(gone, fs.ErrNotExist) {
				err = errors.Join(err, gone)
			}
		}
	}()
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// Rename gives a synced file its name, in one step that a power cut does not undo.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// MkdirAll makes a directory, and those above it that are not there, so that a
// power cut does not undo it. Only their owner may enter them.
func MkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if above := filepath.Dir(dir); above != dir {
		if err := MkdirAll(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
			return nil // somebody else made it
		}
		return err
	}
	return SyncDir(filepath.Dir(dir))
}
