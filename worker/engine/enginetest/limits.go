package enginetest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

func (s suite) badRequests(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		for name, r := range map[string]engine.Request{
			"no prompt":           {MaxTokens: 1},
			"no tokens":           {Tokens: []engine.Token{}, MaxTokens: 1},
			"no max_tokens":       {Prompt: Story},
			"negative max_tokens": {Prompt: Story, MaxTokens: -1},
			"negative token":      {Tokens: []engine.Token{-1}, MaxTokens: 1},
			"unknown token":       {Tokens: []engine.Token{math.MaxInt32}, MaxTokens: 1},
			"broken UTF-8":        {Prompt: "a\xffb", MaxTokens: 1},
			"top_logprobs":        {Prompt: Story, MaxTokens: 1, Logprobs: true, TopLogprobs: 21},
			"scales, no adapters": {Prompt: Story, MaxTokens: 1, LoRA: []float32{1}},
			"bad temperature":     {Prompt: Story, MaxTokens: 1, Sampling: sampling.Params{Temperature: math.NaN()}},
		} {
			if _, err := collect(t.Context(), e, r); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
				t.Errorf("%s: got %v, want INVALID_REQUEST", name, err)
			}
		}
		free(t, e)
	})
}

func (s suite) contextLength(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Context = 64 }, func(e engine.Engine) {
		one, err := e.Tokenize("a", false)
		if err != nil || len(one) == 0 {
			t.Fatalf("cannot tokenize: %v, %v", one, err)
		}
		prompt := func(n int) engine.Request {
			r := engine.Request{MaxTokens: 5}
			for range n {
				r.Tokens = append(r.Tokens, one[0])
			}
			return r
		}
		for _, n := range []int{64, 65, 5000} {
			_, err := collect(t.Context(), e, prompt(n))
			got := wantCode(t, err, rbee.CodeContextLengthExceeded)
			if got.Details["prompt_tokens"] != n || got.Details["context_tokens"] != 64 || got.Suggestion() == "" {
				t.Errorf("a prompt of %d tokens has the details %v", n, got.Details)
			}
		}
		r := prompt(63)
		r.IgnoreEOS = true
		if out := generate(t, e, r); out.Tokens != 1 || out.Reason != rbee.StopLength {
			t.Errorf("a prompt that leaves room for one token: %+v", out.Result)
		}
		free(t, e)
	})
}

func (s suite) emitStops(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		for _, at := range []int{1, 5} {
			calls := 0
			result, err := e.Generate(t.Context(), story(60), func(engine.Piece) bool {
				calls++
				return calls < at
			})
			if err != nil || calls != at || result.Tokens != at || result.Reason != rbee.StopString {
				t.Errorf("stopped at %d: %d calls, %+v, %v", at, calls, result, err)
			}
			free(t, e)
		}
	})
}

func (s suite) cancel(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		want := generate(t, e, story(40))
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		result, err := e.Generate(ctx, story(200), func(engine.Piece) bool {
			if calls++; calls == 3 {
				cancel()
			}
			return true
		})
		if err != nil || calls != 3 || result.Tokens != 3 || result.Reason != rbee.StopCanceled {
			t.Errorf("canceled at 3: %d calls, %+v, %v", calls, result, err)
		}
		free(t, e)
		result, err = e.Generate(ctx, story(200), func(engine.Piece) bool { return true })
		if err != nil || result.Tokens != 0 || result.Reason != rbee.StopCanceled {
			t.Errorf("canceled before: %+v, %v", result, err)
		}
		free(t, e)
		if again := generate(t, e, story(40)); again.text != want.text {
			t.Errorf("after a cancel the text is %q, before it was %q", again.text, want.text)
		}
	})
}

// occupied is an engine whose slots are taken by generations that wait.
type occupied struct {
	release chan struct{} // closed to let them go on
	done    sync.WaitGroup
}

// occupy takes n slots with requests of so many tokens, and returns when each
// of them is in the middle of its text.
func occupy(t *testing.T, e engine.Engine, n, tokens int) *occupied {
	t.Helper()
	o := &occupied{release: make(chan struct{})}
	inside := make(chan struct{}, n)
	for range n {
		o.done.Go(func() {
			calls := 0
			r := story(tokens)
			r.IgnoreEOS = true
			result, err := e.Generate(t.Context(), r, func(engine.Piece) bool {
				if calls++; calls == 1 {
					inside <- struct{}{}
					<-o.release
				}
				return true
			})
			if err != nil || calls != tokens && result.Reason != rbee.StopShutdown {
				t.Errorf("one that held a slot: %d calls, %+v, %v", calls, result, err)
			}
		})
	}
	for range n {
		select {
		case <-inside:
		case <-time.After(patience):
			t.Fatal("waited in vain for a first token")
		}
	}
	return o
}

func (o *occupied) end() {
	close(o.release)
	o.done.Wait()
}

