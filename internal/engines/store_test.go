package engines

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"rbee"
)

// archive makes a package as npm would bring it.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, h := range entries {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		body := []byte("library " + h.Name)
		if h.Typeflag != tar.TypeReg {
			body = nil
		}
		if h.Size == 0 {
			h.Size = int64(len(body))
		}
		h.Mode = 0o644
		must(t, tw.WriteHeader(&h))
		if h.Size > int64(len(body)) {
			body = make([]byte, h.Size)
		}
		_, err := tw.Write(body)
		must(t, err)
	}
	must(t, tw.Close())
	must(t, zw.Close())
	return buf.Bytes()
}

func base() []tar.Header {
	const folder = "package/bins/test/"
	return []tar.Header{
		{Name: "package/package.json"},
		{Name: folder + "llama-addon.node"},
		{Name: folder + "libllama-common.so"},
		{Name: folder + "libllama.v0.5.0.so"},
		{Name: folder + "libggml.v0.5.0.so"},
		{Name: folder + "libggml-base.so"},
		{Name: folder + "libggml-cpu-x64.so"},
	}
}

func integrity(b []byte) string {
	sum := sha512.Sum512(b)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// fakeNPM puts an npm first in the PATH that serves archives by package name
// and counts its calls in the returned file.
func fakeNPM(t *testing.T, archives map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range archives {
		must(t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, "/", "_")+".archive"), b, 0o600))
	}
	calls := filepath.Join(dir, "calls")
	script := fmt.Sprintf(`#!/bin/sh
here=%q
if [ "$1" = config ]; then echo "$here/cache"; exit 0; fi
echo "$@" >>%q
file="$here/$(echo "${2%%@*}" | tr / _).archive"
while [ $# -gt 0 ]; do [ "$1" = --pack-destination ] && dest=$2; shift; done
if [ ! -f "$file" ]; then
  echo "npm error code E404" >&2
  echo "npm error 404 No match found for version" >&2
  echo "npm error A complete log of this run can be found in: /x" >&2
  exit 1
fi
cp "$file" "$dest/package.tgz"
`, dir, calls)
	must(t, os.WriteFile(filepath.Join(dir, "npm"), []byte(script), 0o700)) //nolint:gosec // a program
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return calls
}

func testPin(b rbee.Backend, name string, packed []byte) pin {
	p := pin{
		backend: b, name: name, integrity: integrity(packed), packedBytes: int64(len(packed)), folder: "package/bins/test",
		keep: []string{"libllama.v0.5.0.so", "libggml.v0.5.0.so", "libggml-base.so", "libggml-cpu*.so"},
	}
	if b != rbee.BackendCPU {
		p.keep = []string{"libggml-" + string(b) + ".so"}
	}
	return p
}

