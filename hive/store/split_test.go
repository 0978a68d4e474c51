package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"rbee"
)

func TestASplitModelIsOneModel(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	ref := h.split("big", "GGUF one", "GGUF two!", "GGUF three")
	m := imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	if len(m.Parts) != 3 || m.SizeBytes != 27 || m.LocalPath != m.Parts[0].Path || m.Parts[1].SHA256 != sum("GGUF two!") {
		t.Fatalf("row: %+v", m)
	}
	dir := filepath.Dir(m.LocalPath)
	for i, p := range m.Parts {
		if want := filepath.Join(dir, []string{"model-00001-of-00003.gguf", "model-00002-of-00003.gguf", "model-00003-of-00003.gguf"}[i]); p.Path != want {
			t.Errorf("part %d lies at %s, want %s", i+1, p.Path, want)
		}
	}
	end()
	must(t, os.Remove(filepath.Join(h.dir, "models.db")))
	s, _ = h.open()
	again := resolve(t, s, ref)
	if len(again.Parts) != 3 || again.Parts[2] != m.Parts[2] || again.SizeBytes != m.SizeBytes {
		t.Errorf("after the rebuild: %+v", again)
	}
	must(t, s.Remove(t.Context(), ref))
	if exists(dir) {
		t.Errorf("%s is left behind", dir)
	}
}

func TestASplitModelWithAPartGoneIsNotServed(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := h.split("big", "GGUF one", "GGUF two")
	m := imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	must(t, os.Remove(m.Parts[1].Path))
	if got := refs(t, s); len(got) != 0 {
		t.Errorf("listed: %v", got)
	}
	if m := resolve(t, s, ref); m.LocalPath != ref.Reference || len(m.Parts) != 2 {
		t.Errorf("it should be used where it lies: %+v", m)
	}
}

func TestASplitModelIsUsedWhereItLies(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := h.split("big", "GGUF one", "GGUF two")
	if m := resolve(t, s, ref); len(m.Parts) != 2 || m.SizeBytes != 16 {
		t.Errorf("row: %+v", m)
	}
}

func TestALaterPartIsNoModel(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	h.split("big", "GGUF one", "GGUF two")
	err := s.Import(t.Context(), rbee.ImportRequest{Path: filepath.Join(h.dir, "big-00002-of-00002.gguf")}, nobody)
	if rbee.CodeOf(err) != rbee.CodeInvalidRequest || rbee.AsError(err).Suggestion() == "" {
		t.Errorf("error is %v", err)
	}
}
