package engines

import (
	"debug/elf"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"rbee"
)

// ownBuild makes a directory as a build of llama.cpp leaves it, links included.
func ownBuild(t *testing.T, extra ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, lib := range append([]string{"llama", "ggml", "ggml-base"}, extra...) {
		plain := libraryFile(lib)
		must(t, os.WriteFile(filepath.Join(dir, plain+".0.5.0"), []byte("own "+lib), 0o600))
		must(t, os.Symlink(plain+".0.5.0", filepath.Join(dir, plain+".0")))
		must(t, os.Symlink(plain+".0", filepath.Join(dir, plain)))
	}
	must(t, os.WriteFile(filepath.Join(dir, libraryFile("ggml-cpu")), []byte("own cpu"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "llama-cli"), []byte("a program"), 0o600))
	return dir
}

func TestAnOwnBuildReplacesThePackages(t *testing.T) {
	s := fakeStore(t)
	ensure(t, s, rbee.BackendCPU)
	build := ownBuild(t, "ggml-vulkan")
	r, err := s.InstallFrom(t.Context(), build)
	must(t, err)
	if !slices.Equal(r.Fetched, []string{build}) {
		t.Errorf("report %+v", r)
	}
	leftovers(t, s)
	b, err := os.ReadFile(filepath.Join(s.LibDir(), libraryFile("llama")))
	must(t, err)
	if string(b) != "own llama" {
		t.Errorf("the library is %q", b)
	}
	for _, gone := range []string{"libggml-cpu-x64.so", "llama-cli", "manifest-cpu.json"} {
		if _, err := os.Lstat(filepath.Join(s.LibDir(), gone)); err == nil {
			t.Errorf("%s is there", gone)
		}
	}
	if d := s.Verify(); len(d) != 0 {
		t.Errorf("damage %v", d)
	}
	for _, b := range []rbee.Backend{rbee.BackendCPU, rbee.BackendVulkan} {
		if r := ensure(t, s, b); len(r.Fetched) != 0 {
			t.Errorf("an own build was replaced: %+v", r)
		}
	}
	_, err = s.Ensure(t.Context(), rbee.BackendCUDA, nil)
	refused(t, err, rbee.CodeBackendUnavailable, "own build of llama.cpp has no library for it")

	must(t, os.Remove(filepath.Join(s.LibDir(), libraryFile("ggml-cpu"))))
	_, err = s.Ensure(t.Context(), rbee.BackendCPU, nil)
	refused(t, err, rbee.CodeBackendUnavailable, libraryFile("ggml-cpu")+" is missing")
	_, err = s.InstallFrom(t.Context(), build)
	must(t, err)
	ensure(t, s, rbee.BackendCPU)

	must(t, os.RemoveAll(s.LibDir()))
	if r := ensure(t, s, rbee.BackendCPU); len(r.Fetched) != 1 {
		t.Errorf("the packages do not come back: %+v", r)
	}
}

func TestAnOwnBuildSurvivesAKilledReplacement(t *testing.T) {
	s := fakeStore(t)
	_, err := s.InstallFrom(t.Context(), ownBuild(t))
	must(t, err)
	staging, err := s.staging()
	must(t, err)
	fresh, aside := filepath.Join(staging, freshDirName), filepath.Join(staging, replacedDirName)
	must(t, os.Mkdir(fresh, 0o700))
	must(t, os.Rename(s.LibDir(), aside)) // and here the process is killed
	if r := ensure(t, s, rbee.BackendCPU); len(r.Fetched) != 0 {
		t.Errorf("the own build was replaced: %+v", r)
	}
	if b, err := os.ReadFile(filepath.Join(s.LibDir(), libraryFile("llama"))); err != nil || string(b) != "own llama" {
		t.Errorf("the library is %q, %v", b, err)
	}
	_, err = s.InstallFrom(t.Context(), ownBuild(t))
	must(t, err)
	leftovers(t, s)
}

func TestARemovedOwnBuildStaysRemoved(t *testing.T) {
	s := fakeStore(t)
	_, err := s.InstallFrom(t.Context(), ownBuild(t))
	must(t, err)
	staging, err := s.staging()
	must(t, err)
	// A swap was whole, its process was killed before it cleaned up, and then the user removed the libraries.
	must(t, os.Rename(s.LibDir(), filepath.Join(staging, replacedDirName)))
	if r := ensure(t, s, rbee.BackendCPU); len(r.Fetched) != 1 {
		t.Errorf("the packages do not come back: %+v", r)
	}
	leftovers(t, s)
}

func TestAnOwnBuildIsFoundInABuildDirectory(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "engines"))
	outer := t.TempDir()
	must(t, os.Mkdir(filepath.Join(outer, "build"), 0o700))
	must(t, os.Rename(ownBuild(t), filepath.Join(outer, "build", "bin")))
	_, err := s.InstallFrom(t.Context(), outer)
	must(t, err)
	_, err = Find(s.Dir())
	must(t, err)
}