// fakeStore is a store whose package is served by a fake npm.
func fakeStore(t *testing.T) *Store {
	t.Helper()
	cpu := archive(t, base()...)
	accelerator := archive(t, append(base(), tar.Header{Name: "package/bins/test/libggml-cuda.so"})...)
	fakeNPM(t, map[string][]byte{"@test/cpu": cpu, "@test/cuda": accelerator})
	s := Open(filepath.Join(t.TempDir(), "engines"))
	s.pins = []pin{testPin(rbee.BackendCPU, "@test/cpu", cpu), testPin(rbee.BackendCUDA, "@test/cuda", accelerator)}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ensure(t *testing.T, s *Store, b rbee.Backend) Report {
	t.Helper()
	r, err := s.Ensure(t.Context(), b, nil)
	if err != nil {
		t.Fatalf("%v (%s)", err, rbee.AsError(err).Suggestion())
	}
	return r
}

// refused asserts the code, a part of the message and that there is a suggestion.
func refused(t *testing.T, err error, code rbee.Code, message string) {
	t.Helper()
	e, ok := errors.AsType[*rbee.Error](err)
	if !ok {
		t.Fatalf("got %v, want an rbee error", err)
	}
	if e.Code != code || !strings.Contains(e.Message, message) || e.Suggestion() == "" || strings.Contains(e.Message, "\n") {
		t.Fatalf("got %q with suggestion %q, want %s with %q", e.Error(), e.Suggestion(), code, message)
	}
}

// leftovers asserts that only the lock and the libraries are in the store.
func leftovers(t *testing.T, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(s.Dir())
	must(t, err)
	for _, e := range entries {
		if e.Name() != ".lock" && e.Name() != libDirName {
			t.Errorf("%s is left in the store", e.Name())
		}
	}
}

// TestInstallContract runs the same steps with a fake npm and with the real one.
func TestInstallContract(t *testing.T) {
	stores := map[string]func(*testing.T) *Store{
		"fake npm": fakeStore,
		"real npm": func(t *testing.T) *Store { return Open(filepath.Join(t.TempDir(), "engines")) },
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			if _, err := Find(s.Dir()); rbee.CodeOf(err) != rbee.CodeBackendUnavailable {
				t.Fatalf("an empty store has an engine: %v", err)
			}
			var steps []Step
			r, err := s.Ensure(t.Context(), rbee.BackendCPU, func(p Progress) {
				if len(steps) == 0 || steps[len(steps)-1] != p.Step {
					steps = append(steps, p.Step)
				}
			})
			must(t, err)
			if want := []Step{StepFetching, StepUnpacking}; !slices.Equal(steps, want) {
				t.Errorf("steps %v, want %v", steps, want)
			}
			if len(r.Fetched) != 1 || len(r.Damage) != 0 || r.LibDir != s.LibDir() {
				t.Errorf("report %+v of a first installation", r)
			}
			found, err := Find(s.Dir())
			must(t, err)
			if again, err := Find(found); err != nil || again != found {
				t.Errorf("Find of the libraries' own directory: %q, %v", again, err)
			}
			if _, err := os.Stat(filepath.Join(found, "libllama-common.so")); err == nil {
				t.Error("a library that is not needed was taken")
			}
			if d := s.Verify(); len(d) != 0 {
				t.Errorf("damage %v after an installation", d)
			}
			leftovers(t, s)

			path := os.Getenv("PATH")
			t.Setenv("PATH", "")
			if r := ensure(t, s, rbee.BackendCPU); len(r.Fetched) != 0 {
				t.Errorf("fetched %v again", r.Fetched)
			}
			t.Setenv("PATH", path)
			damageAndRepair(t, s, name == "real npm")
			leftovers(t, s)
		})
	}
}

// damageAndRepair damages an installation in each way and lets Ensure or Repair
// find it; a real npm is slow, so there one way must do.
func damageAndRepair(t *testing.T, s *Store, slow bool) {
	lib := filepath.Join(s.LibDir(), "libggml-base.so")
	info, err := os.Stat(lib)
	must(t, err)
	flip := func() {
		b, err := os.ReadFile(lib) //nolint:gosec // the test's own directory
		must(t, err)
		b[len(b)/2] ^= 1
		must(t, os.WriteFile(lib, b, 0o600))
	}
	cases := []struct {
		name, file string
		damage     func()
		repair     bool // only digests find it
	}{
		{"a missing library", "libggml-base.so", func() { must(t, os.Remove(lib)) }, false},
		{"a cut library", "libggml-base.so", func() { must(t, os.Truncate(lib, info.Size()-1)) }, false},
		{"a changed library", "libggml-base.so", flip, false},
		{"a silently changed library", "libggml-base.so", func() {
			now, err := os.Stat(lib)
			must(t, err)
			flip()
			must(t, os.Chtimes(lib, now.ModTime(), now.ModTime()))
		}, true},
		{"a missing link", "libllama.so", func() { must(t, os.Remove(filepath.Join(s.LibDir(), "libllama.so"))) }, false},
		{"a link elsewhere", "libllama.so", func() {
			must(t, os.Remove(filepath.Join(s.LibDir(), "libllama.so")))
			must(t, os.Symlink("/nowhere", filepath.Join(s.LibDir(), "libllama.so")))
		}, false},
		{"a cut manifest", "", func() { must(t, os.Truncate(filepath.Join(s.LibDir(), "manifest-cpu.json"), 40)) }, false},
	}
	if slow {
		cases = cases[:1]
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.damage()
			if d := s.Verify(); c.file != "" && (len(d) != 1 || d[0].File != c.file) {
				t.Errorf("Verify says %v, want damage of %s", d, c.file)
			}
			r := ensure(t, s, rbee.BackendCPU)
			if c.repair {
				if len(r.Fetched) != 0 {
					t.Errorf("Ensure noticed what only a digest can: %+v", r)
				}
				r, err = s.Repair(t.Context(), rbee.BackendCPU, nil)
				must(t, err)
			}
			if len(r.Fetched) != 1 || c.file != "" && (len(r.Damage) != 1 || r.Damage[0].File != c.file) {
				t.Errorf("report %+v, want the damage of %s repaired", r, c.file)
			}
			if d := s.Verify(); len(d) != 0 {
				t.Errorf("damage %v after the repair", d)
			}
		})
	}
}

