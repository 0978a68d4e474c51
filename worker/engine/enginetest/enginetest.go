// Package enginetest is the contract of engine.Engine as tests. Every
// implementation runs it; what a test needs beyond the contract is no part of it.
package enginetest

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/sampling"
)

// Run tests a loader. The options name a model that ends the text after the
// prompt Story by itself, with room for 20 tokens more in its context.
func Run(t *testing.T, load engine.Loader, o engine.Options) {
	s := suite{load: load, options: o}
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"tells what was loaded", s.info},
		{"reports the progress of a load", s.progress},
		{"a load can be canceled", s.loadCanceled},
		{"a missing file is not found", s.missingFile},
		{"bad options are refused", s.badOptions},
		{"tokens come in order and are counted", s.order},
		{"max_tokens is kept and capped to the room", s.maxTokens},
		{"greedy gives the same text each time", s.greedy},
		{"a seed gives the same text each time", s.seeded},
		{"a prompt may be given as tokens", s.tokensAsPrompt},
		{"parallel requests give the same text as alone", s.parallel},
		{"a text ends by itself", s.eos},
		{"bad requests are refused", s.badRequests},
		{"a prompt that is too long is refused", s.contextLength},
		{"emit stops a generation", s.emitStops},
		{"cancel stops a generation and frees the slot", s.cancel},
		{"a canceled request leaves the queue", s.cancelQueued},
		{"a full queue refuses", s.queueFull},
		{"KV cells are what a request waits for", s.cells},
		{"answers that outgrow the KV cells wait", s.crowd},
		{"a slow reader holds up nobody", s.slowReader},
		{"a panic in emit frees the slot", s.panics},
		{"close ends all generations", s.closes},
		{"a prompt that is known gives the same text", s.reuse},
		{"probabilities are told", s.logprobs},
		{"a grammar is kept", s.grammar},
		{"vectors have length 1 and are of their input", s.embed},
		{"bad inputs of vectors are refused", s.badInputs},
		{"slots are told", s.slots},
		{"a rest gives the KV cache back until the next request", s.rest},
		{"there is no rest while requests run or wait", s.noRest},
		{"rests and requests may come at any time", s.restless},
		{"text survives tokens", s.roundTrip},
		{"random cancels leak nothing", s.stress},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			c.test(t)
			goleak.VerifyNone(t, before)
		})
	}
}

// Story is the prompt of the suite.
const Story = "Once upon a time"

type suite struct {
	load    engine.Loader
	options engine.Options
}

// patience bounds what should happen soon; only a failing test waits so long.
const patience = time.Minute

func (s suite) open(t *testing.T, change func(*engine.Options)) engine.Engine {
	t.Helper()
	o := s.options
	o.Slots, o.Queue, o.Context, o.KVTokens = 4, 64, 0, 0
	if change != nil {
		change(&o)
	}
	e, err := s.load(t.Context(), o, nil)
	if err != nil {
		t.Fatalf("cannot load: %v", err)
	}
	t.Cleanup(func() { closeEngine(t, e) })
	return e
}

