package ggufgen_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"

	"rbee/bench/ggufgen"
)

func TestTheBytesDependOnShapeAndSeedAlone(t *testing.T) {
	shape, err := ggufgen.Preset("small")
	if err != nil {
		t.Fatal(err)
	}
	write := func(s ggufgen.Shape) []byte {
		var b bytes.Buffer
		if err := ggufgen.Write(&b, s); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	a := write(shape)
	if !bytes.Equal(a, write(shape)) {
		t.Error("two files of one shape differ")
	}
	shape.Seed = 1
	if bytes.Equal(a, write(shape)) {
		t.Error("another seed gives the same file")
	}
}

func TestPresetsHaveTheSizeTheyAreNamedFor(t *testing.T) {
	for name, want := range map[string]float64{"125m": 125e6, "1.1gb": 1.1e9 / 34 * 32} {
		s, err := ggufgen.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := float64(s.Parameters()); math.Abs(got/want-1) > 0.05 {
			t.Errorf("%s has %.0f parameters, want about %.0f", name, got, want)
		}
	}
}

func TestShapesThatCannotBeAreRefused(t *testing.T) {
	good, err := ggufgen.Preset("small")
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*ggufgen.Shape){
		"no layers":          func(s *ggufgen.Shape) { s.Layers = 0 },
		"heads do not fit":   func(s *ggufgen.Shape) { s.Heads = 3 },
		"KV heads don't fit": func(s *ggufgen.Shape) { s.KVHeads = 3 },
		"rows of half block": func(s *ggufgen.Shape) { s.FeedForward = 500 },
		"tiny vocabulary":    func(s *ggufgen.Shape) { s.Vocab = 100 },
		"unknown type":       func(s *ggufgen.Shape) { s.Type = 99 },
	} {
		s := good
		spoil(&s)
		path := filepath.Join(t.TempDir(), "a.gguf")
		if err := ggufgen.WriteFile(path, s); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
			t.Errorf("%s: %s was left", name, left[0].Name())
		}
	}
}
