package hive

import (
	"context"
	"errors"
	"slices"
	"time"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/conf"
	"rbee/internal/engines"
	"rbee/internal/gguf"
)

// spawned is the answer to a spawn.
type spawned struct {
	worker   rbee.Worker
	reused   bool
	download rbee.DownloadID
}

// spawn starts a worker for a model: the store says where its file is, its
// header whether it is one and what it needs, the machine whether that is there.
// Only then is there a process. A model that a hub has to send first has a
// worker at once, which starts when the model is here; its download is named.
func (h *Hive) spawn(ctx context.Context, req rbee.SpawnRequest) (spawned, error) {
	o, err := h.order(req)
	if err != nil {
		return spawned{}, err
	}
	if o.ref.Provider == rbee.ProviderExternal {
		return h.find(ctx, o)
	}
	if w, ok := o.reusable(h.pool.Workers()); ok {
		return spawned{worker: w, reused: true}, nil
	}
	if err := h.mayStart(o.ref); err != nil {
		return spawned{}, err
	}
	release := h.claims.add(o.ref) // until the pool has the worker, nobody must take the files for unused
	defer release()
	if o.ref.Provider == rbee.ProviderHF {
		_, there, err := h.store.OnDisk(ctx, o.ref)
		if err != nil {
			return spawned{}, err
		}
		if !there {
			return h.spawnLater(o)
		}
	}
	model, err := h.store.Resolve(ctx, o.ref)
	if err != nil {
		return spawned{}, err
	}
	plan, err := h.plan(ctx, o, model)
	if err != nil {
		return spawned{}, err
	}
	worker, err := h.pool.Start(ctx, plan)
	var there *reuse
	if errors.As(err, &there) {
		return spawned{worker: there.worker, reused: true}, nil
	}
	if err == nil {
		h.used(ctx, o.ref)
	}
	return spawned{worker: worker}, err
}

// spawnLater starts a worker when its model has been downloaded.
func (h *Hive) spawnLater(o order) (spawned, error) {
	h.later.Lock() // two that would reuse the same worker must not both start one
	defer h.later.Unlock()
	if w, ok := o.reusable(h.pool.Workers()); ok {
		return spawned{worker: w, reused: true}, nil
	}
	o.Reuse = false // of itself
	wish := h.store.Want(o.ref, 0)
	worker, err := h.pool.StartLater(o.ref, func(ctx context.Context) (pool.Plan, error) {
		defer wish.Release()
		model, err := wish.Wait(ctx)
		if err != nil {
			return nil, err
		}
		h.used(ctx, o.ref)
		return h.plan(ctx, o, model)
	})
	if err != nil {
		wish.Release()
	}
	return spawned{worker: worker, download: wish.ID}, err
}

// order is a spawn request as it was understood.
type order struct {
	rbee.SpawnRequest
	ref       rbee.ModelRef
	keepAlive conf.KeepAlive
	wait      time.Duration
}

func (h *Hive) order(req rbee.SpawnRequest) (o order, err error) {
	o.SpawnRequest = req
	if o.ref, err = h.cfg.Settings.Resolve(req.ModelRef); err != nil {
		return o, err
	}
	o.keepAlive = h.cfg.Settings.KeepAliveOf(o.ref)
	if req.KeepAlive != "" {
		if o.keepAlive, err = conf.ParseKeepAlive(req.KeepAlive); err != nil {
			return o, rbee.InvalidRequest(rbee.Fault{Field: "body.keep_alive", Problem: err.Error()})
		}
	}
	if req.Wait != "" {
		o.wait, err = time.ParseDuration(req.Wait)
		if err != nil || o.wait < 0 || o.wait > rbee.MaxSpawnWait {
			return o, rbee.InvalidRequest(rbee.Fault{Field: "body.wait", Problem: "must be a duration from 0s to 10m"})
		}
	}
	return o, nil
}

// reuse is the error of a plan whose worker is there already.
type reuse struct{ worker rbee.Worker }

// Error implements error.
func (r *reuse) Error() string { return "worker " + string(r.worker.ID) + " is there already" }

// reusable finds the worker that does what is asked for and has the most to
// give: slots, then readiness.
func (o order) reusable(live []rbee.Worker) (best rbee.Worker, found bool) {
	if !o.Reuse {
		return best, false
	}
	for _, w := range live {
		prepared := w.SlotsTotal > 0 // else nobody knows yet what it is going to be
		switch {
		case w.ModelRef != o.ref || w.State == rbee.WorkerDraining:
		case o.Backend != "" && w.Backend != o.Backend, o.Device != "" && w.Device != o.Device:
		case prepared && (w.SlotsTotal < o.Slots || w.ContextTokens < o.Context):
		case !found || w.SlotsAvailable > best.SlotsAvailable || w.State.Ready() && !best.State.Ready():
			best, found = w, true
		}
	}
	return best, found
}

// plan is how a worker for a model on disk is to be started.
func (h *Hive) plan(ctx context.Context, o order, model rbee.Model) (pool.Plan, error) {
	file, err := gguf.Read(model.LocalPath)
	if err != nil {
		return nil, err
	}
	settings := h.cfg.Settings.Worker
	w := wish{ref: o.ref, slots: settings.Slots, slotsAsked: o.Slots > 0, allowSmaller: o.AllowSmaller}
	if o.Slots > 0 {
		w.slots = o.Slots
	}
	if w.context, err = contextFor(o.Context, settings.Context, file.ContextLength); err != nil {
		return nil, err
	}
	where, err := h.place(ctx, o.Backend, o.Device)
	if err != nil {
		return nil, err
	}
	spec := pool.Spec{
		Ref: o.ref, Path: model.LocalPath, Digest: loadName(model), Backend: where.backend, Device: where.device, Queue: settings.Queue,
	}
	if o.Queue != nil {
		spec.Queue = *o.Queue
	}
	spec.KeepAlive = keepAlive(o.keepAlive)
	rest, rests := settings.RestAfter.Duration()
	if spec.RestAfter = rest; !rests {
		spec.RestAfter = -1
	}
	list := options(w, where, file, h.knownLoads(ctx, spec.Digest, where))
	return h.admit(spec, o, where, file, list), nil
}

