package catalog_test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rbee"
)

func TestManyImportsOfTheSameBytesShareOneFile(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := h.file("a.gguf", "GGUF same")
	var imports sync.WaitGroup
	for range 16 {
		imports.Go(func() {
			if _, err := s.Import(t.Context(), rbee.ImportRequest{Path: ref.Reference}); err != nil {
				t.Error(err)
			}
		})
	}
	imports.Wait()
	var files []string
	must(t, filepath.WalkDir(filepath.Join(h.dir, "models", "sha256"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !strings.HasSuffix(path, ".json") {
			files = append(files, e.Name())
		}
		return err
	}))
	if len(files) != 1 {
		t.Errorf("the store holds %q, want one file", files)
	}
}
