package fake_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/enginetest"
	"rbee/worker/engine/fake"
)

func model(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, []byte("not read"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestContract(t *testing.T) {
	enginetest.Run(t, fake.Loader(fake.Script{}), engine.Options{ModelPath: model(t)})
}

func TestContractWithPromptsThatTakeTheirTime(t *testing.T) {
	enginetest.Run(t, fake.Loader(fake.Script{PrefillToken: time.Microsecond}), engine.Options{ModelPath: model(t)})
}

// take runs a prompt for one token, and says how long it took.
func take(t *testing.T, e engine.Engine, prompt string) (engine.Result, time.Duration) {
	t.Helper()
	start := time.Now()
	result, err := e.Generate(t.Context(), engine.Request{Prompt: prompt, MaxTokens: 1}, func(engine.Piece) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return result, time.Since(start)
}

func TestAPromptTakesAsLongAsItsTokensThatNoSequenceHas(t *testing.T) {
	path := model(t)
	synctest.Test(t, func(t *testing.T) {
		e, err := fake.Loader(fake.Script{PrefillToken: time.Millisecond, Context: 512})(t.Context(), engine.Options{ModelPath: path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		common := strings.Repeat(" bee", 200)
		if r, took := take(t, e, common+" hills"); r.CachedTokens != 0 || took != 202*time.Millisecond || r.Prefill != took {
			t.Errorf("the first prompt took %v: %+v", took, r)
		}
		if r, took := take(t, e, common+" honey"); r.CachedTokens != 201 || took != time.Millisecond {
			t.Errorf("one that begins alike took %v: %+v", took, r)
		}
		if s := e.Stats(); s.CacheHits != 1 || s.CachedTokens != 201 || s.PromptTokens != 203 || s.KVCached == 0 {
			t.Errorf("stats are %+v", s)
		}
		take(t, e, strings.Repeat(" flower", 450))
		if r, _ := take(t, e, common); r.CachedTokens > 1 {
			t.Errorf("after more than there are cells for, %d tokens are cached", r.CachedTokens)
		}
		if err := e.Rest(); err != nil {
			t.Fatal(err)
		}
		if r, _ := take(t, e, common); r.CachedTokens != 0 {
			t.Errorf("after a rest %d tokens are cached", r.CachedTokens)
		}
	})
}

func TestPromptsAreComputedOneAfterTheOther(t *testing.T) {
	path := model(t)
	synctest.Test(t, func(t *testing.T) {
		e, err := fake.Loader(fake.Script{PrefillToken: time.Millisecond})(t.Context(), engine.Options{ModelPath: path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var both [2]engine.Result
		var wait sync.WaitGroup
		for i, word := range []string{" bee", " honey"} {
			wait.Go(func() { both[i], _ = take(t, e, strings.Repeat(word, 99)) })
		}
		wait.Wait()
		for _, r := range both {
			if fresh := r.PromptTokens - r.CachedTokens; r.Prefill != time.Duration(fresh)*time.Millisecond {
				t.Errorf("%d tokens of a prompt took %v", fresh, r.Prefill)
			}
		}
		if q := both[0].Queued + both[1].Queued; q != 100*time.Millisecond {
			t.Errorf("they waited %v", q)
		}
	})
}

func open(t *testing.T, s fake.Script) engine.Engine {
	t.Helper()
	e, err := fake.Loader(s)(t.Context(), engine.Options{ModelPath: model(t)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func run(t *testing.T, e engine.Engine, tokens int) (engine.Result, string, error) {
	t.Helper()
	var text strings.Builder
	result, err := e.Generate(t.Context(), engine.Request{Prompt: "Tell", MaxTokens: tokens}, func(p engine.Piece) bool {
		text.Write(p.Bytes)
		return true
	})
	return result, text.String(), err
}

func TestTheScriptSetsThePace(t *testing.T) {
	path := model(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var layers []int
		s := fake.Script{Load: 10 * time.Second, Layers: 5, Prefill: time.Second, Token: 100 * time.Millisecond}
		e, err := fake.Loader(s)(t.Context(), engine.Options{ModelPath: path}, func(p rbee.LoadProgress) {
			layers = append(layers, p.LayersLoaded)
		})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 10*time.Second || len(layers) != 6 {
			t.Errorf("the load took %v and told of layers %v", took, layers)
		}
		start = time.Now()
		result, _, err := run(t, e, 10)
		if took := time.Since(start); took != 2*time.Second || err != nil || result.Prefill != time.Second || result.Decode != time.Second {
			t.Errorf("10 tokens took %v: %+v, %v", took, result, err)
		}
	})
}

func TestALoadThatStandsStillCanBeCanceled(t *testing.T) {
	path := model(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		last := 0
		_, err := fake.Loader(fake.Script{LoadStallAt: 3})(ctx, engine.Options{ModelPath: path}, func(p rbee.LoadProgress) {
			last = p.LayersLoaded
		})
		if err == nil || last != 3 {
			t.Errorf("it ended with %v at layer %d", err, last)
		}
	})
}

func TestTheScriptRefusesStallsFailsAndCrashes(t *testing.T) {
	if _, err := fake.Loader(fake.Script{Refuse: "it smells"})(t.Context(), engine.Options{ModelPath: model(t)}, nil); rbee.CodeOf(err) != rbee.CodeInvalidRequest ||
		!strings.Contains(err.Error(), "it smells") {
		t.Errorf("refuse gave %v", err)
	}
	if result, _, err := run(t, open(t, fake.Script{FailAt: 3}), 10); rbee.CodeOf(err) != rbee.CodeInternalError || result.Tokens != 2 {
		t.Errorf("fail_at=3 gave %+v, %v", result, err)
	}
	code := 0
	s := fake.Script{CrashAt: 4, Exit: func(c int) { code = c; panic("gone") }}
	func() {
		defer func() { _ = recover() }()
		_, _, _ = run(t, open(t, s), 10)
	}()
	if code != 134 {
		t.Errorf("crash_at=4 ended with code %d", code)
	}
	path := model(t)
	synctest.Test(t, func(t *testing.T) {
		e, err := fake.Loader(fake.Script{StallAt: 5})(t.Context(), engine.Options{ModelPath: path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		result, err := e.Generate(ctx, engine.Request{Prompt: "Tell", MaxTokens: 10}, func(engine.Piece) bool { return true })
		if err != nil || result.Tokens != 4 || result.Reason != rbee.StopCanceled {
			t.Errorf("stall_at=5 gave %+v, %v", result, err)
		}
	})
}

func TestATestHoldsEachToken(t *testing.T) {
	path := model(t)
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		e, err := fake.Loader(fake.Script{Hold: hold})(t.Context(), engine.Options{ModelPath: path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = e.Generate(t.Context(), engine.Request{Prompt: "Tell", MaxTokens: 3}, func(engine.Piece) bool {
				calls++
				return true
			})
		}()
		for want := range 3 {
			synctest.Wait()
			if calls != want {
				t.Errorf("%d tokens came after %d messages", calls, want)
			}
			hold <- struct{}{}
		}
		<-done
	})
}

func TestTextIsUTF8SplitOverTokens(t *testing.T) {
	e := open(t, fake.Script{})
	split := false
	var text []byte
	_, err := e.Generate(t.Context(), engine.Request{Prompt: "Tell", MaxTokens: 200}, func(p engine.Piece) bool {
		split = split || !utf8.Valid(p.Bytes)
		text = append(text, p.Bytes...)
		return true
	})
	if err != nil || !split || !utf8.Valid(text) || !strings.Contains(string(text), "🐝") {
		t.Errorf("split is %t, the text %q, %v", split, text, err)
	}
}

func TestParseScript(t *testing.T) {
	got, err := fake.ParseScript("load=2s, token=50ms,prefill=1ms,prefill_token=2us,context=9,crash_at=12,crash_code=3,stall_at=4,fail_at=5,eos_at=6,layers=7,load_stall_at=8,refuse=no")
	want := fake.Script{
		Load: 2 * time.Second, Token: 50 * time.Millisecond, Prefill: time.Millisecond,
		PrefillToken: 2 * time.Microsecond, Context: 9, CrashAt: 12, CrashCode: 3,
		StallAt: 4, FailAt: 5, EOSAt: 6, Layers: 7, LoadStallAt: 8, Refuse: "no",
	}
	if err != nil || !equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := fake.ParseScript(""); err != nil || !equal(got, fake.Script{}) {
		t.Errorf("the empty script gave %+v, %v", got, err)
	}
	for _, bad := range []string{"load", "load=soon", "crash_at=x", "dance=1"} {
		if _, err := fake.ParseScript(bad); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}

func equal(a, b fake.Script) bool {
	a.Exit, b.Exit, a.Hold, b.Hold = nil, nil, nil, nil
	return a.Load == b.Load && a.LoadStallAt == b.LoadStallAt && a.Layers == b.Layers && a.Refuse == b.Refuse &&
		a.Prefill == b.Prefill && a.Token == b.Token && a.StallAt == b.StallAt && a.FailAt == b.FailAt &&
		a.PrefillToken == b.PrefillToken && a.Context == b.Context && a.CrashAt == b.CrashAt && a.CrashCode == b.CrashCode && a.EOSAt == b.EOSAt
}
