package keeper

import (
	"fmt"
	"strings"
	"time"

	"charm.land/bubbles/v2/progress"
	"charm.land/lipgloss/v2"
)

const (
	barWidth = 30
	// narrowBar is the least that a bar is worth drawing with.
	narrowBar = 10
	// redrawEvery bounds how often a terminal is redrawn.
	redrawEvery = 40 * time.Millisecond
	// quarter is the step, in percent, of the plain lines that stand in for a bar.
	quarter = 25
	// settling is how long a bar watches before it says how fast it goes.
	settling = time.Second
)

// bar shows how far something long is: a bar that is drawn over on a terminal,
// a plain line per quarter elsewhere, an event per percent with --json. It is
// for one goroutine.
type bar struct {
	out   *output
	phase int
	label string
	unit  string // "bytes", what is counted, or "" where only the label tells something
	view  progress.Model
	drawn bool
	last  time.Time
	step  int // the last quarter or percent that was told

	began      time.Time // of the first step that is known to be of several
	beganBytes int64
}

// pace is how fast something goes. What is zero is not known.
type pace struct {
	mbps        float64
	left        time.Duration
	connections int
}

// progressEvent is the JSON form of a bar's step.
type progressEvent struct {
	Event       string  `json:"event"`
	Phase       int     `json:"phase,omitempty"`
	Label       string  `json:"label"`
	Done        int64   `json:"done"`
	Total       int64   `json:"total"`
	Unit        string  `json:"unit"`
	SpeedMBps   float64 `json:"speed_mbps,omitempty"`
	ETASeconds  float64 `json:"eta_seconds,omitempty"`
	Connections int     `json:"connections,omitempty"`
}

func (o *output) bar(phase int, label, unit string) *bar {
	b := &bar{out: o, phase: phase, label: label, unit: unit, step: -1}
	b.view = progress.New(progress.WithWidth(barWidth), progress.WithoutPercentage(), progress.WithColors(lipgloss.Color("3")))
	b.view.EmptyColor = lipgloss.Color("8")
	return b
}

// relabel says that the work is another now.
func (b *bar) relabel(label, unit string) {
	if b.label != label {
		b.label, b.unit = label, unit
		b.restart()
	}
}

// restart says that the same work begins with the next thing.
func (b *bar) restart() {
	b.step, b.last, b.began = -1, time.Time{}, time.Time{}
}

// set shows a step. A total of 0 or less means that the end is not known.
func (b *bar) set(done, total int64) { b.setPace(done, total, b.estimate(done, total)) }

// estimate is the pace since the first step, for work that does not know its own.
func (b *bar) estimate(done, total int64) pace {
	if b.unit != "bytes" || !b.out.terminal {
		return pace{}
	}
	if b.began.IsZero() {
		b.began, b.beganBytes = time.Now(), done
	}
	took := time.Since(b.began)
	if took < settling || done == b.beganBytes {
		return pace{}
	}
	perSecond := float64(done-b.beganBytes) / took.Seconds()
	return pace{mbps: perSecond / 1e6, left: time.Duration(float64(max(total-done, 0)) / perSecond * float64(time.Second))}
}

// setPace is set for work that knows its pace.
func (b *bar) setPace(done, total int64, p pace) {
	percent := 0
	if total > 0 {
		done = min(max(done, 0), total)
		percent = int(100 * done / total)
	}
	if b.out.terminal && !b.out.json {
		b.draw(done, total, p)
		return
	}
	step := percent
	if !b.out.json {
		step = percent / quarter
	}
	if step == b.step {
		return
	}
	b.step = step
	switch {
	case b.out.json:
		b.out.emit(progressEvent{
			Event: "progress", Phase: b.phase, Label: b.label, Done: done, Total: total, Unit: b.unit,
			SpeedMBps: p.mbps, ETASeconds: p.left.Seconds(), Connections: p.connections,
		})
	case total > 0 && b.unit != "":
		b.out.note("  %s: %d%% (%s)", b.label, percent, b.amounts(done, total, p)[0])
	default:
		b.out.note("  %s", b.label)
	}
}

func (b *bar) draw(done, total int64, p pace) {
	now := time.Now()
	if b.drawn && done < total && now.Sub(b.last) < redrawEvery {
		return
	}
	b.drawn, b.last = true, now
	fmt.Fprintf(b.out.stderr, "\r\x1b[K%s", b.lineFor(done, total, p))
}

// lineFor is the line that the terminal has room for: at first the last words
// go, then the bar.
func (b *bar) lineFor(done, total int64, p pace) string {
	if b.unit == "" {
		return b.fitted("  " + b.label)
	}
	amounts := b.amounts(done, total, p)
	room := b.out.width() - 1 // in the last column some terminals begin a new line
	for i, amount := range amounts {
		width := barWidth
		if room > 0 {
			width = min(width, room-lipgloss.Width(b.label)-lipgloss.Width(amount)-len("    "))
			width -= width % 5 // so that it stays while the text next to it changes by a letter
		}
		// What nobody waits for, the first of four, is not worth a shorter bar.
		if total > 0 && width >= narrowBar && (width == barWidth || i > len(amounts)-4) {
			return fmt.Sprintf("  %s %s %s", b.label, b.picture(done, total, width), amount)
		}
	}
	return b.fitted(fmt.Sprintf("  %s %s", b.label, amounts[len(amounts)-1]))
}

// fitted cuts a line without colours to the width of the terminal.
func (b *bar) fitted(line string) string { return cut(line, b.out.width()-1) }

func (b *bar) picture(done, total int64, width int) string {
	share := float64(done) / float64(total)
	if !b.out.styles.coloured {
		full := int(share * float64(width))
		return strings.Repeat("█", full) + strings.Repeat("░", width-full)
	}
	b.view.SetWidth(width)
	return b.view.ViewAs(share)
}

// amounts say how far it is, in fewer and fewer words.
func (b *bar) amounts(done, total int64, p pace) []string {
	if b.unit != "bytes" {
		return []string{fmt.Sprintf("%d/%d %s", done, total, b.unit)}
	}
	amount := size(done)
	if total > 0 {
		amount += " of " + size(total)
	}
	if p.mbps <= 0 {
		return []string{amount}
	}
	rate, left := fmt.Sprintf("%s, %.1f MB/s", amount, p.mbps), ""
	if p.left > 0 {
		left = ", " + span(p.left) + " left"
	}
	all := []string{rate + left, rate, amount}
	if p.connections > 1 {
		all = append([]string{fmt.Sprintf("%s on %d connections%s", rate, p.connections, left)}, all...)
	}
	return all
}

// span prints how long something takes, as exactly as one wants to know it.
func span(d time.Duration) string {
	seconds := int64(d.Round(time.Second) / time.Second)
	switch {
	case seconds < 60:
		return fmt.Sprintf("%d s", max(seconds, 1))
	case seconds < 60*60:
		return fmt.Sprintf("%d min %d s", seconds/60, seconds%60)
	}
	return fmt.Sprintf("%d h %d min", seconds/3600, seconds/60%60)
}

// clear takes the bar off the terminal.
func (b *bar) clear() {
	if b.drawn {
		fmt.Fprint(b.out.stderr, "\r\x1b[K")
		b.drawn = false
	}
}
