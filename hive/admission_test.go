package hive

import (
	"errors"
	"strings"
	"testing"

	"rbee"
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

func TestFit(t *testing.T) {
	const mb = 1_000_000
	ref := rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "x"}
	cpu := func(free, limit int64) place {
		return place{backend: rbee.BackendCPU, device: "cpu", free: free * mb, hostFree: free * mb, limit: limit * mb, onMachine: "here"}
	}
	gpu := place{backend: rbee.BackendCUDA, device: "cuda0", free: 500 * mb, hostFree: 1000 * mb, onMachine: "here"}
	worker := func(s rbee.WorkerState, d rbee.DeviceID, need int64) rbee.Worker {
		return rbee.Worker{State: s, Device: d, Backend: kindOf(d), MemoryBytes: need * mb}
	}
	model := flat{weights: 100 * mb, cell: mb / 10} // 1000 tokens of context: 100 MB
	for name, c := range map[string]struct {
		place     place
		live      []rbee.Worker
		kv        int
		code      rbee.Code
		available int64
	}{
		"all slots":                             {place: cpu(500, 0), kv: 4000},
		"one byte too little for all slots":     {place: place{backend: rbee.BackendCPU, device: "cpu", free: 500*mb - 1, hostFree: 500*mb - 1}, kv: 1000},
		"one slot":                              {place: cpu(200, 0), kv: 1000},
		"nothing":                               {place: cpu(199, 0), code: rbee.CodeInsufficientRAM, available: 199},
		"a loading worker will take its own":    {place: cpu(600, 0), live: []rbee.Worker{worker(rbee.WorkerLoading, "cpu", 350)}, kv: 1000},
		"a ready one has taken it already":      {place: cpu(600, 0), live: []rbee.Worker{worker(rbee.WorkerIdle, "cpu", 350)}, kv: 4000},
		"a starting one leaves nothing":         {place: cpu(600, 0), live: []rbee.Worker{worker(rbee.WorkerStarting, "cpu", 700)}, code: rbee.CodeInsufficientRAM},
		"the limit":                             {place: cpu(9000, 250), kv: 1000},
		"the limit counts all workers":          {place: cpu(9000, 250), live: []rbee.Worker{worker(rbee.WorkerBusy, "cpu", 60)}, code: rbee.CodeInsufficientRAM, available: 190},
		"an accelerator":                        {place: gpu, kv: 4000},
		"another device's loading is no matter": {place: gpu, live: []rbee.Worker{worker(rbee.WorkerLoading, "cuda1", 400)}, kv: 4000},
		"an accelerator that is full":           {place: gpu, live: []rbee.Worker{worker(rbee.WorkerLoading, "cuda0", 400)}, code: rbee.CodeVRAMExhausted, available: 100},
		"an accelerator without main memory":    {place: place{backend: rbee.BackendCUDA, device: "cuda0", free: 500 * mb, hostFree: 50 * mb}, code: rbee.CodeVRAMExhausted, available: 500},
	} {
		t.Run(name, func(t *testing.T) {
			kv, need, err := fit(wish{ref: ref, slots: 4, context: 1000}, c.place, model, c.live)
			if c.code == "" {
				if err != nil || kv != c.kv || need != model.weights+int64(kv)*model.cell {
					t.Errorf("%d cells, %d bytes, %v; want %d cells", kv, need, err, c.kv)
				}
				return
			}
			var e *rbee.Error
			if !errors.As(err, &e) || e.Code != c.code || e.Details["available"] != c.available || e.Details["required"] != int64(200) {
				t.Fatalf("error is %v %v", err, e.Details)
			}
			if !strings.Contains(e.Suggestion(), "try a smaller quantisation") {
				t.Errorf("suggestion %q", e.Suggestion())
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
