package hive

import (
	"encoding/json"

	"rbee/internal/daemon"
)

// presence is how others on this machine find the daemon: run/hive.json. A private
// hive has none; it tells its keeper on a pipe.
type presence struct {
	public  *daemon.Presence // nil for a private hive
	private *json.Encoder    // nil for none
}

// claim takes the place of the state directory's daemon.
func (h *Hive) claim() (*presence, error) {
	if h.cfg.Private {
		p := &presence{}
		if h.cfg.Announce != nil {
			p.private = json.NewEncoder(h.cfg.Announce)
		}
		return p, nil
	}
	public, err := daemon.Claim(h.cfg.Settings.Home, "hive")
	if err != nil {
		return nil, err
	}
	return &presence{public: public}, nil
}

// announce tells where the hive is reached, now that it is.
func (p *presence) announce(url string) error {
	switch {
	case p.public != nil:
		return p.public.Announce(url)
	case p.private != nil:
		return p.private.Encode(daemon.NewNote(url))
	}
	return nil
}

// release gives the place up.
func (p *presence) release() error {
	if p.public == nil {
		return nil
	}
	return p.public.Release()
}
