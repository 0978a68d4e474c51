package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rbee"
	"rbee/hive/store"
)

// ends collects how each model ended, as "STAGE REF", and all that was told.
type ends struct {
	said []string
	all  []rbee.StoreProgress
}

func (e *ends) report(p rbee.StoreProgress) {
	e.all = append(e.all, p)
	if p.Stage != rbee.StoreReading {
		ref := p.Path
		if p.ModelRef != nil {
			ref = p.ModelRef.String()
		}
		e.said = append(e.said, string(p.Stage)+" "+ref)
	}
}

func verify(t *testing.T, s *store.Store, refs ...rbee.ModelRef) *ends {
	t.Helper()
	e := &ends{}
	must(t, s.Verify(t.Context(), refs, e.report))
	return e
}

func TestVerifyReadsAFileOnceForAllItsReferences(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
	for _, ref := range []rbee.ModelRef{a, b} {
		imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	}
	split := h.split("big", "GGUF one", "GGUF two")
	imported(t, s, rbee.ImportRequest{Path: split.Reference})
	e := verify(t, s)
	if want := []string{"intact " + a.String(), "intact " + b.String(), "intact " + split.String()}; !slices.Equal(e.said, want) {
		t.Errorf("said %q, want %q", e.said, want)
	}
	read := int64(0)
	for _, p := range e.all {
		if p.Stage == rbee.StoreReading {
			read++
		}
		if p.Stage == rbee.StoreIntact && p.BytesDone != p.BytesTotal {
			t.Errorf("%s ends at %d of %d bytes", p.ModelRef, p.BytesDone, p.BytesTotal)
		}
	}
	if read == 0 || read > 3 {
		t.Errorf("%d reports of reading", read)
	}
}

func TestVerifySetsADamagedFileAside(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"a byte":      scribble,
		"cut short":   func(t *testing.T, path string) { must(t, os.Truncate(path, 3)) },
		"grown":       func(t *testing.T, path string) { must(t, os.Truncate(path, 300)) },
		"overwritten": func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("GGUF XXXX"), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			s, end := h.open()
			a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
			var m rbee.Model
			for _, ref := range []rbee.ModelRef{a, b} {
				m = imported(t, s, rbee.ImportRequest{Path: ref.Reference})
			}
			other := imported(t, s, rbee.ImportRequest{Path: h.file("c.gguf", "GGUF c").Reference})
			damage(t, m.LocalPath)
			e := verify(t, s, a) // one of its references is enough
			if want := []string{"damaged " + a.String(), "damaged " + b.String()}; !slices.Equal(e.said, want) {
				t.Fatalf("said %q, want %q", e.said, want)
			}
			told := e.all[len(e.all)-1].Error
			if told.Code != rbee.CodeChecksumMismatch || !strings.Contains(told.Message, filepath.Join(h.models(), "quarantine", m.SHA256)) ||
				!strings.Contains(told.Suggestion(), "rbee models import "+b.Reference) {
				t.Errorf("told %v, %q", told, told.Suggestion())
			}
			if got := h.quarantined(); !slices.Equal(got, []string{m.SHA256}) {
				t.Errorf("in quarantine: %v", got)
			}
			if got := refs(t, s); !slices.Equal(got, []string{other.Ref().String()}) {
				t.Errorf("left: %v", got)
			}
			if exists(m.LocalPath) || exists(m.LocalPath+".json") {
				t.Error("something is left in its place")
			}
			end()
			h.loseCatalog()
			s, _ = h.open()
			if got := refs(t, s); !slices.Equal(got, []string{other.Ref().String()}) {
				t.Errorf("after a rebuild: %v", got)
			}
		})
	}
}

