package hive

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"rbee"
)

// presence is how others on this machine find the daemon: run/hive.json, held
// under a lock, so that a state directory has one daemon. A private hive has
// neither; it tells its keeper on a pipe.
type presence struct {
	lock *flock.Flock // nil for a private hive
	path string

	announced bool
	private   *json.Encoder // nil for none
}

// note is the content of run/hive.json.
type note struct {
	PID     int       `json:"pid"`
	URL     string    `json:"url"`
	Started time.Time `json:"started"`
}

// claim takes the place of the state directory's daemon.
func (h *Hive) claim() (*presence, error) {
	p := &presence{path: filepath.Join(h.cfg.Settings.Home.RunDir(), "hive.json")}
	if h.cfg.Private {
		if h.cfg.Announce != nil {
			p.private = json.NewEncoder(h.cfg.Announce)
		}
		return p, nil
	}
	p.lock = flock.New(filepath.Join(h.cfg.Settings.Home.RunDir(), "hive.lock"))
	ok, err := p.lock.TryLock()
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot lock %s: %w", p.lock.Path(), err).
			Suggest("make the state directory writable for this user")
	}
	if !ok {
		var other note
		where := ""
		if b, err := os.ReadFile(p.path); err == nil && json.Unmarshal(b, &other) == nil {
			where = fmt.Sprintf(": process %d at %s", other.PID, other.URL)
		}
		return nil, rbee.Errorf(rbee.CodeConflict, "a hive already runs for %s%s", h.cfg.Settings.Home, where).
			Suggest("stop it with 'rbee hive stop', or set RBEE_HOME to another directory")
	}
	return p, nil
}

// announce tells where the hive is reached, now that it is.
func (p *presence) announce(url string) error {
	n := note{PID: os.Getpid(), URL: url, Started: time.Now().UTC()}
	if p.lock == nil {
		if p.private == nil {
			return nil
		}
		return p.private.Encode(n)
	}
	b, err := json.MarshalIndent(n, "", "  ")
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

// release gives the place up.
func (p *presence) release() error {
	if p.lock == nil {
		return nil
	}
	var err error
	if p.announced {
		err = os.Remove(p.path)
	}
	return errors.Join(err, p.lock.Unlock())
}
