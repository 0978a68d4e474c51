package worker

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"rbee"
	"rbee/worker/engine"
)

// tuning are the flags of the engine that few need. The engine checks their
// values where it knows them.
type tuning struct {
	noPrefixCache, noMmap, mlock bool
	reproducible                 bool
	prefixMemory                 int
	draftTokens, gpuLayers       int
	draftModel                   string
	kvType, flash, split         string
	devices                      []string
	shares                       []string
	ropeScaling                  string
	ropeBase, ropeScale          float32
	lora                         []string
}

func (t *tuning) flags(set *pflag.FlagSet) {
	set.BoolVar(&t.noPrefixCache, "no-prefix-cache", false, "compute each prompt anew")
	set.IntVar(&t.prefixMemory, "prefix-memory", 0, "MB of main memory for prompts that the KV cache has no room for (default "+
		strconv.Itoa(engine.DefaultPrefixMemory>>20)+", or a 32nd of the machine's); -1 for none")
	set.BoolVar(&t.reproducible, "reproducible", false, "compute each request by itself: slower, and its tokens never depend on what else runs")
	set.IntVar(&t.draftTokens, "draft-tokens", 0, "tokens that are proposed for a text in a step (default "+strconv.Itoa(engine.DefaultDraftTokens)+"); -1 turns it off")
	set.StringVar(&t.draftModel, "draft-model", "", "a smaller model with the same vocabulary, a GGUF file, that proposes tokens")
	set.StringVar(&t.kvType, "kv-type", "", "numbers of the KV cache: f16, q8_0 or q4_0 (default f16)")
	set.StringVar(&t.flash, "flash-attention", "", "auto, on or off (default auto)")
	set.BoolVar(&t.noMmap, "no-mmap", false, "read the weights into memory of their own")
	set.BoolVar(&t.mlock, "mlock", false, "keep the weights from being swapped out")
	set.IntVar(&t.gpuLayers, "gpu-layers", 0, "layers on the device (default all); -1 keeps all in RAM")
	set.StringVar(&t.split, "split", "", "spread the model over devices: none, layer or row (default none)")
	set.StringSliceVar(&t.devices, "split-devices", nil, "devices to spread over (default all of the backend)")
	set.StringSliceVar(&t.shares, "tensor-split", nil, "shares of the devices, such as 3,1 (default by their free memory)")
	set.StringVar(&t.ropeScaling, "rope-scaling", "", "none, linear or yarn (default the model's)")
	set.Float32Var(&t.ropeBase, "rope-freq-base", 0, "base frequency of RoPE (default the model's)")
	set.Float32Var(&t.ropeScale, "rope-freq-scale", 0, "such as 0.25 for four times the context (default the model's)")
	set.StringArrayVar(&t.lora, "lora", nil, "LoRA adapter, a GGUF file, or FILE=SCALE; may be given again")
}

// apply sets the engine's options.
func (t *tuning) apply(o *engine.Options, check func(ok bool, flag, problem string)) {
	o.NoPrefixCache, o.NoMmap, o.Mlock = t.noPrefixCache, t.noMmap, t.mlock
	o.Reproducible, o.PrefixMemory = t.reproducible, t.prefixMemory<<20
	o.DraftTokens, o.GPULayers = t.draftTokens, t.gpuLayers
	o.KVType, o.FlashAttention, o.Split = engine.KVType(t.kvType), engine.FlashAttention(t.flash), engine.Split(t.split)
	o.RoPEScaling, o.RoPEFreqBase, o.RoPEFreqScale = engine.RoPEScaling(t.ropeScaling), t.ropeBase, t.ropeScale
	if t.draftModel != "" {
		path, err := filepath.Abs(t.draftModel)
		check(err == nil, "draft-model", "must name a file")
		o.DraftModel = path
	}
	for _, d := range t.devices {
		o.Devices = append(o.Devices, rbee.DeviceID(d))
	}
	for _, s := range t.shares {
		share, err := strconv.ParseFloat(s, 32)
		check(err == nil && share >= 0, "tensor-split", "must be numbers of 0 or more")
		o.TensorSplit = append(o.TensorSplit, float32(share))
	}
	for _, l := range t.lora {
		adapter := engine.LoRA{Path: l, Scale: 1}
		if i := strings.LastIndexByte(l, '='); i >= 0 {
			if scale, err := strconv.ParseFloat(l[i+1:], 32); err == nil {
				adapter = engine.LoRA{Path: l[:i], Scale: float32(scale)}
			}
		}
		path, err := filepath.Abs(adapter.Path)
		check(err == nil && adapter.Path != "", "lora", "must name a file")
		adapter.Path = path
		o.LoRA = append(o.LoRA, adapter)
	}
}