func closeEngine(t *testing.T, e engine.Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// use opens an engine for a test and closes it before the goroutines are counted.
func (s suite) use(t *testing.T, change func(*engine.Options), test func(e engine.Engine)) {
	t.Helper()
	e := s.open(t, change)
	defer closeEngine(t, e)
	test(e)
}

type output struct {
	engine.Result
	text   string
	tokens []engine.Token
	top    [][]sampling.Alternative
}

// rounding is by how much the logarithm of a probability may differ when an
// engine computes it in a batch of another shape, or from other KV cells.
const rounding = 0.3

// sameButForRounding fails the test if two greedy texts part where the first
// one, which has its alternatives, was sure of itself.
func sameButForRounding(t *testing.T, name string, want, got output) {
	t.Helper()
	for i, token := range want.tokens[:min(len(want.tokens), len(got.tokens))] {
		if got.tokens[i] == token {
			continue
		}
		at := slices.IndexFunc(want.top[i], func(a sampling.Alternative) bool { return a.Token == got.tokens[i] })
		if at < 0 || want.top[i][0].Logprob-want.top[i][at].Logprob > rounding {
			t.Errorf("%s: token %d is %d, and should be one of %+v", name, i, got.tokens[i], want.top[i])
		}
		return
	}
}

func generate(t testing.TB, e engine.Engine, r engine.Request) output {
	t.Helper()
	out, err := collect(t.Context(), e, r)
	if err != nil {
		t.Errorf("generate: %v", err)
	}
	return out
}

func collect(ctx context.Context, e engine.Engine, r engine.Request) (output, error) {
	var out output
	var text strings.Builder
	var err error
	out.Result, err = e.Generate(ctx, r, func(p engine.Piece) bool {
		text.Write(p.Bytes)
		out.tokens = append(out.tokens, p.Token)
		if r.Logprobs {
			out.top = append(out.top, slices.Clone(p.Top))
		}
		return true
	})
	out.text = text.String()
	return out, err
}

func story(maxTokens int) engine.Request {
	return engine.Request{Prompt: Story, MaxTokens: maxTokens}
}

// free fails the test if a slot, a KV cell or a place in the queue is taken.
func free(t *testing.T, e engine.Engine) {
	t.Helper()
	if s := e.Stats(); s.SlotsBusy != 0 || s.Queued != 0 || s.KVUsed != 0 {
		t.Errorf("something is still taken: %+v", s)
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// wantCode fails the test unless err has the code, and returns the error.
func wantCode(t *testing.T, err error, code rbee.Code) *rbee.Error {
	t.Helper()
	if rbee.CodeOf(err) != code {
		t.Fatalf("got error %v, want %s", err, code)
	}
	return rbee.AsError(err)
}

func (s suite) info(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots, o.Context, o.KVTokens = 3, 256, 512 }, func(e engine.Engine) {
		i := e.Info()
		if i.Name == "" || i.Architecture == "" || i.Layers < 1 || i.Vocab < 256 || i.SizeBytes < 1 || i.Parameters < 1 {
			t.Errorf("the model is not described: %+v", i)
		}
		if i.Context != 256 || i.KVTokens < 512 || i.Slots != 3 || i.TrainedContext < 256 {
			t.Errorf("the room is not as asked: %+v", i)
		}
		if i.BOS == "" || i.EOS == "" || len(i.Adapters) != 0 {
			t.Errorf("the model's tokens are not told: %+v", i)
		}
		for _, text := range []string{i.BOS, i.EOS} {
			if tokens, err := e.Tokenize(text, false); err != nil || len(tokens) != 1 {
				t.Errorf("%q is %v, %v", text, tokens, err)
			}
		}
		if f := i.FIM; f.OK && (f.Prefix == f.Suffix || f.Suffix == f.Middle) || !f.OK && f != (engine.FIM{}) {
			t.Errorf("the tokens for filling a gap are %+v", f)
		}
		if st := e.Stats(); st.SlotsTotal != 3 || st.QueueSize != 64 || st.KVTotal != i.KVTokens {
			t.Errorf("stats say %+v", st)
		}
		free(t, e)
	})
}

func (s suite) progress(t *testing.T) {
	var steps []rbee.LoadProgress
	e, err := s.load(t.Context(), s.options, func(p rbee.LoadProgress) { steps = append(steps, p) })
	if err != nil {
		t.Fatalf("cannot load: %v", err)
	}
	defer closeEngine(t, e)
	if len(steps) < 2 {
		t.Fatalf("progress came %d times", len(steps))
	}
	for i, p := range steps {
		if p.Stage != rbee.LoadToVRAM || p.LayersTotal != e.Info().Layers || p.LayersLoaded < 0 || p.LayersLoaded > p.LayersTotal {
			t.Errorf("step %d is %+v", i, p)
		}
		if i > 0 && (p.LayersLoaded < steps[i-1].LayersLoaded || p.VRAMMB < steps[i-1].VRAMMB) {
			t.Errorf("step %d goes back from %+v to %+v", i, steps[i-1], p)
		}
	}
	last := steps[len(steps)-1]
	if last.LayersLoaded != last.LayersTotal || last.VRAMMB <= 0 {
		t.Errorf("the last step is %+v", last)
	}
}

func (s suite) loadCanceled(t *testing.T) {
	why := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	e, err := s.load(ctx, s.options, func(rbee.LoadProgress) { cancel(why) })
	if e != nil || !errors.Is(err, why) {
		t.Errorf("a load that was canceled on the way gave %v, %v", e, err)
	}
	if _, err := s.load(ctx, s.options, nil); !errors.Is(err, why) {
		t.Errorf("a load that was canceled before gave %v", err)
	}
	s.use(t, nil, func(e engine.Engine) { generate(t, e, story(2)) })
}

func (s suite) missingFile(t *testing.T) {
	o := s.options
	o.ModelPath = filepath.Join(t.TempDir(), "none.gguf")
	_, err := s.load(t.Context(), o, nil)
	if e := wantCode(t, err, rbee.CodeModelNotFound); !strings.Contains(e.Message, o.ModelPath) {
		t.Errorf("the message does not name the file: %v", e)
	}
}

func (s suite) badOptions(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*engine.Options)
		code   rbee.Code
	}{
		"slots":       {func(o *engine.Options) { o.Slots = -1 }, rbee.CodeInvalidRequest},
		"many slots":  {func(o *engine.Options) { o.Slots = engine.MaxSlots + 1 }, rbee.CodeInvalidRequest},
		"kv tokens":   {func(o *engine.Options) { o.Context, o.KVTokens = 256, 128 }, rbee.CodeInvalidRequest},
		"queue":       {func(o *engine.Options) { o.Queue = -1 }, rbee.CodeInvalidRequest},
		"backend":     {func(o *engine.Options) { o.Backend = "abacus" }, rbee.CodeBackendUnavailable},
		"the device":  {func(o *engine.Options) { o.Device = "cpu7" }, rbee.CodeBackendUnavailable},
		"no such gpu": {func(o *engine.Options) { o.Backend, o.Device = rbee.BackendCUDA, "cuda99" }, rbee.CodeBackendUnavailable},
	} {
		o := s.options
		c.change(&o)
		if e, err := s.load(t.Context(), o, nil); rbee.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
			if e != nil {
				closeEngine(t, e)
			}
		}
	}
}

