package hive

import (
	"context"
	"math"
	"slices"
	"time"

	"rbee"
	"rbee/hive/room"
	"rbee/internal/bus"
	"rbee/internal/gguf"
	"rbee/models"
)

// idleWeighs is the idle time that halves what the end of a worker costs: one
// that was just used is likely to be wanted again.
const idleWeighs = time.Minute

// outlook is what the hive tells its colony of its models: what the start of
// each would take now, by the rules that the hive itself goes by. It belongs to
// one goroutine.
type outlook struct {
	hive *Hive
	key  string          // of the membership
	ways map[string]ways // by the name of a model's bytes
	mbps float64         // of downloads, as measured last
}

// ways are the ways to run a model, which change when a load was measured, or
// when another device is the fastest. To work them out takes its file and the
// catalog, so they are kept until then.
type ways struct {
	list  []rbee.RoomOption
	on    rbee.DeviceID
	loads int // that had been measured
}

func (o *outlook) about(ctx context.Context) rbee.HiveAbout {
	h := o.hive
	where, devices := o.place(ctx)
	for _, d := range h.store.Downloads() {
		if d.SpeedMBps > 0 {
			o.mbps = roughly(d.SpeedMBps)
		}
	}
	return rbee.HiveAbout{
		Name: h.name, Version: rbee.Version, APIVersion: rbee.APIVersion, URL: *h.base.Load(), Machine: bus.MachineID(),
		Key: o.key, ByQueen: h.cfg.ByQueen, StartedAt: h.clock.began, Devices: devices,
		Models: o.models(ctx, where), DownloadMBps: o.mbps,
	}
}

// place is where a worker would run that asks for nothing, and the devices. It
// installs nothing, and does not ask the engine of a machine with a CPU alone.
func (o *outlook) place(ctx context.Context) (place, []rbee.Device) {
	h := o.hive
	where := place{backend: rbee.BackendCPU, device: rbee.MainMemory, onMachine: h.name}
	if fastestOf(h.engines.Status()) == rbee.BackendCPU {
		return where, []rbee.Device{h.host.memory()}
	}
	list := h.devices.list(ctx, time.Now().Add(-statusFresh))
	fastest := fastestOf(list.Backends)
	if i := slices.IndexFunc(list.Devices, func(d rbee.Device) bool { return d.Kind == fastest }); i >= 0 && fastest != rbee.BackendCPU {
		where.backend, where.device = fastest, list.Devices[i].ID
	}
	return where, list.Devices
}

func (o *outlook) models(ctx context.Context, where place) []rbee.ColonyModel {
	h := o.hive
	rows, err := h.store.Models(ctx)
	if err != nil {
		h.log.WarnContext(ctx, "cannot tell the colony of the models", "err", err)
	}
	builtin := rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: models.BeeTinyName}
	if !slices.ContainsFunc(rows, func(m rbee.Model) bool { return m.Ref() == builtin }) {
		rows = append(rows, rbee.Model{
			Provider: builtin.Provider, Reference: builtin.Reference, SizeBytes: int64(len(models.BeeTiny())), SHA256: models.BeeTinySHA256,
		})
	}
	hold := h.holding(ctx, where.device, h.host.goodSince(where.device, statusFresh))
	list := make([]rbee.ColonyModel, 0, len(rows))
	for _, row := range rows {
		list = append(list, o.model(ctx, row, where, hold))
	}
	seen := map[rbee.ModelRef]bool{}
	for _, w := range h.pool.Workers() {
		if w.External && !seen[w.ModelRef] {
			seen[w.ModelRef] = true
			list = append(list, rbee.ColonyModel{ModelRef: w.ModelRef, ContextLength: w.ContextTokens, Verdict: rbee.VerdictStart})
		}
	}
	return list
}

// model says what a start of a model would take now.
func (o *outlook) model(ctx context.Context, row rbee.Model, where place, hold rbee.Holding) rbee.ColonyModel {
	h := o.hive
	m := rbee.ColonyModel{
		ModelRef: row.Ref(), SizeBytes: row.SizeBytes, Digest: row.SHA256, Quantisation: row.Quantisation, ContextLength: row.ContextLength,
		LoadMS:        h.loadTime(row.Ref(), row.SizeBytes).Milliseconds(),
		PrefillPerSec: roughly(h.traffic.prefillOf(row.Ref())),
	}
	refuse := func(why error) rbee.ColonyModel {
		m.Verdict, m.Reason = rbee.VerdictRefuse, rbee.AsError(why).Message
		return m
	}
	now := h.clock.now()
	if loop, held := h.crashes.Check(m.ModelRef, now); held {
		return refuse(rbee.Errorf(rbee.CodeWorkerNotReady, "its workers failed %d times in a row; the next may start at %s",
			loop.Failures, loop.RetryAt.Format(time.TimeOnly)))
	}
	list, err := o.options(ctx, row, where)
	if err != nil {
		return refuse(err)
	}
	ruling := room.Decide(hold, rbee.RoomRequest{ModelRef: m.ModelRef, Device: memoryOf(where.device), Options: list, MayWait: true})
	m.Verdict = ruling.Verdict
	if m.Verdict == rbee.VerdictRefuse {
		m.Reason = ruling.Sentence
	}
	for _, w := range hold.Workers {
		if slices.Contains(ruling.Evict, w.ID) {
			m.LossMS += loss(w)
		}
	}
	return m
}

// options are the ways to run a model that the hive would choose from.
func (o *outlook) options(ctx context.Context, row rbee.Model, where place) (list []rbee.RoomOption, err error) {
	h := o.hive
	if row.LocalPath == "" { // a builtin one that nobody has used
		return []rbee.RoomOption{{Slots: 1, Memory: rbee.Memory{rbee.MainMemory: builtinNeeds * row.SizeBytes}}}, nil
	}
	name := loadName(row)
	loads := h.traffic.measured(name)
	if known := o.ways[name]; known.on == where.device && known.loads == loads {
		return known.list, nil
	}
	file, err := gguf.Read(row.LocalPath)
	if err != nil {
		return nil, err
	}
	settings := h.cfg.Settings.Worker
	w := wish{ref: row.Ref(), slots: settings.Slots}
	if w.context, err = contextFor(0, settings.Context, file.ContextLength); err != nil {
		return nil, err
	}
	for _, opt := range options(w, where, file, h.knownLoads(ctx, name, where)) {
		list = append(list, opt.RoomOption)
	}
	o.ways[name] = ways{list, where.device, loads}
	return list, nil
}

// builtinNeeds is how many times its size a builtin model takes, about.
const builtinNeeds = 16

// loss is what it costs that a worker ends, in milliseconds: what it takes to
// load it again, and less the longer nobody wanted it.
func loss(w rbee.Held) int64 {
	weight := float64(idleWeighs.Milliseconds()) / float64(idleWeighs.Milliseconds()+w.IdleMS)
	return int64(roughly(float64(w.ReloadMS) * weight))
}

// roughly has two digits, so that what moves a little is no news.
func roughly(x float64) float64 {
	if x <= 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return math.Round(x/unit) * unit
}

// goodSince is since when what is known of a device's memory will do for an
// outlook: to ask takes a child, so it may be so old if no worker has moved since.
func (m *machine) goodSince(d rbee.DeviceID, age time.Duration) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := time.Now().Add(-age)
	if moved := m.moved[d]; moved.After(since) {
		return moved
	}
	return since
}

// known is the devices as they were when somebody asked last; none before that.
func (d *devices) known() []rbee.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last.Devices
}
