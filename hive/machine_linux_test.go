package hive

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMappedFilesAreNotAProcessesOwnMemory(t *testing.T) {
	const size = 64 << 20
	dir := t.TempDir()
	mmap := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path) //nolint:gosec // made above
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // only read
		m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(m) })
		return path
	}
	first := mmap("model-00001-of-00002.gguf")
	mmap("model-00002-of-00002.gguf")
	single := mmap("model.gguf")
	before, mapped, ok := processMemory(os.Getpid(), first)
	if !ok || before < 1<<20 || mapped != 2*size {
		t.Fatalf("%d, %d mapped, %t", before, mapped, ok)
	}
	if _, mapped, _ := processMemory(os.Getpid(), single); mapped != size {
		t.Errorf("a model of one file has %d bytes mapped", mapped)
	}
	own, err := unix.Mmap(-1, 0, 2*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(own) //nolint:errcheck // the test ends
	after, _, _ := processMemory(os.Getpid(), first)
	if grown := after - before; grown < size {
		t.Errorf("%d bytes of its own are %d", 2*size, grown)
	}
	if _, _, ok := processMemory(1<<30, first); ok {
		t.Error("a process that is not there has memory")
	}
	if err := readAhead(t.Context(), single, size); err != nil {
		t.Errorf("reading ahead: %v", err)
	}
}
