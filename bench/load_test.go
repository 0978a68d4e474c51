package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestALoadCountsWhatTheServerReports(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/completions" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		asked.Add(1)
		fmt.Fprint(w, `data: {"choices":[{"text":"a"}]}`+"\n\n"+`data: {"choices":[{"text":"b"}]}`+"\n\n"+
			`data: {"choices":[],"usage":{"prompt_tokens":128,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":28}}}`+"\n\ndata: [DONE]\n\n")
	}))
	defer s.Close()
	got, err := newServer(s.URL+"/v1/", "m").load(context.Background(), newLetters().clients(3, 2, 128), 3)
	if err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 6 || len(got.answers) != 6 || got.prefilled() != 600 || got.check(128, 3) != nil {
		t.Errorf("%d requests came to %+v", asked.Load(), got)
	}
	if got.check(128, 4) == nil || got.check(127, 3) == nil {
		t.Error("answers of another size pass the check")
	}
	if a := got.answers[0]; a.first <= 0 || len(a.gaps) != 1 {
		t.Errorf("got %+v", a)
	}
	got.took = 2 * time.Second
	if r := got.rate(); r != 9 {
		t.Errorf("got %g tokens per second, want 9", r)
	}
}

func TestALoadFailsWhereAnAnswerCannotBeCounted(t *testing.T) {
	for name, body := range map[string]string{
		"no usage":  `data: {"choices":[{"text":"a"}]}` + "\n\ndata: [DONE]\n\n",
		"an error":  `data: {"error":{"message":"no"}}` + "\n\ndata: [DONE]\n\n",
		"cut short": `data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}` + "\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			if a, err := readAnswer(strings.NewReader(body), time.Now()); err == nil {
				t.Errorf("got %+v", a)
			}
		})
	}
}

func TestPercentilesAreValuesThatOccurred(t *testing.T) {
	values := make([]float64, 200)
	for i := range values {
		values[i] = float64(200 - i)
	}
	if a, b := percentile(values, 50), percentile(values, 99); a != 100 || b != 198 {
		t.Errorf("got %g and %g, want 100 and 198", a, b)
	}
	if a, b := percentile([]float64{7}, 50), percentile([]float64{7}, 99); a != 7 || b != 7 {
		t.Errorf("one value has the percentiles %g and %g", a, b)
	}
}
