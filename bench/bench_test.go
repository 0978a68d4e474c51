package main

import (
	"path/filepath"
	"testing"

	"rbee/bench/ggufgen"
	"rbee/internal/engines/enginestest"
)

// The rows of a benchmark mean something only if the yardstick works on the
// models that ggufgen writes.
func TestTheRawEngineDecodesAGeneratedModel(t *testing.T) {
	shape, err := ggufgen.Preset("small")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "small.gguf")
	if err := ggufgen.WriteFile(path, shape); err != nil {
		t.Fatal(err)
	}
	raw, err := loadRaw(enginestest.LibDir(t), path, 2, 512, 1)
	if err != nil {
		t.Fatal(err)
	}
	prefill, decode, err := raw.run(prompt, 16)
	if err != nil || prefill <= 0 || decode <= 0 {
		t.Errorf("got %s, %s, %v", prefill, decode, err)
	}
	if err := raw.close(); err != nil {
		t.Error(err)
	}
}

func TestTheRawEngineServesManySequences(t *testing.T) {
	shape, err := ggufgen.Preset("small")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "small.gguf")
	if err := ggufgen.WriteFile(path, shape); err != nil {
		t.Fatal(err)
	}
	raw, err := loadRaw(enginestest.LibDir(t), path, 5, 1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	// More than one batch of prompts, and the last one not full.
	if prefill, decode, err := raw.runMany(5, 128, 4); err != nil || prefill <= 0 || decode <= 0 {
		t.Errorf("got %s, %s, %v", prefill, decode, err)
	}
	if _, _, err := raw.runMany(5, 256, 4); err == nil {
		t.Error("more tokens than the cache has room for went through")
	}
	if err := raw.close(); err != nil {
		t.Error(err)
	}
}
