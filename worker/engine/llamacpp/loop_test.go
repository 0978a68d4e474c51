package llamacpp

import (
	"context"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebitengine/purego"
	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/internal/engines/enginestest"
	"rbee/models"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/engine/slots"
)

func loadTiny(t testing.TB, change func(*engine.Options)) *Engine {
	t.Helper()
	return loadAs(t, change, isWhole)
}

func loadAs(t testing.TB, change func(*engine.Options), whole func(llama.Model) bool) *Engine {
	t.Helper()
	o := engine.Options{ModelPath: tinyPath(t), LibDir: enginestest.LibDir(t), Threads: 1, Queue: 4}
	if change != nil {
		change(&o)
	}
	e, err := start(t.Context(), o, nil, whole)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func writeTiny(t testing.TB, path string) string {
	t.Helper()
	if err := os.WriteFile(path, models.BeeTiny(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// noReuse has each prompt computed, as if it were the first.
func noReuse(o *engine.Options) { o.NoPrefixCache, o.DraftTokens = true, -1 }

func tokens(t testing.TB, e *Engine, r engine.Request) (out []engine.Token) {
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
	askInstead(e, func(text *uint64) uintptr {
		once.Do(f)
		return uintptr(atomic.LoadUint64(text) & 1)
	})
}

// askInstead has llama.cpp ask a function in Go whether to give up a batch.
func askInstead(e *Engine, f func(text *uint64) uintptr) {
	lib := &library{abort: purego.NewCallback(f), setAbort: e.lib.setAbort}
	lib.watchAbort(e.context, e.abort)
}

// givenUp says whether llama.cpp is told to give the batch up.
func (e *Engine) givenUp() bool { return atomic.LoadUint64(e.abort) != 0 }

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
	e := loadTiny(t, noReuse)
	want := tokens(t, e, longPrompt())
	steps := e.Stats().Steps
	ctx, cancel := context.WithCancel(t.Context())
	duringBatch(e, func() {
		cancel()
		waitFor(t, e.givenUp)
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
	e := loadTiny(t, noReuse)
	var wg sync.WaitGroup
	duringBatch(e, func() {
		wg.Go(func() { _ = e.Close() })
		waitFor(t, e.givenUp)
	})
	result, err := e.Generate(t.Context(), longPrompt(), func(engine.Piece) bool { return true })
	wg.Wait()
	if err != nil || result.Reason != rbee.StopShutdown || e.Stats().Steps != 0 {
		t.Errorf("got %+v, %v after %d steps", result, err, e.Stats().Steps)
	}
}

func TestABatchGoesOnAsLongAsOneWantsIt(t *testing.T) {
	e, a, b := &Engine{}, &sequence{}, &sequence{}
	batch := []*sequence{a, b}
	a.quit.Store(true)
	if e.abandoned(batch) {
		t.Error("a batch that one of two readers wants is given up")
	}
	b.quit.Store(true)
	if !e.abandoned(batch) {
		t.Error("a batch that nobody wants goes on")
	}
}

func TestABatchThatFailsEndsItsSequencesOnly(t *testing.T) {
	e := loadTiny(t, noReuse)
	want := tokens(t, e, longPrompt())
	askInstead(e, func(*uint64) uintptr { return 1 }) // llama.cpp stops, though all is wanted
	result, err := e.Generate(t.Context(), longPrompt(), func(engine.Piece) bool { return true })
	if rbee.CodeOf(err) != rbee.CodeInternalError || result.Tokens != 0 || e.Stats().SlotsBusy != 0 {
		t.Errorf("got %+v, %v", result, err)
	}
	e.lib.watchAbort(e.context, e.abort)
	if again := tokens(t, e, longPrompt()); !slices.Equal(again, want) {
		t.Errorf("afterwards the tokens are %v, before %v", again, want)
	}
}

func TestPromptsTakeAboutAsMuchTimeAsStreams(t *testing.T) {
	for _, c := range []struct {
		name   string
		speed  float64 // tokens per second
		decode time.Duration
		long   int
		all    int
		own    [2]int // the same where prompts have steps of their own
	}{
		{"nothing is known", 0, 0, 16, 16, [2]int{64, 64}},
		{"a slow prompt", 100, time.Millisecond, 16, 16, [2]int{64, 64}},
		{"fast streams get a little", 2000, time.Millisecond, 16, 32, [2]int{64, 192}},
		{"as much as the streams", 2000, 20 * time.Millisecond, 32, 80, [2]int{64, 192}},
		{"slow streams get no long pause", 2000, 50 * time.Millisecond, 96, 192, [2]int{64, 384}},
		{"no more than a batch", 1e6, time.Second, 512, 512, [2]int{512, 512}},
	} {
		p := pace{promptSpeed: c.speed, decode: c.decode}
		if long, all := p.share(false); long != c.long || all != c.all {
			t.Errorf("%s: a step takes %d tokens of long prompts and %d of all, want %d and %d", c.name, long, all, c.long, c.all)
		}
		if long, all := p.share(true); long != c.own[0] || all != c.own[1] {
			t.Errorf("%s: a step of its own takes %d tokens of long prompts and %d of all, want %d", c.name, long, all, c.own)
		}
	}
}

func TestPromptsAndStreamsTakeTurns(t *testing.T) {
	var p pace
	const many, few, wait = 16, 3, 50 * time.Millisecond
	if !p.promptsTurn(many, few) {
		t.Error("after a step of the streams it is not the prompts' turn")
	}
	p.owed = wait
	if p.promptsTurn(many, 0) {
		t.Error("after a step of prompts it is not the streams' turn")
	}
	if !p.promptsTurn(many, few) {
		t.Error("a short prompt waits for long ones and for the streams")
	}
	p.shortHad = true
	if p.promptsTurn(many, few) {
		t.Error("after a step of short prompts it is not the streams' turn")
	}
	if !p.promptsTurn(few, many) {
		t.Error("the few streams do not wait for the many prompts")
	}
	p.owed = mostTurns
	if p.promptsTurn(few, many) {
		t.Error("the few streams wait for ever")
	}
	if !p.promptsTurn(0, few) || p.promptsTurn(0, 0) {
		t.Error("streams that begin do not wait for those, and only those, that begin with them")
	}
	p.owed = mostFirstTurns
	if p.promptsTurn(0, few) {
		t.Error("streams that begin wait for ever")
	}
}

// noMemory is a KV cache without a model.
type noMemory struct{}

func (noMemory) Share(int, int, int) bool { return true }
func (noMemory) Cut(int, int)             {}

func (noMemory) Pack(int, int, int, func(int) []byte) []byte { return nil }
func (noMemory) Unpack([]slots.Parcel, int) int              { return 0 }

// still is an engine whose loop does not run; nothing is computed.
func still(t *testing.T) *Engine {
	t.Helper()
	if _, err := open(enginestest.LibDir(t), nil); err != nil {
		t.Fatal(err)
	}
	e := &Engine{
		batch: llama.BatchInit(batchTokens, 0, 1), book: slots.NewBook(8, 4096, noMemory{}, false, 0),
		info: engine.Info{Slots: 4, Vocab: 1000}, spareSlots: []int{3, 2, 1, 0},
		wake: make(chan struct{}, 1), outputs: 4 + maxDraft, maxDraft: maxDraft, queue: 100,
	}
	e.cells, e.doing = unified{e}, make([]engine.SlotInfo, 4)
	t.Cleanup(func() { _ = llama.BatchFree(e.batch) })
	return e
}

// join puts a sequence in line.
func join(t *testing.T, e *Engine, tokens []engine.Token, limit int) *sequence {
	t.Helper()
	seq := newSequence(engine.Request{}, tokens, limit)
	if err := e.enter(seq); err != nil {
		t.Fatal(err)
	}
	return seq
}

// pretend does as if the batch had been.
func (e *Engine) pretend() {
	for _, seq := range e.computed {
		e.book.Grow(seq.held, seq.tokens[:seq.fed])
		if seq.row >= 0 {
			seq.tokens = append(seq.tokens, 1)
		}
	}
}

func TestALongPromptIsComputedInPiecesBesideAStream(t *testing.T) {
	e := still(t)
	stream := join(t, e, []engine.Token{1}, 10)
	e.gather()
	e.fill()
	e.pretend()
	long := join(t, e, longPrompt().Tokens, 10)
	e.gather()
	if n := e.fill(); n != minPromptShare || stream.row != 0 || long.fed != minPromptShare-1 || long.row != -1 {
		t.Errorf("a step has %d tokens, row %d of the stream, %d of the prompt", n, stream.row, long.fed)
	}
	e.pretend()
	for range cap(stream.out) {
		stream.out <- engine.Piece{}
	}
	if n := e.fill(); n != batchTokens || len(e.computed) != 1 || !stream.stalled.Load() {
		t.Errorf("beside a reader that is behind, a step has %d tokens of %d sequences", n, len(e.computed))
	}
	e.pretend()
	<-stream.out
	if n := e.fill(); n != minPromptShare {
		t.Errorf("once the reader went on, a step has %d tokens", n)
	}
}

func TestALongPromptGetsDoneBesideAnyNumberOfShortOnes(t *testing.T) {
	e := still(t)
	e.turns = true
	long, short := join(t, e, longPrompt().Tokens, 10), join(t, e, longPrompt().Tokens[:100], 10)
	e.gather()
	for range 4 {
		_ = e.batch.Clear()
		short.fed = 0 // as if it were another one
		e.fillPrompts([]*sequence{short, long}, 1)
	}
	if long.fed == 0 {
		t.Error("the long prompt got nothing in four steps")
	}
}

func TestSamplingInParallelGivesTheSameTokens(t *testing.T) {
	const compared, whole = 25, 100
	e := loadTiny(t, noReuse)
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

func TestABusyEngineSaysWhenToComeAgain(t *testing.T) {
	e := &Engine{info: engine.Info{Slots: 2}, queue: 2, wake: make(chan struct{}, 1)}
	e.line.held = 7 * time.Second // a request of late
	for range 4 {
		if err := e.enter(&sequence{}); err != nil {
			t.Fatal(err)
		}
	}
	e.line.waiting = e.line.waiting[2:] // two got a slot
	err := e.enter(&sequence{})
	if rbee.CodeOf(err) != rbee.CodeAllSlotsBusy {
		t.Fatalf("got %v", err)
	}
	// Two wait, so the third is in after three of them at two at a time.
	if got := rbee.AsError(err).Details["retry_after_seconds"]; got != 11 {
		t.Errorf("it says %v seconds, want 11", got)
	}
}
