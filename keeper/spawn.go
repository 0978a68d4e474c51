package keeper

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
)

// spawnFlags are the flags of workers spawn as typed.
type spawnFlags struct {
	model, backend, device, keepAlive string
	slots, context, queue             int
	wait                              time.Duration
	noWait, reuse, allowSmaller       bool
}

func (a *app) workersSpawnCommand() *cobra.Command {
	var f spawnFlags
	cmd := &cobra.Command{
		Use:   "spawn --model REF",
		Short: "Start a worker that stays, and print its id",
		Long: `Start a worker that stays, and print its id when its model is loaded. A model
that is not on the hive's disk is downloaded first. Where memory is short, idle
workers end for it; --wait also waits for busy ones.

The worker serves 'rbee infer --worker ID' until it was idle for --keep-alive.`,
		Example: `  rbee workers spawn --model builtin:bee-tiny --slots 2 --keep-alive forever
  rbee workers spawn --model qwen --reuse --wait 30s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request(cmd)
			if err != nil {
				return err
			}
			return a.withHive(cmd, false, func(ctx context.Context, cfg conf.Config, c *colony) error {
				return a.spawn(ctx, cfg, c, f, req)
			})
		},
	}
	flags := cmd.Flags()
	modelFlag(flags, &f.model)
	placementFlags(flags, &f.backend, &f.device, &f.slots, &f.context)
	flags.IntVar(&f.queue, "queue", 0, "requests that may wait for a slot (default worker.queue of the hive)")
	flags.StringVar(&f.keepAlive, "keep-alive", "", "idle time after which the worker ends: 5m, 0 or forever (default worker.keep_alive of the hive)")
	flags.BoolVar(&f.reuse, "reuse", false, "take a worker of the model that is there already, if it does what is asked for")
	flags.BoolVar(&f.allowSmaller, "allow-smaller", false, "take fewer slots or a shorter context rather than be refused for memory")
	flags.DurationVar(&f.wait, "wait", 0, "how long to wait for memory that other workers hold now, such as 30s, at most 10m")
	flags.BoolVar(&f.noWait, "no-wait", false, "return while the model is still downloaded or loaded")
	return cmd
}

// request checks what was typed.
func (f spawnFlags) request(cmd *cobra.Command) (rbee.SpawnRequest, error) {
	req := rbee.SpawnRequest{
		Backend: rbee.Backend(f.backend), Device: rbee.DeviceID(f.device), Slots: f.slots, Context: f.context,
		KeepAlive: f.keepAlive, Reuse: f.reuse, AllowSmaller: f.allowSmaller,
	}
	if f.model == "" {
		return req, usagef(cmd, "--model is missing, such as --model builtin:bee-tiny")
	}
	if err := checkPlacement(cmd, f.backend, f.slots, f.context); err != nil {
		return req, err
	}
	if cmd.Flags().Changed("queue") {
		if f.queue < 0 || f.queue > 1024 {
			return req, usagef(cmd, "--queue must be from 0 to 1024")
		}
		req.Queue = &f.queue
	}
	if f.keepAlive != "" {
		if _, err := conf.ParseKeepAlive(f.keepAlive); err != nil {
			return req, usagef(cmd, "--keep-alive %w", err)
		}
	}
	if f.wait < 0 || f.wait > rbee.MaxSpawnWait {
		return req, usagef(cmd, "--wait must be from 0s to %s", rbee.MaxSpawnWait)
	}
	if f.wait > 0 {
		req.Wait = f.wait.String()
	}
	return req, nil
}

func (a *app) spawn(ctx context.Context, cfg conf.Config, c *colony, f spawnFlags, req rbee.SpawnRequest) error {
	ref, err := modelRef(cfg, f.model, c.local)
	if err != nil {
		return err
	}
	req.ModelRef = ref.String()
	get := a.employ
	if f.noWait {
		get = a.order
	}
	reply, err := get(ctx, cfg, c, req)
	if err != nil {
		return err
	}
	w, err := c.client.Worker(ctx, reply.WorkerID)
	if err != nil {
		return err
	}
	if a.out.json {
		a.out.emit(w)
		return nil
	}
	if f.noWait && reply.DownloadID != "" {
		a.out.note("Its model is downloaded first: 'rbee models pull %s' shows how far that is.", ref)
	}
	if reply.Reused {
		a.out.note("A worker of the model was there already.")
	}
	a.out.note("Worker %s is %s: %s on %s, %s, context of %d tokens", w.ID, w.State, w.ModelRef, w.Device, plural(w.SlotsTotal, "slot"), w.ContextTokens)
	a.out.line("%s", w.ID)
	return nil
}

// employ asks a hive for a worker and waits until it is ready. One that nobody
// waits for any longer does not stay.
func (a *app) employ(ctx context.Context, cfg conf.Config, c *colony, req rbee.SpawnRequest) (rbee.SpawnReply, error) {
	reply, err := a.order(ctx, cfg, c, req)
	if err != nil {
		return reply, err
	}
	err = a.waitLoaded(ctx, c, reply)
	if err != nil && interrupted(ctx) && !reply.Reused {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		err = errors.Join(err, c.client.StopWorker(stop, reply.WorkerID))
	}
	return reply, err
}

// order asks a hive for a worker.
func (a *app) order(ctx context.Context, cfg conf.Config, c *colony, req rbee.SpawnRequest) (rbee.SpawnReply, error) {
	elsewhere := strings.HasPrefix(req.ModelRef, string(rbee.ProviderExternal)+":")
	if c.local && !elsewhere {
		if err := a.ensureEngine(ctx, cfg, 0); err != nil {
			return rbee.SpawnReply{}, err
		}
	}
	reply, err := c.client.Spawn(ctx, req)
	if err == nil && reply.DownloadID == "" && !reply.Reused && strings.HasPrefix(req.ModelRef, string(rbee.ProviderHF)+":") {
		a.out.done(0, "Model in catalog, download skipped")
	}
	return reply, err
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
