package keeper

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
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

// checkToken says what is wrong with the text of a token, which may have been cut.
func checkToken(text string) error {
	if strings.HasPrefix(text, "rbee1.") && tokenID(text) == "" {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the token: it was changed or cut").
			Suggest("copy the whole of it, as 'rbee queen token' prints it")
	}
	return nil
}

// startHiveIn starts the hive of this machine, in the colony that a token names if
// one is given, and waits until that has answered. A hive that runs joins as it is.
func (a *app) startHiveIn(ctx context.Context, args []string, text string, restart bool) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if err := checkToken(text); err != nil {
		return err
	}
	status, err := lookForHive(ctx, cfg)
	if err != nil {
		return err
	}
	if status.Running && restart {
		if err := noService(ctx, status.PID); err != nil {
			return err
		}
	}
	switch {
	case text == "":
	case status.Running && !restart:
		err = joinRunning(ctx, cfg, text)
	default:
		err = errors.Join(cfg.Home.Create(), cfg.KeepJoin(conf.Secret(text)))
	}
	if err != nil {
		return err
	}
	if status.Running && restart {
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

// joinRunning has the hive of this machine, which runs, join a colony.
func joinRunning(ctx context.Context, cfg conf.Config, text string) error {
	c, err := localColony(cfg)
	if err != nil {
		return err
	}
	defer c.client.Close()
	ctx, cancel := context.WithTimeout(ctx, gateWait)
	defer cancel()
	_, err = c.client.JoinColony(ctx, rbee.JoinRequest{Join: text})
	return c.explain(err)
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
	return &cobra.Command{
		Use:   "leave",
		Short: "Have the hive of this machine leave its colony",
		Long: `Have the hive of this machine leave its colony, and remove what 'rbee hive start
--join' kept. A hive that runs leaves at once, and its workers go on; what the queen
of another machine sent it ends. No colony is no error.`,
		Example: "  rbee hive leave",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := a.config()
			if err != nil {
				return err
			}
			status, err := lookForHive(ctx, cfg)
			if err != nil {
				return err
			}
			if status.Running {
				err = leaveRunning(ctx, cfg)
			} else {
				err = cfg.ForgetJoin()
			}
			switch {
			case err != nil:
				return err
			case a.out.json:
				a.out.emit(struct {
					Running bool `json:"running"`
					Member  bool `json:"member"`
				}{Running: status.Running})
			default:
				a.out.line("The hive of this machine belongs to no colony")
			}
			return nil
		},
	}
}

func leaveRunning(ctx context.Context, cfg conf.Config) error {
	c, err := localColony(cfg)
	if err != nil {
		return err
	}
	defer c.client.Close()
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	return c.explain(c.client.LeaveColony(ctx))
}
