package llamacpp

import (
	"slices"
	"strings"
	"testing"

	"rbee"
	"rbee/worker/engine"
)

func TestWhatIsKeptInMainMemorySurvivesARest(t *testing.T) {
	for name, c := range map[string]struct {
		bytes  int
		cached int
	}{"room for it": {0, 79}, "none": {-1, 0}} {
		e := loadTiny(t, func(o *engine.Options) { o.PrefixMemory = c.bytes })
		r := engine.Request{Tokens: words(t, e, 60, 80, "sun"), MaxTokens: 10, IgnoreEOS: true}
		_, want := ask(t, e, r)
		if err := e.Rest(); err != nil {
			t.Fatal(err)
		}
		if result, got := ask(t, e, r); result.CachedTokens != c.cached || !slices.Equal(got, want) {
			t.Errorf("%s: %d tokens were cached, want %d; the text is %q, before it was %q", name, result.CachedTokens, c.cached,
				e.Detokenize(got), e.Detokenize(want))
		}
	}
}

func TestARequestForWhichThereIsNoContextFailsAloneAndIsTold(t *testing.T) {
	e := loadTiny(t, nil)
	r := engine.Request{Tokens: words(t, e, 60, 80, "sun"), MaxTokens: 10, IgnoreEOS: true}
	_, want := ask(t, e, r)
	if err := e.Rest(); err != nil {
		t.Fatal(err)
	}
	good := e.options // the loop waits
	e.options.KVType, e.options.FlashAttention = engine.KVQ8, engine.FlashOff
	for range 2 {
		result, err := e.Generate(t.Context(), r, func(engine.Piece) bool { return true })
		if err == nil || !strings.Contains(err.Error(), "make room for the context: ") || rbee.AsError(err).Suggestion() == "" || result.PromptTokens != 80 {
			t.Errorf("without a context: %+v, %v", result, err)
		}
		if s := e.Stats(); s.KVTotal != 0 || s.SlotsBusy != 0 {
			t.Errorf("the stats are %+v", s)
		}
	}
	if err := e.Rest(); err != nil {
		t.Fatal(err)
	}
	e.options = good
	if _, got := ask(t, e, r); !slices.Equal(got, want) {
		t.Errorf("after that the text is %q, before it was %q", e.Detokenize(got), e.Detokenize(want))
	}
}
