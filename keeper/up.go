package keeper

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

const (
	// joinWait bounds how long a queen who runs may take to have her own hive.
	joinWait = 25 * time.Second
	upLook   = 100 * time.Millisecond
)

// upReport is the JSON form of rbee up.
type upReport struct {
	URL     string               `json:"url"`
	OpenAI  string               `json:"openai_base_url"`
	PID     int                  `json:"pid"`
	Started bool                 `json:"started"` // by this command
	Hive    rbee.LocalHiveStatus `json:"local_hive"`
	Hives   []rbee.ColonyHive    `json:"hives"`
}

func (a *app) upCommand() *cobra.Command {
	var f queenFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the queen and the hive of this machine, in the background",
		Long: `Start the queen and the hive of this machine in the background, and say what one
needs to use them. Any OpenAI client works with the address that is printed as
its base URL. They run until 'rbee down'; what runs already is left as it is.`,
		Example: "  rbee up\n  rbee up --bus-addr :9034 --no-hive",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.up(cmd.Context(), f) },
	}
	f.add(cmd)
	return cmd
}

func (a *app) up(ctx context.Context, f queenFlags) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	status, fresh, err := a.startQueen(ctx, cfg, f)
	if err != nil {
		return err
	}
	c, err := openQueen(ctx, cfg)
	if err != nil {
		return err
	}
	if c == nil {
		return noQueen()
	}
	defer c.close(ctx)
	if err := c.preflight(ctx, defaultAttempts); err != nil {
		return err
	}
	queen, outside, err := c.awaitOwnHive(ctx, cfg)
	if err != nil {
		return c.explain(err)
	}
	hives, err := c.client.Hives(ctx)
	if err != nil {
		return c.explain(err)
	}
	if a.out.json {
		a.out.emit(upReport{status.URL, status.URL + "/v1", status.PID, fresh, queen.LocalHive, hives})
		return nil
	}
	if fresh {
		a.out.note("The queen runs (pid %d).", status.PID)
	} else {
		a.out.note("The queen runs already (pid %d).", status.PID)
	}
	a.warnOfHive(ctx, cfg, queen.LocalHive, outside)
	a.welcome(status.URL, queen, hives)
	return nil
}

// awaitOwnHive blocks until the hive of the queen's machine has joined her, or is
// not going to: outside is why, as far as the hive says. One that ran before she
// did is asked to.
func (c *colony) awaitOwnHive(ctx context.Context, cfg conf.Config) (s rbee.QueenStatus, outside, err error) {
	late, asked := time.Now().Add(joinWait), false
	for {
		s, err = c.client.QueenStatus(ctx)
		own := s.LocalHive
		running := own.State == rbee.LocalHiveRunning
		coming := own.State == rbee.LocalHiveStarting || running && (own.ID == "" || s.Hives[rbee.HivePresent] == 0)
		if own.ID != "" {
			outside = nil
		}
		if err != nil || !coming || time.Now().After(late) {
			return s, outside, err
		}
		if record, alive := readHiveRecord(cfg.Home); running && own.ID == "" && alive && record.URL == own.URL && !asked {
			asked = true
			outside = c.takeIn(ctx, cfg)
			if outside != nil && rbee.CodeOf(outside) != rbee.CodeConflict { // that says that it joins in another way
				return s, outside, nil
			}
		}
		if err := pause(ctx, upLook); err != nil {
			return s, outside, err
		}
	}
}

// takeIn has the hive of this machine join the queen, by the token that it would
// find if it started now. An error says why it is not in her colony.
func (c *colony) takeIn(ctx context.Context, cfg conf.Config) error {
	s, err := askStatus(ctx, cfg)
	if err != nil || s.Colony != nil && s.Colony.Connected {
		return err
	}
	join, err := cfg.ReadJoin()
	if err != nil {
		return err
	}
	text := join.Reveal()
	switch {
	case text != "":
	case s.Colony != nil:
		return nil // it knows another way
	default: // it has left since she gave it a token
		made, err := c.client.NewToken(ctx, rbee.TokenRequest{Name: "the hive of this machine"})
		if err != nil {
			return c.explain(err)
		}
		text = made.Token
	}
	return joinRunning(ctx, cfg, text)
}

