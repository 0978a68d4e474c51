package sampling_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"rbee/worker/engine/sampling"
)

type entry struct {
	id    int
	logit float64
}

// reference computes the exact distribution by sorting everything: the
// definition that the sampler's selection has to agree with.
func reference(logits []float32, p sampling.Params) []float64 {
	var all []entry
	for i, l := range logits {
		if !math.IsNaN(float64(l)) && !math.IsInf(float64(l), -1) {
			all = append(all, entry{i, float64(l)})
		}
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(b.logit, a.logit) })
	if p.TopK > 0 {
		all = all[:min(p.TopK, len(all))]
	}
	if p.Typical > 0 && p.Typical < 1 {
		all = typical(all, p.Typical)
	}
	top := all[0].logit
	if p.TopP < 1 {
		total := 0.0
		for _, e := range all {
			total += math.Exp(e.logit - top)
		}
		sum := 0.0
		for i, e := range all {
			if sum += math.Exp(e.logit - top); sum >= p.TopP*total {
				all = all[:i+1]
				break
			}
		}
	}
	if p.MinP > 0 {
		all = slices.DeleteFunc(all, func(e entry) bool { return math.Exp(e.logit-top) < p.MinP*(1-1e-6) })
	}
	out := make([]float64, len(logits))
	total := 0.0
	for _, e := range all {
		out[e.id] = math.Exp((e.logit - top) / p.Temperature)
		total += out[e.id]
	}
	for i := range out {
		out[i] /= total
	}
	return out
}

// typical is the definition of typical sampling: the tokens whose information
// is nearest to the entropy, the least that exceed p, here again in their order.
func typical(all []entry, p float64) []entry {
	total, entropy := 0.0, 0.0
	for _, e := range all {
		total += math.Exp(e.logit - all[0].logit)
	}
	information := func(e entry) float64 { return math.Log(total) - (e.logit - all[0].logit) }
	for _, e := range all {
		entropy += math.Exp(-information(e)) * information(e)
	}
	away := func(e entry) float64 { return math.Abs(information(e) - entropy) }
	byAway := slices.Clone(all)
	slices.SortStableFunc(byAway, func(a, b entry) int {
		if d := away(a) - away(b); math.Abs(d) > 1e-9 { // the same, but for rounding
			return cmp.Compare(d, 0)
		}
		return cmp.Compare(a.id, b.id)
	})
	sum := 0.0
	for i, e := range byAway {
		if sum += math.Exp(e.logit - all[0].logit); sum > p*total {
			byAway = byAway[:i+1]
			break
		}
	}
	slices.SortStableFunc(byAway, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.logit, a.logit), cmp.Compare(a.id, b.id))
	})
	return byAway
}

func normalLogits(n int, spread float64, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64() * spread)
	}
	return out
}

// withHoles is a vocabulary with impossible tokens in it.
func withHoles() []float32 {
	l := normalLogits(300, 2, 4)
	l[0], l[17], l[299] = float32(math.NaN()), float32(math.Inf(-1)), float32(math.NaN())
	return l
}

