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