func TestAnAcceleratorAddsItsLibraryToTheBase(t *testing.T) {
	s := fakeStore(t)
	r := ensure(t, s, rbee.BackendCUDA)
	if len(r.Fetched) != 2 {
		t.Fatalf("fetched %v, want the base and the accelerator", r.Fetched)
	}
	for _, file := range []string{"libllama.so", "libggml-cpu-x64.so", "libggml-cuda.so"} {
		if _, err := os.Stat(filepath.Join(s.LibDir(), file)); err != nil {
			t.Error(err)
		}
	}
	must(t, os.Remove(filepath.Join(s.LibDir(), "libggml-cuda.so")))
	if r := ensure(t, s, rbee.BackendCPU); len(r.Fetched) != 0 {
		t.Errorf("damage of the accelerator is none of the CPU: %+v", r)
	}
	if r := ensure(t, s, rbee.BackendCUDA); !slices.Equal(r.Fetched, []string{"@test/cuda@3.22.1"}) {
		t.Errorf("fetched %v, want the accelerator alone", r.Fetched)
	}
}

func TestTheCUDAPackageFollowsTheRuntimeOfTheSystem(t *testing.T) {
	s := Open(t.TempDir())
	s.pins = pinsOf("linux", "amd64")
	have := map[string]bool{}
	s.find = func(lib string) string {
		if have[lib] {
			return "/lib/" + lib
		}
		return ""
	}
	for _, c := range []struct {
		libs []string
		want string
	}{
		{nil, "@node-llama-cpp/linux-x64-cuda"},
		{[]string{"libcudart.so.12", "libcublas.so.12"}, "@node-llama-cpp/linux-x64-cuda-ext"},
		{[]string{"libcudart.so.13", "libcublas.so.13"}, "@node-llama-cpp/linux-x64-cuda"},
	} {
		for _, lib := range c.libs {
			have[lib] = true
		}
		p, err := s.pinFor(rbee.BackendCUDA)
		must(t, err)
		if p.name != c.want {
			t.Errorf("with %v: %s, want %s", c.libs, p.name, c.want)
		}
	}
}

