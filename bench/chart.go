package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// chart is a picture of figures over one quantity, with a panel for each unit.
type chart struct {
	title, subtitle string
	across          string    // what the values of x are
	x               []float64 // ascending
	panels          []panel
}

type panel struct {
	title, unit string
	lines       []line
}

// line has a value for each of x.
type line struct {
	name, color string
	dashed      bool
	values      []float64
}

// Colours that differ in lightness too, for those who see them alike.
const (
	grey   = "#6b7280"
	blue   = "#1d4ed8"
	orange = "#ea580c"
)

// serveChart shows what benchServe found.
func serveChart(cfg config, all []measured) chart {
	c := newChart(cfg, "Many clients, one worker", all)
	c.panels = []panel{
		{"Throughput", "tokens/s", []line{
			{"ideal: the engine alone", grey, true, medians(all, func(m measured) []float64 { return m.ideal })},
			{"hive and worker", blue, false, medians(all, func(m measured) []float64 { return m.rate })},
		}},
		{"Time between tokens", "ms", gapLines("", blue, all)},
	}
	return c
}

// urlChart shows what benchURL found: of each pair ours, then theirs.
func urlChart(cfg config, pairs [][2]measured) chart {
	var ours, theirs []measured
	for _, p := range pairs {
		ours, theirs = append(ours, p[0]), append(theirs, p[1])
	}
	c := newChart(cfg, "Many clients, two servers", ours)
	rate := func(m measured) []float64 { return m.rate }
	c.panels = []panel{
		{"Throughput", "tokens/s", []line{{"rbee", blue, false, medians(ours, rate)}, {"the other", orange, false, medians(theirs, rate)}}},
		{"Time between tokens", "ms", append(gapLines("rbee, ", blue, ours), gapLines("the other, ", orange, theirs)...)},
	}
	return c
}

func newChart(cfg config, title string, all []measured) chart {
	c := chart{title: title, across: "clients in a closed loop", subtitle: fmt.Sprintf(
		"125M parameters Q4_0, prompts of %d tokens, %d out; %s, %d CPUs, %d engine thread(s), %s",
		servePrompt, serveTokens, cpuModel(), runtime.NumCPU(), cfg.threads, time.Now().UTC().Format(time.DateOnly))}
	for _, m := range all {
		c.x = append(c.x, float64(m.clients))
	}
	return c
}

func medians(all []measured, of func(measured) []float64) (values []float64) {
	for _, m := range all {
		values = append(values, percentile(of(m), 50))
	}
	return values
}

func gapLines(whose, color string, all []measured) []line {
	p50, p99 := line{whose + "p50", color, false, nil}, line{whose + "p99", color, true, nil}
	for _, m := range all {
		p50.values = append(p50.values, percentile(m.late.gaps, 50))
		p99.values = append(p99.values, percentile(m.late.gaps, 99))
	}
	return []line{p50, p99}
}

// draw writes the chart to the file that -svg names, if it names one.
func (c config) draw(ch chart) error {
	if c.svg == "" {
		return nil
	}
	if err := os.WriteFile(c.svg, ch.svg(), 0o644); err != nil { //nolint:gosec // a picture to show
		return fmt.Errorf("cannot write the chart: %w", err)
	}
	return nil
}

// Sizes in a chart, in its own units.
const (
	chartWidth, chartHeight = 960, 450
	plotTop, plotHeight     = 150, 235
	plotLeft, plotWidth     = 70, 370 // of the first panel
	panelWidth              = 470
)

