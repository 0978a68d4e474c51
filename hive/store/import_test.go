package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/hive/store"
)

// imported imports one model and returns its row.
func imported(t *testing.T, s *store.Store, req rbee.ImportRequest) rbee.Model {
	t.Helper()
	var m rbee.Model
	must(t, s.Import(t.Context(), req, func(p rbee.StoreProgress) {
		if p.Stage == rbee.StoreImported {
			m = *p.Model
		}
	}))
	if m.Reference == "" {
		t.Fatalf("%+v ended without a model", req)
	}
	return m
}

func nobody(rbee.StoreProgress) {}

func TestImportLinksByDigest(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
	ma := imported(t, s, rbee.ImportRequest{Path: a.Reference, SHA256: sum("GGUF same")})
	mb := imported(t, s, rbee.ImportRequest{Path: b.Reference})
	if want := filepath.Join(h.models(), "sha256", sum("GGUF same")+".gguf"); ma.LocalPath != want || mb.LocalPath != want {
		t.Fatalf("paths %s and %s, want %s", ma.LocalPath, mb.LocalPath, want)
	}
	src, err := os.Stat(a.Reference)
	must(t, err)
	dst, err := os.Stat(ma.LocalPath)
	must(t, err)
	if !os.SameFile(src, dst) {
		t.Error("the file was copied where a link would do")
	}
	if err := s.Import(t.Context(), rbee.ImportRequest{Path: a.Reference, SHA256: sum("other")}, nobody); rbee.CodeOf(err) != rbee.CodeChecksumMismatch {
		t.Errorf("a wrong digest: %v", err)
	}
	must(t, os.Remove(a.Reference))
	must(t, s.Remove(t.Context(), b))
	resolve(t, s, a) // the store's own name keeps the bytes
	must(t, s.Remove(t.Context(), a))
	must(t, s.Remove(t.Context(), a))
	if _, err := os.Stat(ma.LocalPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the last reference is gone and the file is there: %v", err)
	}
	end()
	if left, err := os.ReadDir(filepath.Join(h.models(), "sha256")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	want := []rbee.EventKind{rbee.EventModel, rbee.EventModel, rbee.EventModelRemoved, rbee.EventModelRemoved}
	if !slices.Equal(h.told, want) {
		t.Errorf("told %v, want %v", h.told, want)
	}
}

func TestManyImportsOfTheSameBytesShareOneFile(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := h.file("a.gguf", "GGUF same")
	var imports sync.WaitGroup
	for range 16 {
		imports.Go(func() {
			if err := s.Import(t.Context(), rbee.ImportRequest{Path: ref.Reference}, nobody); err != nil {
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

func TestImportCopiesOnlyWhenAsked(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	s.WithoutLinks()
	for _, ref := range []rbee.ModelRef{h.file("a.gguf", "GGUF a"), h.split("big", "GGUF one", "GGUF two")} {
		err := s.Import(t.Context(), rbee.ImportRequest{Path: ref.Reference}, nobody)
		if e := rbee.AsError(err); e == nil || e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Suggestion(), "--copy") {
			t.Errorf("without leave to copy: %v", err)
		}
		if got := filesOf(t, filepath.Join(h.models())); len(got) > 2 { // the locks
			t.Errorf("left behind: %v", got)
		}
	}
	e := &ends{}
	must(t, s.Import(t.Context(), rbee.ImportRequest{Path: h.dir}, e.report))
	if len(e.said) != 2 || !strings.HasPrefix(e.said[0], "skipped") || len(refs(t, s)) != 0 {
		t.Errorf("of a directory: %q", e.said)
	}
	must(t, s.Import(t.Context(), rbee.ImportRequest{Path: h.dir, Copy: true}, nobody))
	if got := refs(t, s); len(got) != 2 {
		t.Errorf("catalogued: %v", got)
	}
	for _, p := range verify(t, s).all {
		if p.Stage == rbee.StoreDamaged {
			t.Errorf("%s: %v", p.ModelRef, p.Error)
		}
	}
	if got := collect(t, s, rbee.GCRequest{DryRun: true}).Removed; len(got) != 0 {
		t.Errorf("left behind: %v", named(got))
	}
	must(t, os.Remove(filepath.Join(h.dir, "a.gguf")))
	if got := refs(t, s); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
}

func TestImportRepairsWhatTheStoreHas(t *testing.T) {
	for name, linked := range map[string]bool{"by a link": true, "by a copy": false} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			s, _ := h.open()
			first := h.file("a.gguf", "GGUF same")
			m := imported(t, s, rbee.ImportRequest{Path: first.Reference})
			scribble(t, m.LocalPath)
			if !linked {
				s.WithoutLinks()
			}
			intact := h.file("b.gguf", "GGUF same")
			must(t, os.Remove(first.Reference))
			imported(t, s, rbee.ImportRequest{Path: intact.Reference, Copy: !linked})
			e := verify(t, s)
			if want := []string{"intact " + first.String(), "intact " + intact.String()}; !slices.Equal(e.said, want) {
				t.Errorf("said %q, want %q", e.said, want)
			}
		})
	}
}

func TestImportUsesWhatTheStoreHas(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	m := imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF same").Reference})
	s.WithoutLinks() // and without leave to copy
	imported(t, s, rbee.ImportRequest{Path: h.file("b.gguf", "GGUF same").Reference})
	if got := refs(t, s); len(got) != 2 || !exists(m.LocalPath) {
		t.Errorf("catalog: %v", got)
	}
}

func TestImportEndsWithItsCaller(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	for name, path := range map[string]string{"a file": h.file("a.gguf", "GGUF a").Reference, "a directory": h.dir} {
		ctx, cancel := context.WithCancelCause(t.Context())
		left := errors.New("the caller has left")
		cancel(left)
		if err := s.Import(ctx, rbee.ImportRequest{Path: path}, nobody); !errors.Is(err, left) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if got := refs(t, s); len(got) != 0 {
		t.Errorf("catalogued: %v", got)
	}
}

func TestEveryReferenceToSharedBytesOutlivesTheCatalog(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	var imports sync.WaitGroup
	var want []string
	for i := range 16 {
		ref := h.file(fmt.Sprintf("%02d.gguf", i), "GGUF same")
		want = append(want, ref.String())
		imports.Go(func() {
			if err := s.Import(t.Context(), rbee.ImportRequest{Path: ref.Reference}, nobody); err != nil {
				t.Error(err)
			}
		})
	}
	imports.Wait()
	end()
	h.loseCatalog()
	s, _ = h.open()
	if got := refs(t, s); !slices.Equal(got, want) {
		t.Errorf("after a rebuild: %v", got)
	}
}

func TestARemovalTakesNoFileThatIsBeingImported(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
	for range 25 {
		imported(t, s, rbee.ImportRequest{Path: a.Reference})
		var both sync.WaitGroup
		both.Go(func() {
			if err := s.Remove(t.Context(), a); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			if err := s.Import(t.Context(), rbee.ImportRequest{Path: b.Reference}, nobody); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		if got := refs(t, s); !slices.Equal(got, []string{b.String()}) {
			t.Fatalf("models: %v", got)
		}
		must(t, s.Remove(t.Context(), b))
	}
}
