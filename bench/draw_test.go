package main

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"
)

func TestArrivalsAreAPoissonProcessOfTheSeed(t *testing.T) {
	const perSecond, span = 5, 2000 * time.Second
	at := newLetters(7).arrivals(perSecond, span)
	if !slices.Equal(at, newLetters(7).arrivals(perSecond, span)) {
		t.Error("one seed gives two schedules")
	}
	if slices.Equal(at, newLetters(8).arrivals(perSecond, span)) {
		t.Error("two seeds give one schedule")
	}
	if !slices.IsSorted(at) || at[0] < 0 || at[len(at)-1] >= span {
		t.Error("the times are not in order, or not in their span")
	}
	// As many in a second as any, and as far from one another as those of no memory:
	// mean and standard deviation of the gaps are the same.
	var sum, squares float64
	for i := 1; i < len(at); i++ {
		gap := (at[i] - at[i-1]).Seconds()
		sum, squares = sum+gap, squares+gap*gap
	}
	n := float64(len(at) - 1)
	mean := sum / n
	if dev := math.Sqrt(squares/n - mean*mean); math.Abs(mean*perSecond-1) > 0.05 || math.Abs(dev*perSecond-1) > 0.05 {
		t.Errorf("gaps have mean %g and deviation %g, want %g of both", mean, dev, 1.0/perSecond)
	}
}

func TestPromptsAreNewAndAsLongAsAskedFor(t *testing.T) {
	texts := newLetters(1)
	seen := map[string]bool{}
	for _, source := range []letters{texts, texts.split(), texts.split()} {
		for _, prompts := range source.clients(3, 2, 128) {
			for _, p := range prompts {
				if len(p) != 127 || seen[p] { // one token begins the text
					t.Errorf("got %q, seen before: %t", p, seen[p])
				}
				seen[p] = true
			}
		}
	}
	if len(seen) != 18 {
		t.Errorf("got %d prompts, want 18", len(seen))
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wait(ctx, time.Hour)
}

func TestRatesArePartsOfTheCapacity(t *testing.T) {
	if got, err := parseRates("0.5, 0.8"); err != nil || !slices.Equal(got, []float64{0.5, 0.8}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "0", "-1", "NaN", "+Inf", "11", "half", "0.5,"} {
		if got, err := parseRates(bad); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

func TestASoakSendsEverythingAndTheSameForASeed(t *testing.T) {
	kinds := map[string]int{}
	bad := map[string]bool{}
	a, b := newLetters(3), newLetters(3)
	for range 2000 {
		x, y := drawTask(a, "m"), drawTask(b, "m")
		if x.path != y.path || string(x.body) != string(y.body) || x.leave != y.leave || x.hurry != y.hurry {
			t.Fatal("one seed gives two requests")
		}
		count := func(kind string, is bool) {
			if is {
				kinds[kind]++
			}
		}
		count("bad", x.bad)
		count("leaves in the text", x.leave > 0)
		count("leaves early", x.hurry > 0)
		count("stop strings", x.stops != nil)
		count("streams", x.stream)
		count("whole", !x.stream && !x.bad)
		count("chat", !x.bad && x.path == "/v1/chat/completions")
		if x.bad {
			bad[x.path+string(x.body[:min(40, len(x.body))])] = true
			continue
		}
		var body struct {
			Prompt    string
			Messages  []any
			MaxTokens int `json:"max_tokens"`
		}
		if err := json.Unmarshal(x.body, &body); err != nil || (body.Prompt == "") == (len(body.Messages) == 0) {
			t.Fatalf("got the body %s, %v", x.body, err)
		}
		if n := len(body.Prompt) + body.MaxTokens; n > soakSpace-50 || body.MaxTokens != x.tokens || x.tokens < 1 || x.leave >= x.tokens && x.leave > 0 {
			t.Fatalf("a prompt and answer of %d tokens, of which %d are to come", n, x.tokens)
		}
	}
	for kind, n := range kinds {
		if n < 20 {
			t.Errorf("only %d of 2000 requests: %s", n, kind)
		}
	}
	if len(kinds) != 7 || len(bad) < 15 {
		t.Errorf("got the kinds %v and %d bad requests", kinds, len(bad))
	}
}