func TestConcurrentInstallationsFetchOnce(t *testing.T) {
	s := fakeStore(t)
	calls := filepath.Join(strings.Split(os.Getenv("PATH"), string(os.PathListSeparator))[0], "calls")
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		wg.Go(func() {
			other := *s
			_, err := other.Ensure(t.Context(), rbee.BackendCPU, nil)
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		must(t, err)
	}
	b, err := os.ReadFile(calls) //nolint:gosec // the test's own directory
	must(t, err)
	if n := strings.Count(string(b), "\n"); n != 1 {
		t.Errorf("npm was called %d times", n)
	}
	leftovers(t, s)
}

func TestALeftStagingDirectoryIsRemoved(t *testing.T) {
	s := fakeStore(t)
	must(t, os.MkdirAll(filepath.Join(s.Dir(), ".staging-1", "libs"), 0o700))
	ensure(t, s, rbee.BackendCPU)
	leftovers(t, s)
}

func TestFetchRefusals(t *testing.T) {
	s := fakeStore(t)
	good := s.pins[0]
	t.Run("a wrong digest", func(t *testing.T) {
		s.pins[0].integrity = integrity([]byte("another"))
		_, err := s.Ensure(t.Context(), rbee.BackendCPU, nil)
		refused(t, err, rbee.CodeChecksumMismatch, "digest is not the pinned one")
		if e := rbee.AsError(err); e.Details["actual"] != good.integrity {
			t.Errorf("details %v", e.Details)
		}
	})
	t.Run("a package that npm does not find", func(t *testing.T) {
		s.pins[0] = good
		s.pins[0].name = "@test/none"
		_, err := s.Ensure(t.Context(), rbee.BackendCPU, nil)
		refused(t, err, rbee.CodeDownloadFailed, "code E404; 404 No match found for version")
	})
	t.Run("a cancelled installation", func(t *testing.T) {
		s.pins[0] = good
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("the user left"))
		_, err := s.Ensure(ctx, rbee.BackendCPU, nil)
		if rbee.CodeOf(err) != rbee.CodeRequestCanceled || !strings.Contains(err.Error(), "the user left") {
			t.Fatal(err)
		}
	})
	t.Run("no npm", func(t *testing.T) {
		s.pins[0] = good
		t.Setenv("PATH", t.TempDir())
		_, err := s.Ensure(t.Context(), rbee.BackendCPU, nil)
		refused(t, err, rbee.CodeBackendUnavailable, "npm client is not installed")
		if sug := rbee.AsError(err).Suggestion(); !strings.Contains(sug, "apt-get install npm") || !strings.Contains(sug, "--from DIR") {
			t.Errorf("suggestion %q", sug)
		}
	})
	t.Run("no package for the platform", func(t *testing.T) {
		s.pins, s.platform = pinsOf("darwin", "arm64"), "darwin/arm64"
		_, err := s.Ensure(t.Context(), rbee.BackendMetal, nil)
		refused(t, err, rbee.CodeBackendUnavailable, "no package is pinned for darwin/arm64")
	})
	leftovers(t, s)
	if _, err := Find(s.Dir()); err == nil {
		t.Error("a refused installation left an engine")
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	const folder = "package/bins/test/"
	cut := archive(t, base()...)
	cases := map[string]struct {
		packed []byte
		want   string
	}{
		"a path upwards":                  {archive(t, append(base(), tar.Header{Name: "package/../../libggml-cpu.so"})...), "points out of the archive"},
		"an absolute path":                {archive(t, append(base(), tar.Header{Name: "/tmp/libggml-cpu.so"})...), "points out of the archive"},
		"a path with a drive":             {archive(t, append(base(), tar.Header{Name: `C:\libggml-cpu.so`})...), "points out of the archive"},
		"a symbolic link":                 {archive(t, append(base(), tar.Header{Name: folder + "libggml-cpu-a.so", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})...), "not a plain file"},
		"a hard link":                     {archive(t, append(base(), tar.Header{Name: folder + "libggml-cpu-a.so", Typeflag: tar.TypeLink, Linkname: "x"})...), "not a plain file"},
		"a device":                        {archive(t, append(base(), tar.Header{Name: folder + "libggml-cpu-a.so", Typeflag: tar.TypeChar})...), "not a plain file"},
		"a library twice":                 {archive(t, append(base(), tar.Header{Name: folder + "libggml-base.so"})...), "exists"},
		"a huge file":                     {archive(t, append(base(), tar.Header{Name: folder + "libggml-cpu-a.so", Size: 2 << 20})...), "more than its limit"},
		"a huge unwanted file":            {archive(t, append(base(), tar.Header{Name: "package/zeroes", Size: 2 << 20})...), "more than its limit"},
		"too many entries":                {archive(t, slices.Repeat([]tar.Header{{Name: "package/README.md"}}, maxEntries+1)...), "entries"},
		"no library":                      {archive(t, tar.Header{Name: "package/package.json"}), "no library of llama.cpp"},
		"no CPU library":                  {archive(t, base()[:6]...), "has no libggml-cpu*"},
		"a cut archive":                   {cut[:len(cut)/2], "cut short"},
		"an archive without its checksum": {cut[:len(cut)-8], "cut short"},
		"not an archive":                  {[]byte("<html>proxy login</html>"), "not a gzip file"},
		"an empty file":                   {nil, "not a gzip file"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			fakeNPM(t, map[string][]byte{"@test/cpu": c.packed})
			outside := t.TempDir()
			s := Open(filepath.Join(outside, "engines"))
			s.pins = []pin{testPin(rbee.BackendCPU, "@test/cpu", c.packed)}
			s.unpacked = 1 << 20
			if name == "too many entries" {
				s.unpacked = 1 << 30
			}
			_, err := s.Ensure(t.Context(), rbee.BackendCPU, nil)
			refused(t, err, rbee.CodeChecksumMismatch, c.want)
			leftovers(t, s)
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
				t.Errorf("%v, %v: something was written outside of the store", entries, err)
			}
			if entries, _ := os.ReadDir(s.LibDir()); len(entries) != 0 {
				t.Errorf("%v was installed", entries)
			}
		})
	}
}

func TestADirectoryThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	dirs := []string{filepath.Join(file, "engines")}
	if runtime.GOOS == "linux" {
		dirs = append(dirs, "/sys/rbee-engines") // refused even to root
	}
	for _, dir := range dirs {
		_, err := Open(dir).Ensure(t.Context(), rbee.BackendCPU, nil)
		refused(t, err, rbee.CodeInvalidRequest, "the directory cannot be written")
		_, err = Open(dir).InstallFrom(t.Context(), ownBuild(t))
		refused(t, err, rbee.CodeInvalidRequest, "the directory cannot be written")
	}
}

func TestAFullDiskSaysSo(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	_, err = io.WriteString(full, "x")
	must(t, full.Close())
	refused(t, cannotWrite("/engines", err), rbee.CodeInsufficientDisk, "the disk is full")
}
