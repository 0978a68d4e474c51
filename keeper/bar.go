package keeper

import (
	"fmt"
	"time"

	"charm.land/bubbles/v2/progress"
	"charm.land/lipgloss/v2"
)

const (
	barWidth = 30
	// redrawEvery bounds how often a terminal is redrawn.
	redrawEvery = 40 * time.Millisecond
	// quarter is the step of the plain lines that stand in for a bar.
	quarter = 25
)

// bar shows how far something long is: a bar that is drawn over on a terminal,
// a plain line per quarter elsewhere, events with --json. It is for one goroutine.
type bar struct {
	out     *output
	phase   int
	label   string
	unit    string
	drawn   bool
	last    time.Time
	quarter int // the last quarter that was told
	view    progress.Model
}

// progressEvent is the JSON form of a bar's step.
type progressEvent struct {
	Event string `json:"event"`
	Phase int    `json:"phase,omitempty"`
	Label string `json:"label"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Unit  string `json:"unit"`
}

func (o *output) bar(phase int, label, unit string) *bar {
	b := &bar{out: o, phase: phase, label: label, unit: unit, quarter: -1}
	b.view = progress.New(progress.WithWidth(barWidth), progress.WithoutPercentage(), progress.WithColors(lipgloss.Color("3")))
	b.view.EmptyColor = lipgloss.Color("8")
	return b
}

// set shows a step. A total of 0 or less means that the end is not known.
func (b *bar) set(done, total int64) {
	percent := 0
	if total > 0 {
		done = min(max(done, 0), total)
		percent = int(100 * done / total)
	}
	if b.out.terminal && !b.out.json {
		b.draw(done, total)
		return
	}
	if percent/quarter == b.quarter {
		return
	}
	b.quarter = percent / quarter
	switch {
	case b.out.json:
		b.out.emit(progressEvent{Event: "progress", Phase: b.phase, Label: b.label, Done: done, Total: total, Unit: b.unit})
	case total > 0:
		b.out.note("  %s: %d%% (%s)", b.label, percent, b.amount(done, total))
	default:
		b.out.note("  %s", b.label)
	}
}

func (b *bar) draw(done, total int64) {
	now := time.Now()
	if b.drawn && done < total && now.Sub(b.last) < redrawEvery {
		return
	}
	b.drawn, b.last = true, now
	if total <= 0 {
		fmt.Fprintf(b.out.stderr, "\r\x1b[K  %s %s", b.label, b.amount(done, total))
		return
	}
	picture := b.view.ViewAs(float64(done) / float64(total))
	if !b.out.styles.coloured {
		picture = plainBar(done, total)
	}
	fmt.Fprintf(b.out.stderr, "\r\x1b[K  %s %s %s", b.label, picture, b.amount(done, total))
}

// plainBar is the bar for people who want no colours.
func plainBar(done, total int64) string {
	full := int(barWidth * done / total)
	cells := make([]rune, barWidth)
	for i := range cells {
		cells[i] = '░'
		if i < full {
			cells[i] = '█'
		}
	}
	return string(cells)
}

func (b *bar) amount(done, total int64) string {
	if b.unit == "bytes" {
		if total <= 0 {
			return megabytes(done)
		}
		return megabytes(done) + " of " + megabytes(total)
	}
	return fmt.Sprintf("%d/%d %s", done, total, b.unit)
}

// clear takes the bar off the terminal.
func (b *bar) clear() {
	if b.drawn {
		fmt.Fprint(b.out.stderr, "\r\x1b[K")
		b.drawn = false
	}
}
