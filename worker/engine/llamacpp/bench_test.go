package llamacpp

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee/internal/engines/enginestest"
	"rbee/models"
	"rbee/worker/engine"
)

// rawLoop decodes greedily with nothing around a context like the engine's own: a yardstick.
func rawLoop(b *testing.B, e *Engine, prompt []engine.Token, n int) time.Duration {
	b.Helper()
	c, err := llama.InitFromModel(e.model, contextParams(engine.Options{
		KVTokens: e.info.KVTokens, Slots: e.info.Slots, Threads: e.info.Threads,
	}))
	if err != nil {
		b.Fatal(err)
	}
	batch := llama.BatchInit(batchTokens, 0, 1)
	defer func() { _, _ = llama.BatchFree(batch), llama.Free(c) }()
	for i, t := range prompt {
		_ = batch.Add(llama.Token(t), llama.Pos(i), []llama.SeqId{0}, i == len(prompt)-1)
	}
	ends := llama.VocabEOS(e.vocab)
	var first time.Time
	for i := range n {
		if code, err := llama.Decode(c, batch); code != 0 || err != nil {
			b.Fatalf("code %d, %v", code, err)
		}
		logits, _ := llama.GetLogitsIth(c, -1, e.info.Vocab)
		if i == 0 {
			first = time.Now()
		}
		if ends >= 0 {
			logits[ends] = -1e30
		}
		token := llama.Token(slices.Index(logits, slices.Max(logits)))
		_ = batch.Clear()
		_ = batch.Add(token, llama.Pos(len(prompt)+i), []llama.SeqId{0}, true)
	}
	return time.Since(first)
}

// BenchmarkSingleStream compares the decoding of one request with the raw
// loop, in turns, by the median turn of each: other programs take the CPU now and then. RBEE_BENCH_MODEL names a model other than bee-tiny.
func BenchmarkSingleStream(b *testing.B) {
	path := os.Getenv("RBEE_BENCH_MODEL")
	if path == "" {
		path = filepath.Join(b.TempDir(), "bee-tiny.gguf")
		if err := os.WriteFile(path, models.BeeTiny(), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	loaded, err := Load(b.Context(), engine.Options{ModelPath: path, LibDir: enginestest.LibDir(b), Threads: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	e := loaded.(*Engine)
	defer func() { _ = e.Close() }()
	prompt, err := e.Tokenize("Once upon a time there was", true)
	if err != nil {
		b.Fatal(err)
	}
	const n = 200
	var raw, ours []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		raw = append(raw, rawLoop(b, e, prompt, n))
		result, err := e.Generate(b.Context(), engine.Request{Tokens: prompt, MaxTokens: n, IgnoreEOS: true}, func(engine.Piece) bool { return true })
		if err != nil || result.Tokens != n {
			b.Fatalf("%+v, %v", result, err)
		}
		ours = append(ours, result.Decode)
	}
	median := func(turns []time.Duration) float64 {
		slices.Sort(turns)
		return (n - 1) / turns[len(turns)/2].Seconds()
	}
	b.Logf("%s/%s, %d CPUs, 1 thread, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), e.info.Name)
	b.ReportMetric(median(raw), "raw-tokens/s")
	b.ReportMetric(median(ours), "tokens/s")
	b.ReportMetric(median(ours)/median(raw), "ratio")
}
