package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/shirou/gopsutil/v4/disk"

	"rbee"
	"rbee/internal/durable"
	"rbee/internal/sqlite"
)

// Files is the directory of the model files that the store owns:
//
//	sha256/DIGEST.gguf                        a model of one file
//	sha256/DIGEST/model-00001-of-00003.gguf   a split model; DIGEST is of the digests of its parts
//	builtin/NAME.gguf                         a model that ships in the program
//	partial/                                  downloads on their way (package download)
//	quarantine/                               files that verify found damaged
//
// A name in it is never made of what a hub or a user calls a file.
type Files struct{ dir string }

// FilesAt is the directory at an absolute path.
func FilesAt(dir string) Files { return Files{dir} }

// Single is where a model of one file lies.
func (f Files) Single(digest string) string {
	return filepath.Join(f.dir, "sha256", digest+".gguf")
}

// Part is where part i, from 0, of a split model lies, given the digests of all
// parts. llama.cpp wants parts beside one another and finds them by their names.
func (f Files) Part(digests []string, i int) string {
	return filepath.Join(f.dir, "sha256", digestOfParts(digests), fmt.Sprintf("model-%05d-of-%05d.gguf", i+1, len(digests)))
}

// digestOfParts names a split model.
func digestOfParts(digests []string) string {
	all := sha256.Sum256([]byte(strings.Join(digests, "\n")))
	return hex.EncodeToString(all[:])
}

// Partial is the directory of the downloads on their way.
func (f Files) Partial() string { return filepath.Join(f.dir, "partial") }

// Quarantine is the directory of damaged files.
func (f Files) Quarantine() string { return filepath.Join(f.dir, "quarantine") }

// Owns says whether a file lies in the directory.
func (f Files) Owns(path string) bool {
	rel, err := filepath.Rel(f.dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// tempPrefix marks files that are being written.
const tempPrefix = ".part-"

// The names of the locks, beside the models.
const (
	lockName     = ".lock"
	noteLockName = ".notes.lock"
)

// aloneWait is how long somebody who wants the directory alone waits for writers.
const aloneWait = 10 * time.Second

// writing is held, shared, by whoever puts files in and has not catalogued them
// yet. Who takes files out wants the directory alone.
func (f Files) writing() (release func() error, err error) {
	lock := flock.New(filepath.Join(f.dir, lockName))
	if err := lock.RLock(); err != nil {
		return nil, sqlite.Explain("write to "+f.dir, err)
	}
	return lock.Unlock, nil
}

// alone waits until nobody is writing, and keeps writers out. A caller that
// holds writing would wait for itself.
func (f Files) alone(ctx context.Context) (release func() error, err error) {
	lock := flock.New(filepath.Join(f.dir, lockName))
	wait, cancel := context.WithTimeout(ctx, aloneWait)
	defer cancel()
	_, err = lock.TryLockContext(wait, 5*time.Millisecond)
	switch {
	case err == nil:
		return lock.Unlock, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, rbee.Errorf(rbee.CodeConflict, "cannot change %s: models have been written to it for %s", f.dir, aloneWait).
			Suggest("try again when the imports and downloads are over")
	}
	return nil, sqlite.Explain("write to "+f.dir, err)
}

// adopt makes a synced file the store's, in place of what is there. The caller
// holds writing.
func (f Files) adopt(m Move) error {
	if err := durable.MkdirAll(filepath.Dir(m.To)); err != nil {
		return sqlite.Explain("write "+m.To, err)
	}
	return sqlite.Explain("write "+m.To, durable.Rename(m.From, m.To))
}

// sweep removes what killed programs left half written, unless one writes now.
func (f Files) sweep() (err error) {
	lock := flock.New(filepath.Join(f.dir, lockName))
	alone, err := lock.TryLock()
	if err != nil {
		return sqlite.Explain("write to "+f.dir, err)
	}
	if !alone {
		return nil
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	return f.walk(func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.HasPrefix(e.Name(), tempPrefix) && !held(path) {
			err = ignoreGone(os.Remove(path))
		}
		return err
	})
}

// walk visits all that is in the directory, also where that is a link itself.
func (f Files) walk(visit fs.WalkDirFunc) error {
	return fs.WalkDir(os.DirFS(f.dir), ".", func(rel string, e fs.DirEntry, err error) error {
		return visit(filepath.Join(f.dir, filepath.FromSlash(rel)), e, err)
	})
}

// place makes the file at path out of what write writes: all of it, or none. It
// holds after a power cut. The caller holds writing, or is alone.
func (f Files) place(path string, write func(*os.File) error) error {
	return sqlite.Explain("write "+path, durable.Create(path, tempPrefix+"*", write))
}

// temporary makes a file for a copy on its way to dir, which takes longer than
// anybody should hold writing: the file itself is held until it is closed.
func (f Files) temporary(dir string) (temp *os.File, err error) {
	release, err := f.writing()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := durable.MkdirAll(dir); err != nil {
		return nil, sqlite.Explain("write to "+dir, err)
	}
	temp, err = os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return nil, sqlite.Explain("write to "+dir, err)
	}
	if err := hold(temp); err != nil {
		return nil, errors.Join(err, temp.Close(), os.Remove(temp.Name()))
	}
	return temp, nil
}

// room refuses to begin a copy that the disk cannot hold.
func (f Files) room(need int64) error {
	u, err := disk.Usage(f.dir)
	if err != nil || u.Free > uint64(max(need, 0)) {
		return nil //nolint:nilerr // without figures the writing itself will tell
	}
	return rbee.Errorf(rbee.CodeInsufficientDisk, "the disk of %s has %d MB free and %d MB are needed", f.dir, u.Free/1e6, need/1e6).
		With("required", need/1e6).With("available", int64(u.Free/1e6)).
		Suggest("free some space, or name the file as file:PATH to use it where it is")
}

// free is how many bytes are free on the disk, 0 if that is not known.
func (f Files) free() int64 {
	u, err := disk.Usage(f.dir)
	if err != nil {
		return 0
	}
	return int64(u.Free)
}
