package llamacpp

import (
	"path/filepath"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/engines/enginestest"
	"rbee/worker/engine"
)

func TestEachOptionOfTheEngineLoadsAndGenerates(t *testing.T) {
	for name, change := range map[string]func(*engine.Options){
		"KV of 8 bits":          func(o *engine.Options) { o.KVType = engine.KVQ8 },
		"KV of 4 bits":          func(o *engine.Options) { o.KVType, o.FlashAttention = engine.KVQ4, engine.FlashOn },
		"no flash attention":    func(o *engine.Options) { o.FlashAttention = engine.FlashOff },
		"weights in own memory": func(o *engine.Options) { o.NoMmap = true },
		"weights locked":        func(o *engine.Options) { o.Mlock = true },
		"linear RoPE":           func(o *engine.Options) { o.RoPEScaling, o.RoPEFreqScale, o.Context = engine.RoPELinear, 0.5, 2000 },
		"YaRN":                  func(o *engine.Options) { o.RoPEScaling, o.RoPEFreqScale = engine.RoPEYaRN, 0.5 },
		"no layers on a GPU":    func(o *engine.Options) { o.GPULayers = -1 },
		"one slot":              func(o *engine.Options) { o.Slots = 1 },
		"all slots":             func(o *engine.Options) { o.Slots = engine.MaxSlots },
	} {
		t.Run(name, func(t *testing.T) {
			e := loadTiny(t, change)
			r := engine.Request{Tokens: words(t, e, 60, 80, "sun"), MaxTokens: 10, IgnoreEOS: true}
			if result, _ := ask(t, e, r); result.Tokens != 10 {
				t.Errorf("%+v", result)
			}
			if again, _ := ask(t, e, r); again.CachedTokens != 79 {
				t.Errorf("%+v", again)
			}
		})
	}
}

func TestBadOptionsOfTheEngineAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*engine.Options)
		says   string
	}{
		"KV type":          {func(o *engine.Options) { o.KVType = "f8" }, "kv_type"},
		"attention":        {func(o *engine.Options) { o.FlashAttention = "maybe" }, "flash_attention"},
		"KV and attention": {func(o *engine.Options) { o.KVType, o.FlashAttention = engine.KVQ8, engine.FlashOff }, "flash_attention"},
		"RoPE":             {func(o *engine.Options) { o.RoPEScaling = "rope" }, "rope_scaling"},
		"RoPE scale":       {func(o *engine.Options) { o.RoPEFreqScale = -1 }, "rope_freq_scale"},
		"split":            {func(o *engine.Options) { o.Split = "hair" }, "split"},
		"drafts":           {func(o *engine.Options) { o.DraftTokens = 1000 }, "draft_tokens"},
		"no adapter":       {func(o *engine.Options) { o.LoRA = []engine.LoRA{{Path: "none.gguf", Scale: 1}} }, "none.gguf"},
	} {
		o := engine.Options{ModelPath: tinyPath(t), LibDir: enginestest.LibDir(t), Threads: 1}
		c.change(&o)
		e, err := Load(t.Context(), o, nil)
		if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want INVALID_REQUEST that says %q", name, err, c.says)
		}
		if e != nil {
			_ = e.Close()
		}
	}
}

func tinyPath(t testing.TB) string {
	t.Helper()
	return writeTiny(t, filepath.Join(t.TempDir(), "bee-tiny.gguf"))
}
