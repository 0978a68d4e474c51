package llamacpp

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"
	"go.uber.org/goleak"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

// words is a prompt of so many tokens; kinds differ after the first shared ones.
func words(t testing.TB, e *Engine, shared, n int, kind string) []engine.Token {
	t.Helper()
	begin, err := e.Tokenize(strings.Repeat("The bee flies over the green hills to the flower. ", 1+shared/8), true)
	if err != nil {
		t.Fatal(err)
	}
	end, err := e.Tokenize(strings.Repeat(kind+" ", n), false)
	if err != nil || len(begin) < shared || len(end) < n-shared {
		t.Fatalf("%d and %d tokens, %v", len(begin), len(end), err)
	}
	return slices.Concat(begin[:shared], end[:n-shared])
}

// inEither runs a test with KV cells that all share and with some for each slot.
func inEither(t *testing.T, test func(t *testing.T, change func(*engine.Options))) {
	t.Run("shared cells", func(t *testing.T) { test(t, func(*engine.Options) {}) })
	t.Run("cells for each slot", func(t *testing.T) { test(t, ownCells) })
}

// ownCells gives each slot as many KV cells as bee-tiny's context.
func ownCells(o *engine.Options) {
	o.Slots = cmp.Or(o.Slots, engine.DefaultSlots)
	o.KVTokens = o.Slots * cmp.Or(o.Context, 1024)
}

func ask(t testing.TB, e *Engine, r engine.Request) (engine.Result, []engine.Token) {
	t.Helper()
	var out []engine.Token
	result, err := e.Generate(t.Context(), r, func(p engine.Piece) bool {
		out = append(out, p.Token)
		return true
	})
	if err != nil {
		t.Error(err)
	}
	return result, out
}

func TestAPromptReusesWhatAnyOtherBeganWith(t *testing.T) { inEither(t, reusesWhatOthersBeganWith) }

func reusesWhatOthersBeganWith(t *testing.T, change func(*engine.Options)) {
	e, fresh := loadTiny(t, change), loadTiny(t, noReuse)
	for _, c := range []struct {
		name   string
		tokens []engine.Token
		cached int
	}{
		{"the first", words(t, e, 100, 150, "river"), 0},
		{"one with the same beginning", words(t, e, 100, 160, "sun"), 100},
		{"one with less of it", words(t, e, 50, 150, "and"), 50},
		{"the same again", words(t, e, 100, 150, "river"), 149},
		{"a part of it", words(t, e, 100, 120, "river"), 119},
	} {
		r := engine.Request{Tokens: c.tokens, MaxTokens: 30, IgnoreEOS: true}
		result, got := ask(t, e, r)
		if result.CachedTokens != c.cached {
			t.Errorf("%s: %d tokens were cached, want %d", c.name, result.CachedTokens, c.cached)
		}
		if _, want := ask(t, fresh, r); !slices.Equal(got, want) {
			t.Errorf("%s gave %q, computed anew %q", c.name, e.Detokenize(got), e.Detokenize(want))
		}
	}
	if s := e.Stats(); s.CacheHits != 4 || s.CachedTokens != 100+50+149+119 || s.KVCached == 0 || s.KVUsed != 0 {
		t.Errorf("stats are %+v", s)
	}
}

func TestTheNextTurnOfAConversationComputesOnlyWhatIsNew(t *testing.T) {
	inEither(t, nextTurnComputesWhatIsNew)
}

func nextTurnComputesWhatIsNew(t *testing.T, change func(*engine.Options)) {
	e := loadTiny(t, change)
	tokens := words(t, e, 40, 60, "sun")
	for turn := range 4 {
		result, out := ask(t, e, engine.Request{Tokens: tokens, MaxTokens: 20, IgnoreEOS: true})
		// Of an answer all tokens but the last were computed.
		if want := len(tokens) - 11; turn > 0 && result.CachedTokens != want {
			t.Errorf("turn %d has %d of %d tokens cached, want %d", turn, result.CachedTokens, len(tokens), want)
		}
		tokens = slices.Concat(tokens, out, words(t, e, 0, 10, "and"))
	}
}

