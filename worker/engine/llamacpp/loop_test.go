package llamacpp

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/internal/engines/enginestest"
	"rbee/models"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

func loadTiny(t *testing.T) *Engine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bee-tiny.gguf")
	if err := os.WriteFile(path, models.BeeTiny(), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := Load(t.Context(), engine.Options{ModelPath: path, LibDir: enginestest.LibDir(t), Threads: 1, Queue: 4}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e.(*Engine)
}

func tokens(t *testing.T, e *Engine, r engine.Request) (out []engine.Token) {
	t.Helper()
	if _, err := e.Generate(t.Context(), r, func(p engine.Piece) bool {
		out = append(out, p.Token)
		return true
	}); err != nil {
		t.Error(err)
	}
	return out
}

// longPrompt takes more than one batch.
func longPrompt() engine.Request {
	r := engine.Request{MaxTokens: 10}
	for i := range 700 {
		r.Tokens = append(r.Tokens, engine.Token(300+i%100))
	}
	return r
}

// duringBatch calls f the first time that llama.cpp asks, in a batch, whether
// to give it up; then it answers.
func duringBatch(e *Engine, f func()) {
	var once sync.Once
	e.lib.watched.Store(e.abortID, func() bool {
		once.Do(f)
		return e.abandoned()
	})
}

func waitFor(t *testing.T, holds func() bool) {
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Error("waited in vain")
			return
		}
		runtime.Gosched()
	}
}

func TestABatchThatNobodyWantsIsGivenUp(t *testing.T) {
	e := loadTiny(t)
	want := tokens(t, e, longPrompt())
	steps := e.Stats().Steps
	ctx, cancel := context.WithCancel(t.Context())
	duringBatch(e, func() {
		cancel()
		waitFor(t, func() bool { return e.computed[0].quit.Load() })
	})
	result, err := e.Generate(ctx, longPrompt(), func(engine.Piece) bool { return true })
	if err != nil || result.Reason != rbee.StopCanceled || result.Tokens != 0 {
		t.Errorf("the canceled one: %+v, %v", result, err)
	}
	if s := e.Stats(); s.Steps != steps || s.SlotsBusy != 0 {
		t.Errorf("the batch was computed: %+v, %d steps before", s, steps)
	}
	if again := tokens(t, e, longPrompt()); !slices.Equal(again, want) {
		t.Errorf("afterwards the tokens are %v, before %v", again, want)
	}
}

func TestCloseGivesUpTheBatch(t *testing.T) {
	e := loadTiny(t)
	var wg sync.WaitGroup
	duringBatch(e, func() {
		wg.Go(func() { _ = e.Close() })
		waitFor(t, e.ending.Load)
	})
	result, err := e.Generate(t.Context(), longPrompt(), func(engine.Piece) bool { return true })
	wg.Wait()
	if err != nil || result.Reason != rbee.StopShutdown || e.Stats().Steps != 0 {
		t.Errorf("got %+v, %v after %d steps", result, err, e.Stats().Steps)
	}
}

func TestABatchGoesOnAsLongAsOneWantsIt(t *testing.T) {
	e, a, b := &Engine{}, &sequence{}, &sequence{}
	e.computed = []*sequence{a, b}
	a.quit.Store(true)
	if e.abandoned() {
		t.Error("a batch that one of two readers wants is given up")
	}
	b.quit.Store(true)
	if !e.abandoned() {
		t.Error("a batch that nobody wants goes on")
	}
}

func TestABatchThatFailsEndsItsSequencesOnly(t *testing.T) {
	e := loadTiny(t)
	want := tokens(t, e, longPrompt())
	e.lib.watched.Store(e.abortID, func() bool { return true }) // llama.cpp stops, though all is wanted
	result, err := e.Generate(t.Context(), longPrompt(), func(engine.Piece) bool { return true })
	if rbee.CodeOf(err) != rbee.CodeInternalError || result.Tokens != 0 || e.Stats().SlotsBusy != 0 {
		t.Errorf("got %+v, %v", result, err)
	}
	e.lib.watched.Store(e.abortID, e.abandoned)
	if again := tokens(t, e, longPrompt()); !slices.Equal(again, want) {
		t.Errorf("afterwards the tokens are %v, before %v", again, want)
	}
}

func TestPromptsLeaveTimeForStreams(t *testing.T) {
	for speed, want := range map[float64]int{0: 32, 100: 32, 630: 32, 641: 64, 2000: 128, 5119: 256, 5121: 512, 1e6: 512} {
		e := &Engine{promptSpeed: speed}
		if got := e.share(); got != want {
			t.Errorf("at %v tokens/s a step takes %d tokens of prompts, want %d", speed, got, want)
		}
	}
}

func TestALongPromptIsComputedInPiecesBesideAStream(t *testing.T) {
	if _, err := open(enginestest.LibDir(t), nil); err != nil {
		t.Fatal(err)
	}
	// An engine whose loop does not run; nothing is computed here.
	e := &Engine{
		batch:       llama.BatchInit(batchTokens, 0, 1),
		samplers:    make([]*sampling.Sampler, 4),
		promptSpeed: 1, // the least share
	}
	defer func() { _ = llama.BatchFree(e.batch) }()
	stream := newSequence(engine.Request{}, []engine.Token{1}, 10)
	stream.fed, stream.made, stream.row = 1, 1, -1
	long := newSequence(engine.Request{}, longPrompt().Tokens, 10)
	long.place(1)
	e.active = []*sequence{long, stream}
	if n := e.fill(); n != 1+minPromptShare || stream.row != 0 || long.fed != minPromptShare || long.row != -1 {
		t.Errorf("a step has %d tokens, row %d of the stream, %d of the prompt", n, stream.row, long.fed)
	}
	for range cap(stream.out) {
		stream.out <- engine.Piece{}
	}
	if n := e.fill(); n != batchTokens || len(e.computed) != 1 || !stream.stalled.Load() {
		t.Errorf("beside a reader that is behind, a step has %d tokens of %d sequences", n, len(e.computed))
	}
	<-stream.out
	if n := e.fill(); n != 1+minPromptShare {
		t.Errorf("once the reader went on, a step has %d tokens", n)
	}
}

func TestSamplingInParallelGivesTheSameTokens(t *testing.T) {
	const compared, whole = 25, 100
	e := loadTiny(t)
	run := func(parallelFrom int) [][]engine.Token {
		e.parallelFrom = parallelFrom
		out := make([][]engine.Token, 4)
		var there, done sync.WaitGroup
		there.Add(len(out))
		for i := range out {
			r := engine.Request{
				Prompt: "Once upon a time", MaxTokens: whole, IgnoreEOS: true,
				Sampling: sampling.Params{Temperature: 1.2, TopP: 0.95, Seed: uint64(i)},
			}
			done.Go(func() {
				_, err := e.Generate(t.Context(), r, func(p engine.Piece) bool {
					// None ends before all are compared: see the package comment.
					if out[i] = append(out[i], p.Token); len(out[i]) == compared {
						there.Done()
						there.Wait()
					}
					return true
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		return out
	}
	one, many := run(1<<30), run(1)
	for i := range one {
		if !slices.Equal(one[i][:compared], many[i][:compared]) {
			t.Errorf("seed %d gave %v, in parallel %v", i, one[i][:compared], many[i][:compared])
		}
	}
}
