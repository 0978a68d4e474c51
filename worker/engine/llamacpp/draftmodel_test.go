package llamacpp

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/internal/engines/enginestest"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

// eager has the draft model asked in each step, whatever it costs.
func eager(e *Engine) {
	e.guesser.plan = func(o offer) (bool, bool) {
		e.guesser.worth.begin(o)
		return true, true
	}
}

func withDraft(path string) func(*engine.Options) {
	return func(o *engine.Options) { o.DraftModel = path }
}

// unsure is by how much less likely than another a token may be, in logarithms, and
// be picked for rounding: bee-tiny with an adapter of the tests is not sure of much.
const unsure = 0.6

// same fails the test if two engines give texts that part where the second one was
// sure of itself: batches of other shapes round otherwise.
func same(t *testing.T, name string, e, plain *Engine, r engine.Request) {
	t.Helper()
	got, tokens := ask(t, e, r)
	r.Logprobs, r.TopLogprobs = true, 5
	at := 0
	want, err := plain.Generate(t.Context(), r, func(p engine.Piece) bool {
		if at++; at > len(tokens) || tokens[at-1] == p.Token {
			return true
		}
		i := slices.IndexFunc(p.Top, func(a sampling.Alternative) bool { return a.Token == tokens[at-1] })
		if r.Sampling.Temperature > 0 || i < 0 || p.Logprob-p.Top[i].Logprob > unsure {
			t.Errorf("%s: token %d is %d, and should be %d of %+v", name, at-1, tokens[at-1], p.Token, p.Top)
		}
		tokens = nil // what follows has another beginning
		return true
	})
	if err != nil || tokens != nil && (got.Tokens != want.Tokens || got.Reason != want.Reason) {
		t.Errorf("%s: %+v, and should be %+v (%v)", name, got, want, err)
	}
}

func TestAModelThatDraftsForItselfIsRight(t *testing.T) {
	e := loadTiny(t, withDraft(tinyPath(t)))
	plain := loadTiny(t, func(o *engine.Options) { o.DraftTokens = -1 })
	eager(e)
	for name, r := range map[string]engine.Request{
		"greedy":       {Tokens: words(t, e, 80, 100, "sun"), MaxTokens: 120, IgnoreEOS: true},
		"one token":    {Tokens: words(t, e, 80, 100, "moon"), MaxTokens: 1},
		"to an end":    {Tokens: words(t, e, 120, 121, "sun"), MaxTokens: 300},
		"past windows": {Tokens: words(t, e, 500, 700, "bee"), MaxTokens: 200, IgnoreEOS: true},
		"seeded": {
			Tokens: words(t, e, 80, 100, "sun"), MaxTokens: 120, IgnoreEOS: true,
			Sampling: sampling.Params{Temperature: 0.3, TopP: 0.9, Seed: 3, RepetitionPenalty: 1.05},
		},
		"with probabilities": {Tokens: words(t, e, 80, 100, "sun"), MaxTokens: 60, IgnoreEOS: true, Logprobs: true, TopLogprobs: 2},
	} {
		same(t, name, e, plain, r)
	}
	s := e.Stats()
	if s.ModelDrafts < 100 || s.ModelAccepted*10 < s.ModelDrafts*8 || s.DraftTokens < s.ModelDrafts || s.AcceptedTokens < s.ModelAccepted {
		t.Errorf("the stats are %+v", s)
	}
	t.Logf("%d of %d guesses came true", s.ModelAccepted, s.ModelDrafts)
}

func TestADraftOfAnotherMindChangesNothingAndIsGivenUp(t *testing.T) {
	deep := tiny(t).deeper(12).write(t, "deep")
	e := loadTiny(t, func(o *engine.Options) { o.ModelPath, o.DraftModel = deep, tiny(t).stranger().write(t, "stranger") })
	plain := loadTiny(t, func(o *engine.Options) { o.ModelPath, o.DraftTokens = deep, -1 })
	var drafts []uint64
	for i, kind := range []string{"sun", "river", "flower", "moon"} {
		r := engine.Request{
			Tokens: words(t, e, 60, 80, kind), MaxTokens: 200, IgnoreEOS: true,
			Sampling: sampling.Params{Temperature: 1, Seed: uint64(i)},
		}
		same(t, kind, e, plain, r)
		drafts = append(drafts, e.Stats().ModelDrafts)
	}
	s := e.Stats()
	t.Logf("%d of %d guesses came true; after each request there were %v", s.ModelAccepted, s.ModelDrafts, drafts)
	if s.ModelDrafts == 0 || s.ModelAccepted*10 > s.ModelDrafts {
		t.Errorf("the stats are %+v", s)
	}
	if late := drafts[3] - drafts[1]; late > 60 {
		t.Errorf("%d guesses were made for the last 400 tokens", late)
	}
}

