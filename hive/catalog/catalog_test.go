package catalog_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"rbee"
	"rbee/hive/catalog"
	"rbee/hive/catalog/catalogtest"
	"rbee/internal/sqlite"
)

// inspect takes any file that begins with GGUF.
func inspect(path string) (rbee.Model, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return rbee.Model{}, err
	}
	if !bytes.HasPrefix(b, []byte("GGUF")) {
		return rbee.Model{}, rbee.Errorf(rbee.CodeInvalidRequest, "%s is not a GGUF file", path)
	}
	return rbee.Model{SizeBytes: int64(len(b)), Architecture: "llama", Quantisation: "Q8_0", ContextLength: 1024, Parameters: 42}, nil
}

var bee = catalog.Builtin{Name: "bee", Bytes: []byte("GGUF bee"), SHA256: sum("GGUF bee")}

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
}

func newHome(t *testing.T) *home { return &home{t: t, dir: t.TempDir()} }

func (h *home) models() string { return filepath.Join(h.dir, "models") }

// counted counts the fetches of a provider.
type counted struct {
	catalog.Provider
	h *home
}

func (c counted) Fetch(ctx context.Context, ref rbee.ModelRef) (rbee.Model, error) {
	c.h.mu.Lock()
	c.h.fetch++
	c.h.mu.Unlock()
	return c.Provider.Fetch(ctx, ref)
}

func (h *home) open() (*catalog.Store, func()) {
	h.t.Helper()
	s, db, err := catalog.Open(h.t.Context(), filepath.Join(h.dir, "models.db"), catalog.Config{
		Dir: h.models(),
		Providers: []catalog.Provider{
			counted{catalog.NewBuiltins(h.models(), inspect, bee), h},
			counted{catalog.NewFiles(inspect), h},
		},
		Inspect: inspect,
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
			must(h.t, db.Close())
		}
	}
	h.t.Cleanup(end)
	return s, end
}

func (h *home) file(name, content string) rbee.ModelRef {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	must(h.t, os.WriteFile(path, []byte(content), 0o600))
	return rbee.ModelRef{Provider: rbee.ProviderFile, Reference: path}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func resolve(t *testing.T, s *catalog.Store, ref rbee.ModelRef) rbee.Model {
	t.Helper()
	m, err := s.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatalf("Resolve %s: %v", ref, err)
	}
	return m
}

func TestCatalogsKeepTheContract(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		catalogtest.Run(t, func(t *testing.T) catalog.Catalog {
			db, fresh, err := catalog.OpenDatabase(t.Context(), filepath.Join(t.TempDir(), "models.db"), slog.New(slog.DiscardHandler))
			must(t, err)
			if !fresh {
				t.Error("a new database is not reported as fresh")
			}
			t.Cleanup(func() { must(t, db.Close()) })
			return db
		})
	})
	t.Run("memory", func(t *testing.T) {
		catalogtest.Run(t, func(*testing.T) catalog.Catalog { return &catalogtest.Memory{} })
	})
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

func TestBehaviourCatalogHasTheColumnsAndTheKey(t *testing.T) {
	h := newHome(t)
	_, end := h.open()
	end()
	db, err := sql.Open("sqlite", sqlite.DSN(filepath.Join(h.dir, "models.db")))
	must(t, err)
	defer db.Close() //nolint:errcheck // only read
	rows, err := db.QueryContext(t.Context(), "SELECT name, pk FROM pragma_table_info('models')")
	must(t, err)
	defer rows.Close() //nolint:errcheck // only read
	var columns, key []string
	for rows.Next() {
		var name string
		var pk int
		must(t, rows.Scan(&name, &pk))
		columns = append(columns, name)
		if pk > 0 {
			key = append(key, name)
		}
	}
	must(t, rows.Err())
	for _, c := range []string{"reference", "provider", "local_path", "size_bytes", "downloaded_at"} {
		if !slices.Contains(columns, c) {
			t.Errorf("column %s is missing in %v", c, columns)
		}
	}
	if !slices.Equal(key, []string{"reference", "provider"}) {
		t.Errorf("the key is %v", key)
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
	_, err := s.Import(t.Context(), rbee.ImportRequest{Path: h.file("a.gguf", "GGUF a").Reference})
	must(t, err)
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
	if _, err := catalog.NewBuiltins(dir, inspect, wrong).Fetch(t.Context(), beeRef); rbee.CodeOf(err) != rbee.CodeChecksumMismatch {
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

func TestImportLinksByDigest(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
	ma, err := s.Import(t.Context(), rbee.ImportRequest{Path: a.Reference, SHA256: sum("GGUF same")})
	must(t, err)
	mb, err := s.Import(t.Context(), rbee.ImportRequest{Path: b.Reference})
	must(t, err)
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
	if _, err := s.Import(t.Context(), rbee.ImportRequest{Path: a.Reference, SHA256: sum("other")}); rbee.CodeOf(err) != rbee.CodeChecksumMismatch {
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

func TestADamagedCatalogIsMadeAnewFromTheFiles(t *testing.T) {
	h := newHome(t)
	s, end := h.open()
	resolve(t, s, beeRef)
	a, b := h.file("a.gguf", "GGUF same"), h.file("b.gguf", "GGUF same")
	for _, ref := range []rbee.ModelRef{a, b} {
		_, err := s.Import(t.Context(), rbee.ImportRequest{Path: ref.Reference})
		must(t, err)
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
