package enginetest

import (
	"context"
	"errors"
	"math"
	"regexp"
	"slices"
	"testing"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
	"rbee/worker/grammar"
)

// reuse asks again for what the engine may remember, wholly and in part.
func (s suite) reuse(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		prompt := long(t, e, "Once upon a time there was a bee.", 120)
		for _, n := range []int{120, 60, 119, 120, 1} {
			r := engine.Request{Tokens: prompt[:n], MaxTokens: 20, IgnoreEOS: true}
			first := generate(t, e, r)
			again := generate(t, e, r)
			if !slices.Equal(first.tokens, again.tokens) {
				t.Errorf("%d tokens gave %q, then %q", n, first.text, again.text)
			}
			for _, out := range []output{first, again} {
				if out.PromptTokens != n || out.CachedTokens < 0 || out.CachedTokens >= n {
					t.Errorf("%d tokens: %+v", n, out.Result)
				}
			}
		}
		free(t, e)
	})
}

func (s suite) logprobs(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		for _, top := range []int{0, 3} {
			r := story(10)
			r.IgnoreEOS, r.Logprobs, r.TopLogprobs = true, true, top
			plain := generate(t, e, story(10))
			var tokens []engine.Token
			_, err := e.Generate(t.Context(), r, func(p engine.Piece) bool {
				tokens = append(tokens, p.Token)
				if len(p.Top) != top || p.Logprob > 0 || math.IsNaN(p.Logprob) {
					t.Errorf("a piece is %+v", p)
				}
				if top > 0 && (p.Top[0].Token != p.Token || p.Top[0].Logprob != p.Logprob) {
					t.Errorf("greedy picked %d of %+v", p.Token, p.Top)
				}
				if !slices.IsSortedFunc(p.Top, func(a, b sampling.Alternative) int { return int(math.Copysign(1, b.Logprob-a.Logprob)) }) {
					t.Errorf("the alternatives are %+v", p.Top)
				}
				return true
			})
			if err != nil || !slices.Equal(tokens, plain.tokens) {
				t.Errorf("with probabilities the tokens are %v, %v", tokens, err)
			}
		}
	})
}

func (s suite) grammar(t *testing.T) {
	g, err := grammar.Parse(`root ::= ("yes" | "no") " " [0-9] [0-9]`)
	if err != nil {
		t.Fatal(err)
	}
	s.use(t, nil, func(e engine.Engine) {
		for seed := range uint64(5) {
			r := story(50)
			r.Grammar = g
			if seed > 0 {
				r.Sampling = sampling.Params{Temperature: 1.5, TopP: 1, Seed: seed}
			}
			out := generate(t, e, r)
			if !regexp.MustCompile(`^(yes|no) [0-9][0-9]$`).MatchString(out.text) || out.Reason != rbee.StopEOS {
				t.Errorf("seed %d gave %q, %+v", seed, out.text, out.Result)
			}
		}
		free(t, e)
	})
}

func (s suite) embed(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		a, b := long(t, e, "bee", 30), long(t, e, "the", 5)
		inputs := [][]engine.Token{a, b, a, long(t, e, "and", 700), b}
		together, err := e.Embed(t.Context(), inputs)
		if err != nil || len(together) != len(inputs) {
			t.Fatalf("%d vectors, %v", len(together), err)
		}
		for i, v := range together {
			sum := 0.0
			for _, x := range v {
				sum += float64(x) * float64(x)
			}
			if len(v) != e.Info().Embedding || math.Abs(sum-1) > 1e-4 {
				t.Errorf("vector %d has %d numbers and the length %v", i, len(v), math.Sqrt(sum))
			}
			alone, err := e.Embed(t.Context(), inputs[i:i+1])
			if err != nil || cosine(alone[0], v) < 0.999 {
				t.Errorf("vector %d differs from the one alone, %v", i, err)
			}
		}
		if cosine(together[0], together[2]) < 0.999 || cosine(together[0], together[1]) > 0.9999 {
			t.Error("equal inputs have unlike vectors, or others have the same")
		}
		free(t, e)
	})
}

func cosine(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

func (s suite) badInputs(t *testing.T) {
	e := s.open(t, func(o *engine.Options) { o.Context = 64 })
	for name, c := range map[string]struct {
		inputs [][]engine.Token
		code   rbee.Code
	}{
		"none":          {nil, rbee.CodeInvalidRequest},
		"an empty one":  {[][]engine.Token{{5}, {}}, rbee.CodeInvalidRequest},
		"unknown token": {[][]engine.Token{{math.MaxInt32}}, rbee.CodeInvalidRequest},
		"negative":      {[][]engine.Token{{-1}}, rbee.CodeInvalidRequest},
		"too long":      {[][]engine.Token{make([]engine.Token, 65)}, rbee.CodeContextLengthExceeded},
	} {
		if _, err := e.Embed(t.Context(), c.inputs); rbee.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Embed(ctx, [][]engine.Token{{5}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled one: %v", err)
	}
	closeEngine(t, e)
	_, err := e.Embed(t.Context(), [][]engine.Token{{5}})
	wantCode(t, err, rbee.CodeWorkerNotReady)
}

func (s suite) slots(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots = 2 }, func(e engine.Engine) {
		count := func(state engine.SlotState) (n int) {
			for i, slot := range e.Slots() {
				if slot.Slot != i {
					t.Errorf("slot %d says that it is %d", i, slot.Slot)
				}
				if slot.State == state {
					n++
				}
			}
			return n
		}
		if n := count(engine.SlotIdle); n != 2 {
			t.Errorf("%d of 2 slots are idle", n)
		}
		held := occupy(t, e, 1, 100)
		eventually(t, "a slot to be busy and one idle", func() bool { return count(engine.SlotIdle) == 1 })
		held.end()
		if n := count(engine.SlotIdle); n != 2 {
			t.Errorf("%d of 2 slots are idle again", n)
		}
	})
}
