package hive

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"rbee"
	"rbee/hive/catalog"
	"rbee/hive/pool"
	"rbee/internal/conf"
	"rbee/internal/engines"
	"rbee/internal/gguf"
	"rbee/models"
)

// spawn starts a worker for a model: the catalog says where the file is, its
// header whether it is one and what it needs, the machine whether that is
// there. Only then is there a process.
func (h *Hive) spawn(ctx context.Context, req rbee.SpawnRequest) (rbee.Worker, error) {
	ref, err := h.cfg.Settings.Resolve(req.ModelRef)
	if err != nil {
		return rbee.Worker{}, err
	}
	keepAlive := h.cfg.Settings.Worker.KeepAlive
	if req.KeepAlive != "" {
		if keepAlive, err = conf.ParseKeepAlive(req.KeepAlive); err != nil {
			return rbee.Worker{}, rbee.InvalidRequest(rbee.Fault{Field: "body.keep_alive", Problem: err.Error()})
		}
	}
	model, err := h.store.Resolve(ctx, ref)
	if err != nil {
		return rbee.Worker{}, err
	}
	file, err := gguf.Read(model.LocalPath)
	if err != nil {
		return rbee.Worker{}, err
	}
	w := wish{ref: ref, slots: h.cfg.Settings.Worker.Slots}
	if req.Slots > 0 {
		w.slots = req.Slots
	}
	if w.context, err = contextFor(req.Context, h.cfg.Settings.Worker.Context, file.ContextLength); err != nil {
		return rbee.Worker{}, err
	}
	where, err := h.place(ctx, req.Backend, req.Device)
	if err != nil {
		return rbee.Worker{}, err
	}
	spec := pool.Spec{
		Ref: ref, Path: model.LocalPath, Backend: where.backend, Device: where.device,
		Slots: w.slots, Context: w.context, Queue: h.cfg.Settings.Worker.Queue,
	}
	if req.Queue != nil {
		spec.Queue = *req.Queue
	}
	idle, mortal := keepAlive.Duration()
	spec.KeepAlive = pool.KeepAlive{Idle: max(idle, 0), Forever: !mortal}
	worker, err := h.pool.Start(func(live []rbee.Worker) (pool.Spec, error) {
		kv, need, err := fit(w, where, file, live)
		spec.KVTokens, spec.MemoryBytes = kv, need
		return spec, err
	})
	if err != nil {
		return rbee.Worker{}, err
	}
	if err := h.store.Used(ctx, ref, time.Now()); err != nil {
		h.log.WarnContext(ctx, "cannot count the use of a model", "model", ref.String(), "err", err)
	}
	return worker, nil
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

// catalogConfig is how this hive keeps its models.
func (h *Hive) catalogConfig() catalog.Config {
	dir := h.cfg.Settings.Home.ModelsDir()
	return catalog.Config{
		Dir: dir,
		Providers: []catalog.Provider{
			catalog.NewBuiltins(dir, inspect, catalog.Builtin{Name: models.BeeTinyName, Bytes: models.BeeTiny(), SHA256: models.BeeTinySHA256}),
			catalog.NewFiles(inspect),
		},
		Inspect: inspect,
		Changed: func(kind rbee.EventKind, m rbee.Model) {
			h.pool.Feed().Publish(rbee.Event{Kind: kind, Time: time.Now(), Model: &m})
		},
		Log: h.log,
	}
}

// inspect makes the row of a model out of its header.
func inspect(path string) (rbee.Model, error) {
	f, err := gguf.Read(path)
	if err != nil {
		return rbee.Model{}, err
	}
	info, err := os.Stat(path) // of a split model the first part stands for all
	if err != nil {
		return rbee.Model{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return rbee.Model{
		SizeBytes: info.Size(), Architecture: f.Architecture, Quantisation: f.Quantisation,
		ContextLength: f.ContextLength, Parameters: f.Parameters,
	}, nil
}