// together sends requests at once and returns their results in order.
func together(t testing.TB, e *Engine, requests []engine.Request) (results []engine.Result, tokens [][]engine.Token) {
	t.Helper()
	results, tokens = make([]engine.Result, len(requests)), make([][]engine.Token, len(requests))
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() { results[i], tokens[i] = ask(t, e, r) })
	}
	wg.Wait()
	return results, tokens
}

func TestRequestsThatArriveTogetherComputeTheirBeginningOnce(t *testing.T) {
	inEither(t, computesBeginningOnce)
}

func computesBeginningOnce(t *testing.T, change func(*engine.Options)) {
	const shared, suffix, n = 600, 20, 16
	for _, slots := range []int{4, 16} {
		t.Run(fmt.Sprint(slots, " slots"), func(t *testing.T) {
			e := loadTiny(t, func(o *engine.Options) {
				o.Slots, o.Queue, o.KVTokens = slots, 64, 1024
				change(o)
			})
			var requests []engine.Request
			for i := range n {
				kind := []string{"sun", "river", "and", "flower"}[i%4]
				tokens := words(t, e, shared, shared+suffix, kind)
				tokens[shared] = engine.Token(400 + i) // all differ after the beginning
				requests = append(requests, engine.Request{Tokens: tokens, MaxTokens: 4, IgnoreEOS: true})
			}
			results, _ := together(t, e, requests)
			if got, want := e.Stats().PromptTokens, uint64(shared+n*suffix); got > want*11/10 {
				t.Errorf("%d tokens of prompts were computed, want about %d", got, want)
			}
			leaders := 0
			for i, r := range results {
				if r.Tokens != 4 {
					t.Errorf("request %d: %+v", i, r)
				}
				if r.CachedTokens == 0 {
					leaders++
				}
			}
			if leaders != 1 {
				t.Errorf("%d requests computed their beginning", leaders)
			}
		})
	}
}

func TestALeaderThatLeavesIsSucceeded(t *testing.T) {
	e := loadTiny(t, func(o *engine.Options) { o.KVTokens = 2048 })
	tokens := words(t, e, 700, 720, "sun")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var follower engine.Result
	duringBatch(e, func() {
		// The leader's first batch is being computed.
		wg.Go(func() {
			follower, _ = ask(t, e, engine.Request{Tokens: tokens, MaxTokens: 3, IgnoreEOS: true})
		})
		waitFor(t, func() bool { return e.Stats().Queued == 1 })
		cancel()
		waitFor(t, e.givenUp)
	})
	result, err := e.Generate(ctx, engine.Request{Tokens: tokens, MaxTokens: 3}, func(engine.Piece) bool { return true })
	wg.Wait()
	if err != nil || result.Reason != rbee.StopCanceled || follower.Tokens != 3 {
		t.Errorf("the leader %+v, %v; the follower %+v", result, err, follower)
	}
}

func TestAMemoryThatCannotBeSharedOrCutIsContinuedOnly(t *testing.T) {
	recurrent := func(llama.Model) bool { return true }
	e, fresh := loadAs(t, nil, recurrent), loadTiny(t, noReuse)
	a := words(t, e, 60, 90, "sun")
	first, out := ask(t, e, engine.Request{Tokens: a, MaxTokens: 10, IgnoreEOS: true})
	other, _ := ask(t, e, engine.Request{Tokens: words(t, e, 60, 90, "river"), MaxTokens: 10, IgnoreEOS: true})
	r := engine.Request{Tokens: slices.Concat(a, out, words(t, e, 0, 10, "and")), MaxTokens: 10, IgnoreEOS: true}
	next, got := ask(t, e, r)
	if first.CachedTokens != 0 || other.CachedTokens != 0 || next.CachedTokens != len(a)+len(out)-1 {
		t.Errorf("%d, %d and %d tokens were cached", first.CachedTokens, other.CachedTokens, next.CachedTokens)
	}
	if _, want := ask(t, fresh, r); !slices.Equal(got, want) {
		t.Errorf("continued it gives %q, computed anew %q", e.Detokenize(got), e.Detokenize(want))
	}
}

