package keeper

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
	"rbee/internal/durable"
	"rbee/internal/service"
)

// gateWait bounds how long a hive may take until the gate of its colony has
// answered.
const gateWait = 20 * time.Second

// joinFlags say which colony a hive that starts joins.
type joinFlags struct {
	join    string
	restart bool
}

func (f *joinFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.join, "join", "", "token of the colony to join, or - for one on standard input; it is kept for later starts")
	cmd.Flags().BoolVar(&f.restart, "restart", false, "start it anew if it runs; its workers end")
}

// writeJoin leaves a token where the hive of this machine looks for one, and says
// whether it is another than before.
func writeJoin(cfg conf.Config, text string) (bool, error) {
	if strings.HasPrefix(text, "rbee1.") && tokenID(text) == "" {
		return false, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the token: it was changed or cut").
			Suggest("copy the whole of it, as 'rbee queen token' prints it")
	}
	if cfg.Hive.Join != "" || cfg.Hive.JoinFile != "" {
		return false, rbee.Errorf(rbee.CodeConflict, "the settings name a colony already, and that is what counts").
			Suggest("take hive.join and hive.join_file out of %s and of the environment", cfg.Home.ConfigFile())
	}
	if err := cfg.Home.Create(); err != nil {
		return false, err
	}
	file := cfg.Home.JoinFile()
	if before, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(before)) == text {
		return false, nil
	}
	if err := durable.Write(file, ".join-*", []byte(text+"\n")); err != nil {
		return false, rbee.Errorf(rbee.CodeInvalidRequest, "cannot keep the token: %w", err).Suggest("see 'rbee doctor'")
	}
	return true, nil
}

// startHiveIn starts the hive of this machine, in the colony that a token names if
// one is given, and waits until that has answered.
func (a *app) startHiveIn(ctx context.Context, args []string, text string, restart bool) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	other := false
	if text != "" {
		if other, err = writeJoin(cfg, text); err != nil {
			return err
		}
	}
	status, err := lookForHive(ctx, cfg)
	if err != nil {
		return err
	}
	if status.Running && text != "" && !restart {
		if s, err := askStatus(ctx, cfg); err != nil || other || s.Colony == nil {
			return rbee.Errorf(rbee.CodeConflict, "the hive runs already (pid %d), and joins when it starts the next time", status.PID).
				WithCause(err).Suggest("start it anew with 'rbee hive start --restart'; its workers end")
		}
	}
	if status.Running && restart {
		if err := noService(ctx, status.PID); err != nil {
			return err
		}
		if err := stopHive(ctx, cfg, status.PID); err != nil {
			return err
		}
	}
	if err := a.startHive(ctx, args); err != nil {
		return err
	}
	if text == "" && !restart {
		return nil
	}
	return a.awaitGate(ctx, cfg, text != "")
}

// noService refuses to start a hive anew that a service manager looks after.
func noService(ctx context.Context, pid int) error {
	for scope, system := range map[string]bool{"--user ": false, "": true} {
		m, err := service.Find(ctx, system, service.Surroundings{Env: os.Getenv, UID: os.Geteuid()})
		if err != nil {
			continue // there is none
		}
		if s, err := m.State(ctx); err == nil && s.Running && s.PID == pid {
			how := "'systemctl " + scope + "restart rbee-hive'"
			if s.Manager != "systemd" {
				how = "'rbee hive install'"
			}
			return rbee.Errorf(rbee.CodeConflict, "the hive (pid %d) is a service, whose manager starts it", pid).Suggest("start it anew with %s", how)
		}
	}
	return nil
}

// refusedForGood says whether a gate said no, so that waiting is no use.
func refusedForGood(code rbee.Code) bool {
	switch code {
	case rbee.CodeInvalidRequest, rbee.CodeMissingAPIKey, rbee.CodeInvalidAPIKey, rbee.CodeVersionMismatch, rbee.CodeConflict:
		return true
	}
	return false
}

// awaitGate blocks until the hive is in its colony, or is refused, which is the
// error. Without a colony there is nothing to wait for.
func (a *app) awaitGate(ctx context.Context, cfg conf.Config, must bool) error {
	late := time.Now().Add(gateWait)
	for {
		s, err := askStatus(ctx, cfg)
		switch {
		case err != nil:
			return err
		case s.Colony == nil && must:
			return rbee.Errorf(rbee.CodeInternalError, "the hive runs, and did not find the token").Suggest("see 'rbee hive logs'")
		case s.Colony == nil:
			return nil
		case s.Colony.Connected:
			a.out.note("It is in the colony.")
			return nil
		}
		why := s.Colony.Error
		if why == nil {
			why = rbee.Errorf(rbee.CodeConnectionTimeout, "the colony was not reached yet")
		}
		if refusedForGood(why.Code) || time.Now().After(late) {
			told := rbee.Errorf(why.Code, "the hive runs, but is not in the colony: %s", why.Message)
			if s := why.Suggestion(); s != "" {
				told = told.Suggest("%s", s)
			}
			return told
		}
		if err := pause(ctx, joinLook); err != nil {
			return err
		}
	}
}

func (a *app) hiveLeaveCommand() *cobra.Command {
	var restart bool
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Have the hive of this machine leave its colony",
		Long: `Have the hive of this machine leave its colony: what 'rbee hive start --join' kept
is removed. A hive that runs leaves when it starts the next time, or with
--restart at once; its workers end then. No colony is no error.`,
		Example: "  rbee hive leave --restart",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			if err := os.Remove(cfg.Home.JoinFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return rbee.Errorf(rbee.CodeInvalidRequest, "cannot remove the token: %w", err).Suggest("see 'rbee doctor'")
			}
			status, err := lookForHive(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			member := false
			if status.Running {
				s, err := askStatus(cmd.Context(), cfg)
				if err != nil {
					return err
				}
				member = s.Colony != nil
			}
			if member && restart {
				return a.startHiveIn(cmd.Context(), []string{"daemon"}, "", true)
			}
			if a.out.json {
				a.out.emit(struct {
					Running bool `json:"running"`
					Member  bool `json:"member"`
				}{status.Running, member})
				return nil
			}
			if member {
				a.out.line("The hive leaves when it starts the next time; 'rbee hive start --restart' does that now")
				return nil
			}
			a.out.line("The hive of this machine belongs to no colony")
			return nil
		},
	}
	cmd.Flags().BoolVar(&restart, "restart", false, "start the hive anew if it runs; its workers end")
	return cmd
}
