package keeper

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"rbee"
)

// remoteInstall is what 'rbee hive install HOST' was asked for.
type remoteInstall struct {
	scope string
	from  string // directory of the programs, "" for those of this rbee
	join  string
}

// installedHive is the JSON form of the end of an installation.
type installedHive struct {
	Event    string      `json:"event"`
	Host     string      `json:"host"`
	Platform string      `json:"platform"`
	Dir      string      `json:"dir"`
	Home     string      `json:"home"`
	Copied   []string    `json:"copied"`
	Engine   enginePlace `json:"engine"`
	Service  string      `json:"service"` // systemd, launchd, or background
	URL      string      `json:"url"`
	PID      int         `json:"pid"`
	Version  string      `json:"version"`
	Joined   bool        `json:"joined"`
	HiveID   rbee.HiveID `json:"hive_id,omitempty"`
}

// installOn brings a hive to another machine, has it run, and waits until it is
// in the colony.
func (a *app) installOn(cmd *cobra.Command, host string, f remoteInstall) error {
	ctx := cmd.Context()
	if err := checkHost(host); err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	var j joining
	if f.join != "" {
		if j.text, err = a.joinText(cmd, f.join); err != nil {
			return err
		}
	}
	if j.queen, err = openQueen(ctx, cfg); err != nil {
		return err
	}
	if j.queen != nil {
		defer j.queen.close(ctx)
	}
	a.out.phase(1, "Connecting to %s", host)
	h, err := a.reachHive(ctx, cmd, host, f.scope)
	if err != nil {
		return err
	}
	defer h.close()
	done := installedHive{Event: "done", Host: host, Dir: h.dir, Service: "background"}
	if done.Platform, err = h.platform(); err != nil {
		return err
	}
	a.out.done(1, "%s, as %s", done.Platform, h.facts["user"])
	if err := a.installParts(ctx, h, &done, f); err != nil {
		return err
	}
	a.out.phase(4, "Starting the hive")
	if err := j.tell(ctx, h); err != nil {
		return err
	}
	if err := a.startThere(ctx, h, &done, j.fresh); err != nil {
		return err
	}
	a.out.phase(5, "Joining the colony")
	return a.finish(ctx, h, &j, done)
}

// installParts brings programs and engine.
func (a *app) installParts(ctx context.Context, h *remoteHive, done *installedHive, f remoteInstall) error {
	a.out.phase(2, "Programs, into %s", h.dir)
	programs, err := localPrograms(h.host, done.Platform, f.from)
	if err != nil {
		return err
	}
	defer closePrograms(programs)
	if done.Copied, err = a.placePrograms(ctx, h.remote, h.dir, programs, 2); err != nil {
		return err
	}
	if len(done.Copied) == 0 {
		a.out.done(2, "All are there, nothing is copied")
	}
	for _, name := range done.Copied {
		a.out.done(2, "%s", name)
	}
	if err := h.askManager(ctx); err != nil {
		return err
	}
	a.out.phase(3, "Engine")
	if done.Engine, err = a.placeEngine(ctx, h, done.Platform, 3); err != nil {
		return err
	}
	switch done.Engine {
	case enginePresent:
		a.out.done(3, "It is there")
	case engineCopied:
		a.out.done(3, "Copied from this machine")
	case engineInstalled:
		a.out.done(3, "Installed by %s itself", h.host)
	case engineMissing: // which was said
	}
	return nil
}

// startThere has the hive run.
func (a *app) startThere(ctx context.Context, h *remoteHive, done *installedHive, restart bool) error {
	if err := h.up(ctx, restart || slices.Contains(done.Copied, "rbee-hive") || slices.Contains(done.Copied, "llm-worker-rbee")); err != nil {
		return err
	}
	if h.service == nil {
		a.out.happened(4, "It runs in the background, and does not start again with the machine: "+h.why)
	} else {
		done.Service = h.service.Manager
		a.out.done(4, "It is a service (%s, %s)", h.service.Manager, h.service.Scope)
		if err := h.linger(ctx); err != nil {
			a.out.warn("it ends when %s logs out of %s (%v); 'sudo loginctl enable-linger %s' there keeps it running",
				h.facts["user"], h.host, err, h.facts["user"])
		}
	}
	now, err := h.status(ctx)
	if err != nil {
		return err
	}
	done.URL, done.PID, done.Version, done.Home = now.URL, now.PID, now.Version, now.Home
	a.out.done(4, "It answers at %s there (pid %d)", now.URL, now.PID)
	return nil
}

// finish waits until the hive is in the colony, and prints how it is.
func (a *app) finish(ctx context.Context, h *remoteHive, j *joining, done installedHive) error {
	var hive rbee.ColonyHive
	switch {
	case !j.told:
		a.out.happened(5, "It belongs to no colony: no queen runs on this machine. Start one with 'rbee up' and run this again, "+
			"or give what 'rbee queen token' prints where she is to --join -")
	default:
		var err error
		if hive, err = j.await(ctx, h); err != nil {
			return err
		}
		done.Joined, done.HiveID = true, hive.ID
		a.out.done(5, "It is in the colony, as %s", hive.ID)
	}
	switch {
	case a.out.json:
		a.out.emit(done)
	case done.Joined && j.queen != nil:
		a.out.line("%s  %s  %s  %s, %s", hive.ID, hive.Name, hive.Presence, plural(len(hive.Devices), "device"), plural(len(hive.Models), "model"))
	default:
		a.out.line("The hive on %s runs (pid %d, version %s)", done.Host, done.PID, done.Version)
	}
	return nil
}
