// Package logfile keeps logs on disk within bounds: a File begins anew when it
// is full, and Sweep removes what is old or too much. Whatever happens to the
// disk costs lines of the log and nothing else.
//
// It knows nothing of what is in a log.
package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Limits bound one log.
type Limits struct {
	Bytes int64 // of one file; a single write may be longer
	Old   int   // full files that are kept as PATH.1 (the youngest), PATH.2, …
}

// File is a log that is written to. It is safe for concurrent use.
type File struct {
	path   string
	limits Limits
	std    bool // the file stays open under its descriptor, which is led elsewhere

	mu   sync.Mutex
	file *os.File // nil after a new one could not be opened
	size int64
}

// Open opens the log at path, at its end, and makes it if needed, readable by
// its owner only.
func Open(path string, limits Limits) (*File, error) {
	l := &File{path: path, limits: limits}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Adopt takes over a standard stream of this program that leads to the log at
// path. Also what others write to the stream, such as the runtime's last words,
// goes to the current file from then on. A stream that leads elsewhere, and any
// on Windows, is refused with false.
func Adopt(stream *os.File, path string, limits Limits) (*File, bool) {
	info, err := stream.Stat()
	if err != nil || !info.Mode().IsRegular() || !canRedirect {
		return nil, false
	}
	at, err := os.Stat(path)
	if err != nil || !os.SameFile(info, at) {
		return nil, false
	}
	return &File{path: path, limits: limits, std: true, file: stream, size: info.Size()}, true
}

// Write appends to the log. When b does not fit the log begins anew first; if
// that fails b is dropped, so that the bounds hold.
func (l *File) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(b)) > l.limits.Bytes {
		if err := l.rotate(); err != nil {
			return 0, fmt.Errorf("cannot begin a new log: %w", err)
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	return n, err
}

// Close closes the file; a standard stream stays open.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.std {
		return nil
	}
	file := l.file
	l.file = nil
	return file.Close()
}

// rotate moves the full file, and those before it, one name on.
func (l *File) rotate() error {
	if _, err := os.Lstat(l.path); errors.Is(err, fs.ErrNotExist) {
		return l.open() // it was moved on before, or somebody removed it
	}
	for n := l.limits.Old; n > 0; n-- {
		from := l.path
		if n > 1 {
			from = l.old(n - 1)
		}
		if err := os.Rename(from, l.old(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if l.limits.Old <= 0 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.open()
}

func (l *File) old(n int) string { return fmt.Sprintf("%s.%d", l.path, n) }

// open opens the file of the log's name and lets go of the one before.
func (l *File) open() error {
	file, err := os.OpenFile(filepath.Clean(l.path), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if l.std {
		err := errors.Join(redirect(l.file, file), file.Close())
		if err == nil {
			l.size = info.Size()
		}
		return err
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.size = file, info.Size()
	return nil
}
