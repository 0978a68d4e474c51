package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrNoProcess says that no process has a pid, or only one that has ended.
var ErrNoProcess = errors.New("no such process")

const (
	ledgerPrefix = "ledger-"
	ledgerSuffix = ".json"
	partSuffix   = ".part" // of a ledger that is being written

	// strayTime is how long a killed stray may take to end before the sweep goes on.
	strayTime = 2 * time.Second
)

// identity names a process for good: pids are given out again, a pid together
// with the start of its process is not.
type identity struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // see StartTime
}

// alive says whether this very process runs.
func (id identity) alive() bool {
	start, err := StartTime(id.PID)
	return err == nil && start == id.Start
}

type child struct {
	identity
	Path string `json:"path"` // for the reader of the file and the log
}

// Ledger lists the children of this process in a file of the run directory,
// from which a later program learns what a crash left behind. A nil Ledger
// lists nothing.
type Ledger struct {
	path string

	mu       sync.Mutex
	children map[int]child
}

// OpenLedger makes the ledger of this process in runDir, which it makes if
// needed. The file exists as long as a child does.
func OpenLedger(runDir string) (*Ledger, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the run directory: %w", err)
	}
	start, err := StartTime(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("cannot tell when this process was started: %w", err)
	}
	name := ledgerPrefix + strconv.Itoa(os.Getpid()) + "-" + start + ledgerSuffix
	return &Ledger{path: filepath.Join(runDir, name), children: map[int]child{}}, nil
}

func (l *Ledger) add(pid int, path string) error {
	if l == nil {
		return nil
	}
	start, err := StartTime(pid)
	if errors.Is(err, ErrNoProcess) {
		return nil // it has ended already
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.children[pid] = child{identity{pid, start}, path}
	return l.write()
}

func (l *Ledger) remove(pid int) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.children[pid]; !ok {
		return nil
	}
	delete(l.children, pid)
	return l.write()
}

// write replaces the file. It is not synced: after a crash of the machine there
// are no processes to find. The caller holds l.mu.
func (l *Ledger) write() error {
	if len(l.children) == 0 {
		if err := os.Remove(l.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	list := make([]child, 0, len(l.children))
	for _, c := range l.children {
		list = append(list, c)
	}
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	part := l.path + partSuffix
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, l.path)
}

// SweepStrays kills the children of programs that died without ending them: it
// reads the ledgers in runDir whose owner runs no more, kills those children
// that are still the same process, with their groups, and removes the file. It
// blocks until the strays have ended, at most some seconds.
func SweepStrays(runDir string, log *slog.Logger) error {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the run directory: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		owner, ok := ownerOf(entry.Name())
		if !ok || owner.alive() {
			continue
		}
		path := filepath.Join(runDir, entry.Name())
		if !strings.HasSuffix(path, partSuffix) {
			sweep(path, log)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cannot remove an old ledger: %w", err))
		}
	}
	return errors.Join(errs...)
}

// ownerOf reads the owner out of the name of a ledger.
func ownerOf(name string) (identity, bool) {
	name = strings.TrimSuffix(name, partSuffix)
	rest, hasPrefix := strings.CutPrefix(name, ledgerPrefix)
	rest, hasSuffix := strings.CutSuffix(rest, ledgerSuffix)
	pidText, start, found := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(pidText)
	if !hasPrefix || !hasSuffix || !found || err != nil || pid <= 0 {
		return identity{}, false
	}
	return identity{pid, start}, true
}

// sweep kills the children that the ledger at path names.
func sweep(path string, log *slog.Logger) {
	data, err := os.ReadFile(path)
	var children []child
	if err == nil {
		err = json.Unmarshal(data, &children)
	}
	if err != nil {
		log.Warn("cannot read an old ledger; its processes are not looked for", "path", path, "err", err)
		return
	}
	for _, c := range children {
		if c.PID <= 1 || !c.alive() {
			continue
		}
		log.Warn("killing a process that a crash left behind", "pid", c.PID, "path", c.Path)
		if err := killStray(c.PID); err != nil {
			log.Warn("cannot kill a process that a crash left behind", "pid", c.PID, "err", err)
			continue
		}
		c.awaitEnd()
	}
}

// awaitEnd blocks until the process has ended, at most strayTime.
func (id identity) awaitEnd() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(strayTime); id.alive() && time.Now().Before(deadline); {
		<-tick.C
	}
}
