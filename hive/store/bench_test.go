package store_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rbee"
	"rbee/hive/catalog"
	"rbee/hive/store"
)

const many = 10_000

// manyModels is a store with 10,000 models, each a file of its own.
func manyModels(b *testing.B) (*store.Store, *catalog.Database) {
	b.Helper()
	dir := b.TempDir()
	log := slog.New(slog.DiscardHandler)
	db, _, err := catalog.Open(b.Context(), filepath.Join(dir, "models.db"), log)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	models := filepath.Join(dir, "models")
	if err := os.MkdirAll(filepath.Join(models, "sha256"), 0o700); err != nil {
		b.Fatal(err)
	}
	at := time.Now().UTC()
	for n := range many {
		m := rbee.Model{
			Provider: rbee.ProviderHF, Reference: fmt.Sprintf("org/repository-%05d::model-q4_k_m.gguf", n), SHA256: fmt.Sprintf("%064x", n),
			SizeBytes: int64(n), DownloadedAt: at, Quantisation: "Q4_K_M", Architecture: "llama", ContextLength: 4096, Parameters: 7e9,
			Revision: "5de0dcf4e5b3f1ef4f3d3bb7d25a7d6f5c3b2a10", LastUsed: at, UseCount: 3, Name: "Model", FileName: "model-q4_k_m.gguf",
		}
		m.LocalPath = store.FilesAt(models).Single(m.SHA256)
		f, err := os.Create(m.LocalPath)
		if err == nil {
			err = f.Truncate(m.SizeBytes) // sparse
		}
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		if err := db.Put(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
	s, err := store.NewStore(store.Config{Catalog: db, Dir: models, Inspect: inspect, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	return s, db
}

// BenchmarkModels10k is what listing the models of a hive costs: right after
// something changed, and when nothing did.
func BenchmarkModels10k(b *testing.B) {
	s, db := manyModels(b)
	list := func(b *testing.B) {
		if all, err := s.Models(b.Context()); err != nil || len(all) != many {
			b.Fatalf("%d models, %v", len(all), err)
		}
	}
	b.Run("changed", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if err := db.Touch(b.Context(), rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "org/repository-00007::model-q4_k_m.gguf"}, time.Now()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			list(b)
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			list(b)
		}
	})
}

// BenchmarkLookup10k is what a spawn asks of the store.
func BenchmarkLookup10k(b *testing.B) {
	s, _ := manyModels(b)
	n := 0
	for b.Loop() {
		ref := rbee.ModelRef{Provider: rbee.ProviderHF, Reference: fmt.Sprintf("org/repository-%05d::model-q4_k_m.gguf", n%many)}
		if _, err := s.Resolve(b.Context(), ref); err != nil {
			b.Fatal(err)
		}
		n += 7919
	}
}
