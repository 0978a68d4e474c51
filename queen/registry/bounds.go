package registry

import (
	"net/url"
	"strings"

	"rbee"
)

const (
	// maxName bounds the name of a hive, in bytes.
	maxName = 256
	// maxWorkers bounds those of a hive.
	maxWorkers = 4096
	// maxFigure bounds what a hive counts, so that sums of it are finite.
	maxFigure = 1 << 30
)

// boundedAbout is what a hive tells of itself, as far as others may go by it: its
// name is written on terminals, and its address is where its key is sent.
func boundedAbout(told *rbee.HiveAbout) *rbee.HiveAbout {
	a := *told
	a.Name = strings.ToValidUTF8(a.Name[:min(len(a.Name), maxName)], "")
	a.Name = strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return -1
		}
		return c
	}, a.Name)
	u, err := url.Parse(a.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		u = &url.URL{}
	}
	a.URL = strings.TrimRight((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), "/")
	return &a
}

// boundedNow leaves out workers whose ids would be more than a name in a path.
func boundedNow(told *rbee.HiveNow) *rbee.HiveNow {
	now := *told
	now.Workers = make([]rbee.ColonyWorker, 0, min(len(told.Workers), maxWorkers))
	seen := make(map[rbee.WorkerID]bool, len(told.Workers))
	for _, w := range told.Workers {
		if !rbee.ValidRequestID(string(w.ID)) || strings.Trim(string(w.ID), ".") == "" || seen[w.ID] || len(seen) == maxWorkers {
			continue
		}
		seen[w.ID] = true
		for _, n := range []*int{&w.SlotsTotal, &w.SlotsBusy, &w.Waiting, &w.QueueCapacity, &w.ContextTokens} {
			*n = min(max(*n, 0), maxFigure)
		}
		now.Workers = append(now.Workers, w)
	}
	return &now
}
