package main

import (
	"fmt"
	"slices"
	"time"
)

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func row(name, format string, values []float64) []string {
	sorted := slices.Sorted(slices.Values(values))
	return []string{
		name, fmt.Sprintf(format, sorted[len(sorted)/2]),
		fmt.Sprintf(format, sorted[0]), fmt.Sprintf(format, sorted[len(sorted)-1]),
	}
}

// spread is a median with the least and the greatest value.
func spread(format string, values []float64) string {
	r := row("", format, values)
	return fmt.Sprintf("%s (%s–%s)", r[1], r[2], r[3])
}

// percentile is the smallest value that p of 100 values do not exceed; 0 of none.
func percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// latencies are those of many answers.
type latencies struct{ first, gaps []float64 } // ms

func latenciesOf(answers []answer) (l latencies) {
	l.add(answers)
	return l
}

// add leaves out the first token of an answer that broke off before it.
func (l *latencies) add(answers []answer) {
	for _, a := range answers {
		if a.first > 0 {
			l.first = append(l.first, ms(a.first))
		}
		for _, g := range a.gaps {
			l.gaps = append(l.gaps, ms(g))
		}
	}
}

// cells are the time to first token and between tokens, p50 and p99.
func (l *latencies) cells() []string {
	return []string{
		fmt.Sprintf("%.0f / %.0f", percentile(l.first, 50), percentile(l.first, 99)),
		fmt.Sprintf("%.1f / %.1f", percentile(l.gaps, 50), percentile(l.gaps, 99)),
	}
}

// flatness is the median of the last quarter of a series over that of its
// second quarter: the first one warms up. It is 0 for a series too short to tell.
func flatness(series []float64) float64 {
	quarter := len(series) / 4
	if quarter == 0 {
		return 0
	}
	return percentile(series[len(series)-quarter:], 50) / percentile(series[quarter:2*quarter], 50)
}
