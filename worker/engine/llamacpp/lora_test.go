package llamacpp

import (
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

// adapted is bee-tiny with two adapters, of which the options apply the first one.
func adapted(t *testing.T, change func(*engine.Options)) *Engine {
	t.Helper()
	a, b := adapter(t, "one", 1, 4), adapter(t, "two", 7, 4)
	return loadTiny(t, func(o *engine.Options) {
		o.LoRA = []engine.LoRA{{Path: a, Scale: 1}, {Path: b}}
		if change != nil {
			change(o)
		}
	})
}

func scaled(r engine.Request, scales ...float32) engine.Request {
	r.LoRA = scales
	return r
}

func TestARequestSaysHowStronglyAdaptersAreApplied(t *testing.T) {
	e := adapted(t, noReuse)
	none := loadTiny(t, noReuse)
	other := loadTiny(t, func(o *engine.Options) {
		noReuse(o)
		o.LoRA = []engine.LoRA{{Path: adapter(t, "two", 7, 4), Scale: 1}}
	})
	r := engine.Request{Tokens: words(t, e, 60, 80, "sun"), MaxTokens: 40, IgnoreEOS: true}
	_, first := ask(t, e, r)
	for name, c := range map[string]struct {
		scales []float32
		want   []engine.Token
	}{
		"as in the options": {[]float32{1, 0}, first},
		"none":              {[]float32{0, 0}, tokens(t, none, r)},
		"the other one":     {[]float32{0, 1}, tokens(t, other, r)},
		"nothing said":      {nil, first},
	} {
		if _, got := ask(t, e, scaled(r, c.scales...)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, e.Detokenize(got), e.Detokenize(c.want))
		}
	}
	if err := e.Rest(); err != nil {
		t.Fatal(err)
	}
	if _, got := ask(t, e, scaled(r, 0, 1)); !slices.Equal(got, tokens(t, other, r)) {
		t.Errorf("after a rest: %q", e.Detokenize(got))
	}
	nan := float32(math.NaN())
	for name, scales := range map[string][]float32{"too few": {1}, "too many": {1, 1, 1}, "none": {}, "no number": {1, nan}} {
		if _, err := e.Generate(t.Context(), scaled(r, scales...), func(engine.Piece) bool { return true }); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPromptsReuseWhatWasComputedWithTheSameAdapters(t *testing.T) {
	for name, change := range map[string]func(*engine.Options){
		"in the KV cache": nil,
		"in main memory":  func(o *engine.Options) { o.Slots, o.KVTokens, o.Context = 1, 512, 512 },
	} {
		e := adapted(t, change)
		r := engine.Request{Tokens: words(t, e, 200, 250, "sun"), MaxTokens: 10, IgnoreEOS: true}
		for i, c := range []struct {
			scales []float32
			cached bool
		}{{nil, false}, {[]float32{0, 1}, false}, {[]float32{0.5, 1}, false}, {[]float32{1, 0}, true}, {[]float32{0, 1}, true}, {[]float32{0.5, 1}, true}, {nil, true}} {
			result, _ := ask(t, e, scaled(r, c.scales...))
			if cached := result.CachedTokens == 249; cached != c.cached || !cached && result.CachedTokens != 0 {
				t.Errorf("%s, request %d: %d tokens were cached", name, i, result.CachedTokens)
			}
		}
	}
}

func TestRequestsWithOtherAdaptersRunBesideOneAnother(t *testing.T) {
	all := [][]float32{nil, {0, 1}, {0.5, 0.5}, {0, 0}}
	for name, change := range map[string]func(*engine.Options){
		"together": nil, "each by itself": func(o *engine.Options) { o.Reproducible = true },
		"with a draft model": withDraft(tinyPath(t)),
	} {
		e, alone := adapted(t, change), adapted(t, noReuse)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				r := engine.Request{Tokens: words(t, e, 60, 80+i, "sun"), MaxTokens: 60, IgnoreEOS: true}
				same(t, name, e, alone, scaled(r, all[i%len(all)]...))
			})
		}
		wg.Wait()
		if s := e.Stats(); s.KVUsed != 0 || s.SlotsBusy != 0 {
			t.Errorf("%s: the stats are %+v", name, s)
		}
	}
}

