package llamacpp

import (
	"math"
	"math/rand/v2"
	"testing"
)

// worthCost runs answers of so many tokens against a draft model whose guesses come
// true with the chance of the moment, and returns the time that they took in steps
// of one row. Guesses that are surer come true more often.
func worthCost(w *worth, answers, tokens int, chance func(token int) float64, row, step, reading float64) (steps float64, guesses int) {
	random := rand.New(rand.NewPCG(1, 2))
	for range answers {
		unread := reading
		for made := 0; made < tokens; {
			o := offer{
				streams: 1, limit: min(maxDraft, tokens-made-1), left: tokens - made, token: 1, reading: unread,
				rows: func(n int) float64 { return row * float64(n) },
				step: func(int) float64 { return step },
			}
			steps++
			made++
			if o.limit < 1 {
				continue
			}
			guess, trial := w.plan(o)
			if !guess {
				continue
			}
			var sure []int
			cost, accepted, right, all := unread+step, 0, true, 1.0
			for {
				s := random.IntN(sureness)
				all *= w.rates[s]
				if !trial && !w.keeps(o, all) {
					break
				}
				sure = append(sure, s)
				cost += row
				likely := chance(made) * (0.5 + float64(s)/(sureness-1))
				if right = right && random.Float64() < likely; right {
					accepted++
				}
				if len(sure) == o.limit || trial && len(sure) == trialGuesses || !trial && !w.goesOn(o, []float64{all}) {
					break
				}
				cost += step
			}
			unread = 0
			w.spend(cost)
			if len(sure) > 0 {
				w.learn(sure, accepted, o.token)
			}
			steps += cost
			made += accepted
			guesses += len(sure)
		}
	}
	return steps, guesses
}

func TestADraftModelSavesTimeWhereItCanAndCostsLittleWhereNot(t *testing.T) {
	always := func(p float64) func(int) float64 { return func(int) float64 { return p } }
	for _, c := range []struct {
		name            string
		answers, tokens int
		chance          func(int) float64
		row, step, read float64
		least           float64 // times as fast as without
	}{
		{"a good one", 4, 500, always(0.85), 0.1, 0.1, 10, 1.7},
		{"a good one, on a device where rows cost nothing", 4, 500, always(0.85), 0.01, 0.05, 1, 2.5},
		{"a fair one", 4, 500, always(0.5), 0.1, 0.1, 10, 1.1},
		{"one that guesses nothing", 4, 500, always(0), 0.2, 0.1, 10, 0.97},
		{"one that is as slow as the model", 4, 500, always(0.95), 0.2, 1, 50, 0.97},
		{"where each row costs a step", 4, 500, always(0.9), 1, 0.05, 10, 0.97},
		{"short answers after long prompts", 50, 10, always(0.9), 0.1, 0.1, 40, 0.94},
		{"texts that become another kind", 1, 4000, func(n int) float64 { return float64(n / 2000) }, 0.1, 0.1, 10, 1.3},
	} {
		steps, guesses := worthCost(&worth{}, c.answers, c.tokens, c.chance, c.row, c.step, c.read)
		if speed := float64(c.answers*c.tokens) / steps; speed < c.least {
			t.Errorf("%s: %.3f times as fast, want %.2f, with %d guesses", c.name, speed, c.least, guesses)
		}
	}
}

func TestADraftThatFailsIsAskedEverMoreRarely(t *testing.T) {
	w := &worth{}
	_, first := worthCost(w, 1, 500, func(int) float64 { return 0 }, 0.1, 0.01, 0)
	_, later := worthCost(w, 1, 5000, func(int) float64 { return 0 }, 0.1, 0.01, 0)
	if first == 0 || later > 60 || w.rate > 0.05 {
		t.Errorf("%d guesses in 500 tokens and %d in 5000 more, the rate is %.3f", first, later, w.rate)
	}
}

func TestHowSureADraftIsFollowsFromItsLogits(t *testing.T) {
	inf := float32(math.Inf(-1))
	nan := float32(math.NaN())
	for _, c := range []struct {
		name   string
		logits []float32
		token  int
		sure   int
	}{
		{"all alike", []float32{1, 1, 1}, 0, 0},
		{"one stands out", []float32{1, 9, 2}, 1, sureness - 1},
		{"two compete", []float32{0, 5, 6}, 2, 1},
		{"only one is possible", []float32{inf, inf, 3}, 2, sureness - 1},
		{"none is possible", []float32{inf, inf}, 0, 0},
		{"some are no numbers", []float32{nan, 4, nan, 1}, 1, 4},
	} {
		if token, sure := surest(c.logits); token != c.token || sure != c.sure {
			t.Errorf("%s: token %d with %d, want %d with %d", c.name, token, sure, c.token, c.sure)
		}
	}
}
