package hive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"rbee"
	"rbee/hive/catalog"
	"rbee/hive/pool"
	"rbee/hive/room"
	"rbee/internal/gguf"
	"rbee/internal/httpapi"
)

const (
	// maxDefaultContext bounds the context that a worker gets unasked, in tokens:
	// many models were trained for more than anybody's memory holds.
	maxDefaultContext = 8192
	// minShrunkContext is the shortest context that a worker gets whose caller
	// allows less than it asked for.
	minShrunkContext = 512
	// maxEvictions bounds how often idle workers are ended for one start: each
	// time others took what became free.
	maxEvictions = 8
	// memoryReturns is how long the memory of an accelerator may take to be free
	// after the process that held it has ended.
	memoryReturns = 5 * time.Second
	returnsCheck  = 50 * time.Millisecond
)

const megabyte = 1_000_000

// place is where a worker is to run.
type place struct {
	backend   rbee.Backend
	device    rbee.DeviceID
	onMachine string
}

// wish is what a spawn asks for, with the defaults of the settings.
type wish struct {
	ref          rbee.ModelRef
	slots        int
	context      int
	slotsAsked   bool // by number, so fewer at a time are less than was asked for
	allowSmaller bool
}

// estimator says how much memory a model takes; gguf.File does.
type estimator interface {
	Estimate(kvTokens, slots int, b rbee.Backend) gguf.Estimate
}

// option is a way to run a worker.
type option struct {
	rbee.RoomOption
	mapped int64 // of its main memory, the model file
}

// options are the ways to run a worker, best first: room for all slots to use
// their whole context, then less, down to the context of one; then, if the
// caller allows it, shorter contexts. All slots share the cache, so with less
// of it requests that are long at the same time wait for one another. Known is
// what a load like this took before, if that was measured.
func options(w wish, p place, model estimator, known func(slots, context, kv int) (pool.Weight, bool)) (list []option) {
	add := func(context, kv int, shrunk bool) {
		if shrunk && !w.allowSmaller {
			return
		}
		weight, measured := known(w.slots, context, kv)
		if !measured {
			weight = estimated(model.Estimate(kv, w.slots, p.backend), p)
		}
		list = append(list, option{rbee.RoomOption{
			Slots: w.slots, ContextTokens: context, KVTokens: kv, Memory: weight.Memory, Shrunk: shrunk,
		}, weight.Mapped})
	}
	for kv := w.slots * w.context; kv > w.context; kv /= 2 {
		add(w.context, kv, kv < w.slots*w.context && w.slotsAsked)
	}
	add(w.context, w.context, w.slots > 1 && w.slotsAsked)
	for context := w.context / 2; context >= minShrunkContext; context /= 2 {
		add(context, context, true)
	}
	return list
}

// estimated is the weight of an estimate. What the host has of the weights is
// mapped from the file. An accelerator that shares main memory takes from that.
func estimated(e gguf.Estimate, p place) pool.Weight {
	w := pool.Weight{Memory: rbee.Memory{}, Mapped: e.Host.Weights}
	w.Memory[rbee.MainMemory] = e.Host.Total()
	if d := e.Device.Total(); d > 0 {
		w.Memory[memoryOf(p.device)] += d
	}
	return w
}

// memoryOf is the device whose memory a device computes in.
func memoryOf(d rbee.DeviceID) rbee.DeviceID {
	if kindOf(d) == rbee.BackendMetal {
		return rbee.MainMemory
	}
	return d
}

// holding is what is known of the memory that a worker on a device would take
// from, as it is since a time.
func (h *Hive) holding(ctx context.Context, device rbee.DeviceID, since time.Time) rbee.Holding {
	live := h.pool.Workers()
	settings := h.cfg.Settings.Hive
	free := h.host.memory().MemoryFree
	hold := rbee.Holding{
		Free:       rbee.Memory{rbee.MainMemory: free},
		Leave:      rbee.Memory{rbee.MainMemory: int64(settings.LeaveFreeMB) * megabyte},
		LimitBytes: int64(settings.MemoryLimitMB) * megabyte,
		Workers:    []rbee.Held{},
	}
	if memory := memoryOf(device); memory != rbee.MainMemory {
		hold.Free[memory] = 0
		for _, d := range h.devices.list(ctx, since).Devices {
			if d.ID == device {
				hold.Free[memory] = d.MemoryFree
			}
		}
		hold.Leave[memory] = int64(settings.LeaveFreeVRAMMB) * megabyte
	}
	now := h.clock.now()
	for _, w := range live {
		hold.Workers = append(hold.Workers, heldBy(w, now))
	}
	return hold
}

