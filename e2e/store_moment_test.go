//go:build linux

package e2e

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pace is what a deed takes when nobody is killed, as far as the test has seen.
type pace struct {
	known   bool // else it is what the deed takes at least
	took    time.Duration
	reports int // of progress
	changes int // of the directory
}

// learn takes what a deed took, or what it had taken when it was killed.
func (p *pace) learn(whole bool, took time.Duration, reports, changes int) {
	switch {
	case whole && p.known:
		p.took, p.reports, p.changes = (p.took+took)/2, (p.reports+reports+1)/2, (p.changes+changes+1)/2
	case whole:
		p.known, p.took, p.reports, p.changes = true, took, reports, changes
	case !p.known:
		p.took, p.reports, p.changes = max(p.took, took*3/2), max(p.reports, reports+2), max(p.changes, changes*3/2)
	}
}

// moment is when a program is to be killed, by one of three clocks: time; the
// reports of progress; or the changes of the state directory, which hit the
// steps between files and rows.
type moment struct {
	clock    string
	wait     time.Duration
	after    int64 // reports or changes
	reports  atomic.Int64
	changes  atomic.Int64
	come     chan struct{} // closed by now
	closing  sync.Once
	watching *watch
}

// newMoment chooses a moment inside a deed, or just behind it.
func newMoment(rnd *rand.Rand, p *pace, clock string) *moment {
	m := &moment{clock: clock, come: make(chan struct{})}
	switch clock {
	case "time":
		m.wait = time.Duration(rnd.Int64N(int64(p.took + p.took/8 + time.Millisecond)))
	case "report":
		m.after = 1 + rnd.Int64N(int64(p.reports)+1)
	case "change":
		m.after = 1 + rnd.Int64N(int64(p.changes)+2)
	}
	return m
}

// begin starts the clock; it is stopped by the returned function.
func (m *moment) begin(t *testing.T, home string) (end func()) {
	stop := make(chan struct{})
	var clocks sync.WaitGroup
	m.watching = newWatch(t, home)
	clocks.Go(func() { m.watching.run(m.changed) })
	if m.clock == "time" {
		clocks.Go(func() {
			after(m.wait, stop)
			m.now()
		})
	}
	return func() {
		close(stop)
		m.watching.close()
		clocks.Wait()
	}
}

// now says that the moment has come.
func (m *moment) now() { m.closing.Do(func() { close(m.come) }) }

func (m *moment) reported() {
	if m.reports.Add(1) == m.after && m.clock == "report" {
		m.now()
	}
}

func (m *moment) changed() {
	if m.changes.Add(1) == m.after && m.clock == "change" {
		m.now()
	}
}

// watch tells of the changes in a state directory: files of the catalog that are
// written, and files of models that come, go, or are closed.
type watch struct {
	t    *testing.T
	home string
	fd   int
	file *os.File
	dirs map[int32]string
}

const (
	inDirs = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE
	inHome = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY
)

func newWatch(t *testing.T, home string) *watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{t: t, home: home, fd: fd, file: os.NewFile(uintptr(fd), "inotify"), dirs: map[int32]string{}}
	w.add(home, inHome)
	w.below(filepath.Join(home, "models"))
	return w
}

func (w *watch) add(dir string, mask uint32) {
	d, err := unix.InotifyAddWatch(w.fd, dir, mask)
	switch {
	case err == nil:
		w.dirs[int32(d)] = dir
	case !errors.Is(err, fs.ErrNotExist):
		w.t.Errorf("cannot watch %s: %v", dir, err)
	}
}

func (w *watch) below(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			w.add(path, inDirs)
		}
		return nil // it may go at this moment
	})
}

// run calls changed for each change until close.
func (w *watch) run(changed func()) {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			dir := w.dirs[int32(binary.NativeEndian.Uint32(b))]
			mask := binary.NativeEndian.Uint32(b[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
			b = b[end:]
			if mask&unix.IN_ISDIR != 0 && mask&unix.IN_CREATE != 0 && (dir != w.home || name == "models") {
				w.below(filepath.Join(dir, name))
			}
			if dir != w.home || strings.HasPrefix(name, "models") {
				changed()
			}
		}
	}
}

func (w *watch) close() { _ = w.file.Close() }