// warnOfHive says what keeps the hive of this machine out of the colony.
func (a *app) warnOfHive(ctx context.Context, cfg conf.Config, own rbee.LocalHiveStatus, outside error) {
	if outside == nil && own.State == rbee.LocalHiveRunning && own.ID == "" {
		s, err := askStatus(ctx, cfg)
		switch {
		case err != nil:
			outside = err
		case s.Colony != nil && s.Colony.Error != nil:
			outside = s.Colony.Error
		case s.Colony != nil:
			outside = rbee.Errorf(rbee.CodeConflict, "it is in that of another queen").Suggest("leave that first, with 'rbee hive leave'")
		}
	}
	switch {
	case own.State == rbee.LocalHiveFailed:
		a.out.warn("the hive of this machine does not run: %s; see 'rbee hive logs'", own.Reason)
	case outside != nil:
		why := asError(outside)
		a.out.warn("the hive of this machine (pid %d) is not in the colony: %s%s", own.PID, why.Message, after("; ", why.Suggestion()))
	}
}

// welcome says what one needs to use a colony.
func (a *app) welcome(url string, queen rbee.QueenStatus, hives []rbee.ColonyHive) {
	strong := a.out.outStyles.strong
	a.out.line("%s %s/v1", strong("OpenAI base URL:"), url)
	var names []string
	for _, h := range hives {
		if h.Presence == rbee.HivePresent {
			names = append(names, h.Name)
		}
	}
	a.out.line("%s           %s", strong("hives:"), orNone(strings.Join(names, ", ")))
	a.out.line("%s          %d", strong("models:"), queen.Models)
	a.out.line("%s   'rbee queen token' prints what to run there, 'rbee hive install HOST' does it over ssh", strong("more machines:"))
	a.out.line("%s         'rbee status' shows hives and workers, 'rbee down' ends it", strong("further:"))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the queen and the hive that she started",
		Long: `Stop the queen, the hive that she started on this machine, and its workers. It
returns when their processes are gone; no queen is no error. Hives that she did
not start go on, and are named.`,
		Example: "  rbee down",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.down(cmd.Context()) },
	}
}

// downReport is the JSON form of rbee down.
type downReport struct {
	Stopped bool     `json:"stopped"`
	GoOn    []string `json:"hives_that_go_on"`
}

func (a *app) down(ctx context.Context) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	status, err := lookForQueen(ctx, cfg)
	if err != nil {
		return err
	}
	report := downReport{Stopped: status.Running, GoOn: []string{}}
	own := false
	if status.Running {
		if report.GoOn, own, err = a.endQueen(ctx, cfg, status.PID); err != nil {
			return err
		}
	}
	switch _, alive := readHiveRecord(cfg.Home); {
	case a.out.json:
		a.out.emit(report)
	case !status.Running:
		a.out.note("No queen is running.")
		if alive {
			a.out.note("A hive runs on this machine; 'rbee hive stop' ends it.")
		}
	case own:
		a.out.line("The queen and the hive of this machine have ended")
	default:
		a.out.line("The queen has ended")
	}
	if len(report.GoOn) > 0 && !a.out.json {
		a.out.note("These hives go on, and serve without her: %s", strings.Join(report.GoOn, ", "))
	}
	return nil
}

// endQueen ends the queen and what she started, and says which hives go on, and
// whether that of this machine ended.
func (a *app) endQueen(ctx context.Context, cfg conf.Config, pid int) (goOn []string, own bool, err error) {
	c, err := openQueen(ctx, cfg)
	if err != nil || c == nil {
		return nil, false, err
	}
	defer c.close(ctx)
	goOn = []string{}
	status, err := c.client.QueenStatus(ctx)
	if err != nil {
		return goOn, false, c.explain(err)
	}
	hives, err := c.client.Hives(ctx)
	if err != nil {
		return goOn, false, c.explain(err)
	}
	before, ran := readHiveRecord(cfg.Home)
	if err := shutDown(ctx, "queen", pid, c.client.Shutdown); err != nil {
		return goOn, false, c.explain(err)
	}
	now, runs := readHiveRecord(cfg.Home)
	runs = runs && ran && now.PID == before.PID
	for _, h := range hives {
		if h.Presence == rbee.HivePresent && (h.ID != status.LocalHive.ID || runs) {
			goOn = append(goOn, h.Name)
		}
	}
	return goOn, ran && !runs, nil
}
