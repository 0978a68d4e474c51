package keeper

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
)

func (a *app) workersCommand() *cobra.Command {
	g := group("workers", "List, start, watch and stop the workers of a hive",
		a.workersListCommand(), a.workersSpawnCommand(), a.workersShutdownCommand(),
		a.workersLogsCommand(), a.workersHealthCommand(), a.workersPinCommand(), a.workersUnpinCommand())
	nodeFlag(g)
	return g
}

// nodeFlag gives a group of commands the flag for the hive.
func nodeFlag(g *cobra.Command) {
	g.PersistentFlags().String("node", "", "hive to use: localhost, a name of config.yaml or ~/.ssh/config, or HOST[:PORT]")
}

// withHive runs do with a hive. Where none runs on this machine and none is
// named, private decides whether one is started for the command.
func (a *app) withHive(cmd *cobra.Command, private bool, do func(context.Context, conf.Config, *colony) error) error {
	ctx := cmd.Context()
	cfg, err := a.config()
	if err != nil {
		return err
	}
	node, err := cmd.Flags().GetString("node")
	if err != nil {
		return err
	}
	c, err := a.connect(ctx, cfg, access{node: node, private: private, attempts: defaultAttempts})
	if err != nil {
		return err
	}
	defer c.close(ctx)
	return c.explain(do(ctx, cfg, c))
}

func (a *app) workersListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the live workers",
		Example: "  rbee workers list\n  rbee workers list --node big --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				workers, err := c.client.Workers(ctx)
				if err != nil {
					return err
				}
				if a.out.json {
					a.out.emit(rbee.WorkerList{Workers: workers})
					return nil
				}
				if len(workers) == 0 {
					a.out.note("No workers on %s.", c.host)
					return nil
				}
				rows := [][]string{{"ID", "MODEL", "STATE", "DEVICE", "SLOTS FREE", "MEMORY", "PID", "LAST ACTIVITY"}}
				for _, w := range workers {
					pid := "external"
					if w.PID > 0 {
						pid = strconv.Itoa(w.PID)
					}
					rows = append(rows, []string{
						string(w.ID), w.ModelRef.String(), stateText(w), orDash(string(w.Device)),
						fmt.Sprintf("%d/%d", w.SlotsAvailable, w.SlotsTotal), size(w.MemoryBytes), pid,
						w.LastActivity.Local().Format(time.DateTime),
					})
				}
				a.out.table(rows)
				return nil
			})
		},
	}
}

// stateText is the state of a worker with what else decides on its life.
func stateText(w rbee.Worker) string {
	text := string(w.State)
	if w.Pinned {
		text += ", pinned"
	}
	if w.Resting {
		text += ", resting"
	}
	return text
}

func (a *app) workersShutdownCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "shutdown ID... | --all",
		Short:   "Let workers finish what they do, then stop them",
		Example: "  rbee workers shutdown w-1 w-2\n  rbee workers shutdown --all",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef(cmd, "name the workers, or give --all, and not both")
			}
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				ids, err := a.idsToStop(ctx, c, args)
				if err != nil {
					return err
				}
				for _, id := range ids {
					if err := c.client.StopWorker(ctx, id); err != nil {
						return err
					}
					a.stopped(id)
				}
				if len(ids) == 0 {
					a.out.note("No workers on %s.", c.host)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "stop all workers that the hive started")
	return cmd
}

// idsToStop are the workers that are named, or all. The API takes a worker that
// is not there for done; here it is more likely a typing error.
func (a *app) idsToStop(ctx context.Context, c *colony, named []string) ([]rbee.WorkerID, error) {
	var ids []rbee.WorkerID
	if len(named) == 0 {
		workers, err := c.client.Workers(ctx)
		for _, w := range workers {
			if !w.External {
				ids = append(ids, w.ID)
			}
		}
		return ids, err
	}
	for _, name := range named {
		if _, err := c.client.Worker(ctx, rbee.WorkerID(name)); err != nil {
			return nil, err
		}
		ids = append(ids, rbee.WorkerID(name))
	}
	return ids, nil
}

func (a *app) stopped(id rbee.WorkerID) {
	if a.out.json {
		a.out.emit(struct {
			WorkerID rbee.WorkerID    `json:"worker_id"`
			State    rbee.WorkerState `json:"state"`
		}{id, rbee.WorkerStopped})
		return
	}
	a.out.line("Worker %s stopped", id)
}

