package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"rbee/internal/durable"
)

func TestWriteMakesDirectoriesAndReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "file")
	for _, content := range []string{"one", "two"} {
		if err := durable.Write(path, ".aside-*", []byte(content)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("the file holds %q, %v", b, err)
		}
	}
	onlyFile(t, path)
}

func TestAFileThatCannotBeMadeWholeLeavesTheOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := durable.Write(path, ".aside-*", []byte("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken off")
	err := durable.Create(path, ".aside-*", func(f *os.File) error {
		_, err := f.WriteString("half")
		return errors.Join(err, broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	onlyFile(t, path)
}

func onlyFile(t *testing.T, path string) {
	t.Helper()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

func TestManyMayMakeOneDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	var makers sync.WaitGroup
	for range 8 {
		makers.Go(func() {
			if err := durable.MkdirAll(dir); err != nil {
				t.Error(err)
			}
		})
	}
	makers.Wait()
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		t.Errorf("not made: %v, %v", info, err)
	}
}

func TestADirectoryBelowAFileCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.MkdirAll(filepath.Join(file, "below")); err == nil {
		t.Error("made")
	}
	if err := durable.MkdirAll(file); err == nil {
		t.Error("a file is taken for a directory")
	}
}
