package sampling_test

import (
	"math"
	"slices"
	"testing"

	"rbee/worker/engine/sampling"
)

// only allows the tokens of a set and counts how often it was asked to mask.
type only struct {
	tokens map[int32]bool
	masks  int
}

func (o *only) Allows(t int32) bool { return o.tokens[t] }

func (o *only) Mask(logits []float32) {
	o.masks++
	for i := range logits {
		if !o.tokens[int32(i)] {
			logits[i] = float32(math.Inf(-1))
		}
	}
}

func (o *only) Accept(int32) {}

// third is every third token of a vocabulary, without the most likely ones.
func third(logits []float32, limit float32) *only {
	o := &only{tokens: map[int32]bool{}}
	for i, l := range logits {
		if i%3 == 0 && l < limit {
			o.tokens[int32(i)] = true
		}
	}
	return o
}

// The exact distribution: what the first draw gives if it is allowed, and for
// the rest what the second gives. Without filters that is the distribution of
// what is allowed.
func TestTheDistributionWithinAConstraintIsThatOfTheDefinition(t *testing.T) {
	logits := normalLogits(400, 2, 21)
	for _, p := range []sampling.Params{
		{Temperature: 1, TopP: 1},
		{Temperature: 0.7, TopP: 0.9},
		{Temperature: 1, TopP: 1, TopK: 20},
		{Temperature: 1.4, TopP: 0.95, Typical: 0.9, MinP: 0.01},
	} {
		c := third(logits, 3)
		masked := slices.Clone(logits)
		c.Mask(masked)
		first, second := reference(logits, p), reference(masked, p)
		allowed := 0.0
		for token, w := range first {
			if c.Allows(int32(token)) {
				allowed += w
			}
		}
		want := make([]float64, len(logits))
		for token := range want {
			if c.Allows(int32(token)) {
				want[token] = first[token] + (1-allowed)*second[token]
			}
		}
		if p.TopP == 1 && p.TopK == 0 && p.Typical == 0 {
			for token := range want {
				if math.Abs(want[token]-second[token]) > 1e-12 {
					t.Fatalf("token %d has %g, and %g of what is allowed", token, want[token], second[token])
				}
			}
		}
		p.Seed = 5
		s := sampling.New(p)
		compare(t, want, func(work []float32) int32 {
			copy(work, logits)
			token, ok := s.SampleWithin(work, c)
			if !ok {
				t.Fatal("no token was possible")
			}
			return token
		})
	}
}

func TestAConstraintIsAskedToMaskOnlyIfItForbidsWhatWasDrawn(t *testing.T) {
	logits := []float32{1, 5, 3}
	c := &only{tokens: map[int32]bool{1: true, 2: true}}
	s := sampling.New(sampling.Params{})
	if token, ok := s.SampleWithin(slices.Clone(logits), c); token != 1 || !ok || c.masks != 0 {
		t.Errorf("got %d, %t with %d masks, want 1 without", token, ok, c.masks)
	}
	c.tokens[1] = false
	if token, ok := s.SampleWithin(slices.Clone(logits), c); token != 2 || !ok || c.masks != 1 {
		t.Errorf("got %d, %t with %d masks, want 2 with one", token, ok, c.masks)
	}
	c.tokens[2] = false
	if token, ok := s.SampleWithin(slices.Clone(logits), c); ok {
		t.Errorf("got %d, though nothing is allowed", token)
	}
	if token, ok := s.SampleWithin(slices.Clone(logits), nil); token != 1 || !ok {
		t.Errorf("without a constraint got %d, %t", token, ok)
	}
}

func TestPenaltiesCountOnceThoughASecondDrawIsNeeded(t *testing.T) {
	s := sampling.New(sampling.Params{RepetitionPenalty: 2, FrequencyPenalty: 1, Bias: map[int32]float32{2: 1}})
	s.Sample([]float32{0, 0, 0})
	s.Accept(1)
	logits := []float32{9, 4, 1}
	if token, _ := s.SampleWithin(logits, &only{tokens: map[int32]bool{1: true, 2: true}}); token != 2 || logits[1] != 1 || logits[2] != 2 {
		t.Errorf("got token %d of the logits %v", token, logits)
	}
}

func TestTheAnswerIsPenalizedAndNotThePrompt(t *testing.T) {
	s := sampling.New(sampling.Params{FrequencyPenalty: 0.5, PresencePenalty: 0.25})
	zero := func() []float32 { return make([]float32, 4) }
	s.Accept(0, 0, 1)
	logits := zero()
	s.Sample(logits)
	if want := zero(); !slices.Equal(logits, want) {
		t.Errorf("the prompt made %v", logits)
	}
	for range 200 { // longer than the window of the repetition penalty
		s.Accept(2)
	}
	s.Accept(3, -1, 100)
	logits = zero()
	s.Sample(logits)
	if want := []float32{0, 0, -100.25, -0.75}; !slices.Equal(logits, want) {
		t.Errorf("the answer made %v, want %v", logits, want)
	}
	s.Reset(sampling.Params{PresencePenalty: -1})
	s.Accept(2)
	s.Sample(zero())
	s.Accept(1)
	logits = zero()
	s.Sample(logits)
	if want := []float32{0, 1, 0, 0}; !slices.Equal(logits, want) {
		t.Errorf("after a reset the answer made %v, want %v", logits, want)
	}
}