func (a *app) workersLogsCommand() *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Print what a worker wrote",
		Long: `Print what a worker wrote. With --follow it goes on until the worker ends, or
until Ctrl-C, which ends it with exit code 130.`,
		Example: `  rbee workers logs w-1 --tail 20 --follow`,
		Args:    one("id of the worker"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("tail") && tail < 0 {
				return usagef(cmd, "--tail must be 0 or more")
			}
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				return a.workerLogs(ctx, c, rbee.WorkerID(args[0]), follow, tail)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what the worker will write, until it ends")
	cmd.Flags().IntVar(&tail, "tail", -1, "begin with the last N lines (default all that the hive has)")
	return cmd
}

// workerLogs prints a log of a worker from its last tail lines on; -1 is all.
func (a *app) workerLogs(ctx context.Context, c *colony, id rbee.WorkerID, follow bool, tail int) error {
	skip := 0
	if tail >= 0 {
		r, err := c.client.WorkerLogs(ctx, id, false)
		if err != nil {
			return err
		}
		n := 0
		err = a.eachLine(ctx, r, func(string) { n++ })
		if err != nil {
			return err
		}
		skip = max(0, n-tail)
	}
	if follow {
		var done func()
		ctx, done = untilInterrupted(ctx, errLeft)
		defer done()
	}
	r, err := c.client.WorkerLogs(ctx, id, follow)
	if err != nil {
		return err
	}
	return a.eachLine(ctx, r, func(line string) {
		if skip > 0 {
			skip--
			return
		}
		a.logLine(line)
	})
}

// lineEvent is the JSON form of a line of a log.
type lineEvent struct {
	Line string `json:"line"`
}

// eachLine reads a log to its end, and closes it.
func (a *app) eachLine(ctx context.Context, r io.ReadCloser, do func(string)) error {
	defer func() { _ = r.Close() }()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		do(lines.Text())
		if a.out.err != nil {
			return nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case lines.Err() != nil:
		return rbee.Errorf(rbee.CodeConnectionTimeout, "cannot read the log to its end: %w", lines.Err()).Suggest("run the command again")
	}
	return nil
}

func (a *app) logLine(line string) {
	if a.out.json {
		a.out.emit(lineEvent{line})
	} else {
		a.out.line("%s", line)
	}
}

// workerHealth is a row of workers health.
type workerHealth struct {
	WorkerID rbee.WorkerID    `json:"worker_id"`
	State    rbee.WorkerState `json:"state"`
	Healthy  bool             `json:"healthy"`
	Ready    bool             `json:"ready"`
	Version  string           `json:"version,omitempty"`
	Problem  string           `json:"problem,omitempty"`
}

func (a *app) workersHealthCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "health [ID...]",
		Short:   "Ask workers whether they answer and are ready",
		Long:    "Ask workers, by default all, whether they answer and are ready. Exit code 1 if one does not answer.",
		Example: "  rbee workers health",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				workers, err := workersNamed(ctx, c, args)
				if err != nil {
					return err
				}
				var report []workerHealth
				sick := false
				for _, w := range workers {
					h := askHealth(ctx, c.worker(w.ID), w)
					sick = sick || !h.Healthy
					report = append(report, h)
				}
				a.printHealth(c, report)
				if sick {
					return errReported
				}
				return nil
			})
		},
	}
}

func workersNamed(ctx context.Context, c *colony, names []string) ([]rbee.Worker, error) {
	if len(names) == 0 {
		return c.client.Workers(ctx)
	}
	var workers []rbee.Worker
	for _, name := range names {
		w, err := c.client.Worker(ctx, rbee.WorkerID(name))
		if err != nil {
			return nil, err
		}
		workers = append(workers, w)
	}
	return workers, nil
}

func askHealth(ctx context.Context, worker *client.Client, w rbee.Worker) workerHealth {
	h := workerHealth{WorkerID: w.ID, State: w.State}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	health, err := worker.Health(ctx)
	if err == nil {
		var ready rbee.Readiness
		ready, err = worker.Ready(ctx)
		h.Ready = ready.Ready
	}
	h.Healthy, h.Version = err == nil, health.Version
	if err != nil {
		h.Problem = asError(err).Message
	}
	return h
}

func (a *app) printHealth(c *colony, report []workerHealth) {
	if a.out.json {
		a.out.emit(struct {
			Workers []workerHealth `json:"workers"`
		}{append([]workerHealth{}, report...)})
		return
	}
	if len(report) == 0 {
		a.out.note("No workers on %s.", c.host)
		return
	}
	rows := [][]string{{"ID", "STATE", "ANSWERS", "READY", "VERSION", "PROBLEM"}}
	for _, h := range report {
		rows = append(rows, []string{string(h.WorkerID), string(h.State), yesNo(h.Healthy), yesNo(h.Ready), orDash(h.Version), orDash(h.Problem)})
	}
	a.out.table(rows)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
