package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func measuredFor(t *testing.T, clients int, gap time.Duration) measured {
	t.Helper()
	m := measured{clients: clients, ideal: []float64{100, 300, 200}, rate: []float64{90, 95, 99}}
	m.late.add([]answer{{first: gap, gaps: []time.Duration{gap, 10 * gap}}})
	return m
}

func TestAChartIsWellFormedAndShowsEachLine(t *testing.T) {
	ours := []measured{measuredFor(t, 1, time.Millisecond), measuredFor(t, 16, time.Second)}
	pairs := [][2]measured{{ours[0], ours[1]}, {ours[1], ours[0]}}
	nothing := urlChart(config{}, pairs)
	for i := range nothing.panels {
		for j := range nothing.panels[i].lines {
			nothing.panels[i].lines[j].values = []float64{0, 0}
		}
	}
	hostile := serveChart(config{}, ours)
	hostile.title = `<script>"a" & 'b'</script>`
	for name, c := range map[string]struct {
		chart
		lines int
	}{
		"serve": {serveChart(config{threads: 1}, ours), 4}, "url": {urlChart(config{}, pairs), 6},
		"no values": {nothing, 6}, "a title with markup": {hostile, 4},
	} {
		t.Run(name, func(t *testing.T) {
			svg := c.svg()
			got := map[string]int{}
			for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%v in\n%s", err, svg)
				}
				if e, ok := token.(xml.StartElement); ok {
					got[e.Name.Local]++
				}
			}
			if got["svg"] != 1 || got["polyline"] != c.lines || got["circle"] != 2*c.lines || got["script"] != 0 {
				t.Errorf("got the elements %v", got)
			}
			for _, never := range []string{"NaN", "Inf"} {
				if strings.Contains(string(svg), never) {
					t.Errorf("the chart has %s", never)
				}
			}
		})
	}
}

func TestAChartShowsMedians(t *testing.T) {
	c := serveChart(config{}, []measured{measuredFor(t, 1, time.Millisecond)})
	text := c.description()
	for _, want := range []string{"the engine alone: 200 at 1", "hive and worker: 95 at 1", "p50: 1 at 1", "p99: 10 at 1"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
}

func TestAxesHaveAFewRoundTicks(t *testing.T) {
	for top, want := range map[float64]float64{0: 1, 0.3: 0.1, 5: 1, 6: 2, 24: 5, 26: 10, 281: 100, 1000: 200, 1001: 500} {
		if got := tick(top); got < want*0.999 || got > want*1.001 {
			t.Errorf("up to %g: got steps of %g, want %g", top, got, want)
		}
	}
}

func TestAChartIsWrittenWhereAskedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.svg")
	c := serveChart(config{}, []measured{measuredFor(t, 1, time.Millisecond)})
	if err := (config{svg: path}).draw(c); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != string(c.svg()) {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	if err := (config{}).draw(c); err != nil {
		t.Errorf("no chart is wanted, and got %v", err)
	}
	if err := (config{svg: filepath.Join(path, "b.svg")}).draw(c); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}
