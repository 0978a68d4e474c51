package engines

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const needsSystemFFI = true

// findLibrary looks for a library as the dynamic loader does: in
// LD_LIBRARY_PATH, in the loader's cache, in its default directories. It
// returns the path, or "". A library of another architecture does not count.
func findLibrary(name string) string {
	var candidates []string
	for _, dir := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		if dir != "" {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	candidates = append(candidates, inLoaderCache("/etc/ld.so.cache", name)...)
	for _, dir := range []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"} {
		candidates = append(candidates, filepath.Join(dir, name), filepath.Join(dir, triplet(), name))
	}
	for _, path := range candidates {
		if isOurs(path) {
			return path
		}
	}
	return ""
}

// inLoaderCache returns the paths of a library in a cache of ld.so. The cache
// keeps each path as a string that ends in NUL, so the paths can be found
// without its tables, whose form differs between versions of the C library.
func inLoaderCache(cache, name string) []string {
	b, err := os.ReadFile(cache) //nolint:gosec // the loader's cache
	if err != nil {
		return nil
	}
	var paths []string
	suffix := []byte("/" + name)
	for s := range bytes.SplitSeq(b, []byte{0}) {
		if bytes.HasSuffix(s, suffix) && s[0] == '/' {
			paths = append(paths, string(s))
		}
	}
	return paths
}

// triplet is the directory of the architecture below the default ones on
// Debian and its relatives.
func triplet() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64-linux-gnu"
	case "arm64":
		return "aarch64-linux-gnu"
	case "arm":
		return "arm-linux-gnueabihf"
	default:
		return runtime.GOARCH + "-linux-gnu"
	}
}

// isOurs tells whether a file is a library for this architecture.
func isOurs(path string) bool {
	if strings.ContainsRune(path, 0) {
		return false
	}
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	machine := f.Machine
	if err := f.Close(); err != nil {
		return false
	}
	want, known := map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "riscv64": elf.EM_RISCV,
	}[runtime.GOARCH]
	return !known || machine == want
}