// claimTime is how long a worker that nobody has used is kept for whoever asked
// for it.
const claimTime = 10 * time.Second

func heldBy(w rbee.Worker, now time.Time) rbee.Held {
	idle := max(0, now.Sub(w.LastActivity))
	return rbee.Held{
		ID: w.ID, ModelRef: w.ModelRef, State: w.State, Pinned: w.Pinned, External: w.External,
		Awaited: w.Requests == 0 && idle < claimTime,
		IdleMS:  idle.Milliseconds(), ReloadMS: w.LoadMS, Memory: w.Memory, Promised: w.Promised,
	}
}

// admit is the plan of a worker: it makes room for it, or says why there is none.
func (h *Hive) admit(spec pool.Spec, o order, where place, model estimator, list []option) pool.Plan {
	var last rbee.Verdict // that was recorded
	until := h.clock.now().Add(o.wait)
	req := rbee.RoomRequest{ModelRef: o.ref, Device: memoryOf(where.device), MayWait: o.wait > 0}
	for _, o := range list {
		req.Options = append(req.Options, o.RoomOption)
	}
	return func(ctx context.Context, live []rbee.Worker) (pool.Spec, error) {
		if err := h.mayStart(o.ref); err != nil {
			return spec, err
		}
		if w, ok := o.reusable(live); ok {
			return spec, &reuse{w}
		}
		for range maxEvictions {
			d := h.rule(ctx, where, req)
			if d.Verdict != last || d.Verdict == rbee.VerdictEvict {
				d = h.decided(ctx, d)
				last = d.Verdict
			}
			switch d.Verdict {
			case rbee.VerdictStart:
				return h.take(spec, *d.Option, list, d.Holding), nil
			case rbee.VerdictEvict:
				h.pool.Evict(ctx, d.Evict, pool.CauseEvicted, fmt.Sprintf("the model %s needed its memory", o.ref))
			case rbee.VerdictWait:
				return spec, &pool.Later{Refusal: func() error { return h.refusal(ctx, d, o, where, model) }, Until: until}
			default:
				return spec, h.refusal(ctx, d, o, where, model)
			}
			if ctx.Err() != nil {
				return spec, context.Cause(ctx)
			}
		}
		return spec, &pool.Later{Until: until, Refusal: func() error {
			return rbee.Errorf(rbee.CodeAllSlotsBusy, "the workers on %s are in use again before they can make room for %s", where.onMachine, o.ref).
				Suggest("try again in a while")
		}}
	}
}

// rule decides. Before the decision is other than to start, memory that is on
// its way back has arrived: a driver frees it some time after the process ended.
func (h *Hive) rule(ctx context.Context, where place, req rbee.RoomRequest) rbee.Decision {
	for since := h.host.settled(where.device); ; since = time.Now() {
		d := rbee.Decision{Holding: h.holding(ctx, where.device, since), Request: req}
		d.Ruling = room.Decide(d.Holding, req)
		if d.Verdict == rbee.VerdictStart || !h.host.returning(where.device) {
			return d
		}
		select {
		case <-time.After(returnsCheck):
		case <-ctx.Done():
			return d
		}
	}
}

// take makes the spec of what was decided.
func (h *Hive) take(spec pool.Spec, chosen rbee.RoomOption, list []option, hold rbee.Holding) pool.Spec {
	spec.Slots, spec.Context, spec.KVTokens = chosen.Slots, chosen.ContextTokens, chosen.KVTokens
	spec.Weight.Memory = chosen.Memory
	for _, o := range list {
		if o.ContextTokens == chosen.ContextTokens && o.KVTokens == chosen.KVTokens {
			spec.Weight.Mapped = o.mapped
		}
	}
	spec.Before = h.host.mark(spec.Device, hold.Free[memoryOf(spec.Device)])
	return spec
}

