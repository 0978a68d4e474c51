package llamacpp_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee/internal/engines/enginestest"
	"rbee/worker/engine/llamacpp"
	"rbee/worker/engine/sampling"
)

// openLibraries makes llama.cpp's functions callable.
func openLibraries(t testing.TB) {
	t.Helper()
	if _, err := llamacpp.Devices(enginestest.LibDir(t), nil); err != nil {
		t.Fatal(err)
	}
}

// chain is llama.cpp's default chain with the filters that are on.
func chain(t testing.TB, p sampling.Params, vocab int, last []int32) llama.Sampler {
	t.Helper()
	c := llama.SamplerChainInit(llama.SamplerChainDefaultParams())
	t.Cleanup(func() { llama.SamplerFree(c) })
	add := func(on bool, sampler func() llama.Sampler) {
		if on {
			llama.SamplerChainAdd(c, sampler())
		}
	}
	var bias []llama.LogitBias
	for token, b := range p.Bias {
		bias = append(bias, llama.LogitBias{Token: llama.Token(token), Bias: b})
	}
	add(bias != nil, func() llama.Sampler {
		return llama.SamplerInitLogitBias(int32(vocab), int32(len(bias)), &bias[0])
	})
	add(p.RepetitionPenalty > 0 || p.FrequencyPenalty != 0 || p.PresencePenalty != 0, func() llama.Sampler {
		repeat := max(p.RepetitionPenalty, 0)
		if repeat == 0 {
			repeat = 1
		}
		return llama.SamplerInitPenalties(int32(vocab), sampling.DefaultPenaltyWindow, float32(repeat), float32(p.FrequencyPenalty), float32(p.PresencePenalty))
	})
	add(p.TopK > 0, func() llama.Sampler { return llama.SamplerInitTopK(int32(p.TopK)) })
	add(p.Typical > 0, func() llama.Sampler { return llama.SamplerInitTypical(float32(p.Typical), 1) })
	add(p.TopP < 1, func() llama.Sampler { return llama.SamplerInitTopP(float32(p.TopP), 1) })
	add(p.MinP > 0, func() llama.Sampler { return llama.SamplerInitMinP(float32(p.MinP), 1) })
	llama.SamplerChainAdd(c, llama.SamplerInitTemp(float32(p.Temperature)))
	for _, token := range last {
		llama.SamplerAccept(c, llama.Token(token))
	}
	return c
}

// fillCandidates makes of logits what llama.cpp's samplers work on.
func fillCandidates(data []llama.TokenData, logits []float32) llama.TokenDataArray {
	for i, l := range logits {
		data[i] = llama.TokenData{Id: llama.Token(i), Logit: l}
	}
	return llama.TokenDataArray{Data: &data[0], Size: uint64(len(data)), Selected: -1}
}

// chainDistribution is the probability of each token after the chain, which
// leaves logits at its temperature.
func chainDistribution(t testing.TB, p sampling.Params, logits []float32, last []int32) []float64 {
	t.Helper()
	data := make([]llama.TokenData, len(logits))
	array := fillCandidates(data, logits)
	llama.SamplerApply(chain(t, p, len(logits), last), &array)
	if array.Data != &data[0] {
		t.Fatal("the chain moved the candidates")
	}
	kept := data[:array.Size]
	top := math.Inf(-1)
	for _, c := range kept {
		top = max(top, float64(c.Logit))
	}
	out, total := make([]float64, len(logits)), 0.0
	for _, c := range kept {
		out[c.Id] = math.Exp(float64(c.Logit) - top)
		total += out[c.Id]
	}
	for i := range out {
		out[i] /= total
	}
	return out
}

func randomLogits(n int, spread float64, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64() * spread)
	}
	return out
}