func TestTheDistributionIsThatOfTheDefinition(t *testing.T) {
	tied := make([]float32, 40)
	for i := range tied {
		tied[i] = float32(i % 4)
	}
	logits := map[string][]float32{
		"normal": normalLogits(1000, 2.5, 1),
		"peaked": normalLogits(600, 12, 2),
		"flat":   normalLogits(500, 0.01, 3),
		"equal":  make([]float32, 50),
		"tied":   tied,
		"holes":  withHoles(),
		"one":    {3},
	}
	params := []sampling.Params{
		{Temperature: 1, TopP: 1},
		{Temperature: 0.5, TopP: 1},
		{Temperature: 2, TopP: 1},
		{Temperature: 0.8, TopP: 0.95},
		{Temperature: 1.3, TopP: 0.3},
		{Temperature: 1, TopP: 1, TopK: 5},
		{Temperature: 0.7, TopP: 1, TopK: 40},
		{Temperature: 1, TopP: 1, MinP: 0.05},
		{Temperature: 1.5, TopP: 0.9, TopK: 20, MinP: 0.1},
		{Temperature: 1, TopP: 0.9, MinP: 0.2},
		{Temperature: 1, TopP: 1, Typical: 0.9},
		{Temperature: 0.6, TopP: 1, Typical: 0.21},
		{Temperature: 1.2, TopP: 0.8, Typical: 0.6},
		{Temperature: 1, TopP: 1, Typical: 0.5, TopK: 30},
		{Temperature: 1, TopP: 0, Typical: 0.4},
		{Temperature: 0.9, TopP: 0.97, Typical: 0.83, TopK: 100, MinP: 0.03},
	}
	for name, l := range logits {
		for i, p := range params {
			p.Seed = uint64(i + 11)
			t.Run(fmt.Sprintf("%s/%d", name, i), func(t *testing.T) { chiSquare(t, l, p) })
		}
	}
}

func chiSquare(t *testing.T, logits []float32, p sampling.Params) {
	t.Helper()
	s := sampling.New(p)
	compare(t, reference(logits, p), func(work []float32) int32 {
		copy(work, logits)
		id, ok := s.Sample(work)
		if !ok {
			t.Fatal("no token was possible")
		}
		return id
	})
}

// compare draws, with a fixed seed, so the outcome is the same on each run, and
// compares with the expected counts. Rare tokens share one class.
func compare(t *testing.T, want []float64, draw func(work []float32) int32) {
	t.Helper()
	const draws = 3000
	got := make([]int, len(want))
	work := make([]float32, len(want))
	for range draws {
		id := draw(work)
		if want[id] == 0 {
			t.Fatalf("token %d was picked, which is outside the selection", id)
		}
		got[id]++
	}
	stat, classes := 0.0, 0
	rareWant, rareGot := 0.0, 0
	for i, w := range want {
		expected := w * draws
		if expected < 5 {
			rareWant += expected
			rareGot += got[i]
			continue
		}
		stat += (float64(got[i]) - expected) * (float64(got[i]) - expected) / expected
		classes++
	}
	if rareWant >= 5 {
		stat += (float64(rareGot) - rareWant) * (float64(rareGot) - rareWant) / rareWant
		classes++
	}
	// The mean of a chi-square is its degrees of freedom, the variance twice that: 4 sigma.
	freedom := float64(classes - 1)
	if limit := freedom + 4*math.Sqrt(2*freedom) + 4; stat > limit {
		t.Errorf("chi-square is %.1f with %.0f degrees of freedom, more than %.1f", stat, freedom, limit)
	}
}

func TestGreedyTakesTheFirstOfTheMostLikely(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		name   string
		logits []float32
		want   int32
	}{
		{"plain", []float32{1, 5, 3}, 1},
		{"tie", []float32{1, 5, 5}, 1},
		{"nan first", []float32{nan, -2, -1}, 2},
		{"infinite", []float32{3, inf, inf}, 1},
		{"masked", []float32{-inf, -inf, -7}, 2},
		{"lowest finite", []float32{-inf, -math.MaxFloat32}, 1},
	} {
		for _, p := range []sampling.Params{{}, {Temperature: 1, TopK: 1, TopP: 1}, {Temperature: 1, TopP: 0}} {
			if got, ok := sampling.New(p).Sample(slices.Clone(c.logits)); !ok || got != c.want {
				t.Errorf("%s with %+v: got %d, %t, want %d", c.name, p, got, ok, c.want)
			}
		}
	}
}

func TestNothingPossibleIsSaid(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, p := range []sampling.Params{{}, {Temperature: 1, TopP: 1}, {Temperature: 1, TopP: 0.5, TopK: 3}} {
		for _, l := range [][]float32{nil, {nan}, {-inf, nan, -inf}} {
			if id, ok := sampling.New(p).Sample(slices.Clone(l)); ok {
				t.Errorf("%v with %+v gave token %d", l, p, id)
			}
		}
	}
}

