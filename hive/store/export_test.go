package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rbee"
	"rbee/hive/store"
)

func export(t *testing.T, s *store.Store, ref rbee.ModelRef, path string, link bool) ([]string, error) {
	t.Helper()
	var made []string
	err := s.Export(t.Context(), rbee.ExportRequest{ModelRef: ref.String(), Path: path, Link: link}, func(p rbee.StoreProgress) {
		if p.Stage == rbee.StoreExported {
			made = append(made, p.Path)
		}
	})
	return made, err
}

func TestExportGivesAModelANameElsewhere(t *testing.T) {
	hub := "hf:Org/Repo:Q4_K_M"
	for name, c := range map[string]struct {
		ref  string // "" for file:PATH
		to   string
		link bool
		want string
	}{
		"a file":             {"", "new.bin", false, "new.bin"},
		"a directory":        {"", "", false, "a.gguf"},
		"a link":             {"", "new.gguf", true, "new.gguf"},
		"a linked one there": {hub, "", true, "a.gguf"},
		"of a hub":           {hub, "", false, "a.gguf"},
		"a directory deeper": {"", "sub/", false, "sub/a.gguf"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			s, _ := h.open()
			m := imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference, ModelRef: c.ref})
			out := filepath.Join(h.dir, "out")
			must(t, os.MkdirAll(filepath.Join(out, "sub"), 0o700))
			made, err := export(t, s, m.Ref(), filepath.Join(out, c.to), c.link)
			must(t, err)
			want := filepath.Join(out, c.want)
			if b, err := os.ReadFile(want); err != nil || string(b) != "GGUF a" || !slices.Equal(made, []string{want}) {
				t.Errorf("made %v; %s holds %q, %v", made, want, b, err)
			}
			a, err := os.Stat(m.LocalPath)
			must(t, err)
			b, err := os.Stat(want)
			must(t, err)
			if os.SameFile(a, b) != c.link {
				t.Errorf("a link: %t", os.SameFile(a, b))
			}
			if got := filesOf(t, out); len(got) != 1 {
				t.Errorf("left: %v", got)
			}
		})
	}
}

func TestExportNamesTheFileOfAModel(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	out := filepath.Join(h.dir, "out")
	must(t, os.Mkdir(out, 0o700))
	d := tree{t, filepath.Join(h.dir, "ollama")}
	ollamaStore(d, "")
	must(t, s.Import(t.Context(), rbee.ImportRequest{Path: d.dir}, nobody))
	resolve(t, s, beeRef)
	imported(t, s, rbee.ImportRequest{Path: h.split("big", "GGUF one", "GGUF two").Reference})
	all, err := s.Models(t.Context())
	must(t, err)
	for _, m := range all {
		_, err := export(t, s, m.Ref(), out, false)
		must(t, err)
	}
	var got []string
	for _, path := range filesOf(t, out) {
		got = append(got, filepath.Base(path))
	}
	want := []string{"bee-8b.gguf", "bee.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf", "me-mine-q4.gguf"}
	if !slices.Equal(got, want) {
		t.Errorf("made %q, want %q", got, want)
	}
	if m := resolve(t, s, rbee.ModelRef{Provider: rbee.ProviderFile, Reference: filepath.Join(out, "big-00001-of-00002.gguf")}); len(m.Parts) != 2 {
		t.Errorf("the exported parts are no model: %+v", m)
	}
}

func TestExportOverwritesNothing(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference}).Ref()
	split := imported(t, s, rbee.ImportRequest{Path: h.split("big", "GGUF one", "GGUF two").Reference}).Ref()
	taken := h.file("taken.gguf", "mine").Reference
	h.file("out/big-00002-of-00002.gguf", "mine")
	dangling := filepath.Join(h.dir, "dangling")
	must(t, os.Symlink("nowhere", dangling))
	before := filesOf(t, h.dir)
	for name, c := range map[string]struct {
		ref  rbee.ModelRef
		path string
		code rbee.Code
	}{
		"a file":           {ref, taken, rbee.CodeConflict},
		"in a directory":   {ref, h.dir, rbee.CodeConflict},
		"a link":           {ref, dangling, rbee.CodeConflict},
		"a later part":     {split, filepath.Join(h.dir, "out"), rbee.CodeConflict},
		"parts in a file":  {split, filepath.Join(h.dir, "new.gguf"), rbee.CodeInvalidRequest},
		"no directory":     {ref, filepath.Join(h.dir, "no", "new.gguf"), rbee.CodeInvalidRequest},
		"not absolute":     {ref, "new.gguf", rbee.CodeInvalidRequest},
		"into the store":   {ref, filepath.Join(h.models(), "new.gguf"), rbee.CodeInvalidRequest},
		"no such model":    {rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "a/b"}, filepath.Join(h.dir, "new.gguf"), rbee.CodeModelNotFound},
		"below a file":     {ref, filepath.Join(taken, "new.gguf"), rbee.CodeInvalidRequest},
		"no reference":     {rbee.ModelRef{}, filepath.Join(h.dir, "new.gguf"), rbee.CodeInvalidRequest},
		"the store itself": {ref, h.models(), rbee.CodeInvalidRequest},
	} {
		for how, link := range map[string]bool{"copy": false, "link": true} {
			t.Run(name+" by "+how, func(t *testing.T) {
				if _, err := export(t, s, c.ref, c.path, link); rbee.CodeOf(err) != c.code || rbee.AsError(err).Suggestion() == "" {
					t.Errorf("error is %v, want %s and what to try", err, c.code)
				}
			})
		}
	}
	if after := filesOf(t, h.dir); !slices.Equal(before, after) {
		t.Errorf("there is %q, and was %q", after, before)
	}
	if b, err := os.ReadFile(taken); err != nil || string(b) != "mine" {
		t.Errorf("overwritten: %q, %v", b, err)
	}
}

func TestExportGivesOutNothingDamaged(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	m := imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
	scribble(t, m.LocalPath)
	before := filesOf(t, h.dir)
	_, err := export(t, s, m.Ref(), filepath.Join(h.dir, "new.gguf"), false)
	if rbee.CodeOf(err) != rbee.CodeChecksumMismatch {
		t.Errorf("error is %v", err)
	}
	if after := filesOf(t, h.dir); !slices.Equal(before, after) {
		t.Errorf("there is %q, and was %q", after, before)
	}
}

func TestExportEndsWithItsCaller(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference}).Ref()
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the caller has left")
	cancel(left)
	err := s.Export(ctx, rbee.ExportRequest{ModelRef: ref.String(), Path: filepath.Join(h.dir, "new.gguf")}, nobody)
	if err == nil || exists(filepath.Join(h.dir, "new.gguf")) {
		t.Errorf("error is %v", err)
	}
}
