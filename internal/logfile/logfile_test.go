package logfile_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee/internal/logfile"
)

func open(t *testing.T, path string, limits logfile.Limits) *logfile.File {
	t.Helper()
	l, err := logfile.Open(path, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// contents maps the names in a directory to what is in them.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

func TestAFullLogBeginsAnew(t *testing.T) {
	for name, c := range map[string]struct {
		old  int
		want map[string]string
	}{
		"with two old ones": {2, map[string]string{"a.log": "seven\n", "a.log.1": "five\nsix\n", "a.log.2": "three\nfour\n"}},
		"with one":          {1, map[string]string{"a.log": "seven\n", "a.log.1": "five\nsix\n"}},
		"with none":         {0, map[string]string{"a.log": "seven\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, filepath.Join(dir, "a.log"), logfile.Limits{Bytes: 11, Old: c.old})
			for _, word := range []string{"one", "two", "three", "four", "five", "six", "seven"} {
				if _, err := fmt.Fprintln(l, word); err != nil {
					t.Fatal(err)
				}
			}
			got := contents(t, dir)
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("files = %q, want %q", got, c.want)
			}
		})
	}
}

func TestALogGoesOnWhereItEndedAndIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	for _, word := range []string{"one\n", "two\n", "three\n"} {
		l := open(t, path, logfile.Limits{Bytes: 9, Old: 1})
		if _, err := l.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := contents(t, filepath.Dir(path))
	if got["a.log"] != "three\n" || got["a.log.1"] != "one\ntwo\n" {
		t.Errorf("files = %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestALineLongerThanTheLogIsKept(t *testing.T) {
	dir := t.TempDir()
	l := open(t, filepath.Join(dir, "a.log"), logfile.Limits{Bytes: 5, Old: 1})
	long := strings.Repeat("x", 50) + "\n"
	for range 3 {
		if _, err := l.Write([]byte(long)); err != nil {
			t.Fatal(err)
		}
	}
	if got := contents(t, dir); got["a.log"] != long || got["a.log.1"] != long || len(got) != 2 {
		t.Errorf("files = %q", got)
	}
}

func TestALogThatCannotBeginAnewKeepsItsBoundAndRecovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.log")
	l := open(t, path, logfile.Limits{Bytes: 8, Old: 1})
	if err := os.MkdirAll(filepath.Join(dir, "a.log.1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range 100 {
		if _, err := l.Write([]byte("12345\n")); err != nil {
			failed++
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 6 || failed != 99 {
		t.Errorf("%d of 100 writes failed, size %d, %v", failed, info.Size(), err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "a.log.1")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("again\n")); err != nil {
		t.Error(err)
	}
	if got := contents(t, dir); got["a.log"] != "again\n" || got["a.log.1"] != "12345\n" {
		t.Errorf("files = %q", got)
	}
}

func TestALogThatSomebodyRemovedComesBack(t *testing.T) {
	dir := t.TempDir()
	l := open(t, filepath.Join(dir, "a.log"), logfile.Limits{Bytes: 8, Old: 1})
	for i := range 3 {
		if _, err := fmt.Fprintf(l, "line%d\n", i); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := os.Remove(filepath.Join(dir, "a.log")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := contents(t, dir); got["a.log"] != "line2\n" || got["a.log.1"] != "line1\n" {
		t.Errorf("files = %q", got)
	}
}

func TestManyWritersShareALog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, filepath.Join(dir, "a.log"), logfile.Limits{Bytes: 1000, Old: 1000})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 200 {
				if _, err := fmt.Fprintf(l, "writer %d line %d\n", w, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	lines := 0
	for name, text := range contents(t, dir) {
		if len(text) > 1000 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
		lines += strings.Count(text, "\n")
	}
	if lines != 800 {
		t.Errorf("%d lines, want 800", lines)
	}
}

func TestOnlyTheStreamOfTheLogIsAdopted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	for name, stream := range map[string]func() (*os.File, error){
		"a pipe":       func() (*os.File, error) { r, w, err := os.Pipe(); _ = r.Close(); return w, err },
		"another file": func() (*os.File, error) { return os.Create(path + "2") },
		"a device":     func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_WRONLY, 0) },
	} {
		f, err := stream()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := logfile.Adopt(f, path, logfile.Limits{Bytes: 10}); ok {
			t.Errorf("%s was adopted", name)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := logfile.Adopt(f, path, logfile.Limits{Bytes: 10}); ok {
			t.Errorf("%s was adopted beside the log", name)
		}
		_ = f.Close()
	}
}

func TestSweepKeepsTheYoungestWithinTheBounds(t *testing.T) {
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		bounds logfile.Bounds
		want   []string
	}{
		"no bound":  {logfile.Bounds{}, []string{"1.log", "2.log", "3.log.1", "40.log", "notes.txt"}},
		"age":       {logfile.Bounds{Age: 3*day - time.Hour}, []string{"1.log", "2.log", "notes.txt"}},
		"number":    {logfile.Bounds{Files: 1}, []string{"1.log", "notes.txt"}},
		"size":      {logfile.Bounds{Bytes: 350}, []string{"1.log", "2.log", "3.log.1", "notes.txt"}},
		"two kinds": {logfile.Bounds{Bytes: 350, Files: 2}, []string{"1.log", "2.log", "notes.txt"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, age := range map[string]int{"1.log": 1, "2.log": 2, "3.log.1": 3, "40.log": 40, "notes.txt": 50} {
				path := filepath.Join(dir, file)
				when := time.Now().Add(-time.Duration(age) * day)
				if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(path, when, when); err != nil {
					t.Fatal(err)
				}
			}
			if err := logfile.Sweep(dir, time.Now(), c.bounds); err != nil {
				t.Fatal(err)
			}
			var left []string
			for file := range contents(t, dir) {
				left = append(left, file)
			}
			slices.Sort(left)
			if !slices.Equal(left, c.want) {
				t.Errorf("left %v, want %v", left, c.want)
			}
		})
	}
	if err := logfile.Sweep(filepath.Join(t.TempDir(), "none"), time.Now(), logfile.Bounds{}); err != nil {
		t.Errorf("no directory: %v", err)
	}
}

func TestSweepKeepsWhatWasWrittenLastAlsoWhenTheClockJumped(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		written map[string]time.Duration // from now
		now     time.Duration
		bounds  logfile.Bounds
		want    []string
	}{
		"the clock was set back": {
			map[string]time.Duration{"before.log": 10 * year, "long before.log": 10*year - day, "since.log": 0},
			0,
			logfile.Bounds{Files: 2},
			[]string{"before.log", "since.log"},
		},
		"the clock went ahead": {
			map[string]time.Duration{"before.log": -10 * year, "since.log": 0},
			-10 * year,
			logfile.Bounds{Age: day},
			[]string{"before.log", "since.log"},
		},
		"the clock is right": {
			map[string]time.Duration{"old.log": -10 * year, "new.log": 0},
			0,
			logfile.Bounds{Age: day},
			[]string{"new.log"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, ahead := range c.written {
				path, when := filepath.Join(dir, file), time.Now().Add(ahead)
				if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, when, when)); err != nil {
					t.Fatal(err)
				}
			}
			if err := logfile.Sweep(dir, time.Now().Add(c.now), c.bounds); err != nil {
				t.Fatal(err)
			}
			if left := slices.Sorted(maps.Keys(contents(t, dir))); !slices.Equal(left, c.want) {
				t.Errorf("left %q, want %q", left, c.want)
			}
		})
	}
}
