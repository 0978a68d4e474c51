package logfile

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// clockSlack is how far a file's time may be ahead of the clock.
const clockSlack = time.Minute

// Bounds are for the logs of a directory together. Zero is no bound.
type Bounds struct {
	Age   time.Duration // since the last line
	Files int
	Bytes int64
}

// ofALog are the names that Open and rotation make for PATH.log.
var ofALog = regexp.MustCompile(`\.log(\.[0-9]+)?$`)

// Sweep removes logs (*.log, *.log.1 …) from a directory until the rest is
// within the bounds, those with the oldest last line first. A directory that is
// not there is empty. A log that somebody writes to loses its name, no more.
//
// The age is that at now, which a caller that runs long keeps from jumping with
// the clock. A log from the future was written before the clock was set back,
// and is older than those that are not.
func Sweep(dir string, now time.Time, b Bounds) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var logs []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && ofALog.MatchString(e.Name()) {
			logs = append(logs, info)
		}
	}
	future := time.Now().Add(clockSlack)
	ahead := func(info fs.FileInfo) int { return max(0, info.ModTime().Compare(future)) }
	slices.SortFunc(logs, func(a, b fs.FileInfo) int { // youngest first
		return cmp.Or(cmp.Compare(ahead(a), ahead(b)), b.ModTime().Compare(a.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	var errs []error
	var bytes int64
	for i, info := range logs {
		bytes += info.Size()
		if !(b.Age > 0 && now.Sub(info.ModTime()) > b.Age || b.Files > 0 && i >= b.Files || b.Bytes > 0 && bytes > b.Bytes) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, info.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
