package keeper

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/daemon"
)

const (
	// lookEvery is how often the keeper looks for what only a file or a pid shows.
	lookEvery = 25 * time.Millisecond
	// stopTime bounds how long a hive may take to end: its workers first finish
	// what they do.
	stopTime = 60 * time.Second
)

func (a *app) hiveCommand() *cobra.Command {
	g := group("hive", "Start, stop and watch the hive of this machine",
		a.hiveStartCommand(), a.hiveStopCommand(), a.hiveStatusCommand(), a.hiveTopCommand(), a.hiveLogsCommand(),
		a.hiveDecisionsCommand(), a.hiveLeaveCommand(), a.hiveCordonCommand(), a.hiveUncordonCommand(), a.hiveDrainCommand())
	g.AddCommand(a.serviceCommands()...)
	return g
}

// hiveStatus is what hive start and hive status tell.
type hiveStatus struct {
	Running bool      `json:"running"`
	PID     int       `json:"pid,omitempty"`
	URL     string    `json:"url,omitempty"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Workers int       `json:"workers"`
	Home    string    `json:"home"`

	Status *rbee.HiveStatus `json:"status,omitempty"` // of hive status alone
}

// localColony is the hive of this machine, whether it runs or not. The caller
// closes its client.
func localColony(cfg conf.Config) (*colony, error) {
	t, err := localTarget(cfg)
	if err != nil {
		return nil, err
	}
	return &colony{target: t, client: client.New(t.base, client.Key(t.key.Reveal()))}, nil
}

// lookForHive asks the daemon of the state directory how it is.
func lookForHive(ctx context.Context, cfg conf.Config) (hiveStatus, error) {
	status := hiveStatus{Home: string(cfg.Home)}
	c, err := localColony(cfg)
	if err != nil {
		return status, err
	}
	defer c.client.Close()
	record, alive := readHiveRecord(cfg.Home)
	if !alive {
		return status, nil
	}
	ask, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	h, err := c.client.Health(ask)
	if client.IsCut(err) {
		return status, nil // the pid of a hive that died is another's now, or it has just ended
	}
	if err != nil {
		return status, err
	}
	status.Running, status.PID, status.URL = true, record.PID, record.URL
	status.Version, status.Started = h.Version, record.Started
	workers, err := c.client.Workers(ask)
	status.Workers = len(workers)
	return status, c.explain(err)
}

func (a *app) hiveStartCommand() *cobra.Command {
	var addr, keepAlive string
	var j joinFlags
	var scope *string
	cmd := &cobra.Command{
		Use:   "start [HOST]",
		Short: "Start the hive in the background",
		Long: `Start the hive in the background and print its address when it answers.
It logs to logs/hive.log in the state directory, and runs until 'rbee hive stop'.

With --join it joins the colony of a queen, whose token 'rbee queen token' prints
where she is, and waits until she has taken it in; a hive that runs joins as it is.
The token is kept for later starts; 'rbee hive leave' takes that back.

With HOST it starts the hive that 'rbee hive install HOST' brought there.`,
		Example: `  rbee hive start
  rbee hive start --addr 127.0.0.1:8081 --keep-alive forever
  rbee hive start --join - <token.txt
  rbee hive start bee@big-machine`,
		Args: maybeHost,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if err := errors.Join(onlyHere(cmd, hosts, "addr", "keep-alive", "join", "restart"), onlyThere(cmd, hosts, "scope")); err != nil {
				return err
			}
			if len(hosts) > 0 {
				return a.startOn(cmd, hosts[0], *scope)
			}
			args := []string{"daemon"}
			if addr != "" {
				args = append(args, "--addr", addr)
			}
			if keepAlive != "" {
				if _, err := conf.ParseKeepAlive(keepAlive); err != nil {
					return usagef(cmd, "--keep-alive %w", err)
				}
				args = append(args, "--keep-alive", keepAlive)
			}
			text := ""
			if cmd.Flags().Changed("join") {
				var err error
				if text, err = a.joinText(cmd, j.join); err != nil {
					return err
				}
			}
			return a.startHiveIn(cmd.Context(), args, text, j.restart)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "", "HOST:PORT to listen on (default hive.addr of the configuration)")
	cmd.Flags().StringVar(&keepAlive, "keep-alive", "", "idle time after which a worker ends: 5m, 0 or forever")
	j.add(cmd)
	scope = scopeOf(cmd)
	return cmd
}

func (a *app) startHive(ctx context.Context, args []string) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	status, err := lookForHive(ctx, cfg)
	if err != nil {
		return err
	}
	if status.Running {
		a.out.note("The hive runs already (pid %d).", status.PID)
		a.printAddress(status)
		return nil
	}
	if _, err := startInBackground(ctx, cfg, "hive", "rbee-hive", args); err != nil {
		return err
	}
	if status, err = lookForHive(ctx, cfg); err != nil {
		return err
	}
	a.out.note("The hive runs (pid %d), its log is %s", status.PID, hiveLog(cfg))
	a.printAddress(status)
	return nil
}

func hiveLog(cfg conf.Config) string { return daemon.LogFile(cfg.Home, "hive") }

func (a *app) printAddress(status hiveStatus) {
	if a.out.json {
		a.out.emit(status)
		return
	}
	a.out.line("%s", status.URL)
}

// tailOf reads a log from an offset on, line by line.
func tailOf(path string, offset int64) []string {
	f, err := os.Open(path) //nolint:gosec // our own log
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
}

func (a *app) hiveStopCommand() *cobra.Command {
	var scope *string
	cmd := &cobra.Command{
		Use:     "stop [HOST]",
		Short:   "Stop the hive and its workers",
		Long:    "Stop the hive and its workers, of this machine or of HOST. It returns when the\nhive's process is gone; no hive is no error.",
		Example: "  rbee hive stop\n  rbee hive stop bee@big-machine",
		Args:    maybeHost,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if err := onlyThere(cmd, hosts, "scope"); err != nil {
				return err
			}
			if len(hosts) > 0 {
				return a.stopOn(cmd, hosts[0], *scope)
			}
			ctx := cmd.Context()
			cfg, err := a.config()
			if err != nil {
				return err
			}
			status, err := lookForHive(ctx, cfg)
			if err != nil {
				return err
			}
			if !status.Running {
				a.out.note("No hive is running.")
			} else if err := stopHive(ctx, cfg, status.PID); err != nil {
				return err
			}
			if a.out.json {
				a.out.emit(hiveStatus{Home: string(cfg.Home)})
			} else if status.Running {
				a.out.line("Hive stopped")
			}
			return nil
		},
	}
	scope = scopeOf(cmd)
	return cmd
}

func stopHive(ctx context.Context, cfg conf.Config, pid int) error {
	c, err := localColony(cfg)
	if err != nil {
		return err
	}
	defer c.client.Close()
	return c.explain(shutDown(ctx, "hive", pid, c.client.Shutdown))
}

func (a *app) hiveStatusCommand() *cobra.Command {
	var scope *string
	cmd := &cobra.Command{
		Use:   "status [HOST]",
		Short: "Say whether the hive runs; exit code 1 if it does not",
		Long: `Say whether the hive of this machine, or of HOST, runs, what it takes on and why,
and how its memory is used. Exit code 1 if it does not run.`,
		Example: `  rbee hive status
  rbee hive status bee@big-machine --json`,
		Args: maybeHost,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if err := onlyThere(cmd, hosts, "scope"); err != nil {
				return err
			}
			if len(hosts) > 0 {
				return a.statusOn(cmd, hosts[0], *scope)
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			status, err := lookForHive(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if status.Running {
				if status.Status, err = askStatus(cmd.Context(), cfg); err != nil {
					return err
				}
			}
			switch {
			case a.out.json:
				a.out.emit(status)
			case status.Running:
				a.out.line("The hive runs at %s (pid %d, version %s, %s, since %s)", status.URL, status.PID, status.Version,
					plural(status.Workers, "worker"), when(status.Started))
				a.printStatus(*status.Status)
			default:
				a.out.line("No hive is running for %s", status.Home)
			}
			if !status.Running {
				return errReported
			}
			return nil
		},
	}
	scope = scopeOf(cmd)
	return cmd
}

// askStatus asks the hive of this machine what it takes on.
func askStatus(ctx context.Context, cfg conf.Config) (*rbee.HiveStatus, error) {
	c, err := localColony(cfg)
	if err != nil {
		return nil, err
	}
	defer c.client.Close()
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	status, err := c.client.Status(ctx)
	return &status, c.explain(err)
}

func (a *app) hiveLogsCommand() *cobra.Command {
	var follow bool
	var scope *string
	cmd := &cobra.Command{
		Use:   "logs [HOST]",
		Short: "Print the log of the hive that 'rbee hive start' started",
		Long: `Print the log of the hive that 'rbee hive start' started, or of the hive of HOST,
however that was started.`,
		Example: "  rbee hive logs --follow\n  rbee hive logs bee@big-machine -f",
		Args:    maybeHost,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if err := onlyThere(cmd, hosts, "scope"); err != nil {
				return err
			}
			if len(hosts) > 0 {
				return a.logsOn(cmd, hosts[0], *scope, follow)
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			f, err := openRotated(hiveLog(cfg))
			if errors.Is(err, fs.ErrNotExist) {
				return rbee.Errorf(rbee.CodeHiveNotFound, "there is no log of a hive in %s", cfg.Home.LogsDir()).
					Suggest("start a hive with 'rbee hive start'; a service logs to 'journalctl --user -u rbee-hive'")
			}
			if err != nil {
				return rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the log of the hive: %w", err).Suggest("see 'rbee doctor'")
			}
			defer func() { _ = f.Close() }()
			ctx, done := untilInterrupted(cmd.Context(), errLeft)
			defer done()
			return a.followFile(ctx, f, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what the hive will write, until Ctrl-C")
	scope = scopeOf(cmd)
	return cmd
}

// rotated is a log file that may be moved away while it is read; what follows is
// then in a new one of its name.
type rotated struct{ *os.File }

func openRotated(path string) (*rotated, error) {
	f, err := os.Open(path) //nolint:gosec // our own log
	if err != nil {
		return nil, err
	}
	return &rotated{f}, nil
}

// Read implements io.Reader.
func (r *rotated) Read(b []byte) (int, error) {
	n, err := r.File.Read(b)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	mine, err := r.Stat()
	if err != nil {
		return 0, err
	}
	if named, err := os.Stat(r.Name()); err != nil || os.SameFile(mine, named) {
		return 0, io.EOF
	}
	next, err := os.Open(r.Name())
	if err != nil {
		return 0, io.EOF // it is being made
	}
	_ = r.Close()
	r.File = next
	return r.File.Read(b)
}

// followFile prints the lines of a file and, with follow, those that are added.
func (a *app) followFile(ctx context.Context, f io.Reader, follow bool) error {
	tick := time.NewTicker(10 * lookEvery)
	defer tick.Stop()
	reader, line := bufio.NewReader(f), ""
	for a.out.err == nil {
		part, err := reader.ReadString('\n')
		line += part
		switch {
		case err == nil:
			a.logLine(strings.TrimRight(line, "\r\n"))
			line = ""
			continue
		case !errors.Is(err, io.EOF):
			return rbee.Errorf(rbee.CodeInternalError, "cannot read the log of the hive: %w", err)
		case !follow:
			if line != "" {
				a.logLine(line)
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
