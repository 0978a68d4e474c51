package main

import (
	"slices"
	"testing"
	"time"
)

func TestPercentilesAreValuesThatOccurred(t *testing.T) {
	values := make([]float64, 200)
	for i := range values {
		values[i] = float64(200 - i)
	}
	if a, b := percentile(values, 50), percentile(values, 99); a != 100 || b != 198 {
		t.Errorf("got %g and %g, want 100 and 198", a, b)
	}
	if a, b := percentile([]float64{7}, 50), percentile([]float64{7}, 99); a != 7 || b != 7 {
		t.Errorf("one value has the percentiles %g and %g", a, b)
	}
}

func TestFiguresLeaveTheirValuesInOrder(t *testing.T) {
	values := []float64{3, 1, 2}
	if got := spread("%.0f", values); got != "2 (1–3)" {
		t.Errorf("got %s", got)
	}
	if percentile(values, 50) != 2 || !slices.Equal(values, []float64{3, 1, 2}) {
		t.Errorf("the values became %v", values)
	}
}

func TestMemoryIsJudgedByTheLastQuarterToTheSecond(t *testing.T) {
	steps := func(quarters ...float64) (series []float64) {
		for _, q := range quarters {
			series = append(series, q, q, q*100) // one that is far out does not count
		}
		return series
	}
	for name, c := range map[string]struct {
		series []float64
		want   float64
	}{
		"flat":                  {steps(8, 8, 8, 8), 1},
		"only warms up":         {steps(1, 8, 8, 8), 1},
		"grows":                 {steps(8, 8, 10, 12), 1.5},
		"goes back":             {steps(8, 8, 80, 8), 1},
		"a rest at the end":     {append(steps(8, 8, 8, 16), 16), 2},
		"too short to tell":     {[]float64{1, 2, 3}, 0},
		"nothing was looked at": {nil, 0},
	} {
		if got := flatness(c.series); got != c.want {
			t.Errorf("%s: got %g, want %g", name, got, c.want)
		}
	}
}

func TestAMixtureIsJudgedByItsKinds(t *testing.T) {
	of := func(first int, gaps ...int) answer {
		a := answer{first: time.Duration(first) * time.Millisecond}
		for _, g := range gaps {
			a.gaps = append(a.gaps, time.Duration(g)*time.Millisecond)
		}
		return a
	}
	m := mixture{
		prefill: time.Second, took: 2 * time.Second,
		alone: []answer{of(50)}, short: []answer{of(75), of(100), of(1000)}, long: []answer{of(3000), {}},
		streams: []answer{of(9, 10, 10, 10), of(0, 25)},
	}
	want := map[string]float64{
		"ratio (goal at most 2)":                 2, // the second one, of the short requests
		"ratio":                                  3,
		"tokens/s of the streams":                2.5,
		"long prompts computed":                  1,
		"between tokens of the streams, p99, ms": 25,
	}
	got := map[string]float64{}
	for _, f := range m.figures() {
		got[f.name] = f.value
	}
	for name, v := range want {
		if got[name] != v {
			t.Errorf("%s: got %g, want %g", name, got[name], v)
		}
	}
}