func TestADraftModelServesManySequencesAtOnce(t *testing.T) {
	e := loadTiny(t, withDraft(tinyPath(t)))
	plain := loadTiny(t, noReuse)
	eager(e)
	kinds := []string{"sun", "river", "flower", "moon", "bee", "friend", "honey", "tree"}
	var wg sync.WaitGroup
	for i, kind := range kinds {
		wg.Go(func() {
			same(t, kind, e, plain, engine.Request{Tokens: words(t, e, 30, 40+i, kind), MaxTokens: 60 + i, IgnoreEOS: true})
		})
	}
	wg.Wait()
	if s := e.Stats(); s.ModelAccepted == 0 || s.KVUsed != 0 {
		t.Errorf("the stats are %+v", s)
	}
}

func TestADraftModelRestsToo(t *testing.T) {
	e := loadTiny(t, withDraft(tinyPath(t)))
	eager(e)
	r := engine.Request{Tokens: words(t, e, 80, 100, "sun"), MaxTokens: 60, IgnoreEOS: true}
	_, want := ask(t, e, r)
	if err := e.Rest(); err != nil || e.guesser.context != 0 {
		t.Fatalf("rest: %v", err)
	}
	before := e.Stats().ModelAccepted
	if _, got := ask(t, e, r); !slices.Equal(got, want) || e.Stats().ModelAccepted == before {
		t.Errorf("after a rest %q, before %q", e.Detokenize(got), e.Detokenize(want))
	}
}

func TestADraftModelThatDoesNotFitIsRefused(t *testing.T) {
	word := func(i int) string { return fmt.Sprintf("w%d", i) }
	for name, c := range map[string]struct {
		change func(*engine.Options)
		code   rbee.Code
		says   []string
	}{
		"missing":            {withDraft("none.gguf"), rbee.CodeModelNotFound, []string{"none.gguf"}},
		"another size":       {withDraft(tiny(t).vocabulary(1200, word).write(t, "larger")), rbee.CodeInvalidRequest, []string{"vocabulary has 1200 tokens", "1024", "larger.gguf"}},
		"other tokens":       {withDraft(tiny(t).vocabulary(1024, word).write(t, "renamed")), rbee.CodeInvalidRequest, []string{"renamed.gguf", `"w0"`, `"<unk>"`}},
		"no drafts":          {func(o *engine.Options) { o.DraftModel, o.DraftTokens = tinyPath(t), -1 }, rbee.CodeInvalidRequest, []string{"draft_tokens"}},
		"no model, but text": {withDraft(writeText(t)), rbee.CodeInvalidRequest, []string{"GGUF"}},
	} {
		o := engine.Options{ModelPath: tinyPath(t), LibDir: enginestest.LibDir(t), Threads: 1}
		c.change(&o)
		e, err := Load(t.Context(), o, nil)
		if e != nil {
			_ = e.Close()
		}
		if rbee.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
			continue
		}
		for _, part := range c.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", name, err, part)
			}
		}
	}
}

func TestADraftModelIsRefusedWhereGuessesCannotBeTakenBack(t *testing.T) {
	o := engine.Options{ModelPath: tinyPath(t), LibDir: enginestest.LibDir(t), Threads: 1, DraftModel: tinyPath(t)}
	e, err := start(t.Context(), o, nil, func(llama.Model) bool { return true })
	if e != nil {
		_ = e.Close()
	}
	if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), "take wrong guesses back") {
		t.Errorf("got %v", err)
	}
}

func TestTheLoadOfADraftModelSaysWhatItTakes(t *testing.T) {
	var log bytes.Buffer
	loadTiny(t, func(o *engine.Options) {
		o.DraftModel, o.Logger = tinyPath(t), slog.New(slog.NewTextHandler(&log, nil))
	})
	for _, part := range []string{"draft model", "draft_model=bee-tiny", "kv_tokens=4160", "kv_mb=", "weights_mb="} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log does not say %q: %s", part, log.String())
		}
	}
}

func TestADraftKnowsTheBeginningAndTheLastPartOfALongText(t *testing.T) {
	d := &draftModel{window: 64, vocab: 1 << 20}
	text := make([]engine.Token, 500)
	for i := range text {
		text[i] = engine.Token(i)
	}
	var before []engine.Token
	moves := 0
	for n := 1; n <= len(text); n++ {
		got := slices.Clone(d.view(text[:n], nil))
		if len(got) > 64 || len(got) < min(n, 32) || got[len(got)-1] != text[n-1] || !slices.Equal(got[:min(n, 4)], text[:min(n, 4)]) {
			t.Fatalf("of %d tokens it knows %v", n, got)
		}
		if len(before) > 0 && !slices.Equal(got[:len(got)-1], before) {
			moves++
		}
		before = got
	}
	if moves > 500/32 {
		t.Errorf("the window moved %d times", moves)
	}
	d.vocab = 100
	if got := d.view(text[90:110], nil); got[9] != 99 || got[10] != 0 {
		t.Errorf("tokens that it does not know are %v", got)
	}
}

func writeText(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text.gguf")
	if err := os.WriteFile(path, []byte("this is a text and no model at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