func TestHostileLogitsNeverPickAnImpossibleToken(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	odd := []float32{nan, inf, -inf, math.MaxFloat32, -math.MaxFloat32, 0, 1, -1, math.SmallestNonzeroFloat32}
	r := rand.New(rand.NewPCG(9, 9))
	for round := range 2000 {
		logits := make([]float32, 1+r.IntN(30))
		for i := range logits {
			logits[i] = odd[r.IntN(len(odd))]
		}
		p := sampling.Params{
			Temperature: []float64{1e-9, 0.5, 1, 1e9}[r.IntN(4)], TopK: r.IntN(5),
			TopP: []float64{1e-12, 0.5, 1}[r.IntN(3)], MinP: []float64{0, 1e-9, 1}[r.IntN(3)],
			RepetitionPenalty: []float64{0, 1, 1.3, 0.5}[r.IntN(4)], Seed: uint64(round),
			Typical: []float64{0, 1e-9, 0.5, 1}[r.IntN(4)], FrequencyPenalty: []float64{0, 2, -2}[r.IntN(3)],
			Bias: []map[int32]float32{nil, {0: -100, 3: 5, 2000: 1}}[r.IntN(2)],
		}
		s := sampling.New(p)
		s.Accept(0, 1, -5, 1000)
		id, ok := s.Sample(logits)
		if !ok {
			if p.Bias == nil && slices.ContainsFunc(logits, func(l float32) bool { return !math.IsNaN(float64(l)) && !math.IsInf(float64(l), -1) }) {
				t.Fatalf("%v with %+v: a token was possible", logits, p)
			}
			continue
		}
		if l := float64(logits[id]); math.IsNaN(l) || math.IsInf(l, -1) {
			t.Fatalf("%v with %+v picked %d", logits, p, id)
		}
	}
}

func TestSameSeedGivesTheSameTokensAndAnotherSeedOthers(t *testing.T) {
	logits := normalLogits(2000, 2, 5)
	draw := func(s *sampling.Sampler) (out []int32) {
		for range 50 {
			id, _ := s.Sample(slices.Clone(logits))
			out = append(out, id)
		}
		return out
	}
	for _, p := range []sampling.Params{{Temperature: 1, TopP: 1}, {Temperature: 1, TopP: 0.9}, {Temperature: 1, TopP: 1, TopK: 50}} {
		p.Seed = 7
		s := sampling.New(p)
		first := draw(s)
		s.Reset(p)
		if again := draw(s); !slices.Equal(first, again) {
			t.Errorf("%+v: the same seed gave %v, then %v", p, first, again)
		}
		p.Seed = 8
		if other := draw(sampling.New(p)); slices.Equal(first, other) {
			t.Errorf("%+v: two seeds gave the same tokens", p)
		}
	}
}

func TestThePenaltyCountsEachTokenOfTheWindowOnce(t *testing.T) {
	s := sampling.New(sampling.Params{RepetitionPenalty: 2, PenaltyWindow: 3})
	s.Accept(0, 1, 1, 3)
	logits := []float32{4, 4, 4, -4}
	if _, ok := s.Sample(logits); !ok {
		t.Fatal("no token was possible")
	}
	if want := []float32{4, 2, 4, -8}; !slices.Equal(logits, want) {
		t.Errorf("logits are %v, want %v: token 0 left the window, 1 is in it twice", logits, want)
	}
	s.Accept(2)
	s.Accept(2)
	logits = []float32{4, 4, 4, -4}
	s.Sample(logits)
	if want := []float32{4, 4, 2, -8}; !slices.Equal(logits, want) {
		t.Errorf("logits are %v, want %v: the window moved on", logits, want)
	}
}