func TestTheYoungestIsPutBackAndNobodyFails(t *testing.T) {
	e := loadTiny(t, func(o *engine.Options) { o.Context, o.KVTokens, o.Queue = 256, 256, 64 })
	var requests []engine.Request
	for i, kind := range []string{"sun", "river", "and", "flower", "bee", "the", "to", "in"} {
		r := engine.Request{Tokens: words(t, e, 0, 20+i, kind), MaxTokens: 200, IgnoreEOS: true}
		if i%2 == 1 {
			r.Sampling = sampling.Params{Temperature: 1, TopP: 0.95, Seed: uint64(i)}
		}
		requests = append(requests, r)
	}
	results, tokens := together(t, e, requests)
	for i, r := range results {
		if r.Tokens != 200 || len(tokens[i]) != 200 || r.Reason != rbee.StopLength {
			t.Errorf("request %d: %+v", i, r)
		}
	}
	if s := e.Stats(); s.PutBacks == 0 || s.KVUsed != 0 || s.SlotsBusy != 0 || s.Queued != 0 {
		t.Errorf("stats are %+v", s)
	}
}

// TestNothingLeaks ends thousands of requests in all ways, at random moments.
// RBEE_STRESS_REQUESTS sets how many.
func TestNothingLeaks(t *testing.T) { inEither(t, nothingLeaks) }

func nothingLeaks(t *testing.T, change func(*engine.Options)) {
	count := 2000
	if n, err := strconv.Atoi(os.Getenv("RBEE_STRESS_REQUESTS")); err == nil {
		count = n
	}
	before := goleak.IgnoreCurrent()
	e := loadTiny(t, func(o *engine.Options) {
		o.Slots, o.Queue, o.KVTokens = 6, 6, 1024
		change(o)
	})
	kinds := []string{"sun", "river", "and", "flower"}
	var prompts [][]engine.Token
	random := rand.New(rand.NewPCG(1, 3))
	for range 100 {
		n := 2 + random.IntN(120)
		prompts = append(prompts, words(t, e, random.IntN(n), n, kinds[random.IntN(4)]))
	}
	const callers = 12
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 3))
			for range count / callers {
				r := engine.Request{Tokens: prompts[random.IntN(len(prompts))], MaxTokens: 1 + random.IntN(40)}
				if random.IntN(2) == 0 {
					r.Sampling = sampling.Params{Temperature: 1, TopP: 0.9, Seed: random.Uint64()}
				}
				endSomehow(t, e, r, random)
			}
		})
	}
	wg.Wait()
	s := e.Stats()
	if s.SlotsBusy != 0 || s.Queued != 0 || s.KVUsed != 0 {
		t.Errorf("something is still taken: %+v", s)
	}
	// The loop sleeps now.
	for id := range llama.SeqId(sequences(e.options, false)) {
		if id == e.scratch && !e.apart {
			continue
		}
		if last, err := llama.MemorySeqPosMax(e.memory, id); err != nil || int(last) != e.book.Holds(int(id))-1 {
			t.Errorf("sequence %d ends at %d in llama.cpp, and should hold %d tokens, %v", id, last, e.book.Holds(int(id)), err)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if len(e.spareSlots) != 6 || e.line.inside != 0 {
		t.Errorf("%d free slots and %d requests are left", len(e.spareSlots), e.line.inside)
	}
	t.Logf("%d requests, %d steps, %d put back, %d of %d drafts", s.Requests, s.Steps, s.PutBacks, s.AcceptedTokens, s.DraftTokens)
	runtime.GC()
	goleak.VerifyNone(t, before)
}

// endSomehow runs a request that ends by itself, by emit, by a panic, or by its context.
func endSomehow(t *testing.T, e *Engine, r engine.Request, random *rand.Rand) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	at, how := 1+random.IntN(20), random.IntN(5)
	if how == 0 {
		timer := time.AfterFunc(time.Duration(random.IntN(20))*time.Millisecond, cancel)
		defer timer.Stop()
	}
	defer func() { _ = recover() }()
	calls := 0
	result, err := e.Generate(ctx, r, func(engine.Piece) bool {
		calls++
		if calls == at && how == 1 {
			cancel()
		}
		if calls == at && how == 2 {
			panic("a reader's mistake")
		}
		return calls != at || how != 3
	})
	if err != nil && rbee.CodeOf(err) != rbee.CodeAllSlotsBusy || err == nil && result.Tokens != calls {
		t.Errorf("%d tokens came: %+v, %v", calls, result, err)
	}
}

