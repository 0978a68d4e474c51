package llamacpp

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee/internal/engines/enginestest"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/engine/threads"
	"rbee/worker/grammar"
)

// rawLoop decodes greedily with nothing around a context like the engine's own: a yardstick.
func rawLoop(b *testing.B, e *Engine, prompt []engine.Token, n int) time.Duration {
	b.Helper()
	c, err := llama.InitFromModel(e.model, contextParams(engine.Options{
		KVTokens: e.info.KVTokens, Slots: e.info.Slots, Threads: e.info.Threads, KVType: engine.KVF16, FlashAttention: engine.FlashAuto,
	}, false))
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

// loadBench loads the model that RBEE_BENCH_MODEL names, or bee-tiny.
func loadBench(b *testing.B, o engine.Options) *Engine {
	b.Helper()
	if o.ModelPath = os.Getenv("RBEE_BENCH_MODEL"); o.ModelPath == "" {
		o.ModelPath = tinyPath(b)
	}
	o.LibDir, o.Queue = enginestest.LibDir(b), 64
	e, err := start(b.Context(), o, nil, isWhole)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	return e
}

// BenchmarkSingleStream compares the decoding of one request with the raw
// loop, in turns, by the median turn of each: other programs take the CPU now and then.
func BenchmarkSingleStream(b *testing.B) {
	e := loadBench(b, engine.Options{Threads: 1, DraftTokens: -1})
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

// prompts are n prompts of so many tokens, of which the first are shared.
func prompts(e *Engine, seed uint64, n, shared, length int) (out [][]engine.Token) {
	random := rand.New(rand.NewPCG(seed, 1))
	token := func() engine.Token { return 300 + random.Int32N(int32(e.info.Vocab-300)) }
	begin := make([]engine.Token, shared)
	for i := range begin {
		begin[i] = token()
	}
	for range n {
		p := slices.Clone(begin)
		for len(p) < length {
			p = append(p, token())
		}
		out = append(out, p)
	}
	return out
}

// burst sends requests with the prompts at once, and returns the longest time to a
// first token.
func burst(b *testing.B, e *Engine, prompts [][]engine.Token, n int) (ttft, all time.Duration) {
	b.Helper()
	begin := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range prompts {
		wg.Go(func() {
			first := true
			if _, err := e.Generate(b.Context(), engine.Request{Tokens: p, MaxTokens: n, IgnoreEOS: true}, func(engine.Piece) bool {
				if first {
					first = false
					mu.Lock()
					ttft = max(ttft, time.Since(begin))
					mu.Unlock()
				}
				return true
			}); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	return ttft, time.Since(begin)
}

// BenchmarkSharedPrefix sends 16 requests at once that share most of their
// prompts, with and without reuse.
func BenchmarkSharedPrefix(b *testing.B) {
	const n, suffix = 16, 30
	o := engine.Options{Threads: 1, Slots: 16, DraftTokens: -1}
	with := loadBench(b, o)
	o.NoPrefixCache = true
	without := loadBench(b, o)
	shared := min(1500, with.info.Context-suffix-20)
	var ours, plain, ttft, plainTTFT time.Duration
	runs := uint64(0)
	for b.Loop() {
		runs++
		p := prompts(with, runs, n, shared, shared+suffix)
		a, all := burst(b, with, p, 4)
		ttft, ours = ttft+a, ours+all
		a, all = burst(b, without, p, 4)
		plainTTFT, plain = plainTTFT+a, plain+all
	}
	b.ReportMetric(float64(with.Stats().PromptTokens)/float64(runs)/float64(shared+n*suffix), "computed/least")
	b.ReportMetric(ttft.Seconds()/plainTTFT.Seconds(), "ttft-ratio")
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "speedup")
}

// BenchmarkUnlikePrompts sends prompts that have nothing in common through an
// engine that keeps them in vain and through one that does not.
func BenchmarkUnlikePrompts(b *testing.B) {
	const n = 24
	o := engine.Options{Threads: 1, Slots: 4, DraftTokens: -1}
	with := loadBench(b, o)
	o.NoPrefixCache = true
	without := loadBench(b, o)
	burst(b, with, prompts(with, 1000, n, 0, 128), 4) // it learns that keeping is in vain
	var ours, plain time.Duration
	runs := uint64(0)
	for b.Loop() {
		runs++
		p := prompts(with, runs, n, 0, 128)
		_, all := burst(b, with, p, 32)
		ours += all
		_, all = burst(b, without, p, 32)
		plain += all
	}
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "ratio")
	b.ReportMetric(float64(with.Stats().KVCached), "kept-cells")
}

// BenchmarkDrafts generates with and without prompt lookup and gives the ratio
// of the speeds: text of high temperature, and text that a grammar makes the
// model copy from its prompt with one token of forty changed, as in an edit.
func BenchmarkDrafts(b *testing.B) {
	with := loadBench(b, engine.Options{Threads: 1, NoPrefixCache: true})
	without := loadBench(b, engine.Options{Threads: 1, NoPrefixCache: true, DraftTokens: -1})
	text, edited := editTask()
	noBytes := map[int32]float32{} // these models' tokens of single bytes are other ways to write a text
	for t := range int32(259) {
		noBytes[t] = -100
	}
	delete(noBytes, 2) // the end
	g, err := grammar.Parse("root ::= " + strconv.Quote(edited))
	if err != nil {
		b.Fatal(err)
	}
	for name, r := range map[string]engine.Request{
		"edit": {Prompt: text, MaxTokens: 600, Grammar: g, Sampling: sampling.Params{Bias: noBytes}},
		"free": {Prompt: text, MaxTokens: 200, IgnoreEOS: true, Sampling: sampling.Params{Temperature: 3, TopP: 1}},
	} {
		b.Run(name, func(b *testing.B) {
			var ours, plain []float64
			var drafted, accepted int
			for b.Loop() {
				r.Sampling.Seed++
				x, _ := ask(b, with, r)
				y, _ := ask(b, without, r)
				ours = append(ours, x.Decode.Seconds()/float64(x.Tokens))
				plain = append(plain, y.Decode.Seconds()/float64(y.Tokens))
				drafted, accepted = drafted+x.DraftTokens, accepted+x.AcceptedTokens
			}
			slices.Sort(ours)
			slices.Sort(plain)
			b.ReportMetric(plain[len(plain)/2]/ours[len(ours)/2], "ratio")
			b.ReportMetric(float64(accepted)/float64(max(1, drafted)), "accepted")
			b.ReportMetric(float64(drafted)/float64(len(ours)), "drafted/op")
		})
	}
}

func editTask() (text, edited string) {
	random := rand.New(rand.NewPCG(7, 7))
	// There is one way only to write such a text in tokens: each character is one.
	const letters = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
	a, b := make([]byte, 400), make([]byte, 400)
	for i := range a {
		a[i] = letters[random.IntN(len(letters))]
		if b[i] = a[i]; i%40 == 39 {
			b[i] = '#'
		}
	}
	return string(a), string(b)
}

// BenchmarkSamplingShare generates in 8 slots with temperature 0.8 and top-p 0.95
// and gives what sampling adds to the time of the batches. Take a model of a large
// vocabulary: go run ./bench gguf 125m-128k FILE.
func BenchmarkSamplingShare(b *testing.B) {
	e := loadBench(b, engine.Options{Threads: 1, Slots: 8, KVTokens: 4096, DraftTokens: -1})
	var requests []engine.Request
	for _, p := range prompts(e, 11, 8, 0, 32) {
		requests = append(requests, engine.Request{
			Tokens: p, MaxTokens: 64, IgnoreEOS: true, Sampling: sampling.Params{Temperature: 0.8, TopP: 0.95, Seed: 1},
		})
	}
	together(b, e, requests)
	before := e.Stats()
	for b.Loop() {
		together(b, e, requests)
	}
	after := e.Stats()
	compute := after.ComputeTime - before.ComputeTime
	b.ReportMetric((after.StepTime-before.StepTime-compute).Seconds()/compute.Seconds(), "added/step")
	b.ReportMetric(float64(e.info.Vocab), "vocabulary")
}

// BenchmarkBusyMachine has a child take one CPU while another thread of ggml
// wants it, and compares with one thread alone.
func BenchmarkBusyMachine(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Skip("there is one CPU only")
	}
	cpus := min(runtime.NumCPU(), 4)
	one := loadBench(b, engine.Options{Threads: cpus - 1, NoPrefixCache: true, DraftTokens: -1})
	all := loadBench(b, engine.Options{Threads: cpus, NoPrefixCache: true, DraftTokens: -1})
	speed := func(e *Engine, span time.Duration) float64 {
		n, begin := 0, time.Now()
		for time.Since(begin) < span {
			x, _ := ask(b, e, engine.Request{Tokens: prompts(e, 1, 1, 0, 30)[0], MaxTokens: 20, IgnoreEOS: true})
			n += x.Tokens
		}
		return float64(n) / time.Since(begin).Seconds()
	}
	for b.Loop() {
		free := speed(all, 3*time.Second)
		var busy []*exec.Cmd
		for range runtime.NumCPU() - cpus + 1 {
			c := exec.CommandContext(b.Context(), "sh", "-c", "while :; do :; done")
			if err := c.Start(); err != nil {
				b.Fatal(err)
			}
			busy = append(busy, c)
		}
		alone := speed(one, 3*time.Second)
		ours := speed(all, 6*time.Second)
		for _, c := range busy {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		back := time.Now()
		b.Logf("%d threads beside the busy one", all.Stats().Threads)
		for all.Stats().Threads < cpus && time.Since(back) < 10*time.Second {
			speed(all, 100*time.Millisecond)
		}
		b.ReportMetric(ours/alone, "busy/one-thread")
		b.ReportMetric(time.Since(back).Seconds(), "s-to-recover")
		b.ReportMetric(speed(all, 3*time.Second)/free, "after/before")
	}
}

// BenchmarkStreamsBesidePrompts streams 8 answers while long prompts come one
// after the other, and short ones now and then.
func BenchmarkStreamsBesidePrompts(b *testing.B) {
	e := loadBench(b, engine.Options{Threads: 1, Slots: 10, DraftTokens: -1, KVTokens: 8192})
	long := min(2000, e.info.Context-20)
	var mu sync.Mutex
	var gaps, loaded, unloaded []time.Duration
	first := func(p []engine.Token, to *[]time.Duration) {
		began := time.Now()
		ask(b, e, engine.Request{Tokens: p, MaxTokens: 1, IgnoreEOS: true})
		mu.Lock()
		defer mu.Unlock()
		*to = append(*to, time.Since(began))
	}
	for b.Loop() {
		for i := range uint64(5) {
			first(prompts(e, 7000+i, 1, 0, 100)[0], &unloaded)
		}
		ctx, stop := context.WithCancel(b.Context())
		var streams, others sync.WaitGroup
		for i := range uint64(8) {
			streams.Go(func() {
				var last time.Time
				r := engine.Request{Tokens: prompts(e, 100+i, 1, 0, 30)[0], MaxTokens: 250, IgnoreEOS: true}
				_, _ = e.Generate(b.Context(), r, func(engine.Piece) bool {
					now := time.Now()
					mu.Lock()
					defer mu.Unlock()
					if !last.IsZero() {
						gaps = append(gaps, now.Sub(last))
					}
					last = now
					return true
				})
			})
		}
		others.Go(func() {
			for i := uint64(0); ctx.Err() == nil; i++ {
				r := engine.Request{Tokens: prompts(e, 500+i, 1, 0, long)[0], MaxTokens: 1}
				_, _ = e.Generate(ctx, r, func(engine.Piece) bool { return true })
			}
		})
		others.Go(func() {
			for i := uint64(0); ctx.Err() == nil; i++ {
				first(prompts(e, 9000+i, 1, 0, 100)[0], &loaded)
			}
		})
		streams.Wait()
		stop()
		others.Wait()
	}
	for _, d := range [][]time.Duration{gaps, loaded, unloaded} {
		slices.Sort(d)
	}
	p50, p99 := gaps[len(gaps)/2], gaps[len(gaps)*99/100]
	b.ReportMetric(p50.Seconds()*1000, "p50-ms")
	b.ReportMetric(p99.Seconds()/p50.Seconds(), "p99/p50")
	b.ReportMetric(loaded[len(loaded)/2].Seconds()/unloaded[len(unloaded)/2].Seconds(), "short-ttft-ratio")
}

// BenchmarkDraftModel measures a model with a draft that guesses right and is many
// times as fast: bee-tiny for itself with layers that only take time.
func BenchmarkDraftModel(b *testing.B) {
	deep := tiny(b).deeper(120).write(b, "deep")
	load := func(draft string, tokens int) *Engine {
		return loadAs(b, func(o *engine.Options) { o.ModelPath, o.DraftModel, o.DraftTokens = deep, draft, tokens }, isWhole)
	}
	engines := []*Engine{load("", 0), load(tinyPath(b), 0), load(tiny(b).stranger().write(b, "stranger"), 0)}
	took := make([][]float64, len(engines))
	const n = 300
	for round := 0; b.Loop(); round++ {
		for i, e := range engines {
			r := engine.Request{Prompt: "Once upon a time " + strconv.Itoa(round), MaxTokens: n, IgnoreEOS: true}
			r.Sampling = sampling.Params{Temperature: 1, Seed: uint64(round)}
			used := threads.CPUTime() // other programs may take the CPU
			result, err := e.Generate(b.Context(), r, func(engine.Piece) bool { return true })
			if err != nil || result.Tokens != n {
				b.Fatalf("%+v, %v", result, err)
			}
			took[i] = append(took[i], (threads.CPUTime() - used).Seconds())
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	plain := took[0][len(took[0])/2]
	s := engines[1].Stats()
	b.Logf("of %d guesses %d came true", s.ModelDrafts, s.ModelAccepted)
	b.ReportMetric(plain/took[1][len(took[1])/2], "times-as-fast")
	b.ReportMetric(plain/took[2][len(took[2])/2], "with-a-stranger")
}
