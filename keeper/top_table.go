package keeper

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"rbee"
)

// samples reads the figures without labels of the text format of Prometheus.
func samples(text string) map[string]float64 {
	figures := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if x, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(line, "#") {
			figures[name] = x
		}
	}
	return figures
}

// column is one of a table; where a terminal is narrow those with the highest
// rank go first. Rank 0 stays.
type column struct {
	title string
	rank  int
	right bool
	cell  func(topRow) string
}

// modelColumn is the index of the column that is cut before others go.
const (
	modelColumn = 1
	modelWidth  = 16
)

func topColumns() []column {
	return []column{
		{"ID", 0, false, func(r topRow) string { return string(r.ID) }},
		{"MODEL", 0, false, func(r topRow) string { return r.ModelRef.String() }},
		{"STATE", 0, false, func(r topRow) string { return stateText(r.Worker) }},
		{"DEVICE", 5, false, func(r topRow) string { return orDash(string(r.Device)) }},
		{"MEMORY", 2, true, func(r topRow) string { return size(r.MemoryBytes) }},
		{"SLOTS", 3, true, func(r topRow) string { return slotsText(r) }},
		{"TOKENS/S", 1, true, func(r topRow) string { return fmt.Sprintf("%.1f", r.TokensPerSecond) }},
		{"IDLE", 4, true, func(r topRow) string { return idleText(r) }},
		{"REQUESTS", 6, true, func(r topRow) string { return strconv.FormatInt(r.Requests, 10) }},
	}
}

// slotsText is the slots in use, of all, and who waits for one.
func slotsText(r topRow) string {
	text := fmt.Sprintf("%d/%d", r.SlotsTotal-r.SlotsAvailable, r.SlotsTotal)
	if r.Queued > 0 {
		text += fmt.Sprintf("+%d", r.Queued)
	}
	return text
}

func idleText(r topRow) string {
	if r.State != rbee.WorkerIdle {
		return "-"
	}
	return (time.Duration(r.IdleSeconds) * time.Second).String()
}

// lines draws the picture for a window; 0 is one without bounds.
func (p topPicture) lines(width, height int, s styles) []string {
	lines := []string{s.strong(cut(p.head(), width)), ""}
	table := tableLines(topColumns(), p.Workers, width)
	if height > 0 && len(table) > height-len(lines) {
		room := max(1, height-len(lines)-1)
		more := len(table) - room
		table = append(table[:room:room], cut(fmt.Sprintf("… and %d more", more), width))
	}
	table[0] = s.strong(table[0])
	if len(p.Workers) == 0 {
		table = []string{cut("No workers.", width)}
	}
	return append(lines, table...)
}

// head says how the hive is.
func (p topPicture) head() string {
	parts := []string{"hive " + p.Host}
	if p.Hive != nil {
		parts = append(parts, standingText(p.Hive.HiveStanding), plural(p.Hive.RequestsInFlight, "request")+" running")
		for _, m := range p.Hive.Memory {
			parts = append(parts, fmt.Sprintf("%s %s of %s free", m.Device, size(m.FreeBytes), size(m.TotalBytes)))
		}
	}
	return strings.Join(append(parts, p.Time.Local().Format(time.TimeOnly)), "   ")
}

// tableLines lays rows out in as many columns as the width has room for.
func tableLines(columns []column, rows []topRow, width int) []string {
	cells := make([][]string, len(rows)+1)
	widths := make([]int, len(columns))
	for i, c := range columns {
		cells[0] = append(cells[0], c.title)
		for j, r := range rows {
			cells[j+1] = append(cells[j+1], c.cell(r))
		}
		for _, row := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	kept := keptColumns(columns, widths, width)
	lines := make([]string, len(cells))
	for j, row := range cells {
		var b strings.Builder
		for n, i := range kept {
			if n > 0 {
				b.WriteString("  ")
			}
			text := row[i]
			if i == modelColumn {
				text = tail(text, widths[i])
			}
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if columns[i].right {
				text = padding + text
			} else {
				text += padding
			}
			b.WriteString(text)
		}
		lines[j] = cut(strings.TrimRight(b.String(), " "), width)
	}
	return lines
}

// keptColumns are the indices of the columns that fit. The model is cut first,
// but not to nothing.
func keptColumns(columns []column, widths []int, width int) []int {
	var kept []int
	for i := range columns {
		kept = append(kept, i)
	}
	for width > 0 {
		needed := -2
		for _, i := range kept {
			needed += widths[i] + 2
		}
		shorter := min(widths[modelColumn], max(modelWidth, widths[modelColumn]-(needed-width)))
		if needed-widths[modelColumn]+shorter <= width {
			widths[modelColumn] = shorter
			break
		}
		least := slices.MaxFunc(kept, func(a, b int) int { return columns[a].rank - columns[b].rank })
		if columns[least].rank == 0 {
			widths[modelColumn] = min(shorter, max(1, widths[modelColumn]-(needed-width)))
			break
		}
		kept = slices.DeleteFunc(kept, func(i int) bool { return i == least })
	}
	return kept
}

// tail is the end of a text, which tells more of a model than its beginning.
func tail(text string, width int) string {
	if n := utf8.RuneCountInString(text); n > width {
		return "…" + string([]rune(text)[n-width+1:])
	}
	return text
}

// cut is the beginning of a text; a width of 0 has no bound.
func cut(text string, width int) string {
	if runes := []rune(text); width > 0 && len(runes) > width {
		return string(runes[:width])
	}
	return text
}
