package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"rbee"
	"rbee/hive/store"
)

// inspect takes any file that begins with GGUF, and the parts beside the first
// part of a split model.
func inspect(path string) (rbee.Model, error) {
	m := rbee.Model{Architecture: "llama", Quantisation: "Q8_0", ContextLength: 1024, Parameters: 42}
	stem, of, split := strings.Cut(path, "-00001-of-")
	n, _ := strconv.Atoi(strings.TrimSuffix(of, ".gguf"))
	for i := range max(1, n) {
		part := path
		if split {
			part = fmt.Sprintf("%s-%05d-of-%05d.gguf", stem, i+1, n)
		}
		b, err := os.ReadFile(part)
		if err != nil || !bytes.HasPrefix(b, []byte("GGUF")) {
			return rbee.Model{}, rbee.Errorf(rbee.CodeInvalidRequest, "%s is not a GGUF file", part)
		}
		m.SizeBytes += int64(len(b))
		if split {
			m.Parts = append(m.Parts, rbee.ModelFile{Path: part, SizeBytes: int64(len(b))})
		}
	}
	return m, nil
}

var bee = store.Builtin{Name: "bee", Bytes: []byte("GGUF bee"), SHA256: sum("GGUF bee")}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

var beeRef = rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "bee"}

// home is a state directory that a test opens as often as it likes.
type home struct {
	t     *testing.T
	dir   string
	log   bytes.Buffer
	mu    sync.Mutex
	told  []rbee.EventKind
	fetch int
	quota int64
	inUse func(rbee.Model) string
}

func newHome(t *testing.T) *home { return &home{t: t, dir: t.TempDir()} }

func (h *home) models() string { return filepath.Join(h.dir, "models") }

// counted counts the fetches of a provider.
type counted struct {
	store.Provider
	h *home
}

func (c counted) Fetch(ctx context.Context, terms store.Terms) (store.Delivery, error) {
	c.h.mu.Lock()
	c.h.fetch++
	c.h.mu.Unlock()
	return c.Provider.Fetch(ctx, terms)
}

func (h *home) open() (*store.Store, func()) {
	h.t.Helper()
	s, closer, err := store.Open(h.t.Context(), filepath.Join(h.dir, "models.db"), store.Config{
		Dir: h.models(),
		Providers: []store.Provider{
			counted{store.NewBuiltins(h.models(), inspect, bee), h},
			counted{store.NewFiles(inspect), h},
		},
		Inspect: inspect, QuotaBytes: h.quota, InUse: h.inUse,
		Changed: func(k rbee.EventKind, _ rbee.Model) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.told = append(h.told, k)
		},
		Log: slog.New(slog.NewTextHandler(&h.log, nil)),
	})
	if err != nil {
		h.t.Fatalf("Open: %v", err)
	}
	closed := false
	end := func() {
		if !closed {
			closed = true
			must(h.t, closer.Close())
		}
	}
	h.t.Cleanup(end)
	must(h.t, s.Settled(h.t.Context()))
	return s, end
}

func (h *home) file(name, content string) rbee.ModelRef {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	write(h.t, path, content)
	return rbee.ModelRef{Provider: rbee.ProviderFile, Reference: path}
}

// split makes the files of a split model and returns its reference.
func (h *home) split(name string, parts ...string) rbee.ModelRef {
	h.t.Helper()
	for i, content := range parts {
		h.file(fmt.Sprintf("%s-%05d-of-%05d.gguf", name, i+1, len(parts)), content)
	}
	return rbee.ModelRef{Provider: rbee.ProviderFile, Reference: filepath.Join(h.dir, fmt.Sprintf("%s-00001-of-%05d.gguf", name, len(parts)))}
}

// refs are the references of the models that a store has.
func refs(t *testing.T, s *store.Store) []string {
	t.Helper()
	all, err := s.Models(t.Context())
	must(t, err)
	var refs []string
	for _, m := range all {
		refs = append(refs, m.Ref().String())
	}
	return refs
}

// exists says whether there is something at a path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func resolve(t *testing.T, s *store.Store, ref rbee.ModelRef) rbee.Model {
	t.Helper()
	m, err := s.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatalf("Resolve %s: %v", ref, err)
	}
	return m
}

