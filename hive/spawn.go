package hive

import (
	"context"
	"slices"
	"time"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/conf"
	"rbee/internal/engines"
	"rbee/internal/gguf"
)

// spawn starts a worker for a model: the store says where its file is, its
// header whether it is one and what it needs, the machine whether that is there.
// Only then is there a process. A model that a hub has to send first has a
// worker at once, which starts when the model is here; its download is named.
func (h *Hive) spawn(ctx context.Context, req rbee.SpawnRequest) (rbee.Worker, rbee.DownloadID, error) {
	ref, err := h.cfg.Settings.Resolve(req.ModelRef)
	if err != nil {
		return rbee.Worker{}, "", err
	}
	o := order{SpawnRequest: req, ref: ref, keepAlive: h.cfg.Settings.Worker.KeepAlive}
	if req.KeepAlive != "" {
		if o.keepAlive, err = conf.ParseKeepAlive(req.KeepAlive); err != nil {
			return rbee.Worker{}, "", rbee.InvalidRequest(rbee.Fault{Field: "body.keep_alive", Problem: err.Error()})
		}
	}
	release := h.claims.add(ref) // until the pool has the worker, nobody must take the files for unused
	defer release()
	if ref.Provider == rbee.ProviderHF {
		_, there, err := h.store.OnDisk(ctx, ref)
		if err != nil {
			return rbee.Worker{}, "", err
		}
		if !there {
			return h.spawnLater(o)
		}
	}
	model, err := h.store.Resolve(ctx, ref)
	if err != nil {
		return rbee.Worker{}, "", err
	}
	plan, err := h.plan(ctx, o, model)
	if err != nil {
		return rbee.Worker{}, "", err
	}
	worker, err := h.pool.Start(plan)
	if err == nil {
		h.used(ctx, ref)
	}
	return worker, "", err
}

// spawnLater starts a worker when its model has been downloaded.
func (h *Hive) spawnLater(o order) (rbee.Worker, rbee.DownloadID, error) {
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
	return worker, wish.ID, err
}

// order is a spawn request as it was understood.
type order struct {
	rbee.SpawnRequest
	ref       rbee.ModelRef
	keepAlive conf.KeepAlive
}

// plan is how a worker for a model on disk is to be started.
func (h *Hive) plan(ctx context.Context, o order, model rbee.Model) (pool.Plan, error) {
	file, err := gguf.Read(model.LocalPath)
	if err != nil {
		return nil, err
	}
	w := wish{ref: o.ref, slots: h.cfg.Settings.Worker.Slots}
	if o.Slots > 0 {
		w.slots = o.Slots
	}
	if w.context, err = contextFor(o.Context, h.cfg.Settings.Worker.Context, file.ContextLength); err != nil {
		return nil, err
	}
	where, err := h.place(ctx, o.Backend, o.Device)
	if err != nil {
		return nil, err
	}
	spec := pool.Spec{
		Ref: o.ref, Path: model.LocalPath, Backend: where.backend, Device: where.device,
		Slots: w.slots, Context: w.context, Queue: h.cfg.Settings.Worker.Queue,
	}
	if o.Queue != nil {
		spec.Queue = *o.Queue
	}
	idle, mortal := o.keepAlive.Duration()
	spec.KeepAlive = pool.KeepAlive{Idle: max(idle, 0), Forever: !mortal}
	return func(live []rbee.Worker) (pool.Spec, error) {
		kv, need, err := fit(w, where, file, live)
		spec.KVTokens, spec.MemoryBytes = kv, need
		return spec, err
	}, nil
}

func (h *Hive) used(ctx context.Context, ref rbee.ModelRef) {
	if err := h.store.Used(ctx, ref, time.Now()); err != nil {
		h.log.WarnContext(ctx, "cannot count the use of a model", "model", ref.String(), "err", err)
	}
}

// place chooses the device of a worker: the one that is asked for, or the first
// of the fastest backend that is usable. The CPU's engine is installed on first use.
func (h *Hive) place(ctx context.Context, backend rbee.Backend, device rbee.DeviceID) (place, error) {
	p := place{onMachine: hostname(), limit: int64(h.cfg.Settings.Hive.MemoryLimitMB) * megabyte}
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
	cpu := cpuDevice()
	p.hostFree = cpu.MemoryFree
	if backend == rbee.BackendCPU && (device == "" || device == cpu.ID) {
		p.backend, p.device, p.free = backend, cpu.ID, cpu.MemoryFree
		return p, nil
	}
	list := h.devices.list(ctx)
	if why := usable(list.Backends, backend); why != "" {
		return p, rbee.Errorf(rbee.CodeBackendUnavailable, "the backend %s is not available on %s: %s", backend, p.onMachine, why).
			Suggest("use --backend cpu, or see 'rbee engine list'")
	}
	for _, d := range list.Devices {
		if d.Kind == backend && (device == "" || device == d.ID) {
			p.backend, p.device, p.free = backend, d.ID, d.MemoryFree
			return p, nil
		}
	}
	return p, rbee.Errorf(rbee.CodeBackendUnavailable, "there is no device %s on %s", device, p.onMachine).
		Suggest("see the devices with 'rbee doctor'")
}

// roomiest is where a worker would run that asks for nothing. It installs nothing.
func (h *Hive) roomiest(ctx context.Context) place {
	p := place{backend: h.fastest(ctx), limit: int64(h.cfg.Settings.Hive.MemoryLimitMB) * megabyte}
	cpu := cpuDevice()
	p.device, p.free = cpu.ID, cpu.MemoryFree
	if p.backend != rbee.BackendCPU {
		for _, d := range h.devices.list(ctx).Devices {
			if d.Kind == p.backend {
				p.device, p.free = d.ID, d.MemoryFree
				break
			}
		}
	}
	if p.limit > 0 {
		p.free = min(p.free, p.limit)
	}
	return p
}

// fastest is the backend to use unasked. The engine is only asked for devices
// where the files say that there may be a faster one than the CPU.
func (h *Hive) fastest(ctx context.Context) rbee.Backend {
	promising := func(list []rbee.BackendStatus) rbee.Backend {
		for _, b := range rbee.Backends() {
			if b == rbee.BackendCPU || usable(list, b) == "" {
				return b
			}
		}
		return rbee.BackendCPU
	}
	if b := promising(h.engines.Status()); b == rbee.BackendCPU {
		return b
	}
	return promising(h.devices.list(ctx).Backends)
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
