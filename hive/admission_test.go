package hive

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/gguf"
)

// flat is a model with a fixed size and so many bytes per KV cell.
type flat struct{ weights, cell int64 }

func (m flat) Estimate(kv, _ int, b rbee.Backend) gguf.Estimate {
	memory := gguf.Memory{Weights: m.weights, KV: int64(kv) * m.cell}
	if b == rbee.BackendCPU {
		return gguf.Estimate{Host: memory}
	}
	return gguf.Estimate{Host: gguf.Memory{Compute: 100e6}, Device: memory}
}

func unknown(int, int, int) (pool.Weight, bool) { return pool.Weight{}, false }

func TestTheWaysToRunAWorker(t *testing.T) {
	const mb = 1_000_000
	model := flat{weights: 100 * mb, cell: mb / 10} // 1000 tokens of context: 100 MB
	cpu, gpu := place{backend: rbee.BackendCPU, device: "cpu"}, place{backend: rbee.BackendCUDA, device: "cuda0"}
	type way struct {
		context, kv int
		memory      rbee.Memory
		shrunk      bool
	}
	onCPU := func(size int64) rbee.Memory { return rbee.Memory{"cpu": size * mb} }
	for name, c := range map[string]struct {
		wish  wish
		place place
		known func(slots, context, kv int) (pool.Weight, bool)
		want  []way
	}{
		"what the hive chooses may share the cache": {
			wish: wish{slots: 4, context: 1000}, place: cpu,
			want: []way{{1000, 4000, onCPU(500), false}, {1000, 2000, onCPU(300), false}, {1000, 1000, onCPU(200), false}},
		},
		"slots that were asked for are whole": {
			wish: wish{slots: 4, context: 1000, slotsAsked: true}, place: cpu,
			want: []way{{1000, 4000, onCPU(500), false}},
		},
		"unless less is allowed": {
			wish: wish{slots: 2, context: 2000, slotsAsked: true, allowSmaller: true}, place: cpu,
			want: []way{{2000, 4000, onCPU(500), false}, {2000, 2000, onCPU(300), true}, {1000, 1000, onCPU(200), true}},
		},
		"one slot": {
			wish: wish{slots: 1, context: 1000, slotsAsked: true}, place: cpu, want: []way{{1000, 1000, onCPU(200), false}},
		},
		"an accelerator takes of main memory too": {
			wish: wish{slots: 1, context: 1000}, place: gpu,
			want: []way{{1000, 1000, rbee.Memory{"cuda0": 200 * mb, "cpu": 100 * mb}, false}},
		},
		"one that shares main memory takes of that": {
			wish: wish{slots: 1, context: 1000}, place: place{backend: rbee.BackendMetal, device: "metal0"},
			want: []way{{1000, 1000, onCPU(300), false}},
		},
		"what was measured before": {
			wish: wish{slots: 1, context: 1000}, place: cpu,
			known: func(slots, context, kv int) (pool.Weight, bool) {
				return pool.Weight{Memory: rbee.Memory{"cpu": int64(slots + context + kv)}}, true
			},
			want: []way{{1000, 1000, rbee.Memory{"cpu": 2001}, false}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.known == nil {
				c.known = unknown
			}
			var got []way
			for _, o := range options(c.wish, c.place, model, c.known) {
				got = append(got, way{o.ContextTokens, o.KVTokens, o.Memory, o.Shrunk})
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(way{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestContextFor(t *testing.T) {
	for name, c := range map[string]struct {
		asked, configured, trained, want int
		refused                          bool
	}{
		"what the model was trained for": {trained: 1024, want: 1024},
		"within reason":                  {trained: 131072, want: 8192},
		"a header that does not tell":    {want: 8192},
		"asked for":                      {asked: 512, configured: 2048, trained: 4096, want: 512},
		"asked for much":                 {asked: 100_000, trained: 131072, want: 100_000},
		"configured":                     {configured: 2048, trained: 4096, want: 2048},
		"configured for other models":    {configured: 8192, trained: 1024, want: 1024},
		"more than trained":              {asked: 2048, trained: 1024, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := contextFor(c.asked, c.configured, c.trained)
			if got != c.want || c.refused != (rbee.CodeOf(err) == rbee.CodeInvalidRequest) {
				t.Errorf("%d, %v; want %d", got, err, c.want)
			}
		})
	}
}

func TestVariantsOfAModel(t *testing.T) {
	row := func(ref, name string, size int64) rbee.Model {
		parsed, err := rbee.ParseModelRef(ref)
		if err != nil {
			t.Fatal(err)
		}
		return rbee.Model{Provider: parsed.Provider, Reference: parsed.Reference, Name: name, Architecture: "llama", SizeBytes: size}
	}
	models := []rbee.Model{
		row("hf:a/b:Q8_0", "Bee", 10), row("hf:a/b:Q4_0", "Bee", 5), row("file:/bee.gguf", "Bee", 7), row("file:/copy.gguf", "Bee", 10), row("hf:a/c", "Cat", 3),
		row("file:/nameless.gguf", "", 1), row("file:/other.gguf", "", 2),
	}
	for wanted, want := range map[string][]string{
		"hf:a/b:Q8_0":         {"hf:a/b:Q4_0", "file:/bee.gguf"},
		"hf:a/b:F16":          {"hf:a/b:Q8_0", "hf:a/b:Q4_0"}, // which is not on disk
		"hf:a/c":              nil,
		"file:/nameless.gguf": nil,
	} {
		var got []string
		for _, m := range models {
			if variants(row(wanted, "", 0).Ref(), models, m) {
				got = append(got, m.Ref().String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("variants of %s: %v, want %v", wanted, got, want)
		}
	}
}
