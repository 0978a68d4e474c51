package keeper

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/daemon"
)

// queenStatus is what queen start and queen status tell.
type queenStatus struct {
	Running bool      `json:"running"`
	PID     int       `json:"pid,omitempty"`
	URL     string    `json:"url,omitempty"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Home    string    `json:"home"`

	Status *rbee.QueenStatus `json:"status,omitempty"` // of queen status alone
}

// queenAddr is where a queen listens unless her configuration says otherwise.
const queenAddr = "127.0.0.1:7833"

// queenTarget is the queen of this machine: the daemon of the state directory if it
// lives, else the address that somebody has set. That which nobody has set may be
// anybody's on a machine that several people use. The second value says whether
// there may be one.
func queenTarget(cfg conf.Config) (target, bool, error) {
	note, alive := daemon.ReadNote(cfg.Home, "queen")
	base := note.URL
	if !alive && cfg.Queen.Addr != queenAddr {
		base = "http://" + reachable(cfg.Queen.Addr)
		_, port, err := net.SplitHostPort(cfg.Queen.Addr)
		alive = err == nil && port != "0"
	}
	if !alive {
		return target{}, false, nil
	}
	t, err := newTarget(base)
	if err != nil {
		return target{}, false, err
	}
	t.key, err = cfg.Queen.ReadKey()
	t.keyPlace, t.local = "queen.key in "+cfg.Home.ConfigFile(), true
	t.remedy = "Check if queen-rbee is running, with 'rbee queen status'"
	return t, err == nil, err
}

// openQueen is the queen of this machine, nil if none answers. The caller closes it.
func openQueen(ctx context.Context, cfg conf.Config) (*colony, error) {
	t, there, err := queenTarget(cfg)
	if err != nil || !there || !answersAt(ctx, t.base) {
		return nil, err
	}
	return &colony{target: t, queen: true, client: client.New(t.base, client.Key(t.key.Reveal()))}, nil
}

func noQueen() error {
	return rbee.Errorf(rbee.CodeHiveNotFound, "no queen is running on this machine").Suggest("start one with 'rbee up'")
}

// withQueen runs do with the queen of this machine.
func (a *app) withQueen(cmd *cobra.Command, do func(context.Context, conf.Config, *colony) error) error {
	ctx := cmd.Context()
	cfg, err := a.config()
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
	return c.explain(do(ctx, cfg, c))
}

// lookForQueen asks the queen of the state directory how she is.
func lookForQueen(ctx context.Context, cfg conf.Config) (queenStatus, error) {
	status := queenStatus{Home: string(cfg.Home)}
	note, alive := daemon.ReadNote(cfg.Home, "queen")
	c, err := openQueen(ctx, cfg)
	if err != nil || c == nil || !alive {
		return status, err
	}
	defer c.close(ctx)
	h, err := c.reach(ctx, 1)
	if err != nil {
		return status, err
	}
	status.Running, status.PID, status.URL, status.Started, status.Version = true, note.PID, note.URL, note.Started, h.Version
	return status, nil
}

func (a *app) queenCommand() *cobra.Command {
	return group("queen", "Start, stop and watch the queen: one address for the hives of all machines",
		a.queenStartCommand(), a.queenStopCommand(), a.queenStatusCommand(), a.queenLogsCommand(), a.queenTokenCommand(), a.queenHivesCommand())
}

// queenFlags are those of a queen that starts.
type queenFlags struct {
	addr, busAddr string
	noHive        bool
}

func (f *queenFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.addr, "addr", "", "HOST:PORT to listen on (default queen.addr of the configuration)")
	cmd.Flags().StringVar(&f.busAddr, "bus-addr", "", "HOST:PORT where the hives of other machines join (default queen.bus_addr of the configuration)")
	cmd.Flags().BoolVar(&f.noHive, "no-hive", false, "start no hive on this machine, as queen.hive: off does")
}

func (f *queenFlags) args() []string {
	args := []string{"daemon"}
	if f.addr != "" {
		args = append(args, "--addr", f.addr)
	}
	if f.busAddr != "" {
		args = append(args, "--bus-addr", f.busAddr)
	}
	if f.noHive {
		args = append(args, "--no-hive")
	}
	return args
}

// startQueen starts the queen, unless she runs, and says whether it did.
func (a *app) startQueen(ctx context.Context, cfg conf.Config, f queenFlags) (status queenStatus, fresh bool, err error) {
	status, err = lookForQueen(ctx, cfg)
	if err != nil || status.Running {
		return status, false, err
	}
	if _, err := startInBackground(ctx, cfg, "queen", "queen-rbee", f.args()); err != nil {
		return status, false, err
	}
	status, err = lookForQueen(ctx, cfg)
	return status, true, err
}

func (a *app) queenStartCommand() *cobra.Command {
	var f queenFlags
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Start the queen in the background",
		Long: `Start the queen in the background and print her address when she answers. She
starts a hive on this machine, if none runs, and logs to logs/queen.log in the
state directory. 'rbee up' does the same, and says what comes next.`,
		Example: "  rbee queen start\n  rbee queen start --addr 127.0.0.1:9000 --no-hive",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			status, fresh, err := a.startQueen(cmd.Context(), cfg, f)
			if err != nil {
				return err
			}
			if fresh {
				a.out.note("The queen runs (pid %d), her log is %s", status.PID, daemon.LogFile(cfg.Home, "queen"))
			} else {
				a.out.note("The queen runs already (pid %d).", status.PID)
			}
			if a.out.json {
				a.out.emit(status)
			} else {
				a.out.line("%s", status.URL)
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) queenStopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the queen and the hive that she started",
		Long: `Stop the queen, the hive that she started on this machine, and its workers. It
returns when their processes are gone; no queen is no error. Hives of other
machines go on. 'rbee down' does the same.`,
		Example: "  rbee queen stop",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.down(cmd.Context()) },
	}
}

func (a *app) queenStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Say whether the queen runs; exit code 1 if she does not",
		Long:    "Say whether the queen of this machine runs, and how she stands with her colony.\nExit code 1 if she does not run. 'rbee status' shows the hives and workers, too.",
		Example: "  rbee queen status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			status, err := lookForQueen(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if !status.Running {
				if a.out.json {
					a.out.emit(status)
				} else {
					a.out.line("No queen is running for %s", status.Home)
				}
				return errReported
			}
			return a.withQueen(cmd, func(ctx context.Context, _ conf.Config, c *colony) error {
				s, err := c.client.QueenStatus(ctx)
				if err != nil {
					return err
				}
				status.Status = &s
				if a.out.json {
					a.out.emit(status)
				} else {
					a.printQueen(c, s)
				}
				return nil
			})
		},
	}
}

func (a *app) queenLogsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:     "logs",
		Short:   "Print the log of the queen that 'rbee up' or 'rbee queen start' started",
		Example: "  rbee queen logs --follow",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			f, err := openRotated(daemon.LogFile(cfg.Home, "queen"))
			if errors.Is(err, fs.ErrNotExist) {
				return rbee.Errorf(rbee.CodeHiveNotFound, "there is no log of a queen in %s", cfg.Home.LogsDir()).Suggest("start one with 'rbee up'")
			}
			if err != nil {
				return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the log of the queen: %w", err).Suggest("see 'rbee doctor'")
			}
			defer func() { _ = f.Close() }()
			ctx, done := untilInterrupted(cmd.Context(), errLeft)
			defer done()
			return a.followFile(ctx, f, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what the queen will write, until Ctrl-C")
	return cmd
}