// refusal is the error of a decision that nothing starts.
func (h *Hive) refusal(ctx context.Context, d rbee.Decision, o order, where place, model estimator) error {
	code := rbee.CodeInsufficientRAM
	if d.Device != rbee.MainMemory {
		code = rbee.CodeVRAMExhausted
	}
	required, available := room.MB(d.RequiredBytes, d.FreeBytes+d.IdleBytes)
	fits := h.fits(ctx, d, o, where, model)
	err := rbee.Errorf(code, "%s needs %d MB on %s of %s and %d MB are free there", o.ref, required, d.Device, where.onMachine, available).
		With("required", required).With("available", available)
	var ways []string
	if len(fits) > 0 {
		err = err.With("fits", fits)
		best := fits[0]
		if best.ModelRef == o.ref {
			ways = append(ways, fmt.Sprintf("ask for --context %d, which fits", best.ContextTokens))
		} else {
			ways = append(ways, fmt.Sprintf("take %s, which fits", best.ModelRef))
		}
	}
	ways = append(ways, "try a smaller quantisation, a smaller --context, or stop another worker")
	if d.Request.MayWait = true; room.Decide(d.Holding, d.Request).Verdict == rbee.VerdictWait {
		ways = append(ways, "wait until the busy workers are idle")
	}
	return err.Suggest("%s", strings.Join(ways, ", or "))
}

// contextFor is the context of a worker: what was asked for, what the settings
// say, or what the model was trained for, within reason. More than that is refused.
func contextFor(asked, configured, trained int) (int, error) {
	if trained > 0 && asked > trained {
		return 0, rbee.Errorf(rbee.CodeInvalidRequest, "the model was trained for %d tokens of context and cannot have %d", trained, asked).
			Suggest("ask for at most %d", trained)
	}
	context := maxDefaultContext
	switch {
	case asked > 0:
		context = asked
	case configured > 0:
		context = configured
	}
	if trained > 0 {
		context = min(context, trained)
	}
	return context, nil
}

// kindOf is the backend that drives a device: the id without its number.
func kindOf(d rbee.DeviceID) rbee.Backend {
	return rbee.Backend(strings.TrimRight(string(d), "0123456789"))
}

// mayStart is an error when no worker of a model may start now.
func (h *Hive) mayStart(ref rbee.ModelRef) error {
	if s := h.standing.now(); s.State != rbee.HiveOpen {
		return closed(s)
	}
	now := h.clock.now()
	loop, held := h.crashes.Check(ref, now)
	if !held {
		return nil
	}
	wait := loop.RetryAt.Sub(now)
	seconds := int((wait + time.Second - 1) / time.Second)
	err := rbee.Errorf(rbee.CodeWorkerNotReady, "workers of %s failed %d times in a row; the next may start in %d s; the last one: %s", ref, loop.Failures, seconds, loop.Last.Message).
		With("failures", loop.Failures).With("last_code", loop.Last.Code).
		Suggest("see what the last one wrote, or try again then").WithCause(loop.Last)
	return httpapi.RetryAfter(err, seconds)
}

// knownLoads are what loads of a model took before.
func (h *Hive) knownLoads(ctx context.Context, model string, where place) func(slots, context, kv int) (pool.Weight, bool) {
	return func(slots, context, kv int) (pool.Weight, bool) {
		l, err := h.store.Loads().Load(ctx, catalog.LoadKey{
			Model: model, Backend: where.backend, Device: where.device, Context: context, KVTokens: kv, Slots: slots,
		})
		if err != nil && !errors.Is(err, catalog.ErrNoRow) {
			h.log.WarnContext(ctx, "cannot read what a load took", "err", err)
		}
		return pool.Weight{Memory: l.Memory, Mapped: l.Mapped}, err == nil
	}
}

// loadName names a model's bytes.
func loadName(m rbee.Model) string {
	if m.SHA256 != "" {
		return m.SHA256
	}
	return fmt.Sprintf("%s %d", m.LocalPath, m.SizeBytes)
}
