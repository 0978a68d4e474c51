package enginetest

import (
	"sync"
	"sync/atomic"
	"testing"

	"rbee"
	"rbee/worker/engine"
)

func (s suite) rest(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		r := story(40)
		r.Logprobs, r.TopLogprobs = true, 5
		before := generate(t, e, r)
		vectors, err := e.Embed(t.Context(), [][]engine.Token{{5, 6, 7}})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := e.Rest(); err != nil {
				t.Fatalf("rest: %v", err)
			}
			if st := e.Stats(); st.KVTotal != 0 || st.KVUsed != 0 || st.KVCached != 0 || st.Requests != 1 {
				t.Errorf("at rest the stats are %+v", st)
			}
		}
		if again, err := e.Embed(t.Context(), [][]engine.Token{{5, 6, 7}}); err != nil || cosine(vectors[0], again[0]) < 0.999 {
			t.Errorf("after a rest the vector is another one (%v)", err)
		}
		if tokens, err := e.Tokenize(Story, true); err != nil || len(tokens) == 0 {
			t.Errorf("at rest it can't tokenize: %v, %v", tokens, err)
		}
		sameButForRounding(t, "after a rest", before, generate(t, e, r))
		if st := e.Stats(); st.KVTotal != e.Info().KVTokens {
			t.Errorf("after a rest the stats are %+v", st)
		}
		closeEngine(t, e)
		wantCode(t, e.Rest(), rbee.CodeWorkerNotReady)
	})
}

func (s suite) noRest(t *testing.T) {
	s.use(t, func(o *engine.Options) { o.Slots = 1 }, func(e engine.Engine) {
		held := occupy(t, e, 1, 100)
		got := wantCode(t, e.Rest(), rbee.CodeConflict)
		if got.Details["requests"] != 1 || got.Suggestion() == "" {
			t.Errorf("the details are %v", got.Details)
		}
		var wg sync.WaitGroup
		wg.Go(func() { generate(t, e, story(5)) })
		eventually(t, "the request to queue", func() bool { return e.Stats().Queued == 1 })
		if got := wantCode(t, e.Rest(), rbee.CodeConflict); got.Details["requests"] != 2 {
			t.Errorf("the details are %v", got.Details)
		}
		if st := e.Stats(); st.KVTotal != e.Info().KVTokens {
			t.Errorf("the stats are %+v", st)
		}
		held.end()
		wg.Wait()
		free(t, e)
	})
}

// restless asks for rests whenever, beside requests that come and go.
func (s suite) restless(t *testing.T) {
	s.use(t, nil, func(e engine.Engine) {
		r := story(10)
		r.Logprobs, r.TopLogprobs = true, 5
		want := generate(t, e, r)
		var requests, rests sync.WaitGroup
		var done atomic.Bool
		rests.Go(func() {
			for !done.Load() {
				if err := e.Rest(); err != nil && rbee.CodeOf(err) != rbee.CodeConflict {
					t.Errorf("rest: %v", err)
				}
			}
		})
		for range 2 {
			requests.Go(func() {
				for range 10 {
					sameButForRounding(t, "beside rests", want, generate(t, e, story(10)))
				}
			})
		}
		requests.Wait()
		done.Store(true)
		rests.Wait()
		free(t, e)
	})
}
