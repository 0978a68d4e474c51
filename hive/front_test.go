package hive

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
)

func TestTheModelIsFoundInABody(t *testing.T) {
	for name, c := range map[string]struct{ body, model, replaced string }{
		"first":               {`{"model":"a","n":1}`, "a", `{"model":"new","n":1}`},
		"last, with blanks":   {"{ \"messages\": [{\"model\":\"x\"}], \n\"model\" :\t\"a/b:Q4\" }\n", "a/b:Q4", "{ \"messages\": [{\"model\":\"x\"}], \n\"model\" :\t\"new\" }\n"},
		"numbers as they are": {`{"seed":12345678901234567890,"t":1e400,"model":"a"}`, "a", `{"seed":12345678901234567890,"t":1e400,"model":"new"}`},
		"escaped":             {`{"model":"a\/b"}`, "a/b", `{"model":"new"}`},
		"twice":               {`{"model":"a","model":"b"}`, "b", `{"model":"a","model":"new"}`},
	} {
		t.Run(name, func(t *testing.T) {
			model, at, err := modelIn([]byte(c.body))
			if err != nil || model != c.model {
				t.Fatalf("%q, %v", model, err)
			}
			if got := string(at.replaced([]byte(c.body), "new")); got != c.replaced {
				t.Errorf("replaced: %s", got)
			}
		})
	}
}

func TestABodyWithoutAModel(t *testing.T) {
	for _, body := range []string{
		``, `[]`, `"model"`, `{`, `{"model"`, `{"model":`, `{"model":"a"`, `{"model":"a",}`, `{"model":1}`, `{"model":null}`, `{}`, `{"model":""}`, `{"n":nan}`,
		strings.Repeat("[", 100_000),
	} {
		if model, _, err := modelIn([]byte(body)); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("%.20s: %q, %v", body, model, err)
		}
	}
}

func FuzzModelIn(f *testing.F) {
	f.Add([]byte(`{"messages":[{"role":"user"}],"model":"a","x":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		model, at, err := modelIn(body)
		if err != nil {
			return
		}
		again, _, err := modelIn(at.replaced(body, model))
		if err != nil || again != model {
			t.Errorf("%q became %q, %v", model, again, err)
		}
	})
}

func TestRequestsForOneModelShareItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s starts
		ref := rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/a"}
		started := 0
		start := func() (spawned, error) {
			started++
			time.Sleep(time.Second)
			return spawned{worker: rbee.Worker{ID: "w"}}, nil
		}
		hasty, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := s.share(hasty, ref, start); err == nil {
				t.Error("who left got a worker")
			}
		})
		synctest.Wait()
		for range 10 {
			all.Go(func() {
				if got, err := s.share(t.Context(), ref, start); err != nil || got.worker.ID != "w" {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		all.Wait()
		if started != 2 || s.waiting != 0 || len(s.running) != 0 {
			t.Errorf("%d starts, %d wait, running %v", started, s.waiting, s.running)
		}
	})
}

func TestOnlySoManyRequestsWaitForAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s starts
		var ref rbee.ModelRef
		refusal := rbee.Errorf(rbee.CodeInsufficientRAM, "no room")
		codes := make(chan rbee.Code, maxFrontWaiting+2)
		for range maxFrontWaiting + 2 {
			go func() {
				_, err := s.share(t.Context(), ref, func() (spawned, error) {
					time.Sleep(time.Second)
					return spawned{}, refusal
				})
				codes <- rbee.CodeOf(err)
			}()
		}
		count := map[rbee.Code]int{}
		for range maxFrontWaiting + 2 {
			count[<-codes]++
		}
		if count[rbee.CodeQueueFull] != 1 || count[rbee.CodeInsufficientRAM] != maxFrontWaiting+1 {
			t.Errorf("ended: %v", count)
		}
	})
}
