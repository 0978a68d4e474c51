package llamacpp

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

func TestLookupFindsWhatFollowedTheLongestMatch(t *testing.T) {
	for _, c := range []struct {
		name string
		text []engine.Token
		want int
	}{
		{"nothing", nil, -1},
		{"one token", []engine.Token{1}, -1},
		{"no match", []engine.Token{1, 2, 3, 4, 5, 6}, -1},
		{"two tokens are too few", []engine.Token{9, 2, 3, 7, 8, 2, 3}, -1},
		{"three tokens", []engine.Token{1, 2, 3, 7, 8, 1, 2, 3}, 3},
		{"the last of equals", []engine.Token{1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3}, 7},
		{"the longer of two", []engine.Token{0, 1, 2, 3, 7, 9, 1, 2, 3, 8, 0, 1, 2, 3}, 4},
		{"a loop", []engine.Token{5, 5, 5, 5}, 3},
	} {
		if got := lookup(c.text); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// draftCost runs a text against a drafter and returns the time in steps that it
// took, of one for each token without drafts.
func draftCost(text []engine.Token, from int, cost float64) (steps float64, drafted, accepted int) {
	var d drafter
	price := func(_, more int) float64 { return cost * float64(more) }
	for at := from; at < len(text); {
		draft := d.propose(text[:at], 1, len(text)-at-1, price, nil)
		right := 0
		for right < len(draft) && draft[right] == text[at+right] {
			right++
		}
		if len(draft) > 0 {
			d.learn(len(draft), right)
		}
		steps += 1 + cost*float64(len(draft))
		drafted += len(draft)
		accepted += right
		at += right + 1
	}
	return steps, drafted, accepted
}

func TestDraftsNeverCostMuchAndSaveMuchWhereTextsRepeat(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	misleading := make([]engine.Token, 2000) // the same three tokens again and again, each time with another one after
	for i := range misleading {
		misleading[i] = engine.Token(i % 4)
		if i%4 == 3 {
			misleading[i] = random.Int32N(1000)
		}
	}
	free := make([]engine.Token, 2000)
	for i := range free {
		free[i] = random.Int32N(50)
	}
	edit := slices.Concat(free[:1000], free[:1000])
	for i := 1000; i < 2000; i += 37 {
		edit[i] = 77
	}
	for _, c := range []struct {
		name  string
		text  []engine.Token
		cost  float64
		least float64 // times as fast as without
	}{
		{"free text", free, 0.5, 0.97},
		{"text that misleads", misleading, 0.5, 0.97},
		{"text that misleads, beside others", misleading, 0.95, 0.97},
		{"a text that is edited", edit, 0.4, 1.5},
		{"a text that is edited, on a fast device", edit, 0.05, 4},
	} {
		steps, drafted, accepted := draftCost(c.text, 1000, c.cost)
		if speed := 1000 / steps; speed < c.least {
			t.Errorf("%s: %.3f times as fast, want %.2f; %d of %d came true", c.name, speed, c.least, accepted, drafted)
		}
	}
}

func TestThePriceOfRowsIsLearned(t *testing.T) {
	var times stepTimes
	if got := times.price(1, 1); math.Abs(got-guessedRow) > 1e-9 {
		t.Errorf("unknown, a row costs %v", got)
	}
	for i := range 200 {
		rows := 1 + i%8
		times.learn(rows, 0.002+0.001*float64(rows))
	}
	times.learn(1, 10) // stood still
	for i := range 40 {
		times.learn(1, 0.009) // the machine is three times as slow
		if i%20 == 19 {
			times.learn(5, 0.021)
		}
	}
	for _, c := range []struct {
		rows, more int
		want       float64
	}{{2, 1, 0.5}, {2, 2, 1}, {4, 4, 8.0 / 3}} {
		if got := times.price(c.rows, c.more); math.Abs(got-c.want) > 0.01 {
			t.Errorf("beside %d rows %d more cost %.3f tokens, want %.3f", c.rows, c.more, got, c.want)
		}
	}
	if got := times.price(8, 8); got <= 0 || got > 20 {
		t.Errorf("steps that were never seen cost %v", got)
	}
}

func TestDraftsFillBlocksOfRows(t *testing.T) {
	for _, c := range [][4]int{
		// rows, wanted, limit, got
		{1, 3, 16, 3}, {1, 2, 16, 3}, {1, 2, 2, 2}, {1, 8, 16, 7}, {3, 3, 16, 1}, {4, 3, 16, 4}, {7, 16, 16, 13}, {1, 0, 0, 0}, {2, 1, 1, 1},
	} {
		if got := aligned(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("beside %d rows %d of at most %d are %d, want %d", c[0], c[1], c[2], got, c[3])
		}
	}
}

func TestDraftsChangeNothingButTheSpeed(t *testing.T) {
	e := loadTiny(t, nil)
	plain := loadTiny(t, func(o *engine.Options) { o.DraftTokens = -1 })
	// A prompt after which bee-tiny says the same again and again.
	loop, err := e.Tokenize(strings.Repeat("bee ", 30), true)
	if err != nil {
		t.Fatal(err)
	}
	drafted := 0
	for name, r := range map[string]engine.Request{
		"greedy":    {Tokens: words(t, e, 80, 100, "sun"), MaxTokens: 120, IgnoreEOS: true},
		"a loop":    {Tokens: loop[:21], MaxTokens: 150, IgnoreEOS: true},
		"to an end": {Tokens: words(t, e, 120, 121, "sun"), MaxTokens: 300},
		"seeded": {
			Tokens: words(t, e, 80, 100, "sun"), MaxTokens: 120, IgnoreEOS: true,
			Sampling: sampling.Params{Temperature: 0.3, TopP: 0.9, Seed: 3, RepetitionPenalty: 1.05},
		},
		"with probabilities": {Tokens: words(t, e, 80, 100, "sun"), MaxTokens: 60, IgnoreEOS: true, Logprobs: true, TopLogprobs: 2},
	} {
		got, tokens := ask(t, e, r)
		want, wanted := ask(t, plain, r)
		if !slices.Equal(tokens, wanted) || got.Reason != want.Reason {
			t.Errorf("%s: with drafts %q, without %q", name, e.Detokenize(tokens), e.Detokenize(wanted))
		}
		if got.AcceptedTokens > got.DraftTokens || want.DraftTokens != 0 {
			t.Errorf("%s: %+v, without drafts %+v", name, got, want)
		}
		drafted += got.AcceptedTokens
	}
	if s := e.Stats(); drafted == 0 || int(s.AcceptedTokens) != drafted || s.DraftTokens < s.AcceptedTokens {
		t.Errorf("%d drafted tokens came true, the stats are %+v", drafted, s)
	}
}

func TestRowsAreAddedWhereThatMakesAStepShorter(t *testing.T) {
	for _, c := range []struct {
		name     string
		rows     int
		without  float64
		with     float64
		expected int
	}{
		{"shorter", 3, 0.008, 0.006, 1},
		{"shorter, two rows", 14, 0.027, 0.025, 2},
		{"shorter, three rows", 5, 0.008, 0.006, 0},
		{"as long", 3, 0.008, 0.008, 0},
		{"not known without", 3, 0, 0.006, 0},
		{"not known with", 3, 0.008, 0, 1},
		{"a whole block", 4, 0.008, 0.006, 0},
		{"the last that is learned", mostRows - 1, 0.008, 0.006, 1},
	} {
		var times stepTimes
		times.shape[(c.rows+3)/4*4], times.shape[c.rows] = c.with, c.without
		if got := times.padding(c.rows); got != c.expected {
			t.Errorf("%s: %d rows are added, want %d", c.name, got, c.expected)
		}
	}
}