func (s suite) cancelQueued(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots = 1 }, func(e engine.Engine) {
		held := occupy(t, e, 1, 100)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			result, err := e.Generate(ctx, story(5), func(engine.Piece) bool { return true })
			if err != nil || result.Tokens != 0 || result.Reason != rbee.StopCanceled {
				t.Errorf("canceled in the queue: %+v, %v", result, err)
			}
		})
		eventually(t, "the request to queue", func() bool {
			st := e.Stats()
			return st.Queued == 1 && st.SlotsBusy == 1
		})
		cancel()
		wg.Wait()
		if st := e.Stats(); st.Queued != 0 || st.SlotsBusy != 1 {
			t.Errorf("stats are %+v", st)
		}
		held.end()
		free(t, e)
	})
}

func (s suite) queueFull(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots, o.Queue = 2, 1 }, func(e engine.Engine) {
		held := occupy(t, e, 2, 100)
		var wg sync.WaitGroup
		wg.Go(func() { generate(t, e, story(5)) })
		eventually(t, "the request to queue", func() bool { return e.Stats().Queued == 1 })
		_, err := collect(t.Context(), e, story(5))
		got := wantCode(t, err, rbee.CodeAllSlotsBusy)
		retry, _ := got.Details["retry_after_seconds"].(int)
		if got.Details["slots_total"] != 2 || got.Details["slots_busy"] != 2 || retry < 1 {
			t.Errorf("details are %v", got.Details)
		}
		held.end()
		wg.Wait()
		free(t, e)
	})
}

// long is a prompt of so many tokens that has little in common with others of its kind.
func long(t *testing.T, e engine.Engine, kind string, n int) []engine.Token {
	t.Helper()
	tokens, err := e.Tokenize(strings.Repeat(kind+" ", n), true)
	if err != nil || len(tokens) < n {
		t.Fatalf("%d tokens, %v", len(tokens), err)
	}
	return tokens[:n]
}

// cells has prompts that do not fit together. The second one waits for the end of the first.
func (s suite) cells(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots, o.Context, o.KVTokens = 4, 256, 256 }, func(e engine.Engine) {
		blocked, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			calls := 0
			r := engine.Request{Tokens: long(t, e, "the", 180), MaxTokens: 50, IgnoreEOS: true}
			result, err := e.Generate(t.Context(), r, func(engine.Piece) bool {
				if calls++; calls == 1 {
					close(blocked)
					<-release
				}
				return true
			})
			if err != nil || result.Tokens != 50 {
				t.Errorf("the first: %+v, %v", result, err)
			}
		})
		<-blocked
		wg.Go(func() {
			generate(t, e, engine.Request{Tokens: long(t, e, "bee", 120), MaxTokens: 5, IgnoreEOS: true})
		})
		eventually(t, "the request to wait for KV cells", func() bool {
			st := e.Stats()
			return st.Queued == 1 && st.SlotsBusy == 1
		})
		if st := e.Stats(); st.SlotsBusy != 1 || st.KVUsed < 180 || st.KVUsed > st.KVTotal {
			t.Errorf("stats are %+v", st)
		}
		close(release)
		wg.Wait()
		free(t, e)
	})
}

// crowd has answers that grow until there is no room for all of them: some have
// to wait in the middle, and nobody notices more than that.
func (s suite) crowd(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots, o.Context, o.KVTokens = 4, 256, 256 }, func(e engine.Engine) {
		kinds := []string{"the", "bee", "and", "flower", "sun", "river"}
		request := func(i int) engine.Request {
			return engine.Request{
				Tokens: long(t, e, kinds[i], 20+i), MaxTokens: 150, IgnoreEOS: true, Logprobs: true, TopLogprobs: 5,
			}
		}
		var alone []output
		for i := range kinds {
			alone = append(alone, generate(t, e, request(i)))
		}
		var wg sync.WaitGroup
		for i := range kinds {
			wg.Go(func() {
				out := generate(t, e, request(i))
				if out.Tokens != 150 || out.Reason != rbee.StopLength || len(out.tokens) != 150 {
					t.Errorf("%q in a crowd: %+v", kinds[i], out.Result)
				}
				sameButForRounding(t, kinds[i], alone[i], out)
			})
		}
		wg.Wait()
		free(t, e)
	})
}

func (s suite) slowReader(t *testing.T) {
	r := story(100)
	r.IgnoreEOS = true
	s.use(t, nil, func(e engine.Engine) {
		want := generate(t, e, r)
		blocked, release := make(chan struct{}), make(chan struct{})
		var slow []engine.Token
		var wg sync.WaitGroup
		wg.Go(func() {
			result, err := e.Generate(t.Context(), r, func(p engine.Piece) bool {
				if slow = append(slow, p.Token); len(slow) == 2 {
					close(blocked)
					<-release
				}
				return true
			})
			if err != nil || result.Tokens != 100 {
				t.Errorf("the slow one: %+v, %v", result, err)
			}
		})
		<-blocked
		for range 3 {
			if out := generate(t, e, r); out.text != want.text {
				t.Errorf("beside a slow reader the text is %q, alone %q", out.text, want.text)
			}
		}
		close(release)
		wg.Wait()
		// Later tokens may be rounded otherwise, see parallel.
		if len(slow) != 100 || !slices.Equal(slow[:20], want.tokens[:20]) {
			t.Errorf("the slow reader got %q, want %q", e.Detokenize(slow), want.text)
		}
		free(t, e)
	})
}