func TestAnOwnBuildThatLacksALibraryIsRefused(t *testing.T) {
	for _, lib := range []string{"llama", "ggml", "ggml-base", "ggml-cpu"} {
		t.Run(lib, func(t *testing.T) {
			build := ownBuild(t)
			parts, err := filepath.Glob(filepath.Join(build, libraryFile(lib)+"*"))
			must(t, err)
			for _, p := range parts {
				must(t, os.Remove(p))
			}
			s := Open(filepath.Join(t.TempDir(), "engines"))
			_, err = s.InstallFrom(t.Context(), build)
			refused(t, err, rbee.CodeInvalidRequest, "there is no lib"+lib)
			if _, err := os.Stat(s.Dir()); err == nil {
				t.Error("a refused build made the store")
			}
		})
	}
	t.Run("no directory", func(t *testing.T) {
		_, err := Open(t.TempDir()).InstallFrom(t.Context(), filepath.Join(t.TempDir(), "none"))
		refused(t, err, rbee.CodeInvalidRequest, "there is no such directory")
	})
	t.Run("a link that leads nowhere", func(t *testing.T) {
		build := ownBuild(t)
		must(t, os.Symlink("/nowhere", filepath.Join(build, libraryFile("ggml-vulkan"))))
		_, err := Open(t.TempDir()).InstallFrom(t.Context(), build)
		refused(t, err, rbee.CodeInvalidRequest, "is not a readable file")
	})
}

func TestStatusSaysWhyABackendIsNotAvailable(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	s := fakeStore(t)
	s.pins[1].runtime = []string{"libcudart.so.13"}
	system := map[string]bool{}
	s.find = func(lib string) string {
		if system[lib] {
			return "/lib/" + lib
		}
		return ""
	}
	expect := func(b rbee.Backend, want string) {
		t.Helper()
		for _, st := range s.Status() {
			if st.Backend == b && (!strings.Contains(st.Reason, want) || st.Available != (want == "") || want == "" && st.Reason != "") {
				t.Errorf("%s: %+v, want %q", b, st, want)
			}
		}
	}
	expect(rbee.BackendCPU, "not installed; run 'rbee engine install'")
	expect(rbee.BackendCUDA, "no NVIDIA driver (libcuda.so.1 not found)")
	expect(rbee.BackendVulkan, "libvulkan.so.1 not found")
	expect(rbee.BackendMetal, "only on macOS")
	system["libcuda.so.1"], system["libvulkan.so.1"] = true, true
	expect(rbee.BackendCUDA, "run 'rbee engine install --backend cuda'")
	expect(rbee.BackendVulkan, "no engine package is pinned")
	ensure(t, s, rbee.BackendCUDA)
	expect(rbee.BackendCPU, "libffi.so.8 not found")
	system["libffi.so.8"] = true
	expect(rbee.BackendCPU, "apt-get install libstdc++6")
	system["libstdc++.so.6"] = true
	expect(rbee.BackendCPU, "")
	expect(rbee.BackendCUDA, "libcudart.so.13 not found")
	system["libcudart.so.13"] = true
	expect(rbee.BackendCUDA, "")
	must(t, os.Remove(filepath.Join(s.LibDir(), "libggml-cuda.so")))
	expect(rbee.BackendCUDA, "libggml-cuda.so is missing")
	ensure(t, s, rbee.BackendCUDA)
	must(t, os.Remove(filepath.Join(s.LibDir(), "libggml.so")))
	expect(rbee.BackendCUDA, "the base of the engine is missing or damaged")
	_, err := s.InstallFrom(t.Context(), ownBuild(t))
	must(t, err)
	expect(rbee.BackendCPU, "")
	expect(rbee.BackendCUDA, "own build of llama.cpp has no library for it")
}

func TestCheckFFINamesThePackage(t *testing.T) {
	none := func(string) string { return "" }
	refused(t, checkFFI(true, none), rbee.CodeBackendUnavailable, "libffi.so.8 is not installed")
	if err := checkFFI(false, none); err != nil {
		t.Error(err)
	}
	must(t, CheckFFI()) // this machine runs the engine's tests, so it has one
}

func TestFindLibraryLooksWhereTheLoaderLooks(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	libc := findLibrary("libc.so.6")
	if libc == "" {
		t.Fatal("this machine has no C library")
	}
	if p := findLibrary("libno-such-thing.so.1"); p != "" {
		t.Errorf("found %s", p)
	}
	dir := t.TempDir()
	must(t, os.Symlink(libc, filepath.Join(dir, "librbee-test.so.1")))
	must(t, os.WriteFile(filepath.Join(dir, "librbee-fake.so.1"), []byte("no library"), 0o600))
	foreign, err := os.ReadFile(libc) //nolint:gosec // the C library
	must(t, err)
	foreign[18], foreign[19] = byte(elf.EM_S390), 0 // e_machine
	must(t, os.WriteFile(filepath.Join(dir, "librbee-foreign.so.1"), foreign, 0o600))
	t.Setenv("LD_LIBRARY_PATH", ":"+dir)
	if p := findLibrary("librbee-test.so.1"); p != filepath.Join(dir, "librbee-test.so.1") {
		t.Errorf("found %q in LD_LIBRARY_PATH", p)
	}
	for _, name := range []string{"librbee-fake.so.1", "librbee-foreign.so.1"} {
		if p := findLibrary(name); p != "" {
			t.Errorf("%s is no library for this machine", p)
		}
	}
}