// draws is how often each case draws: RBEE_TEST_DRAWS, or 30,000, with which
// all the cases together draw about a million times.
func draws(t *testing.T) int {
	n := 30_000
	if s := os.Getenv("RBEE_TEST_DRAWS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// The seeds are fixed, so each run draws the same. llama.cpp counts in 32 bits,
// which moves the border of a selection only if it falls between two tokens by
// less than that; it does not with these logits.
func TestTheSamplerHasTheDistributionOfLlamaCppsChain(t *testing.T) {
	openLibraries(t)
	last := []int32{3, 9, 9, 27, 3, 3}
	cases := map[string]sampling.Params{
		"temperature":         {Temperature: 0.8, TopP: 1},
		"high temperature":    {Temperature: 2, TopP: 1},
		"top-k":               {Temperature: 1, TopP: 1, TopK: 40},
		"top-p":               {Temperature: 0.8, TopP: 0.95},
		"min-p":               {Temperature: 1.2, TopP: 1, MinP: 0.05},
		"typical":             {Temperature: 1, TopP: 1, Typical: 0.7},
		"typical and top-p":   {Temperature: 0.9, TopP: 0.9, Typical: 0.9},
		"top-k and typical":   {Temperature: 1, TopP: 1, TopK: 30, Typical: 0.8},
		"repetition":          {Temperature: 1, TopP: 0.9, RepetitionPenalty: 1.5},
		"frequency":           {Temperature: 1, TopP: 0.9, FrequencyPenalty: 0.7},
		"presence":            {Temperature: 1, TopP: 1, PresencePenalty: 1.5, TopK: 50},
		"negative penalties":  {Temperature: 1, TopP: 1, FrequencyPenalty: -0.5, PresencePenalty: -1},
		"bias":                {Temperature: 1, TopP: 0.95, Bias: map[int32]float32{5: 4, 6: -3, 7: 1.5}},
		"everything together": {Temperature: 0.7, TopP: 0.95, TopK: 60, Typical: 0.95, MinP: 0.02, RepetitionPenalty: 1.2, FrequencyPenalty: 0.3, PresencePenalty: 0.4, Bias: map[int32]float32{1: 2}},
	}
	for name, p := range cases {
		for i, logits := range [][]float32{randomLogits(300, 2, 1), randomLogits(1000, 0.5, 2), randomLogits(2000, 4, 3)} {
			t.Run(fmt.Sprintf("%s/%d", name, i), func(t *testing.T) {
				p.Seed = uint64(i + 1)
				agree(t, p, logits, last, draws(t))
			})
		}
	}
}

// agree draws n times and compares with llama.cpp's distribution by the
// chi-square of what is expected at least 10 times; the rest is one class.
func agree(t *testing.T, p sampling.Params, logits []float32, last []int32, n int) {
	t.Helper()
	want := chainDistribution(t, p, logits, last)
	s := sampling.New(p)
	s.Sample(slices.Clone(logits)) // from here on tokens belong to the answer
	s.Accept(last...)
	got, work := make([]int, len(logits)), make([]float32, len(logits))
	for range n {
		copy(work, logits)
		token, _ := s.Sample(work)
		got[token]++
	}
	stat, classes := 0.0, -1
	rareWant, rareGot := 0.0, 0.0
	for token, w := range want {
		expected, found := w*float64(n), float64(got[token])
		switch {
		case w == 0 && found > 0:
			t.Fatalf("token %d was drawn, which the chain drops", token)
		case expected < 10:
			rareWant += expected
			rareGot += found
		default:
			stat += (found - expected) * (found - expected) / expected
			classes++
		}
	}
	if rareWant >= 10 {
		stat += (rareGot - rareWant) * (rareGot - rareWant) / rareWant
		classes++
	}
	// The mean of a chi-square is its degrees of freedom, the variance twice that.
	if limit := float64(classes) + 4*math.Sqrt(2*float64(classes)) + 4; stat > limit {
		t.Errorf("chi-square is %.1f with %d degrees of freedom, more than %.1f", stat, classes, limit)
	}
}

// BenchmarkAgainstTheChain picks a token for each of eight slots with
// temperature 0.8 and top-p 0.95 out of 128,000, with llama.cpp's chain and
// with the sampler, in turns, on one thread.
func BenchmarkAgainstTheChain(b *testing.B) {
	openLibraries(b)
	const slots, vocab = 8, 128_000
	p := sampling.Params{Temperature: 0.8, TopP: 0.95, Seed: 1}
	c := chain(b, p, vocab, nil)
	llama.SamplerChainAdd(c, llama.SamplerInitDist(1))
	data := make([]llama.TokenData, vocab)
	var rows [slots][]float32
	for i := range rows {
		rows[i] = randomLogits(vocab, 3, uint64(i))
	}
	s := sampling.New(p)
	var theirs, ours []time.Duration
	for b.Loop() {
		start := time.Now()
		for _, logits := range rows {
			array := fillCandidates(data, logits)
			llama.SamplerApply(c, &array)
		}
		middle := time.Now()
		for _, logits := range rows {
			s.Sample(logits)
		}
		theirs = append(theirs, middle.Sub(start))
		ours = append(ours, time.Since(middle))
	}
	median := func(turns []time.Duration) float64 {
		slices.Sort(turns)
		return turns[len(turns)/2].Seconds() * 1000
	}
	b.ReportMetric(median(theirs), "chain-ms/step")
	b.ReportMetric(median(ours), "sampler-ms/step")
	b.ReportMetric(median(theirs)/median(ours), "ratio")
}