// svg draws the chart on a background of its own, so that it is legible on a
// light page and on a dark one.
func (c chart) svg() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="13" fill="#1f2937">`+"\n",
		chartWidth, chartHeight, chartWidth, chartHeight)
	fmt.Fprintf(&b, "<title>%s</title>\n<desc>%s</desc>\n", escaped(c.title), escaped(c.description()))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" rx="8" fill="#ffffff" stroke="#d1d5db"/>`+"\n", chartWidth, chartHeight)
	write(&b, 24, 36, `font-size="20" font-weight="600"`, c.title)
	write(&b, 24, 58, `font-size="12" fill="#4b5563"`, c.subtitle)
	for i, p := range c.panels {
		fmt.Fprintf(&b, `<g transform="translate(%d 0)">`+"\n", i*panelWidth)
		c.panel(&b, p)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (c chart) panel(b *bytes.Buffer, p panel) {
	const left, right, bottom = plotLeft, plotLeft + plotWidth, plotTop + plotHeight
	top := 0.0
	for _, l := range p.lines {
		top = max(top, slices.Max(l.values))
	}
	step := tick(top)
	top = step * max(1, math.Ceil(top/step))
	toX := func(v float64) float64 { return left + plotWidth*v/slices.Max(c.x) }
	toY := func(v float64) float64 { return bottom - plotHeight*v/top }

	write(b, 24, 92, `font-size="14" font-weight="600"`, p.title+", "+p.unit)
	legend(b, p.lines)
	for v := 0.0; v <= top+step/2; v += step {
		stroke := "#e5e7eb"
		if v == 0 {
			stroke = "#6b7280"
		}
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="%s"/>`+"\n", left, toY(v), right, stroke)
		write(b, left-8, toY(v)+4, `text-anchor="end" fill="#4b5563"`, strconv.FormatFloat(v, 'g', 6, 64))
	}
	for _, v := range c.x {
		fmt.Fprintf(b, `<path d="M%.1f %dv5" stroke="#6b7280"/>`+"\n", toX(v), bottom)
		write(b, toX(v), bottom+20, `text-anchor="middle" fill="#4b5563"`, strconv.FormatFloat(v, 'g', 6, 64))
	}
	write(b, left+plotWidth/2, bottom+42, `text-anchor="middle" fill="#4b5563"`, c.across)
	for _, l := range p.lines {
		var points []string
		for i, v := range l.values {
			points = append(points, fmt.Sprintf("%.1f,%.1f", toX(c.x[i]), toY(v)))
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5" stroke-linejoin="round"%s/>`+"\n",
			strings.Join(points, " "), l.color, dashes(l))
		for i, v := range l.values {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"><title>%s, %g %s: %.4g %s</title></circle>`+"\n",
				toX(c.x[i]), toY(v), l.color, escaped(l.name), c.x[i], escaped(c.across), v, escaped(p.unit))
		}
	}
}

// legend stands between the title of a panel and its plot, two lines in a row.
func legend(b *bytes.Buffer, lines []line) {
	for i, l := range lines {
		x, y := 24+i%2*210, 113+i/2*18
		fmt.Fprintf(b, `<path d="M%d %dh28" stroke="%s" stroke-width="2.5"%s/>`+"\n", x, y-4, l.color, dashes(l))
		write(b, float64(x+36), float64(y), "", l.name)
	}
}

func dashes(l line) string {
	if l.dashed {
		return ` stroke-dasharray="6 4"`
	}
	return ""
}

func write(b *bytes.Buffer, x, y float64, attributes, text string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, escaped(text))
}

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a builder takes all
	return b.String()
}

// tick is the distance of about five lines up to a value: 1, 2 or 5 times a power of ten.
func tick(top float64) float64 {
	if top <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(top/5)))
	for _, f := range []float64{1, 2, 5} {
		if f*unit*5 >= top {
			return f * unit
		}
	}
	return 10 * unit
}

// description is the chart in words, for those who do not see it.
func (c chart) description() string {
	var all []string
	for _, p := range c.panels {
		for _, l := range p.lines {
			text := fmt.Sprintf("%s, %s, %s:", p.title, p.unit, l.name)
			for i, v := range l.values {
				text += fmt.Sprintf(" %.4g at %g", v, c.x[i])
			}
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}
