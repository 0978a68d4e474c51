//go:build linux

package supervise

import "log/slog"

// For the tests, which are outside.

func Blame(ours bool, ofTheGroup int, anywhere bool) OOM { return blame(ours, ofTheGroup, anywhere) }

func Counter(text, name string) uint64 { return counter([]byte(text), name) }

func OwnGroup(proc string) (string, error) { return ownGroup(proc) }

// Cells are the control groups of children below a directory.
type Cells struct{ *cells }

func NewCells(unit, name string) (Cells, error) {
	c, err := newCells(unit, name)
	return Cells{c}, err
}

// Make makes one and returns its directory, "" for none.
func (c Cells) Make(memoryBytes int64) string {
	if one := c.make(memoryBytes); one != nil {
		return one.dir
	}
	return ""
}

func OOMKillsOf(dir string) int { return (&cell{dir}).oomKills() }

func OpenCells() bool { return openCells(slog.New(slog.DiscardHandler)) != nil }