func TestRequestsWithOtherAdaptersShareFewKVCells(t *testing.T) {
	e := adapted(t, func(o *engine.Options) { o.Context, o.KVTokens = 256, 256 })
	all := [][]float32{nil, {0, 1}, {0.5, 0.5}, {0, 0}}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := engine.Request{Tokens: words(t, e, 20, 60+i, "bee"), MaxTokens: 150, IgnoreEOS: true}
			if result, _ := ask(t, e, scaled(r, all[i%len(all)]...)); result.Tokens != 150 {
				t.Errorf("%+v", result)
			}
		})
	}
	wg.Wait()
}

// ready is an engine with sequences that decode, without a model.
func ready(kinds ...*mix) *Engine {
	e := &Engine{adapters: make([]llama.AdapterLora, 1)}
	for i, m := range kinds {
		seq := newSequence(engine.Request{}, []engine.Token{1, 2}, 100)
		seq.mix, seq.fed, seq.held, seq.number = m, 1, &slots.Held{}, uint64(i)
		e.active = append(e.active, seq)
	}
	return e
}

func TestMixesTakeTurns(t *testing.T) {
	a, b, c := &mix{id: 1}, &mix{id: 2}, &mix{id: 3}
	e := ready(a, a, b, a)
	turns := map[*mix]int{}
	for i := range 30 {
		e.mixes.since = time.Time{} // each turn lasted long
		e.takeTurns()
		turns[e.mixes.current]++
		for _, seq := range e.active {
			if seq.waits != (seq.mix != e.mixes.current) {
				t.Errorf("in the turn of %d a sequence of %d waits: %t", e.mixes.current.id, seq.mix.id, seq.waits)
			}
		}
		if i == 14 {
			e.active[3].mix = c
		}
	}
	if turns[a] < 11 || turns[b] < 11 || turns[c] < 4 {
		t.Errorf("the turns were %d, %d and %d", turns[a], turns[b], turns[c])
	}
}

func TestMixesThatComeAnewDoNotGetAheadOfOthers(t *testing.T) {
	a := &mix{id: 1}
	e := ready(a, a)
	turns := 0
	for i := range 100 {
		e.active[1].mix = &mix{id: uint64(2 + i)}
		e.mixes.since = time.Time{}
		if e.takeTurns(); e.mixes.current == a {
			turns++
		}
	}
	if turns < 45 {
		t.Errorf("it had %d of 100 turns", turns)
	}
}

func TestATurnLastsAWhileUnlessItCanNotGoOn(t *testing.T) {
	a, b := &mix{id: 1}, &mix{id: 2}
	e := ready(a, b)
	e.takeTurns()
	first := e.mixes.current
	for range 5 {
		e.mixes.since = time.Now()
		if e.takeTurns(); e.mixes.current != first {
			t.Fatal("it ended with a step")
		}
	}
	e.mixes.since = time.Now()
	if !e.passTurn() {
		t.Error("another one can go on")
	}
	if e.takeTurns(); e.mixes.current == first {
		t.Error("it has the turn that it passed on")
	}
	if e.passTurn() {
		t.Error("none is left that can go on")
	}
	e.count.Steps++
	e.mixes.since = time.Time{}
	if e.takeTurns(); e.mixes.current != first {
		t.Error("after a step it is its turn again")
	}
}

func TestMixesAreKnownByTheirScales(t *testing.T) {
	e := &Engine{scales: []float32{1, 0}}
	if e.mixOf(nil) != &e.mixes.plain || e.mixOf([]float32{1, 0}) != &e.mixes.plain {
		t.Error("the mix of the options is another one")
	}
	first := e.mixOf([]float32{0, 1})
	if e.mixOf([]float32{0, 1}) != first || e.mixOf([]float32{0, 0.5}) == first || first.id == 0 {
		t.Error("equal scales are other mixes, or others the same")
	}
	for i := range 3 * mostMixes {
		e.mixOf([]float32{float32(i), 3})
	}
	if len(e.mixes.known) > mostMixes {
		t.Errorf("%d mixes are known", len(e.mixes.known))
	}
	if again := e.mixOf([]float32{0, 1}); again.id == first.id {
		t.Error("a mix that was forgotten has its number again")
	}
}
