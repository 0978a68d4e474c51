package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"rbee"
	"rbee/internal/conf"
	"rbee/internal/supervise"
)

// Note says how a daemon of this machine is reached; it is the content of
// run/ROLE.json.
type Note struct {
	PID     int       `json:"pid"`
	URL     string    `json:"url"`
	Started time.Time `json:"started"`
}

// NewNote is the note of this process.
func NewNote(url string) Note { return Note{PID: os.Getpid(), URL: url, Started: time.Now().UTC()} }

// ReadNote reads the note of a role, and says whether there is one and its
// process lives. The pid of a daemon that was killed may name another by now.
func ReadNote(home conf.Home, role string) (Note, bool) {
	var n Note
	b, err := os.ReadFile(notePath(home, role))
	if err != nil || json.Unmarshal(b, &n) != nil || n.PID <= 0 || n.URL == "" {
		return Note{}, false
	}
	_, err = supervise.StartTime(n.PID)
	return n, err == nil
}

func notePath(home conf.Home, role string) string { return filepath.Join(home.RunDir(), role+".json") }

// Presence is the place of a state directory's daemon: run/ROLE.json, held under
// a lock, so that there is one of each role.
type Presence struct {
	lock *flock.Flock
	path string

	announced bool
}

// Claim takes the place, or fails with CONFLICT and says who has it.
func Claim(home conf.Home, role string) (*Presence, error) {
	p := &Presence{path: notePath(home, role), lock: flock.New(filepath.Join(home.RunDir(), role+".lock"))}
	ok, err := p.lock.TryLock()
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot lock %s: %w", p.lock.Path(), err).
			Suggest("make the state directory writable for this user")
	}
	if !ok {
		where := ""
		var other Note
		if b, err := os.ReadFile(p.path); err == nil && json.Unmarshal(b, &other) == nil {
			where = fmt.Sprintf(": process %d at %s", other.PID, other.URL)
		}
		return nil, rbee.Errorf(rbee.CodeConflict, "a %s already runs for %s%s", role, home, where).
			Suggest("stop it with 'rbee %s stop', or set RBEE_HOME to another directory", role)
	}
	return p, nil
}

// Announce tells where the daemon is reached, now that it is.
func (p *Presence) Announce(url string) error {
	b, err := json.MarshalIndent(NewNote(url), "", "  ")
	if err != nil {
		return err
	}
	temp := p.path + ".new"
	if err := os.WriteFile(temp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", p.path, err)
	}
	if err := os.Rename(temp, p.path); err != nil {
		return fmt.Errorf("cannot write %s: %w", p.path, err)
	}
	p.announced = true
	return nil
}

// Release gives the place up.
func (p *Presence) Release() error {
	var err error
	if p.announced {
		err = os.Remove(p.path)
	}
	return errors.Join(err, p.lock.Unlock())
}
