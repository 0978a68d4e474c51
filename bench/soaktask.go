package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// task is one request of a soak, and what is to come of it.
type task struct {
	path   string
	body   []byte
	stream bool
	bad    bool          // it is to be refused
	leave  int           // texts after which its client goes away, 0 for one that stays
	hurry  time.Duration // after which its client goes away, 0 for one that stays
	tokens int           // that come at most
	exact  bool          // no fewer come
	stops  []string
}

const (
	soakPrompt = 700 // tokens of the longest prompt
	soakTokens = 96  // tokens of the longest answer
	soakSpace  = 1024
)

// drawTask makes up a request: one in eight is left by its client, and one in
// eight is bad.
func drawTask(r letters, model string) task {
	if r.IntN(8) == 0 {
		return drawBad(r)
	}
	t := task{tokens: 1 + r.IntN(soakTokens), stream: r.IntN(4) > 0}
	if r.IntN(4) == 0 {
		t.stops = []string{r.text(1), r.text(2), "\n"}
	}
	body := map[string]any{"model": model, "max_tokens": t.tokens, "temperature": float64(r.IntN(3)) / 2, "top_p": 1 - r.Float64()/4}
	if t.stops != nil {
		body["stop"] = t.stops
	}
	if r.IntN(2) == 0 {
		body["seed"] = r.Int64()
	}
	if r.IntN(2) == 0 {
		body["ignore_eos"] = true
		t.exact = t.stops == nil
	}
	if t.stream {
		body["stream"], body["stream_options"] = true, map[string]bool{"include_usage": true}
	}
	prompt := r.text(1 + r.IntN(1+r.IntN(soakPrompt))) // short ones are more frequent
	if r.IntN(4) == 0 {
		prompt = "the same beginning, again and again, so that something can be reused: " + prompt
	}
	t.path, body["prompt"] = "/v1/completions", prompt
	if r.IntN(4) == 0 {
		t.path, body["messages"] = "/v1/chat/completions", []map[string]string{{"role": "user", "content": prompt}}
		delete(body, "prompt")
	}
	if r.IntN(8) == 0 {
		if t.leave = r.IntN(t.tokens); t.leave == 0 || !t.stream {
			t.leave, t.hurry = 0, time.Duration(1+r.IntN(300))*time.Millisecond
		}
	}
	t.body, _ = json.Marshal(body) // of plain values
	return t
}

// drawBad makes up a request that is to be refused as INVALID_REQUEST or for its length.
func drawBad(r letters) task {
	const completions, chat = "/v1/completions", "/v1/chat/completions"
	stops, _ := json.Marshal(strings.Split(r.text(10000), "")) // of plain values
	all := []task{
		{path: completions, body: []byte(`{"prompt": "a", "max_tokens": `)},
		{path: completions, body: nil},
		{path: completions, body: []byte(`["a list"]`)},
		{path: completions, body: []byte("{\"prompt\": \"\xff\xfe\"}")},
		{path: completions, body: []byte(`{"prompt": {"text": "a"}}`)},
		{path: completions, body: []byte(`{"prompt": "a", "max_tokens": "ten"}`)},
		{path: completions, body: []byte(`{"prompt": "a", "stream": "yes"}`)},
		{path: completions, body: []byte(`{"prompt": "a", "max_tokens": -1}`)},
		{path: completions, body: []byte(`{"prompt": "a", "temperature": NaN}`)},
		{path: completions, body: []byte(`{"prompt": "a", "temperature": 1e9}`)},
		{path: completions, body: []byte(`{"prompt": "a", "grammar": "root ::= ("}`)},
		{path: completions, body: fmt.Appendf(nil, `{"prompt": "a", "stop": %s}`, stops)},
		{path: completions, body: fmt.Appendf(nil, `{"prompt": %q, "max_tokens": 8}`, r.text(2*soakSpace))},
		{path: chat, body: []byte(`{"messages": "hello"}`)},
		{path: chat, body: []byte(`{"messages": []}`)},
		{path: chat, body: []byte(`{"messages": [{"role": "user", "content": 5}], "stop": [""]}`)},
		{path: "/v1/inference", body: []byte(`{"prompt": "", "max_tokens": 0}`)},
		{path: "/v1/inference", body: []byte(`{"prompt": 5}`)},
		{path: "/v1/embeddings", body: []byte(`{"input": {}}`)},
	}
	t := all[r.IntN(len(all))]
	t.bad = true
	return t
}

// came is how a task ended.
type came struct {
	tokens       int
	left, failed bool // its client went away; it was refused as it was to be
}

var errLeft = errors.New("the client goes away")

// do sends the request. An error is one that nobody asked for.
func (t task) do(ctx context.Context, s server) (came, error) {
	if t.hurry > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, t.hurry, errLeft)
		defer stop()
	}
	a, text, err := t.send(ctx, s)
	var status *statusError
	switch {
	case errors.Is(err, errLeft) || err != nil && errors.Is(context.Cause(ctx), errLeft):
		return came{tokens: a.tokens, left: true}, nil
	case t.bad && errors.As(err, &status):
		return came{failed: true}, status.faults()
	case t.bad:
		return came{}, fmt.Errorf("a bad request came to %d tokens (%v): %s %.200q", a.tokens, err, t.path, t.body)
	case err != nil:
		return came{}, err
	}
	return came{tokens: a.tokens}, t.check(a, text)
}

func (t task) send(ctx context.Context, s server) (a answer, text string, err error) {
	resp, err := s.send(ctx, http.MethodPost, t.path, t.body)
	if err != nil {
		return a, "", err
	}
	defer resp.Body.Close() // before its end this closes the connection
	if !t.stream {
		var whole chunk
		if err := json.NewDecoder(resp.Body).Decode(&whole); err != nil || len(whole.Choices) != 1 {
			return a, "", fmt.Errorf("cannot read the answer: %w", err)
		}
		a.count(whole)
		return a, whole.Choices[0].text(), nil
	}
	var all strings.Builder
	texts := 0
	a, err = readAnswer(resp.Body, time.Now(), func(text string) error {
		all.WriteString(text)
		if texts++; texts == t.leave {
			return errLeft
		}
		return nil
	})
	return a, all.String(), err
}

// faults says what is wrong with the refusal of a bad request.
func (e *statusError) faults() error {
	var body struct {
		Error struct{ Message, Code string }
	}
	if err := json.Unmarshal([]byte(e.text), &body); err != nil || e.status != http.StatusBadRequest || body.Error.Message == "" || body.Error.Code == "" {
		return fmt.Errorf("a bad request is refused badly: %w", e)
	}
	return nil
}

// check says what is wrong with an answer.
func (t task) check(a answer, text string) error {
	for _, s := range t.stops {
		if strings.Contains(text, s) {
			return fmt.Errorf("an answer has its stop string %q", s)
		}
	}
	switch {
	case a.tokens > t.tokens || a.tokens < 1 || t.exact && a.tokens != t.tokens:
		return fmt.Errorf("an answer has %d tokens, want %d", a.tokens, t.tokens)
	case a.finish != "length" && (t.exact || a.finish != "stop"):
		return fmt.Errorf("an answer of %d tokens of %d ended as %q", a.tokens, t.tokens, a.finish)
	}
	return nil
}
