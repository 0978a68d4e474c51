package keeper

import (
	"bufio"
	"context"
	"errors"
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
		a.workersLogsCommand(), a.workersHealthCommand())
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
		Use:   "list",
		Short: "List the live workers",
		Args:  cobra.NoArgs,
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
						string(w.ID), w.ModelRef.String(), string(w.State), orDash(string(w.Device)),
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

func (a *app) workersSpawnCommand() *cobra.Command {
	var (
		model, backend, device, keepAlive string
		slots, contextTokens, queue       int
		noWait                            bool
	)
	cmd := &cobra.Command{
		Use:   "spawn --model REF",
		Short: "Start a worker that stays, and print its id",
		Long: `Start a worker that stays, and print its id when its model is loaded. A model
that is not on the hive's disk is downloaded first.

The worker serves 'rbee infer --worker ID' until it was idle for --keep-alive.`,
		Example: `  rbee workers spawn --model builtin:bee-tiny --slots 2 --keep-alive forever`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if model == "" {
				return usagef(cmd, "--model is missing, such as --model builtin:bee-tiny")
			}
			if err := checkPlacement(cmd, backend, slots, contextTokens); err != nil {
				return err
			}
			req := rbee.SpawnRequest{
				Backend: rbee.Backend(backend), Device: rbee.DeviceID(device), Slots: slots, Context: contextTokens,
			}
			if cmd.Flags().Changed("queue") {
				if queue < 0 || queue > 1024 {
					return usagef(cmd, "--queue must be from 0 to 1024")
				}
				req.Queue = &queue
			}
			if keepAlive != "" {
				if _, err := conf.ParseKeepAlive(keepAlive); err != nil {
					return usagef(cmd, "--keep-alive %w", err)
				}
				req.KeepAlive = keepAlive
			}
			return a.withHive(cmd, false, func(ctx context.Context, cfg conf.Config, c *colony) error {
				return a.spawn(ctx, cfg, c, model, req, noWait)
			})
		},
	}
	flags := cmd.Flags()
	modelFlag(flags, &model)
	placementFlags(flags, &backend, &device, &slots, &contextTokens)
	flags.IntVar(&queue, "queue", 0, "requests that may wait for a slot (default worker.queue of the hive)")
	flags.StringVar(&keepAlive, "keep-alive", "", "idle time after which the worker ends: 5m, 0 or forever (default worker.keep_alive of the hive)")
	flags.BoolVar(&noWait, "no-wait", false, "return while the model is still downloaded or loaded")
	return cmd
}

func (a *app) spawn(ctx context.Context, cfg conf.Config, c *colony, model string, req rbee.SpawnRequest, noWait bool) error {
	ref, err := modelRef(cfg, model, c.local)
	if err != nil {
		return err
	}
	req.ModelRef = ref.String()
	if c.local {
		if err := a.ensureEngine(ctx, cfg, 0); err != nil {
			return err
		}
	}
	reply, err := c.client.Spawn(ctx, req)
	if err != nil {
		return err
	}
	if !noWait {
		if err := a.waitLoaded(ctx, c, reply); err != nil {
			if interrupted(ctx) { // what nobody waits for shall not stay
				stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
				defer cancel()
				err = errors.Join(err, c.client.StopWorker(stop, reply.WorkerID))
			}
			return err
		}
	}
	w, err := c.client.Worker(ctx, reply.WorkerID)
	if err != nil {
		return err
	}
	if a.out.json {
		a.out.emit(w)
		return nil
	}
	if noWait && reply.DownloadID != "" {
		a.out.note("Its model is downloaded first: 'rbee models pull %s' shows how far that is.", ref)
	}
	a.out.note("Worker %s is %s: %s on %s, %s, context of %d tokens", w.ID, w.State, w.ModelRef, w.Device, plural(w.SlotsTotal, "slot"), w.ContextTokens)
	a.out.line("%s", w.ID)
	return nil
}

// waitLoaded blocks until a worker is ready. One whose model is downloaded
// first is starting for as long as that takes.
func (a *app) waitLoaded(ctx context.Context, c *colony, spawned rbee.SpawnReply) error {
	id := spawned.WorkerID
	if spawned.DownloadID != "" {
		p, err := a.follower(0).follow(ctx, c, spawned.DownloadID)
		if err != nil {
			return err
		}
		if p.Stage == rbee.DownloadComplete {
			a.out.done(0, "Model downloaded%s", sizeOf(p))
		}
	}
	if _, err := c.await(ctx, id, func(s rbee.WorkerState) bool { return s != rbee.WorkerStarting }); err != nil {
		return err
	}
	if err := a.load(ctx, c, id, 0); err != nil {
		return err
	}
	_, err := c.await(ctx, id, rbee.WorkerState.Ready)
	return err
}

func (a *app) workersShutdownCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "shutdown ID... | --all",
		Short: "Let workers finish what they do, then stop them",
		Args:  cobra.ArbitraryArgs,
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
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Print what a worker wrote",
		Args:  one("id of the worker"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHive(cmd, false, func(ctx context.Context, _ conf.Config, c *colony) error {
				r, err := c.client.WorkerLogs(ctx, rbee.WorkerID(args[0]), follow)
				if err != nil {
					return err
				}
				defer func() { _ = r.Close() }()
				return a.copyLines(ctx, r)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what the worker will write, until it ends")
	return cmd
}

// lineEvent is the JSON form of a line of a log.
type lineEvent struct {
	Line string `json:"line"`
}

func (a *app) copyLines(ctx context.Context, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		a.logLine(lines.Text())
		if a.out.err != nil {
			return nil
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return rbee.Errorf(rbee.CodeConnectionTimeout, "cannot read the log to its end: %w", err).Suggest("run the command again")
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
		Use:   "health [ID...]",
		Short: "Ask workers whether they answer and are ready",
		Long:  "Ask workers, by default all, whether they answer and are ready. Exit code 1 if one does not answer.",
		Args:  cobra.ArbitraryArgs,
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
