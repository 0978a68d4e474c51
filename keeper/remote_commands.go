package keeper

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"rbee"
)

// maybeHost takes nothing, for the hive of this machine, or the host of another.
func maybeHost(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return errors.New("only one host can be given")
	}
	return nil
}

// scopeOf adds the flag that says whose hive of another machine is meant.
func scopeOf(cmd *cobra.Command) *string {
	return cmd.Flags().String("scope", "", "with HOST: user, for the hive of the user there, or system, for that of the machine (default system for root)")
}

// onlyHere refuses flags that mean nothing for another machine, and with
// onlyThere those that mean nothing for this one.
func onlyHere(cmd *cobra.Command, args []string, flags ...string) error {
	for _, name := range flags {
		if len(args) > 0 && cmd.Flags().Changed(name) {
			return usagef(cmd, "--%s is for the hive of this machine; leave it out, or %s out", name, args[0])
		}
	}
	return nil
}

func onlyThere(cmd *cobra.Command, args []string, flags ...string) error {
	for _, name := range flags {
		if len(args) == 0 && cmd.Flags().Changed(name) {
			return usagef(cmd, "--%s is for the hive of another machine; name its HOST", name)
		}
	}
	return nil
}

// onHost does something with the hive of another machine, which must be there.
func (a *app) onHost(cmd *cobra.Command, host, scope string, do func(context.Context, *remoteHive) error) error {
	ctx := cmd.Context()
	h, err := a.reachHive(ctx, cmd, host, scope)
	if err != nil {
		return err
	}
	defer h.close()
	if err := h.mustHave(ctx); err != nil {
		return err
	}
	return do(ctx, h)
}

// passOn runs a command of the far side as if it were one of this machine.
func (a *app) passOn(ctx context.Context, h *remoteHive, command ...string) error {
	code, err := h.pass(ctx, a.out.stdout, a.out.stderr, command...)
	if err == nil && code != 0 {
		return errReported // there, and passed on
	}
	return err
}

// asked are the words of a command there, with --json where this one has it.
func (a *app) asked(h *remoteHive, args ...string) []string {
	if a.out.json {
		args = append(args, "--json")
	}
	return h.words(args...)
}

func (a *app) statusOn(cmd *cobra.Command, host, scope string) error {
	return a.onHost(cmd, host, scope, func(ctx context.Context, h *remoteHive) error {
		return a.passOn(ctx, h, a.asked(h, "hive", "status")...)
	})
}

func (a *app) stopOn(cmd *cobra.Command, host, scope string) error {
	return a.onHost(cmd, host, scope, func(ctx context.Context, h *remoteHive) error {
		return a.passOn(ctx, h, a.asked(h, "hive", "stop")...)
	})
}

// startOn starts the hive of another machine: its service, where it is one.
func (a *app) startOn(cmd *cobra.Command, host, scope string) error {
	return a.onHost(cmd, host, scope, func(ctx context.Context, h *remoteHive) error {
		if h.service == nil || !h.service.Installed {
			return a.passOn(ctx, h, a.asked(h, "hive", "start")...)
		}
		if err := h.up(ctx, false); err != nil {
			return err
		}
		now, err := h.status(ctx)
		if err != nil {
			return err
		}
		a.printAddress(now)
		return nil
	})
}

// logsOn prints the log of a hive of another machine, where that is.
func (a *app) logsOn(cmd *cobra.Command, host, scope string, follow bool) error {
	return a.onHost(cmd, host, scope, func(ctx context.Context, h *remoteHive) error {
		ctx, done := untilInterrupted(ctx, errLeft)
		defer done()
		command := a.asked(h, "hive", "logs")
		if h.service != nil && h.service.Installed && h.service.Manager == "systemd" {
			command = []string{"journalctl", "--no-pager", "--output=cat", "--unit=rbee-hive"}
			if !h.system {
				command = []string{"journalctl", "--no-pager", "--output=cat", "--user-unit=rbee-hive"}
			}
		}
		if follow {
			command = append(command, "--follow")
		}
		return a.passOn(ctx, h, command...)
	})
}

// forgetScript removes programs: of a directory, those named.
const forgetScript = `d="$1"; shift; for n in "$@"; do rm -f "$d/$n" "$d/.$n".new-* "$d/.$n".part-* || exit 3; done`

// emptyScript removes what a hive keeps: the models, their catalog, the engine.
const emptyScript = `cd "$1" || exit 0; rm -rf models models.db models.db.* models.db-* engines`

// uninstallOn takes back what installOn did.
func (a *app) uninstallOn(cmd *cobra.Command, host, scope string, models bool) error {
	ctx := cmd.Context()
	h, err := a.reachHive(ctx, cmd, host, scope)
	if err != nil {
		return err
	}
	defer h.close()
	there, err := h.installed(ctx)
	if err == nil && there {
		err = a.removeHive(ctx, h, models)
	}
	switch {
	case err != nil:
		return err
	case a.out.json:
		a.out.emit(struct {
			Host    string `json:"host"`
			Removed bool   `json:"removed"`
			Models  bool   `json:"models_removed"`
		}{host, there, there && models})
	case !there:
		a.out.note("There is no rbee in %s on %s.", h.dir, host)
	case models:
		a.out.line("The hive is gone from %s, with its models", host)
	default:
		a.out.line("The hive is gone from %s. Its models stay in %s", host, h.home)
	}
	return nil
}

// removeHive ends a hive and removes it. The programs go last: with them all of
// this can be done again.
func (a *app) removeHive(ctx context.Context, h *remoteHive, models bool) error {
	home, err := h.stateDir(ctx)
	if err != nil {
		return err
	}
	if h.service != nil {
		if err := h.ask(ctx, h.service, "hive", "uninstall", "--scope", h.scope()); err != nil {
			return err
		}
	}
	if err := h.ask(ctx, &hiveStatus{}, "hive", "stop"); err != nil {
		return err
	}
	if err := a.forgetToken(ctx, h); err != nil {
		return err
	}
	if models {
		if _, err := h.run(ctx, nil, emptyScript, home); err != nil {
			return h.refuse("cannot remove the models on "+h.host, err)
		}
	}
	if _, err := h.run(ctx, nil, forgetScript, append([]string{h.dir}, remotePrograms()...)...); err != nil {
		return h.refuse("cannot remove the programs from "+h.dir+" on "+h.host, err)
	}
	return nil
}

// forgetToken removes what lets the hive into its colony, and has the queen of
// this machine, if it was hers, take it back.
func (a *app) forgetToken(ctx context.Context, h *remoteHive) error {
	join, err := h.read(ctx, joinFile)
	if err != nil || join == "" {
		return err
	}
	if _, err := h.run(ctx, nil, `rm -f "$1"`, h.home+"/"+joinFile); err != nil {
		return h.refuse("cannot remove the token on "+h.host, err)
	}
	id := tokenID(join)
	cfg, err := a.config()
	if err != nil || id == "" {
		return err
	}
	queen, err := openQueen(ctx, cfg)
	if err != nil || queen == nil {
		return err
	}
	defer queen.close(ctx)
	if err := queen.client.RevokeToken(ctx, id); err != nil && rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		a.out.warn("the token of %s is still good: %s", h.host, rbee.AsError(err).Message)
	}
	return nil
}
