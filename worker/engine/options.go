package engine

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/shirou/gopsutil/v4/mem"

	"rbee"
	"rbee/worker/engine/threads"
)

// Defaults of Options.
const (
	DefaultSlots       = 4
	DefaultMaxContext  = 8192 // tokens
	DefaultDraftTokens = 16

	DefaultPrefixMemory = 512 << 20 // bytes, and at most this part of the machine's:
	prefixPart          = 32
)

// MaxSlots is the most slots that an engine serves.
const MaxSlots = 64

// Normalize sets the defaults and checks the options for a model that was
// trained with so many tokens of context. A longer context than the trained
// one is cut to it, which is worth a warning: beyond it models write nonsense.
func (o Options) Normalize(trainedContext int) (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Backend == "" {
		o.Backend = rbee.BackendCPU
	}
	if o.Slots == 0 {
		o.Slots = DefaultSlots
	}
	if o.Context == 0 {
		o.Context = min(trainedContext, DefaultMaxContext)
	}
	o.defaultTypes()
	if o.RoPEFreqScale > 0 && o.RoPEFreqScale < 1 {
		trainedContext = int(float64(trainedContext) / float64(o.RoPEFreqScale))
	}
	if o.Context > trainedContext {
		o.Logger.Warn("the context is cut to what the model was trained with", "asked_tokens", o.Context, "trained_tokens", trainedContext)
		o.Context = trainedContext
	}
	if o.KVTokens == 0 {
		o.KVTokens = o.Context
	}
	if o.Reproducible {
		o.NoPrefixCache, o.DraftTokens, o.DraftModel = true, -1, ""
		o.KVTokens = o.Slots * o.Context
	}
	if o.Threads == 0 {
		o.Threads = threads.Default(os.DirFS("/"))
	}
	var faults []rbee.Fault
	check := func(ok bool, field, format string, args ...any) {
		if !ok {
			faults = append(faults, rbee.Fault{Field: field, Problem: fmt.Sprintf(format, args...)})
		}
	}
	check(o.Slots >= 1 && o.Slots <= MaxSlots, "slots", "must be from 1 to %d", MaxSlots)
	check(o.Context >= 2, "context", "must be at least 2 tokens")
	check(o.KVTokens >= o.Context, "kv_tokens", "must be at least the context, %d tokens", o.Context)
	check(o.Threads >= 1 && o.Threads <= 512, "threads", "must be from 1 to 512")
	check(o.Queue >= 0, "queue", "must be 0 or more")
	check(o.DraftTokens <= 64, "draft_tokens", "must be at most 64")
	check(o.DraftModel == "" || o.DraftTokens > 0, "draft_tokens", "must not be negative with a draft model")
	check(o.KVType == KVF16 || o.KVType == KVQ8 || o.KVType == KVQ4, "kv_type", "must be f16, q8_0 or q4_0")
	check(o.KVType == KVF16 || o.FlashAttention != FlashOff, "flash_attention", "must not be off with a KV cache of %s", o.KVType)
	check(o.FlashAttention == FlashAuto || o.FlashAttention == FlashOn || o.FlashAttention == FlashOff,
		"flash_attention", "must be auto, on or off")
	check(o.Split == SplitNone || o.Split == SplitLayer || o.Split == SplitRow, "split", "must be none, layer or row")
	check(o.RoPEScaling == "" || o.RoPEScaling == RoPENone || o.RoPEScaling == RoPELinear || o.RoPEScaling == RoPEYaRN,
		"rope_scaling", "must be none, linear or yarn")
	check(o.RoPEFreqBase >= 0, "rope_freq_base", "must be 0 or more")
	check(o.RoPEFreqScale >= 0, "rope_freq_scale", "must be 0 or more")
	check(o.GPULayers <= 1<<16, "gpu_layers", "must be at most %d", 1<<16)
	if len(faults) > 0 {
		return o, rbee.InvalidRequest(faults...)
	}
	return o, nil
}

// AdapterNames are the names of the adapters: those of their files, without the ending.
func (o Options) AdapterNames() []string {
	names := make([]string, 0, len(o.LoRA))
	for _, a := range o.LoRA {
		file := filepath.Base(a.Path)
		names = append(names, strings.TrimSuffix(file, filepath.Ext(file)))
	}
	return names
}

func (o *Options) defaultTypes() {
	if o.KVType == "" {
		o.KVType = KVF16
	}
	if o.FlashAttention == "" {
		o.FlashAttention = FlashAuto
	}
	if o.Split == "" {
		o.Split = SplitNone
	}
	if o.DraftTokens == 0 {
		o.DraftTokens = DefaultDraftTokens
	}
	if o.PrefixMemory == 0 {
		o.PrefixMemory = DefaultPrefixMemory
		if m, err := mem.VirtualMemory(); err == nil {
			o.PrefixMemory = min(o.PrefixMemory, int(m.Total/prefixPart))
		}
	}
}
