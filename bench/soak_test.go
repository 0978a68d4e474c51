package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// event is one of a stream of completions.
func event(text string) string { return fmt.Sprintf(`data: {"choices":[{"text":%q}]}`, text) + "\n\n" }

// ending is what comes last.
func ending(tokens int, reason string) string {
	return fmt.Sprintf(`data: {"choices":[{"finish_reason":%q}],"usage":{"prompt_tokens":1,"completion_tokens":%d}}`, reason, tokens) + "\n\ndata: [DONE]\n\n"
}

func TestASoakTellsWhatWasAskedForFromWhatWasNot(t *testing.T) {
	const said = `{"error":{"message":"no","code":"INVALID_REQUEST"}}`
	stream, bad := task{tokens: 2, stream: true}, task{bad: true}
	exact, stops := stream, stream
	exact.exact, stops.stops = true, []string{"xy"}
	for name, c := range map[string]struct {
		task   task
		status int
		body   string
		want   came
		wrong  bool
	}{
		"an answer":                    {stream, 200, event("a") + event("b") + ending(2, "length"), came{tokens: 2}, false},
		"a short answer":               {stream, 200, event("a") + ending(1, "stop"), came{tokens: 1}, false},
		"a whole answer":               {task{tokens: 2}, 200, `{"choices":[{"message":{"content":"ab"},"finish_reason":"length"}],"usage":{"completion_tokens":2}}`, came{tokens: 2}, false},
		"fewer tokens than there must": {exact, 200, event("a") + ending(1, "length"), came{tokens: 1}, true},
		"an end that cannot be":        {exact, 200, event("a") + ending(2, "stop"), came{tokens: 2}, true},
		"too many tokens":              {stream, 200, event("a") + ending(3, "length"), came{tokens: 3}, true},
		"no reason of the end":         {stream, 200, event("a") + ending(2, ""), came{tokens: 2}, true},
		"a stop string":                {stops, 200, event("ax") + event("y") + ending(2, "stop"), came{tokens: 2}, true},
		"a broken stream":              {stream, 200, event("a"), came{}, true},
		"no answer":                    {task{tokens: 2}, 200, `{}`, came{}, true},
		"a refusal":                    {stream, 503, said, came{}, true},
		"a bad request refused":        {bad, 400, said, came{failed: true}, false},
		"a bad request crashes":        {bad, 500, said, came{failed: true}, true},
		"a bad request without a word": {bad, 400, `{"error":{"code":"INVALID_REQUEST"}}`, came{failed: true}, true},
		"a bad request goes through":   {bad, 200, `{"choices":[{"text":"a"}],"usage":{"completion_tokens":1}}`, came{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			}))
			defer s.Close()
			got, err := c.task.do(t.Context(), newServer(s.URL, "m"))
			if got != c.want || (err != nil) != c.wrong {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestAClientThatGoesAwayClosesItsConnection(t *testing.T) {
	for name, leaving := range map[string]task{
		"in the text":  {tokens: 9, stream: true, leave: 2},
		"before it":    {tokens: 9, hurry: time.Millisecond},
		"in its midst": {tokens: 9, stream: true, hurry: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(gone)
				if leaving.stream {
					fmt.Fprint(w, event("a")+event("b"))
					_ = http.NewResponseController(w).Flush() // a client that is gone misses it
				}
				<-r.Context().Done()
			}))
			defer s.Close()
			ours := newServer(s.URL, "m")
			// A hurry may end before the request is sent; then nobody waits for its end.
			got, err := leaving.do(t.Context(), ours)
			if err != nil || !got.left {
				t.Fatalf("got %+v, %v", got, err)
			}
			if leaving.hurry == 0 {
				select {
				case <-gone:
				case <-time.After(10 * time.Second):
					t.Error("the server still has the connection")
				}
			}
		})
	}
}

func TestFaultsOfASoakAreCountedAndTheFirstAreKept(t *testing.T) {
	var s soak
	s.note(came{tokens: 3}, nil)
	s.note(came{left: true}, nil)
	s.note(came{failed: true}, nil)
	for range 3 * maxFaults {
		s.note(came{}, errors.New("no"))
	}
	got := s.tally()
	if got.requests != 3+3*maxFaults || got.tokens != 3 || got.left != 1 || got.asked != 1 || got.unasked != 3*maxFaults || len(got.faults) != maxFaults {
		t.Errorf("got %+v", got)
	}
}

func TestMetricsAreReadByTheirWholeName(t *testing.T) {
	const text = "# HELP go_goroutines Number.\ngo_goroutines_total 3\ngo_goroutines 42\n"
	if n := metric(text, "go_goroutines"); n != 42 {
		t.Errorf("got %g", n)
	}
	if n := metric(text, "go_gorout"); n != 0 {
		t.Errorf("got %g", n)
	}
}

func TestAnOpenLoopCountsWhatWasRefused(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body [4096]byte
		n, _ := r.Body.Read(body[:])
		if strings.Contains(string(body[:n]), `"prompt":"a`) { // about one in 26
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, event("a")+ending(1, "length"))
	}))
	defer s.Close()
	const perSecond, span = 1e6, 200 * time.Microsecond
	texts := newLetters(1)
	got, err := newServer(s.URL, "m").open(t.Context(), texts, perSecond, span)
	if err != nil {
		t.Fatal(err)
	}
	again := newLetters(1)
	at := again.arrivals(perSecond, span)
	want := 0
	for _, p := range again.clients(1, len(at), servePrompt)[0] {
		if p[0] != 'a' {
			want++
		}
	}
	if got.arrived != len(at) || len(got.answers) != want || want == len(at) || got.goodput() != float64(want)/float64(len(at)) {
		t.Errorf("%d of %d requests were answered, want %d of %d", len(got.answers), got.arrived, want, len(at))
	}
	if _, err := newServer(s.URL, "m").open(t.Context(), texts, 0.1, time.Nanosecond); err == nil {
		t.Error("a time in which nothing arrives is no error")
	}
}