func TestAnswersBesideCancelsAreThoseAlone(t *testing.T) { inEither(t, answersBesideCancels) }

func answersBesideCancels(t *testing.T, change func(*engine.Options)) {
	e := loadTiny(t, func(o *engine.Options) {
		o.Slots, o.Queue, o.KVTokens = 4, 16, 1024
		change(o)
	})
	r := engine.Request{Prompt: "Once upon a time", MaxTokens: 60, IgnoreEOS: true, Logprobs: true, TopLogprobs: 5}
	want, top := withTop(t, e, r)
	besideCancels(t, e, func() {
		got, _ := withTop(t, e, r)
		for i := range want {
			if got[i] == want[i] {
				continue
			}
			// Where two tokens are all but equally likely, rounding decides: see the package comment.
			at := slices.IndexFunc(top[i], func(a sampling.Alternative) bool { return a.Token == got[i] })
			if at < 0 || top[i][0].Logprob-top[i][at].Logprob > 0.3 {
				t.Errorf("token %d is %d, alone it was one of %+v", i, got[i], top[i])
			}
			break
		}
	})
}

func TestReproducibleAnswersBesideCancelsAreThoseAlone(t *testing.T) {
	e := loadTiny(t, func(o *engine.Options) { o.Slots, o.Queue, o.Context, o.Reproducible = 4, 16, 256, true })
	r := engine.Request{Prompt: "Once upon a time", MaxTokens: 60, IgnoreEOS: true, Logprobs: true}
	logprobs := func() (all []float64) {
		if _, err := e.Generate(t.Context(), r, func(p engine.Piece) bool {
			all = append(all, float64(p.Token), p.Logprob)
			return true
		}); err != nil {
			t.Error(err)
		}
		return all
	}
	want := logprobs()
	besideCancels(t, e, func() {
		if got := logprobs(); !slices.Equal(got, want) {
			t.Errorf("beside others tokens and probabilities are %v, alone %v", got, want)
		}
	})
}

// besideCancels runs f some times, beside requests that end in all ways.
// RBEE_STRESS_REQUESTS sets how many of these there are at least.
func besideCancels(t *testing.T, e *Engine, f func()) {
	t.Helper()
	least, err := strconv.Atoi(os.Getenv("RBEE_STRESS_REQUESTS"))
	if err != nil {
		least = 200
	}
	stop := make(chan struct{})
	var done atomic.Int64
	var wg sync.WaitGroup
	for caller := range 3 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 5))
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := 2 + random.IntN(60)
				endSomehow(t, e, engine.Request{Tokens: words(t, e, random.IntN(n), n, "sun"), MaxTokens: 30}, random)
				done.Add(1)
			}
		})
	}
	runs := 0
	for ; runs < 10 || int(done.Load()) < least; runs++ {
		f()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d answers beside %d requests", runs, done.Load())
}

func withTop(t *testing.T, e *Engine, r engine.Request) (tokens []engine.Token, top [][]sampling.Alternative) {
	t.Helper()
	if _, err := e.Generate(t.Context(), r, func(p engine.Piece) bool {
		tokens = append(tokens, p.Token)
		top = append(top, p.Top)
		return true
	}); err != nil {
		t.Error(err)
	}
	return tokens, top
}
