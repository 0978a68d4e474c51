package gguf

import (
	"math"

	parser "github.com/gpustack/gguf-parser-go"

	"rbee"
)

// batchTokens is the largest batch that the engine computes at once.
const batchTokens = 512

// Memory is bytes in one place.
type Memory struct {
	Weights int64
	KV      int64 // cache of keys and values, 16 bits each
	Compute int64 // buffers of the computation, tables of the vocabulary
}

// Total is the sum.
func (m Memory) Total() int64 { return m.Weights + m.KV + m.Compute }

// Estimate is the memory that a loaded model takes.
type Estimate struct {
	Host   Memory // main memory
	Device Memory // memory of the accelerator, zero on the CPU
	Rough  bool   // only the rule of thumb: 1.2 times the size of the file
}

// Need is what must be free where the model computes: in the memory of the
// accelerator, or in main memory.
func (e Estimate) Need() int64 {
	if d := e.Device.Total(); d > 0 {
		return d
	}
	return e.Host.Total()
}

// Estimate says how much memory the model takes with a cache of kvTokens cells
// shared by slots sequences, all layers on the backend. It is for admission;
// what a load really took is better.
func (f File) Estimate(kvTokens, slots int, b rbee.Backend) Estimate {
	e, ok := f.derive(kvTokens, slots, b)
	if !ok {
		m := Memory{Weights: f.SizeBytes, Compute: f.SizeBytes / 5}
		if b == rbee.BackendCPU {
			return Estimate{Host: m, Rough: true}
		}
		return Estimate{Device: m, Rough: true}
	}
	return e
}

func (f File) derive(kvTokens, slots int, b rbee.Backend) (Estimate, bool) {
	if f.parsed == nil {
		return Estimate{}, false
	}
	options := []parser.GGUFRunEstimateOption{
		parser.WithLLaMACppContextSize(int32(max(1, min(kvTokens, math.MaxInt32)))), //nolint:gosec // bounded
		parser.WithParallelSize(int32(max(1, min(slots, math.MaxInt32)))),           //nolint:gosec // bounded
		parser.WithLLaMACppLogicalBatchSize(batchTokens),
		parser.WithLLaMACppPhysicalBatchSize(batchTokens),
		parser.WithFlashAttention(),
	}
	if b == rbee.BackendCPU {
		options = append(options, parser.WithLLaMACppOffloadLayers(0))
	}
	var run parser.LLaMACppRunEstimate
	if !contain(func() { run = f.parsed.EstimateLLaMACppRun(options...) }) || len(run.Devices) != 2 {
		return Estimate{}, false
	}
	onHost, onDevice := run.Devices[0], run.Devices[1]
	onHost.Footprint -= min(onHost.Footprint, f.spareRows(kvTokens, slots))
	if b == rbee.BackendCPU {
		// The library always reckons with an accelerator that computes; here the
		// host does, and its graph reuses the memory of the layers for the logits.
		onHost.Computation.Output -= min(onHost.Computation.Output, onHost.Computation.Compute+onDevice.Computation.Compute)
		onHost.Computation.Compute += onDevice.Computation.Compute
	}
	host, hostOK := memoryOf(onHost)
	device, deviceOK := memoryOf(onDevice)
	if !hostOK || !deviceOK {
		return Estimate{}, false
	}
	if b == rbee.BackendCPU {
		// Shared embeddings are there twice only across devices.
		return Estimate{Host: Memory{Weights: f.tensorBytes, KV: host.KV + device.KV, Compute: host.Compute}}, true
	}
	return Estimate{Host: host, Device: device}, true
}

// spareRows is what the library reckons too much for the buffer of results: it
// counts a row of logits and of the embedding, 4 bytes each, for every token of
// a batch, while the engine keeps one for each slot.
func (f File) spareRows(kvTokens, slots int) parser.GGUFBytesScalar {
	const cellBlock = 256 // the cache is rounded up to blocks of this many cells
	rows := min(batchTokens, (max(1, kvTokens)+cellBlock-1)/cellBlock*cellBlock)
	return parser.GGUFBytesScalar(max(0, rows-max(1, slots))) * 4 * parser.GGUFBytesScalar(f.Vocabulary+f.Embedding) //nolint:gosec // none is negative
}

// memoryOf sums up a device of the library, and fails on sums that a wrapped
// multiplication of hostile figures leaves.
func memoryOf(d parser.LLaMACppRunDeviceUsage) (Memory, bool) {
	ok := true
	sum := func(parts ...parser.GGUFBytesScalar) int64 {
		var total int64
		for _, p := range parts {
			if p > 1<<50 {
				ok = false
				return 0
			}
			total += int64(p) //nolint:gosec // bounded above
		}
		return total
	}
	m := Memory{
		Weights: sum(d.Weight.Input, d.Weight.Compute, d.Weight.ComputeOverridden, d.Weight.Output),
		KV:      sum(d.KVCache.Key, d.KVCache.Value),
		Compute: sum(d.Footprint, d.Computation.Footprint, d.Computation.Input, d.Computation.Compute, d.Computation.Output),
	}
	return m, ok
}