func (s suite) panics(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots = 1 }, func(e engine.Engine) {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic of emit was lost")
				}
			}()
			_, _ = e.Generate(t.Context(), story(50), func(engine.Piece) bool { panic("a reader's mistake") })
		}()
		free(t, e)
		generate(t, e, story(5))
	})
}

func (s suite) closes(t *testing.T) {
	e := s.open(t, func(o *engine.Options) { o.Slots = 2 })
	held := occupy(t, e, 2, 200)
	var wg sync.WaitGroup
	wg.Go(func() {
		result, err := e.Generate(t.Context(), story(5), func(engine.Piece) bool { return true })
		if err != nil || result.Reason != rbee.StopShutdown || result.Tokens != 0 {
			t.Errorf("one in the queue: %+v, %v", result, err)
		}
	})
	eventually(t, "the request to queue", func() bool { return e.Stats().Queued == 1 })
	closeEngine(t, e)
	closeEngine(t, e)
	held.end()
	wg.Wait()
	free(t, e)
	_, err := collect(t.Context(), e, story(5))
	wantCode(t, err, rbee.CodeWorkerNotReady)
	_, err = e.Tokenize(Story, true)
	wantCode(t, err, rbee.CodeWorkerNotReady)
	if b := e.Detokenize([]engine.Token{5}); b != nil {
		t.Errorf("detokenize after close gave %q", b)
	}
	if e.Info().Vocab == 0 {
		t.Error("info is gone after close")
	}
}

func (s suite) roundTrip(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		for _, text := range []string{
			"Once upon a time", "a", "two  spaces", "line\nline\n\ttab", "Größe, naïve, 東京, кит",
			"bee 🐝 and family 👩‍👩‍👧‍👦!", strings.Repeat("many words ", 50),
		} {
			tokens, err := e.Tokenize(text, false)
			if err != nil || len(tokens) == 0 {
				t.Errorf("%q: %d tokens, %v", text, len(tokens), err)
			}
			if back := string(e.Detokenize(tokens)); back != text {
				t.Errorf("%q came back as %q", text, back)
			}
		}
		if tokens, err := e.Tokenize("", false); err != nil || len(tokens) != 0 {
			t.Errorf("the empty text gave %v, %v", tokens, err)
		}
		if b := e.Detokenize(nil); len(b) != 0 {
			t.Errorf("no tokens gave %q", b)
		}
		if b := e.Detokenize([]engine.Token{-1, math.MaxInt32}); len(b) != 0 {
			t.Errorf("unknown tokens gave %q", b)
		}
		if _, err := e.Tokenize("a\xff", false); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("broken UTF-8 gave %v", err)
		}
	})
}

// stress runs many short requests that end in all ways, at random moments.
func (s suite) stress(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 200
	}
	s.use(t, func(o *engine.Options) { o.Slots, o.Queue = 3, 3 }, func(e engine.Engine) {
		want := generate(t, e, story(40))
		const callers = 8
		var wg sync.WaitGroup
		for caller := range callers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(caller), 7))
				for range rounds / callers {
					if err := cutShort(t.Context(), e, random); err != nil && rbee.CodeOf(err) != rbee.CodeAllSlotsBusy {
						t.Errorf("a short request failed: %v", err)
					}
				}
			})
		}
		wg.Wait()
		free(t, e)
		if again := generate(t, e, story(40)); again.text != want.text {
			t.Errorf("afterwards the text is %q, before it was %q", again.text, want.text)
		}
	})
}

// cutShort runs one request that ends by itself, by emit, or by its context.
func cutShort(ctx context.Context, e engine.Engine, random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(1+random.IntN(20))*time.Millisecond)
	defer cancel()
	r := engine.Request{Prompt: strings.Repeat(Story+" ", 1+random.IntN(8)), MaxTokens: 1 + random.IntN(20)}
	if random.IntN(2) == 0 {
		r.Sampling = sampling.Params{Temperature: 1, TopP: 0.9, Seed: random.Uint64()}
	}
	at, how := 1+random.IntN(20), random.IntN(3)
	calls := 0
	result, err := e.Generate(ctx, r, func(engine.Piece) bool {
		calls++
		if calls == at && how == 1 {
			cancel()
		}
		return calls != at || how != 0
	})
	if err == nil && result.Tokens != calls {
		return fmt.Errorf("%d tokens came, the result is %+v", calls, result)
	}
	return err
}
