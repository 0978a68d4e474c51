package llamacpp

import (
	"runtime"
	"slices"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
)

// keptSequences is how many sequences that ended can be kept for later prompts,
// beside the slots.
const keptSequences = 32

// sequences is how many sequences the KV cache has: one for each slot, those
// that are kept, and one to pad batches with. Where one takes memory whether it is
// used or not there is none beside the slots.
func sequences(o engine.Options, whole bool) int {
	if whole || o.Reproducible || liesApart(o, whole) {
		return o.Slots
	}
	return min(1+o.Slots+keptSequences, int(llama.MaxParallelSequences()))
}

// isWhole says whether a model's memory of a sequence can't be shared with
// another one or cut: a state instead of cells, or cells for the last tokens only.
func isWhole(m llama.Model) bool {
	return llama.ModelIsRecurrent(m) || llama.ModelIsHybrid(m) || llama.ModelNSWA(m) > 0
}

// placed says where the weights go, and keeps the memory that llama.cpp reads it from.
type placed struct {
	devices []llama.GGMLBackendDevice
	split   []float32
}

func (e *Engine) modelParams(o engine.Options, device device) (params llama.ModelParams, keep placed, err error) {
	params = llama.ModelDefaultParams()
	switch {
	case o.NoMmap && o.Mlock:
		params.LoadMode = llama.LoadModeMlock
	case o.NoMmap:
		params.LoadMode = llama.LoadModeNone
	case o.Mlock:
		params.LoadMode = llama.LoadModeMmapMlock
	}
	if device.info.Kind == rbee.BackendCPU {
		// An empty list keeps all weights in RAM; without one llama.cpp takes each GPU it finds.
		params.NGpuLayers = 0
		keep.devices = []llama.GGMLBackendDevice{0}
		return params, keep, params.SetDevices(keep.devices)
	}
	params.NGpuLayers = 999
	if o.GPULayers != 0 {
		params.NGpuLayers = int32(max(0, o.GPULayers))
	}
	if keep.devices, err = e.spread(o, device); err != nil {
		return params, keep, err
	}
	switch o.Split {
	case engine.SplitLayer:
		params.SplitMode = llama.SplitModeLayer
	case engine.SplitRow:
		params.SplitMode = llama.SplitModeRow
	default:
		params.SplitMode = llama.SplitModeNone
	}
	if len(o.TensorSplit) > 0 {
		keep.split = make([]float32, max(maxDevices, len(o.TensorSplit)))
		copy(keep.split, o.TensorSplit)
		params.TensorSplit = &keep.split[0]
	}
	return params, keep, params.SetDevices(keep.devices)
}

// maxDevices is how many shares llama.cpp reads at most.
const maxDevices = 64

// spread lists the devices that a model is loaded on, and a zero that ends the
// list. The chosen one is the first, and llama.cpp's main one.
func (e *Engine) spread(o engine.Options, first device) ([]llama.GGMLBackendDevice, error) {
	list := []llama.GGMLBackendDevice{first.handle}
	if o.Split == "" || o.Split == engine.SplitNone {
		return append(list, 0), nil
	}
	wanted := slices.Clone(o.Devices)
	for _, d := range e.lib.devices() {
		at := slices.Index(wanted, d.info.ID)
		if at >= 0 {
			wanted = slices.Delete(wanted, at, at+1)
		}
		if d.handle != first.handle && d.info.Kind == first.info.Kind && (len(o.Devices) == 0 || at >= 0) {
			list = append(list, d.handle)
		}
	}
	if len(wanted) > 0 {
		return nil, rbee.Errorf(rbee.CodeBackendUnavailable, "cannot use the device %s: the backend %s does not have it",
			wanted[0], first.info.Kind)
	}
	return append(list, 0), nil
}

// contextParams are what a context is made with. Some rows of logits are for drafts.
func contextParams(o engine.Options, whole bool) llama.ContextParams {
	params := llama.ContextDefaultParams()
	params.NCtx = uint32(o.KVTokens)
	params.NBatch, params.NUbatch = batchTokens, batchTokens
	params.NSeqMax = uint32(sequences(o, whole))
	// The default is one row of logits per token of a batch, which is hundreds of MB.
	// llama.cpp wants one for each sequence.
	params.NOutputsMax = max(params.NSeqMax, uint32(o.Slots+maxDraft))
	params.KVUnified = 1 // sequences share all cells
	if o.Reproducible || liesApart(o, whole) {
		params.KVUnified = 0 // each has its own, and the same ones whenever it runs
	}
	setCommon(&params, o)
	return params
}

// setCommon is what all contexts of an engine have in common.
func setCommon(params *llama.ContextParams, o engine.Options) {
	params.NThreads, params.NThreadsBatch = int32(o.Threads), int32(o.Threads)
	params.NoPerf = 1
	types := map[engine.KVType]llama.GGMLType{
		engine.KVF16: llama.GGMLTypeF16, engine.KVQ8: llama.GGMLTypeQ8_0, engine.KVQ4: llama.GGMLTypeQ4_0,
	}
	params.TypeK, params.TypeV = types[o.KVType], types[o.KVType]
	params.FlashAttentionType = map[engine.FlashAttention]llama.FlashAttentionType{
		engine.FlashAuto: llama.FlashAttentionTypeAuto, engine.FlashOn: llama.FlashAttentionTypeEnabled,
		engine.FlashOff: llama.FlashAttentionTypeDisabled,
	}[o.FlashAttention]
	switch o.RoPEScaling {
	case engine.RoPENone:
		params.RopeScalingType = llama.RopeScalingTypeNone
	case engine.RoPELinear:
		params.RopeScalingType = llama.RopeScalingTypeLinear
	case engine.RoPEYaRN:
		params.RopeScalingType = llama.RopeScalingTypeYARN
	}
	params.RopeFreqBase, params.RopeFreqScale = o.RoPEFreqBase, o.RoPEFreqScale
}

// adapt loads the adapters.
func (e *Engine) adapt(o engine.Options) error {
	for _, a := range o.LoRA {
		adapter, err := llama.AdapterLoraInit(e.model, a.Path)
		if err != nil || adapter == 0 {
			return e.lib.explain("load the adapter "+a.Path, o.Backend)
		}
		e.adapters = append(e.adapters, adapter)
		e.scales = append(e.scales, a.Scale)
	}
	return nil
}

// useAdapters applies them to a context.
func (e *Engine) useAdapters(c llama.Context) error {
	if len(e.adapters) == 0 {
		return nil
	}
	if code := llama.SetAdaptersLora(c, e.adapters, e.scales); code != 0 {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot apply the adapters: llama.cpp refuses them (code %d)", code)
	}
	runtime.KeepAlive(e.scales)
	return nil
}
