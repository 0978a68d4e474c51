package hive

import (
	"strings"

	"rbee"
	"rbee/internal/gguf"
)

// maxDefaultContext bounds the context that a worker gets unasked, in tokens:
// many models were trained for more than anybody's memory holds.
const maxDefaultContext = 8192

const megabyte = 1_000_000

// place is where a worker is to run and what is free there.
type place struct {
	backend   rbee.Backend
	device    rbee.DeviceID
	free      int64 // bytes on the device, main memory for the CPU
	limit     int64 // bytes that all workers together may take, 0 for no limit
	hostFree  int64 // main memory
	onMachine string
}

// wish is what a spawn asks for, with the defaults of the settings.
type wish struct {
	ref     rbee.ModelRef
	slots   int
	context int
}

// estimator says how much memory a model takes; gguf.File does.
type estimator interface {
	Estimate(kvTokens, slots int, b rbee.Backend) gguf.Estimate
}

// fit decides how many KV cells a worker gets, so that what it needs is free:
// room for all slots to use their whole context, else for one slot. It is pure:
// live are the workers there are.
func fit(w wish, p place, model estimator, live []rbee.Worker) (kvTokens int, need int64, err error) {
	free, hostFree := p.free, p.hostFree
	taken := int64(0)
	for _, l := range live {
		taken += l.MemoryBytes
		// What a worker that still loads is going to take is still shown as free.
		if l.State == rbee.WorkerStarting || l.State == rbee.WorkerLoading {
			if l.Device == p.device {
				free -= l.MemoryBytes
			}
			if l.Backend == rbee.BackendCPU {
				hostFree -= l.MemoryBytes
			}
		}
	}
	if p.limit > 0 {
		free = min(free, p.limit-taken)
	}
	for _, kvTokens := range []int{w.context * w.slots, w.context} {
		e := model.Estimate(kvTokens, w.slots, p.backend)
		need = e.Need()
		if need <= free && (p.backend == rbee.BackendCPU || e.Host.Total() <= hostFree) {
			return kvTokens, need, nil
		}
	}
	code := rbee.CodeInsufficientRAM
	if p.backend != rbee.BackendCPU {
		code = rbee.CodeVRAMExhausted
	}
	// Rounded apart, so that what is short by a byte never reads as enough.
	required, available := (need+megabyte-1)/megabyte, max(free, 0)/megabyte
	return 0, need, rbee.Errorf(code, "%s needs %d MB on %s of %s and %d MB are free there", w.ref, required, p.device, p.onMachine, available).
		With("required", required).With("available", available).
		Suggest("try a smaller quantisation, a smaller --context, or stop another worker")
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