func (s suite) order(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		out := generate(t, e, story(30))
		if len(out.tokens) != out.Tokens || out.Tokens != 30 || out.Reason != rbee.StopLength {
			t.Errorf("%d tokens came, the result is %+v", len(out.tokens), out.Result)
		}
		prompt, err := e.Tokenize(Story, true)
		if err != nil || out.PromptTokens != len(prompt) {
			t.Errorf("the prompt has %d tokens (%v), the result says %d", len(prompt), err, out.PromptTokens)
		}
		if out.CachedTokens > out.PromptTokens || out.Prefill <= 0 && out.Decode <= 0 {
			t.Errorf("the result is %+v", out.Result)
		}
		// The pieces are the text of the tokens; a model may add a space in front of a text.
		if whole := string(e.Detokenize(out.tokens)); strings.TrimLeft(whole, " ") != strings.TrimLeft(out.text, " ") {
			t.Errorf("the pieces make %q, the tokens %q", out.text, whole)
		}
		st := e.Stats()
		if st.GeneratedTokens < 30 || st.Requests != 1 || st.Steps < 30 || st.PromptTokens != uint64(len(prompt)) {
			t.Errorf("stats are %+v", st)
		}
		free(t, e)
	})
}

func (s suite) maxTokens(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Context = 64 }, func(e engine.Engine) {
		for _, n := range []int{1, 2, 7} {
			if out := generate(t, e, story(n)); out.Tokens != n || out.Reason != rbee.StopLength {
				t.Errorf("asked for %d tokens: %+v", n, out.Result)
			}
		}
		r := story(1 << 30)
		r.IgnoreEOS = true
		out := generate(t, e, r)
		if out.PromptTokens+out.Tokens != 64 || out.Reason != rbee.StopLength {
			t.Errorf("a context of 64 tokens gave %+v", out.Result)
		}
	})
}