func TestBehaviourCatalogIsMadeAndSurvivesARestart(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	want := resolve(t, s, beeRef)
	end()
	s, _ = h.open()
	got, err := s.Models(t.Context())
	must(t, err)
	if len(got) != 1 || got[0].Ref() != beeRef || got[0].LocalPath != want.LocalPath || got[0].SHA256 != bee.SHA256 {
		t.Errorf("after the restart: %+v", got)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "models.db")); err != nil {
		t.Error(err)
	}
}

func TestBehaviourCataloguedModelIsNotFetchedAgain(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	first := resolve(t, s, beeRef)
	before, err := os.Stat(first.LocalPath)
	must(t, err)
	h.log.Reset()
	resolve(t, s, beeRef)
	end()
	s, _ = h.open()
	resolve(t, s, beeRef)
	after, err := os.Stat(first.LocalPath)
	must(t, err)
	if h.fetch != 1 || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("fetched %d times; the same file: %t", h.fetch, os.SameFile(before, after))
	}
	for _, line := range []string{"Checking model catalog for builtin/bee", "Model found in catalog: " + first.LocalPath} {
		if !strings.Contains(h.log.String(), line) {
			t.Errorf("the log lacks %q:\n%s", line, &h.log)
		}
	}
}

func TestBehaviourModelsDBIsTheOnlyDatabase(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	resolve(t, s, beeRef)
	imported(t, s, rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
	var found []string
	must(t, filepath.WalkDir(h.dir, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".db" {
			found = append(found, path)
		}
		return err
	}))
	if want := []string{filepath.Join(h.dir, "models.db")}; !slices.Equal(found, want) {
		t.Errorf("databases: %v, want %v", found, want)
	}
}

func TestBehaviourVanishedOrResizedFileIsNoticed(t *testing.T) {
	grow := func(t *testing.T, path string) {
		must(t, os.WriteFile(path, []byte("GGUF, but longer than before"), 0o600))
	}
	gone := func(t *testing.T, path string) { must(t, os.Remove(path)) }
	for name, damage := range map[string]func(*testing.T, string){"resized": grow, "vanished": gone} {
		t.Run("a builtin that is "+name+" is written again", func(t *testing.T) {
			h := newHome(t)
			s, _ := h.open()
			path := resolve(t, s, beeRef).LocalPath
			damage(t, path)
			if list, err := s.Models(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("still listed: %v, %v", list, err)
			}
			resolve(t, s, beeRef)
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, bee.Bytes) {
				t.Errorf("the file holds %q, %v", b, err)
			}
		})
	}
	t.Run("a resized file is read again", func(t *testing.T) {
		h := newHome(t)
		s, _ := h.open()
		ref := h.file("a.gguf", "GGUF a")
		resolve(t, s, ref)
		grow(t, ref.Reference)
		if m := resolve(t, s, ref); m.SizeBytes != 28 {
			t.Errorf("the row says %d bytes", m.SizeBytes)
		}
	})
	t.Run("a vanished file is an error", func(t *testing.T) {
		h := newHome(t)
		s, _ := h.open()
		ref := h.file("a.gguf", "GGUF a")
		resolve(t, s, ref)
		gone(t, ref.Reference)
		if _, err := s.Resolve(t.Context(), ref); rbee.CodeOf(err) != rbee.CodeModelNotFound {
			t.Errorf("error is %v", err)
		}
	})
}

func TestAFileIsUsedWhereItLies(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	ref := h.file("a b.gguf", "GGUF a")
	if m := resolve(t, s, ref); m.LocalPath != ref.Reference || m.Architecture != "llama" || m.ContextLength != 1024 {
		t.Errorf("row: %+v", m)
	}
	must(t, s.Remove(t.Context(), ref))
	if _, err := os.Stat(ref.Reference); err != nil {
		t.Errorf("removing the row removed the user's file: %v", err)
	}
}

