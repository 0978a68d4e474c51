package gguf

import (
	"math"

	parser "github.com/gpustack/gguf-parser-go"

	"rbee"
)

const (
	batchTokens = 512     // the largest batch that the engine computes at once
	maxMemory   = 1 << 50 // bytes; more is a figure that wrapped or a size that is a lie
)

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
		size := min(f.SizeBytes, maxMemory)
		m := Memory{Weights: size, Compute: size / 5}
		if b == rbee.BackendCPU {
			return Estimate{Host: m, Rough: true}
		}
		return Estimate{Device: m, Rough: true}
	}
	return e
}

// Resized is the model with other weights: another quantisation of it, whose
// file, or all whose parts together, has sizeBytes. What it needs is within 2 %
// of what the header of that file would say, with the weights spread over the
// tensors as they are here, and within 5 % from the first part of several
// (ReadRemote), whose weights are reckoned to be all on the accelerator.
func (f File) Resized(sizeBytes int64) File {
	f.Path, f.Parts, f.Quantisation = "", nil, ""
	f.SizeBytes = min(max(0, sizeBytes), maxMemory)
	f.weightBytes = max(0, f.SizeBytes-f.headerBytes)
	f.resized = true
	return f
}

func (f File) derive(kvTokens, slots int, b rbee.Backend) (Estimate, bool) {
	if f.parsed == nil || f.Layers == 0 || f.weightBytes > maxMemory {
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
	if !contain(func() { run = f.parsed.EstimateLLaMACppRun(options...) }) || len(run.Devices) != 2 ||
		run.Type != "model" || run.Architecture != f.Architecture { // names of tensors make it another for the library
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
		return Estimate{Host: Memory{Weights: f.weightBytes, KV: host.KV + device.KV, Compute: host.Compute + f.unseenCompute()}}, true
	}
	device.Compute += f.unseenCompute()
	switch {
	case f.firstPart:
		device.Weights = f.weightBytes
	case f.resized:
		scale := float64(f.weightBytes) / float64(f.tensorBytes)
		host.Weights, device.Weights = scaled(host.Weights, scale), scaled(device.Weights, scale)
	}
	return Estimate{Host: host, Device: device}, true
}

func scaled(n int64, by float64) int64 { return int64(min(float64(n)*by, maxMemory)) }

// unseenCompute stands for the buffers of a layer if all are in other parts: the
// rows of the attention and of a feed-forward network of the usual width, for
// every token of a batch, and room for what the library adds to them.
func (f File) unseenCompute() int64 {
	if len(f.parsed.TensorInfos) > 0 {
		return 0
	}
	const rows = 32
	return rows * batchTokens * 4 * int64(f.Embedding)
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
			if p > maxMemory {
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