// keepAlive is a setting as the pool knows it.
func keepAlive(k conf.KeepAlive) pool.KeepAlive {
	idle, mortal := k.Duration()
	return pool.KeepAlive{Idle: max(idle, 0), Forever: !mortal}
}

// preload loads the models that the settings name.
func (h *Hive) preload(ctx context.Context) {
	for _, name := range h.cfg.Settings.Hive.Preload.Items() {
		_, err := h.spawn(ctx, rbee.SpawnRequest{ModelRef: name, KeepAlive: conf.Forever.String(), Reuse: true})
		if err != nil && ctx.Err() == nil {
			h.log.WarnContext(ctx, "cannot load a model at the start", "model", name, "err", err)
		}
	}
}

func (h *Hive) used(ctx context.Context, ref rbee.ModelRef) {
	if err := h.store.Used(ctx, ref, h.clock.now()); err != nil {
		h.log.WarnContext(ctx, "cannot count the use of a model", "model", ref.String(), "err", err)
	}
}

// place chooses the device of a worker: the one that is asked for, or the first
// of the fastest backend that is usable. The CPU's engine is installed on first use.
func (h *Hive) place(ctx context.Context, backend rbee.Backend, device rbee.DeviceID) (place, error) {
	p := place{onMachine: hostname()}
	if device != "" {
		if backend != "" && backend != kindOf(device) {
			return p, rbee.InvalidRequest(rbee.Fault{Field: "body.device", Problem: "is not a device of the backend"})
		}
		backend = kindOf(device)
	}
	if backend != "" && !slices.Contains(rbee.Backends(), backend) {
		return p, rbee.InvalidRequest(rbee.Fault{Field: "body.backend", Problem: "must be cpu, cuda, vulkan or metal"})
	}
	if err := h.ensureEngine(ctx); err != nil {
		return p, err
	}
	if backend == "" {
		backend = h.fastest(ctx)
	}
	if backend == rbee.BackendCPU && (device == "" || device == rbee.MainMemory) {
		p.backend, p.device = backend, rbee.MainMemory
		return p, nil
	}
	list := h.devices.recent(ctx)
	if why := usable(list.Backends, backend); why != "" {
		return p, rbee.Errorf(rbee.CodeBackendUnavailable, "the backend %s is not available on %s: %s", backend, p.onMachine, why).
			Suggest("use --backend cpu, or see 'rbee engine list'")
	}
	for _, d := range list.Devices {
		if d.Kind == backend && (device == "" || device == d.ID) {
			p.backend, p.device = backend, d.ID
			return p, nil
		}
	}
	return p, rbee.Errorf(rbee.CodeBackendUnavailable, "there is no device %s on %s", device, p.onMachine).
		Suggest("see the devices with 'rbee doctor'")
}

// roomiest is where a worker would run that asks for nothing, and what is free
// there. It installs nothing.
func (h *Hive) roomiest(ctx context.Context) (p place, free int64) {
	p = place{backend: h.fastest(ctx), device: rbee.MainMemory}
	settings := h.cfg.Settings.Hive
	free = h.host.memory().MemoryFree - int64(settings.LeaveFreeMB)*megabyte
	if p.backend != rbee.BackendCPU {
		for _, d := range h.devices.recent(ctx).Devices {
			if d.Kind == p.backend {
				p.device, free = d.ID, d.MemoryFree-int64(settings.LeaveFreeVRAMMB)*megabyte
				break
			}
		}
	}
	if limit := int64(settings.MemoryLimitMB) * megabyte; limit > 0 {
		free = min(free, limit)
	}
	for _, w := range h.pool.Workers() {
		free -= w.Promised[memoryOf(p.device)]
	}
	return p, max(0, free)
}

// fastest is the backend to use unasked. The engine is only asked for devices
// where the files say that there may be a faster one than the CPU.
func (h *Hive) fastest(ctx context.Context) rbee.Backend {
	if b := fastestOf(h.engines.Status()); b == rbee.BackendCPU {
		return b
	}
	return fastestOf(h.devices.recent(ctx).Backends)
}

// fastestOf is the first backend of a list, in the order of preference, that
// is usable.
func fastestOf(list []rbee.BackendStatus) rbee.Backend {
	for _, b := range rbee.Backends() {
		if b == rbee.BackendCPU || usable(list, b) == "" {
			return b
		}
	}
	return rbee.BackendCPU
}

// ensureEngine makes sure that the engine can run, and installs it if it is not there.
func (h *Hive) ensureEngine(ctx context.Context) error {
	var step engines.Step
	report, err := h.engines.Ensure(ctx, rbee.BackendCPU, func(p engines.Progress) {
		if p.Step != step {
			step = p.Step
			h.log.InfoContext(ctx, "installing the engine", "step", string(step), "package", p.Subject)
		}
	})
	if err != nil {
		return err
	}
	if len(report.Fetched) > 0 {
		h.log.InfoContext(ctx, "the engine is installed", "dir", report.LibDir)
	}
	return engines.CheckFFI()
}