func TestWhatIsNoModelIsRefused(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	pipe := filepath.Join(h.dir, "pipe.gguf")
	must(t, syscall.Mkfifo(pipe, 0o600))
	for name, c := range map[string]struct {
		ref  rbee.ModelRef
		code rbee.Code
	}{
		"no file":         {rbee.ModelRef{Provider: rbee.ProviderFile, Reference: filepath.Join(h.dir, "none.gguf")}, rbee.CodeModelNotFound},
		"a directory":     {rbee.ModelRef{Provider: rbee.ProviderFile, Reference: h.dir}, rbee.CodeInvalidRequest},
		"a named pipe":    {rbee.ModelRef{Provider: rbee.ProviderFile, Reference: pipe}, rbee.CodeInvalidRequest},
		"no GGUF":         {h.file("text.gguf", "hello"), rbee.CodeInvalidRequest},
		"no such builtin": {rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "wasp"}, rbee.CodeModelNotFound},
		"a hub model":     {rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "a/b"}, rbee.CodeModelNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Resolve(t.Context(), c.ref); rbee.CodeOf(err) != c.code {
				t.Errorf("error is %v, want %s", err, c.code)
			}
		})
	}
	if list, err := s.Models(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("catalogued: %v, %v", list, err)
	}
}

func TestABuiltinWithAWrongDigestIsNotKept(t *testing.T) {
	dir := t.TempDir()
	wrong := bee
	wrong.SHA256 = sum("another")
	if _, err := store.NewBuiltins(dir, inspect, wrong).Fetch(t.Context(), store.Terms{Ref: beeRef}); rbee.CodeOf(err) != rbee.CodeChecksumMismatch {
		t.Errorf("error is %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "builtin")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOneFetchHoweverManyAsk(t *testing.T) {
	h := newHome(t)
	s, _ := h.open()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := s.Resolve(t.Context(), beeRef); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// Some may ask after the first fetch is over; none may find the file half written.
	if m := resolve(t, s, beeRef); m.SHA256 != bee.SHA256 {
		t.Errorf("row: %+v", m)
	}
}

func TestADamagedCatalogIsMadeAnewFromTheFiles(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	resolve(t, s, beeRef)
	a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
	for _, ref := range []rbee.ModelRef{a, b} {
		imported(t, s, rbee.ImportRequest{Path: ref.Reference})
	}
	must(t, os.WriteFile(filepath.Join(h.models(), "dropped in.gguf"), []byte("GGUF dropped"), 0o600))
	must(t, os.WriteFile(filepath.Join(h.models(), "half.gguf"), []byte("GG"), 0o600))
	want, err := s.Models(t.Context())
	must(t, err)
	end()
	db := filepath.Join(h.dir, "models.db")
	must(t, os.WriteFile(db, bytes.Repeat([]byte("rubbish "), 4096), 0o600))

	s, _ = h.open()
	got, err := s.Models(t.Context())
	must(t, err)
	var refs []string
	for _, m := range got {
		refs = append(refs, m.Ref().String())
	}
	for _, m := range want {
		if !slices.Contains(refs, m.Ref().String()) {
			t.Errorf("%s is not in the new catalog: %v", m.Ref(), refs)
		}
	}
	if dropped := "file:" + filepath.Join(h.models(), "dropped in.gguf"); !slices.Contains(refs, dropped) || len(refs) != len(want)+1 {
		t.Errorf("new catalog: %v", refs)
	}
	if kept, err := filepath.Glob(db + ".corrupt-*"); err != nil || len(kept) != 1 {
		t.Errorf("the damaged database is not kept: %v, %v", kept, err)
	}
	if _, err := os.Stat(filepath.Join(h.models(), "half.gguf")); err != nil {
		t.Errorf("a file was deleted: %v", err)
	}
}

func TestHalfWrittenFilesAreSweptAtStart(t *testing.T) {
	h := newHome(t)
	_, end := h.open()
	end()
	left := filepath.Join(h.models(), ".part-123")
	must(t, os.WriteFile(left, []byte("half"), 0o600))
	_, _ = h.open()
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestTwoProgramsShareTheCatalog(t *testing.T) {
	h := newHome(t)
	a, _ := h.open()
	b, _ := h.open()
	ref := h.file("a.gguf", "GGUF a")
	resolve(t, a, ref)
	list, err := b.Models(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].Ref() != ref {
		t.Errorf("the other sees %v", list)
	}
}
