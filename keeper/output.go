package keeper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/mattn/go-isatty"
	"golang.org/x/term"

	"rbee"
)

// output writes what the user reads. With json set the phases, lines and
// tables are left out, and emit writes JSON instead.
type output struct {
	stdout, stderr io.Writer
	json           bool
	terminal       bool       // standard error is a terminal, so a progress bar can be drawn
	outTerminal    bool       // standard output is a terminal
	width          func() int // columns of the terminal of standard error, 0 where that is not known
	styles         styles
	outStyles      styles
	err            error // the first failure to write to standard output
}

func newOutput(s Streams) *output {
	o := &output{stdout: s.Out, stderr: s.Err, terminal: isTerminal(s.Err), outTerminal: isTerminal(s.Out)}
	o.width = func() int { return terminalWidth(s.Err) }
	colours := os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	o.styles = newStyles(colours && o.terminal)
	o.outStyles = newStyles(colours && o.outTerminal)
	return o
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}

func terminalWidth(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// styles are the colours of a terminal; elsewhere they change nothing.
type styles struct {
	coloured                     bool
	good, bad, warn, dim, strong func(string) string
}

func newStyles(colours bool) styles {
	if !colours {
		plain := func(s string) string { return s }
		return styles{good: plain, bad: plain, warn: plain, dim: plain, strong: plain}
	}
	render := func(s lipgloss.Style) func(string) string {
		return func(text string) string { return s.Render(text) }
	}
	style := lipgloss.NewStyle
	return styles{
		coloured: true,
		good:     render(style().Foreground(lipgloss.Color("2"))),
		bad:      render(style().Foreground(lipgloss.Color("1")).Bold(true)),
		warn:     render(style().Foreground(lipgloss.Color("3"))),
		dim:      render(style().Faint(true)),
		strong:   render(style().Bold(true)),
	}
}

// phase begins a phase of a longer command: a line on standard error, or a
// JSON event.
func (o *output) phase(number int, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if o.json {
		o.emit(phaseEvent{Event: "phase", Phase: number, Text: text})
		return
	}
	fmt.Fprintf(o.stderr, "%s %s\n", o.styles.strong(fmt.Sprintf("[Phase %d]", number)), text)
}

type phaseEvent struct {
	Event string `json:"event"`
	Phase int    `json:"phase"`
	Text  string `json:"text"`
}

// done is a line of a phase's checklist.
func (o *output) done(number int, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if o.json {
		o.emit(phaseEvent{Event: "phase", Phase: number, Text: text})
		return
	}
	fmt.Fprintf(o.stderr, "  %s %s\n", o.styles.good("✓"), text)
}

// happened is a line about something that went otherwise than the straight way.
func (o *output) happened(number int, text string) {
	if o.json {
		o.emit(noteEvent{Event: "note", Phase: number, Text: text})
		return
	}
	o.note("  %s", text)
}

type noteEvent struct {
	Event string `json:"event"`
	Phase int    `json:"phase,omitempty"`
	Text  string `json:"text"`
}

// busy says that a worker has no time now and is going to be asked again.
func (o *output) busy(phase int, pause time.Duration) {
	text := fmt.Sprintf("Worker is busy, retrying in %s...", plural(int(pause.Seconds()), "second"))
	if o.json {
		o.emit(noteEvent{Event: "note", Phase: phase, Text: text})
		return
	}
	o.note("%s", text)
}

// note is a line on standard error that needs no mark.
func (o *output) note(format string, args ...any) {
	fmt.Fprintf(o.stderr, format+"\n", args...)
}

// warn is a line on standard error about something that did not stop the command.
func (o *output) warn(format string, args ...any) {
	fmt.Fprintf(o.stderr, "%s %s\n", o.styles.warn("Warning:"), fmt.Sprintf(format, args...))
}

// text writes to standard output as it is.
func (o *output) text(s string) {
	if _, err := io.WriteString(o.stdout, s); err != nil && o.err == nil {
		o.err = rbee.Errorf(rbee.CodeInternalError, "cannot write to standard output: %w", err).
			Suggest("check the disk, or the program that reads the output")
	}
}

// line is a line of a result.
func (o *output) line(format string, args ...any) { o.text(fmt.Sprintf(format, args...) + "\n") }

// emit writes v as one line of JSON to standard output.
func (o *output) emit(v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		if o.err == nil {
			o.err = fmt.Errorf("cannot encode the result: %w", err)
		}
		return
	}
	o.text(b.String())
}

// table writes rows in columns; the first row is the header.
func (o *output) table(rows [][]string) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	for i, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		line = strings.TrimRight(line, " ")
		if i == 0 {
			line = o.outStyles.strong(line)
		}
		o.line("%s", line)
	}
}

// size prints bytes as people do, in units of 10^6 bytes and more.
func size(bytes int64) string {
	n, unit := float64(bytes)/1e6, "MB"
	for _, larger := range []string{"GB", "TB"} {
		if n < 999.5 {
			break
		}
		n, unit = n/1000, larger
	}
	if n < 10 || unit != "MB" && n < 100 {
		return fmt.Sprintf("%.1f %s", n, unit)
	}
	return fmt.Sprintf("%.0f %s", n, unit)
}

// orDash stands in for an empty cell.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// plural is "1 second", "2 seconds".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
