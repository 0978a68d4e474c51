package llamacpp

import (
	"slices"
	"testing"

	"rbee/worker/engine"
)

func TestTheTokensForFillingAGapAreToldIfThereAreAll(t *testing.T) {
	load := func(m *modelFile) engine.Info {
		path := m.write(t, "gap")
		return loadTiny(t, func(o *engine.Options) { o.ModelPath = path }).Info()
	}
	m := tiny(t)
	if got := load(m); got.FIM != (engine.FIM{}) || got.BOS != "<s>" || got.EOS != "</s>" {
		t.Errorf("bee-tiny tells %+v", got)
	}
	m.set("tokenizer.ggml.fim_pre_token_id", uint32(300))
	m.set("tokenizer.ggml.fim_suf_token_id", uint32(301))
	if got := load(m).FIM; got != (engine.FIM{}) {
		t.Errorf("with two of three tokens it tells %+v", got)
	}
	m.set("tokenizer.ggml.fim_mid_token_id", uint32(302))
	if got := load(m).FIM; got != (engine.FIM{OK: true, Prefix: 300, Suffix: 301, Middle: 302}) {
		t.Errorf("it tells %+v", got)
	}
}

func TestAdaptersChangeTheTextAndAreTold(t *testing.T) {
	strong := adapter(t, "strong", 1, 4)
	e := loadTiny(t, func(o *engine.Options) { o.LoRA = []engine.LoRA{{Path: strong, Scale: 1}} })
	off := loadTiny(t, func(o *engine.Options) { o.LoRA = []engine.LoRA{{Path: strong}} })
	plain := loadTiny(t, nil)
	if got := e.Info().Adapters; !slices.Equal(got, []string{"strong"}) {
		t.Errorf("the adapters are %v", got)
	}
	r := engine.Request{Tokens: words(t, e, 60, 80, "sun"), MaxTokens: 30, IgnoreEOS: true}
	_, got := ask(t, e, r)
	_, without := ask(t, plain, r)
	if _, silent := ask(t, off, r); slices.Equal(got, without) || !slices.Equal(silent, without) {
		t.Errorf("with the adapter %q, with scale 0 %q, without %q", e.Detokenize(got), e.Detokenize(silent), e.Detokenize(without))
	}
}