func TestFaultsNameEachBadParameter(t *testing.T) {
	p := sampling.Params{
		Temperature: math.NaN(), TopK: -1, Typical: 1.1, TopP: math.NaN(), MinP: 2, RepetitionPenalty: -1,
		FrequencyPenalty: math.NaN(), PresencePenalty: 2.1, Bias: map[int32]float32{3: float32(math.NaN())},
	}
	var fields []string
	for _, f := range p.Faults() {
		fields = append(fields, f.Field)
	}
	if want := []string{"temperature", "top_k", "typical_p", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias"}; !slices.Equal(fields, want) {
		t.Errorf("faults are in %v, want %v", fields, want)
	}
	for _, good := range []sampling.Params{
		{},
		{Typical: 1, MinP: 1, FrequencyPenalty: -2, PresencePenalty: 2, Bias: map[int32]float32{0: 100, 5: -100, 7: float32(math.Inf(-1))}},
	} {
		if f := good.Faults(); len(f) > 0 {
			t.Errorf("%+v has faults: %v", good, f)
		}
	}
	for _, bias := range []map[int32]float32{{-1: 1}, {1: 101}, {1: float32(math.Inf(1))}} {
		if f := (sampling.Params{Bias: bias}).Faults(); len(f) != 1 || f[0].Field != "logit_bias" {
			t.Errorf("%v has the faults %v", bias, f)
		}
	}
}

func TestSamplingDoesNotAllocate(t *testing.T) {
	logits := normalLogits(4000, 2, 6)
	work := slices.Clone(logits)
	for _, p := range []sampling.Params{
		{},
		{Temperature: 1, TopP: 1},
		{Temperature: 1, TopP: 0.9, RepetitionPenalty: 1.1},
		{Temperature: 1, TopP: 0.9, TopK: 40},
		{Temperature: 1, TopP: 1, MinP: 0.1},
		{Temperature: 1, TopP: 1, Typical: 0.7},
		{Temperature: 1, TopP: 0.9, FrequencyPenalty: 0.5, PresencePenalty: 0.5, Bias: map[int32]float32{1: 2, 3: -100}},
	} {
		s := sampling.New(p)
		s.Accept(1, 2, 3)
		s.Sample(work)
		s.Accept(4, 5, 6)
		// Each selection differs a little in size, so memory may grow a few times.
		if n := testing.AllocsPerRun(200, func() { copy(work, logits); s.Sample(work) }); n > 0 {
			t.Errorf("%+v: %v allocations per token", p, n)
		}
	}
}

func BenchmarkSample(b *testing.B) {
	b.Run("top-p/vocab=128000/spread=3", func(b *testing.B) {
		logits := normalLogits(128_000, 3, 1)
		s := sampling.New(sampling.Params{Temperature: 0.8, TopP: 0.95})
		b.ReportAllocs()
		for b.Loop() {
			s.Sample(logits)
		}
	})
	for _, c := range []struct {
		name string
		p    sampling.Params
	}{
		{"greedy", sampling.Params{}},
		{"temperature", sampling.Params{Temperature: 0.8, TopP: 1}},
		{"top-p", sampling.Params{Temperature: 0.8, TopP: 0.95}},
		{"top-k", sampling.Params{Temperature: 0.8, TopP: 1, TopK: 40}},
		{"top-k-p", sampling.Params{Temperature: 0.8, TopP: 0.95, TopK: 40}},
		{"min-p", sampling.Params{Temperature: 0.8, TopP: 1, MinP: 0.05}},
		{"typical", sampling.Params{Temperature: 0.8, TopP: 1, Typical: 0.9}},
	} {
		for _, spread := range []float64{0.1, 3} {
			b.Run(fmt.Sprintf("%s/vocab=32000/spread=%g", c.name, spread), func(b *testing.B) {
				logits := normalLogits(32000, spread, 1)
				s := sampling.New(c.p)
				b.ReportAllocs()
				for b.Loop() {
					s.Sample(logits)
				}
			})
		}
	}
}