func (s suite) greedy(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		first := generate(t, e, story(60))
		r := story(60)
		r.Sampling.Seed = 99
		if again := generate(t, e, r); again.text != first.text || first.text == "" {
			t.Errorf("greedy gave %q, then %q", first.text, again.text)
		}
	})
}

func (s suite) seeded(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		texts := map[string]int{}
		for seed := range uint64(4) {
			r := story(60)
			r.Sampling = sampling.Params{Temperature: 1, TopP: 0.95, Seed: seed, RepetitionPenalty: 1.1}
			first := generate(t, e, r)
			if again := generate(t, e, r); again.text != first.text {
				t.Errorf("seed %d gave %q, then %q", seed, first.text, again.text)
			}
			texts[first.text]++
		}
		if len(texts) < 2 {
			t.Errorf("four seeds gave one text: %v", texts)
		}
	})
}

func (s suite) tokensAsPrompt(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		tokens, err := e.Tokenize(Story, true)
		if err != nil {
			t.Fatal(err)
		}
		text := generate(t, e, story(20))
		if out := generate(t, e, engine.Request{Tokens: tokens, MaxTokens: 20}); !slices.Equal(out.tokens, text.tokens) {
			t.Errorf("as tokens the prompt gave %q, as text %q", out.text, text.text)
		}
	})
}

// parallel compares the beginnings of texts while none of them has ended: what
// another that ended leaves behind may change how an engine rounds.
func (s suite) parallel(t *testing.T) {
	const compared, whole = 40, 120
	prompts := []string{Story, "The bee", "In the morning", "A flower and a friend met by the river, and then"}
	request := func(i int) engine.Request {
		return engine.Request{Prompt: prompts[i], MaxTokens: whole, IgnoreEOS: true}
	}
	s.use(t, nil, func(e engine.Engine) {
		var alone []output
		for i := range prompts {
			r := request(i)
			r.Logprobs, r.TopLogprobs = true, 5
			alone = append(alone, generate(t, e, r))
		}
		for _, n := range []int{2, 4, 4} {
			together := make([][]engine.Token, n)
			var there, done sync.WaitGroup
			there.Add(n)
			for i := range n {
				done.Go(func() {
					result, err := e.Generate(t.Context(), request(i), func(p engine.Piece) bool {
						if together[i] = append(together[i], p.Token); len(together[i]) == compared {
							there.Done()
							there.Wait()
						}
						return true
					})
					if err != nil || result.Tokens != whole {
						t.Errorf("with %d others: %+v, %v", n-1, result, err)
					}
				})
			}
			done.Wait()
			for i := range n {
				want := output{tokens: alone[i].tokens[:compared], top: alone[i].top}
				name := strconv.Quote(prompts[i]) + " with " + strconv.Itoa(n-1) + " others"
				sameButForRounding(t, name, want, output{tokens: together[i][:compared]})
			}
		}
		free(t, e)
	})
}

func (s suite) eos(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		out := generate(t, e, story(1<<20))
		if out.Reason != rbee.StopEOS || out.Tokens != len(out.tokens) || out.Tokens == 0 {
			t.Errorf("the result is %+v", out.Result)
		}
		r := story(out.Tokens + 20)
		r.IgnoreEOS = true
		more := generate(t, e, r)
		if more.Reason != rbee.StopLength || more.Tokens != out.Tokens+20 {
			t.Errorf("past the end: %+v", more.Result)
		}
		if !strings.HasPrefix(more.text, out.text) {
			t.Errorf("past the end the text is %q, which does not begin with %q", more.text, out.text)
		}
	})
}