func TestABiasIsAddedAndABanIsFinal(t *testing.T) {
	s := sampling.New(sampling.Params{Bias: map[int32]float32{0: 2, 1: -100, 2: -99, 9: 5, -3: 5}})
	logits := []float32{1, 1e6, 1000}
	if token, ok := s.Sample(logits); token != 2 || !ok {
		t.Errorf("got %d, %t", token, ok)
	}
	if want := []float32{3, float32(math.Inf(-1)), 901}; !slices.Equal(logits, want) {
		t.Errorf("logits are %v, want %v", logits, want)
	}
	s.Reset(sampling.Params{})
	if token, _ := s.Sample([]float32{1, 1e6, 1000}); token != 1 {
		t.Errorf("after a reset got %d", token)
	}
}

// Top-p looks at what typical kept, and min-p at what both kept.
func TestFiltersComeInTheOrderOfLlamaCpp(t *testing.T) {
	// Token 0 is the most likely and too likely to be typical.
	logits := []float32{5, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, -4}
	s := sampling.New(sampling.Params{Temperature: 1, TopP: 1, Typical: 0.2, MinP: 0.9, Seed: 1})
	for range 200 {
		if token, _ := s.Sample(slices.Clone(logits)); token == 0 || token == 11 {
			t.Fatalf("token %d was drawn: min-p did not see that 0 was gone", token)
		}
	}
	// Top-k comes first: of two tokens, the second is enough for typical.
	s = sampling.New(sampling.Params{Temperature: 1, TopP: 0.5, TopK: 2, Seed: 1})
	for range 200 {
		if token, _ := s.Sample(slices.Clone(logits)); token != 0 {
			t.Fatalf("token %d was drawn: top-p did not see that top-k left two", token)
		}
	}
}

func TestLogprobsAreThoseOfTheModel(t *testing.T) {
	logits := withHoles()
	total := 0.0
	for _, l := range logits {
		if !math.IsNaN(float64(l)) {
			total += math.Exp(float64(l))
		}
	}
	want := func(token int32) float64 { return float64(logits[token]) - math.Log(total) }
	into := make([]sampling.Alternative, 0, 20)
	for _, n := range []int{0, 1, 5, 20} {
		chosen, top := sampling.Logprobs(logits, 42, n, into)
		if math.Abs(chosen-want(42)) > 1e-9 || len(top) != n {
			t.Fatalf("n=%d: got %g and %d alternatives, want %g", n, chosen, len(top), want(42))
		}
		order := make([]int32, 0, len(logits))
		for i, l := range logits {
			if l > -1000 {
				order = append(order, int32(i))
			}
		}
		slices.SortStableFunc(order, func(a, b int32) int { return int(math.Copysign(1, float64(logits[b]-logits[a]))) })
		for i, a := range top {
			if a.Token != order[i] || math.Abs(a.Logprob-want(a.Token)) > 1e-9 {
				t.Errorf("alternative %d is %v, want token %d with %g", i, a, order[i], want(order[i]))
			}
		}
	}
	if n := testing.AllocsPerRun(10, func() { sampling.Logprobs(logits, 42, 20, into) }); n > 0 {
		t.Errorf("%g allocations", n)
	}
}

func TestLogprobsOfOddLogits(t *testing.T) {
	inf, nan := math.Inf(1), float32(math.NaN())
	for name, c := range map[string]struct {
		logits []float32
		chosen int32
		want   float64
		top    []sampling.Alternative
	}{
		"none":       {nil, 0, -inf, nil},
		"impossible": {[]float32{nan, float32(-inf)}, 0, -inf, nil},
		"not chosen": {[]float32{0, nan}, 1, -inf, []sampling.Alternative{{Token: 0}}},
		"outside":    {[]float32{0}, 7, -inf, []sampling.Alternative{{Token: 0}}},
		"negative":   {[]float32{0}, -1, -inf, []sampling.Alternative{{Token: 0}}},
		"certain":    {[]float32{0, float32(inf)}, 1, 0, []sampling.Alternative{{Token: 1}, {Token: 0, Logprob: -inf}}},
		"equal":      {[]float32{2, 2}, 1, -math.Ln2, []sampling.Alternative{{Token: 0, Logprob: -math.Ln2}, {Token: 1, Logprob: -math.Ln2}}},
	} {
		got, top := sampling.Logprobs(c.logits, c.chosen, 3, nil)
		if got != c.want && math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: got %g, want %g", name, got, c.want)
		}
		if !slices.EqualFunc(top, c.top, func(a, b sampling.Alternative) bool {
			return a.Token == b.Token && (a.Logprob == b.Logprob || math.Abs(a.Logprob-b.Logprob) < 1e-12)
		}) {
			t.Errorf("%s: got %v, want %v", name, top, c.top)
		}
	}
}

// The first token alone nearly has the mass p, so it takes the exact mass of the
// tail to tell whether the second belongs to it.
func TestTheBorderOfTopPIsExact(t *testing.T) {
	logits := []float32{0, -3}
	for range 200 {
		logits = append(logits, -5.015) // as far as can be from the middle of its class
	}
	mass := 0.0
	for _, l := range logits {
		mass += math.Exp(float64(l))
	}
	for _, c := range []struct {
		name  string
		p     float64
		drawn bool
	}{
		{"just enough", 1 / mass * (1 - 1e-7), false},
		{"just too little", 1 / mass * (1 + 1e-7), true},
	} {
		s := sampling.New(sampling.Params{Temperature: 1, TopP: c.p, Seed: 3})
		drawn := false
		for range 500 {
			token, _ := s.Sample(slices.Clone(logits))
			if token > 1 {
				t.Fatalf("%s: token %d was drawn", c.name, token)
			}
			drawn = drawn || token == 1
		}
		if drawn != c.drawn {
			t.Errorf("%s: the second token was drawn: %t", c.name, drawn)
		}
	}
}