func TestVerifySetsEachDamagedPartAside(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := h.split("big", "GGUF one", "GGUF two", "GGUF three")
	m := imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	scribble(t, m.Parts[0].Path)
	must(t, os.Remove(m.Parts[2].Path))
	scribble(t, m.Parts[1].Path)
	e := verify(t, s)
	if want := []string{"damaged " + ref.String()}; !slices.Equal(e.said, want) {
		t.Errorf("said %q, want %q", e.said, want)
	}
	want := []string{m.Parts[0].SHA256, m.Parts[1].SHA256}
	slices.Sort(want)
	if got := h.quarantined(); !slices.Equal(got, want) {
		t.Errorf("in quarantine: %v, want %v", got, want)
	}
	if got := refs(t, s); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestAFileHoldsADigest(t *testing.T) {
	h := newHome(t)
	files, path := store.FilesAt(h.models()), h.file("a.gguf", "GGUF a").Reference
	for name, c := range map[string]struct {
		path, digest string
		want         bool
	}{
		"its own":    {path, sum("GGUF a"), true},
		"another":    {path, sum("GGUF b"), false},
		"no file":    {path + "x", sum("GGUF a"), false},
		"no regular": {h.dir, sum("GGUF a"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := files.TakeUp(t.Context(), c.path, c.digest); err != nil || got != c.want {
				t.Errorf("got %t, %v", got, err)
			}
		})
	}
}

func TestVerifySaysHowToGetAModelAgain(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	hub := rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "org/repo::a.gguf"}
	scribble(t, imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference, ModelRef: hub.String()}).LocalPath)
	scribble(t, resolve(t, s, beeRef).LocalPath)
	e := verify(t, s)
	var suggested []string
	for _, p := range e.all {
		if p.Stage == rbee.StoreDamaged {
			suggested = append(suggested, p.Error.Suggestion())
		}
	}
	for i, want := range []string{"written again", "rbee models pull " + hub.String()} {
		if len(suggested) != 2 || !strings.Contains(suggested[i], want) {
			t.Fatalf("suggestions %q lack %q", suggested, want)
		}
	}
	if len(e.said) != 2 || h.fetch != 1 {
		t.Errorf("said %v, fetched %d", e.said, h.fetch)
	}
	resolve(t, s, beeRef)
	if h.fetch != 2 {
		t.Errorf("fetched %d times", h.fetch)
	}
}

func TestVerifyOfAFileInPlace(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := h.file("a.gguf", "GGUF a")
	resolve(t, s, ref)
	verify(t, s)
	all, err := s.Models(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].SHA256 != sum("GGUF a") {
		t.Fatalf("the digest is not recorded: %+v", all)
	}
	scribble(t, ref.Reference)
	e := verify(t, s)
	if want := []string{"damaged " + ref.String()}; !slices.Equal(e.said, want) {
		t.Errorf("said %q, want %q", e.said, want)
	}
	if !exists(ref.Reference) || len(refs(t, s)) != 0 || len(h.quarantined()) != 0 {
		t.Error("the user's file was moved, or is still catalogued")
	}
}

func TestVerifyOfWhatIsNotThere(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	gone := h.file("gone.gguf", "GGUF gone")
	m := imported(t, s, rbee.ImportRequest{Path: gone.Reference})
	must(t, os.Remove(m.LocalPath))
	unknown := rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "a/b"}
	e := verify(t, s, gone, unknown, gone)
	if want := []string{"skipped " + unknown.String(), "damaged " + gone.String()}; !slices.Equal(e.said, want) {
		t.Errorf("said %q, want %q", e.said, want)
	}
	for _, p := range e.all {
		if p.Error != nil && p.Error.Code != rbee.CodeModelNotFound {
			t.Errorf("told %v", p.Error)
		}
	}
	if len(h.quarantined()) != 0 || exists(m.LocalPath+".json") {
		t.Error("something is left of it")
	}
}

func TestVerifyEndsWithItsCaller(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	for i := range 3 {
		imported(t, s, rbee.ImportRequest{Path: h.file(fmt.Sprintf("%d.gguf", i), fmt.Sprintf("GGUF %d", i)).Reference})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the caller has left")
	err := s.Verify(ctx, nil, func(p rbee.StoreProgress) {
		if p.Stage == rbee.StoreIntact {
			cancel(left)
		}
	})
	if !errors.Is(err, left) || len(refs(t, s)) != 3 {
		t.Errorf("error is %v, models left: %v", err, refs(t, s))
	}
}
