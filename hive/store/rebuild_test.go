package store_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rbee"
	"rbee/hive/store"
)

// loseCatalog removes the database of a home that nobody has open.
func (h *home) loseCatalog() {
	h.t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(h.dir, "models.db"+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.t.Fatal(err)
		}
	}
}

// scribble changes a byte of a file and leaves its size and the file it is.
func scribble(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("~"), 5)
	must(t, errors.Join(err, f.Close()))
}

// quarantined are the names of the files in quarantine, without the time.
func (h *home) quarantined() []string {
	h.t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.models(), "quarantine"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "-")
		names = append(names, name)
	}
	return names
}

func TestARebuildCataloguesNothingDamaged(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(h *home, s *store.Store) string // returns the digests of the files that are set aside
		left   int
	}{
		"a file": {func(h *home, s *store.Store) string {
			m := imported(h.t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
			scribble(h.t, m.LocalPath)
			return m.SHA256
		}, 0},
		"a header": {func(h *home, s *store.Store) string {
			m := imported(h.t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
			must(h.t, os.WriteFile(m.LocalPath, []byte("XXXX a"), 0o600))
			return m.SHA256
		}, 0},
		"a later part": {func(h *home, s *store.Store) string {
			m := imported(h.t, s, rbee.ImportRequest{Path: h.split("big", "GGUF one", "GGUF two").Reference})
			scribble(h.t, m.Parts[1].Path)
			return m.Parts[1].SHA256
		}, 0},
		"a part without a note": {func(h *home, s *store.Store) string {
			m := imported(h.t, s, rbee.ImportRequest{Path: h.split("big", "GGUF one", "GGUF two").Reference})
			scribble(h.t, m.Parts[1].Path)
			must(h.t, os.Remove(m.LocalPath+".json"))
			return "model model"
		}, 0},
		"both parts": {func(h *home, s *store.Store) string {
			m := imported(h.t, s, rbee.ImportRequest{Path: h.split("big", "GGUF one", "GGUF two").Reference})
			scribble(h.t, m.Parts[0].Path)
			scribble(h.t, m.Parts[1].Path)
			return m.Parts[0].SHA256 + " " + m.Parts[1].SHA256
		}, 0},
		"a part beside one that is gone": {func(h *home, s *store.Store) string {
			m := imported(h.t, s, rbee.ImportRequest{Path: h.split("big", "GGUF one", "GGUF two").Reference})
			scribble(h.t, m.Parts[0].Path)
			must(h.t, os.Remove(m.Parts[1].Path))
			return m.Parts[0].SHA256
		}, 0},
		"a builtin": {func(h *home, s *store.Store) string {
			m := resolve(h.t, s, beeRef)
			scribble(h.t, m.LocalPath)
			return m.SHA256
		}, 0},
		"one of two": {func(h *home, s *store.Store) string {
			imported(h.t, s, rbee.ImportRequest{Path: h.file("b.gguf", "GGUF b").Reference})
			m := imported(h.t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
			scribble(h.t, m.LocalPath)
			return m.SHA256
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			s, end := h.open()
			digest := c.damage(h, s)
			end()
			h.loseCatalog()
			s, _ = h.open()
			if got := refs(t, s); len(got) != c.left {
				t.Errorf("catalogued: %v", got)
			}
			want := strings.Fields(digest)
			slices.Sort(want)
			if got := h.quarantined(); !slices.Equal(got, want) {
				t.Errorf("in quarantine: %v, want %v", got, want)
			}
			if !strings.Contains(h.log.String(), "CHECKSUM_MISMATCH") {
				t.Errorf("the log does not tell:\n%s", &h.log)
			}
		})
	}
}

func TestARebuildTakesTheNewerFileOfAReference(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	as := "hf:org/repo::a.gguf"
	for _, content := range []string{"GGUF old", "GGUF new", "GGUF newest"} {
		imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", content).Reference, ModelRef: as})
		must(t, os.Remove(filepath.Join(h.dir, "a.gguf")))
	}
	end()
	h.loseCatalog()
	s, _ = h.open()
	all, err := s.Models(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].SHA256 != sum("GGUF newest") || all[0].Ref().String() != as {
		t.Errorf("catalog: %+v", all)
	}
}

// slow is an inspector that waits for leave.
func slow(leave <-chan struct{}) store.Inspect {
	return func(path string) (rbee.Model, error) {
		<-leave
		return inspect(path)
	}
}

func TestAStoreServesWhileItsCatalogIsRebuilt(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	ref := h.file("a.gguf", "GGUF a")
	imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	end()
	h.loseCatalog()
	leave := make(chan struct{})
	s, closer, err := store.Open(t.Context(), filepath.Join(h.dir, "models.db"), store.Config{
		Dir: h.models(), Inspect: slow(leave), Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	if got := refs(t, s); len(got) != 0 {
		t.Errorf("listed before the rebuild: %v", got)
	}
	// What would take a file without a row for spare waits.
	for name, wait := range map[string]func(context.Context) error{
		"gc":     func(ctx context.Context) error { _, err := s.GC(ctx, rbee.GCRequest{}); return err },
		"usage":  func(ctx context.Context) error { _, err := s.Usage(ctx); return err },
		"remove": func(ctx context.Context) error { return s.Remove(ctx, ref) },
		"verify": func(ctx context.Context) error { return s.Verify(ctx, nil, nobody) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s in the middle of a rebuild: %v", name, err)
		}
		cancel()
	}
	close(leave)
	must(t, s.Settled(t.Context()))
	if got := refs(t, s); !slices.Equal(got, []string{ref.String()}) {
		t.Errorf("listed after the rebuild: %v", got)
	}
	must(t, closer.Close())
}

func TestARebuildThatIsBrokenOffGoesOnAtTheNextStart(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	ref := h.file("a.gguf", "GGUF a")
	imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	end()
	h.loseCatalog()
	ctx, cancel := context.WithCancel(t.Context())
	leave := make(chan struct{})
	_, closer, err := store.Open(ctx, filepath.Join(h.dir, "models.db"), store.Config{
		Dir: h.models(), Log: slog.New(slog.DiscardHandler),
		Inspect: func(string) (rbee.Model, error) { <-leave; return rbee.Model{}, errors.New("the disk is gone") },
	})
	must(t, err)
	cancel() // the rebuild outlives the context of the opening
	close(leave)
	must(t, closer.Close())
	if !exists(h.mark()) {
		t.Error("the mark is gone")
	}
	s, _ = h.open()
	if got := refs(t, s); !slices.Equal(got, []string{ref.String()}) {
		t.Errorf("after the next start: %v", got)
	}
}

func TestNobodyCollectsWhatAFailedRebuildLeft(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	m := imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
	end()
	h.loseCatalog()
	s, closer, err := store.Open(t.Context(), filepath.Join(h.dir, "models.db"), store.Config{
		Dir: h.models(), Log: slog.New(slog.DiscardHandler),
		Inspect: func(string) (rbee.Model, error) { return rbee.Model{}, errors.New("the disk is gone") },
	})
	must(t, err)
	defer closer.Close()
	if _, err := s.GC(t.Context(), rbee.GCRequest{}); rbee.CodeOf(err) != rbee.CodeConflict {
		t.Errorf("error is %v", err)
	}
	if !exists(m.LocalPath) {
		t.Error("the model was collected")
	}
}
