package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee/internal/sse"
)

// server is one that answers POST /v1/completions as OpenAI's does.
type server struct {
	base, model string
	key         string // sent as a bearer, "" for none; never printed
	http        *http.Client
}

func newServer(base, model string) server {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.MaxIdleConnsPerHost = nil, 1024
	return server{base: strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1"), model: model, http: &http.Client{Transport: t}}
}

// keyVariable may hold the key of another server.
const keyVariable = "RBEE_BENCH_KEY"

// readKey reads a key from its file or the environment. The programs that are
// started from now on do not inherit it.
func readKey(file string) (string, error) {
	key := os.Getenv(keyVariable)
	if err := os.Unsetenv(keyVariable); err != nil || file == "" {
		return key, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("cannot read the key: %w", err)
	}
	return cmp.Or(strings.TrimSpace(string(b)), key), nil
}

// answer is what came of one request.
type answer struct {
	first                  time.Duration   // to the first text
	gaps                   []time.Duration // between texts
	prompt, cached, tokens int
	finish                 string // why it ended
}

// chunk is what all servers have in common of an event.
type chunk struct {
	Choices []choice
	Usage   *struct {
		Prompt  int `json:"prompt_tokens"`
		Tokens  int `json:"completion_tokens"`
		Details struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
	Error any
}

// choice is that of a completion or a chat, whole or in pieces.
type choice struct {
	Text           string
	Delta, Message struct{ Content string }
	Finish         string `json:"finish_reason"`
}

func (c choice) text() string { return c.Text + c.Delta.Content + c.Message.Content }

// statusError is a reply with another status than 200.
type statusError struct {
	server, text string
	status       int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answers %d %s: %s", e.server, e.status, http.StatusText(e.status), e.text)
}

// refused says whether a server had no room for a request.
func refused(err error) bool {
	var e *statusError
	return errors.As(err, &e) && (e.status == http.StatusServiceUnavailable || e.status == http.StatusTooManyRequests)
}

// ask streams one greedy answer of n tokens.
func (s server) ask(ctx context.Context, prompt string, n int) (answer, error) {
	return s.askAt(ctx, time.Now(), prompt, n)
}

// askAt counts from the time when the request was to be sent. An answer that
// breaks off is what came of it so far, with the error.
func (s server) askAt(ctx context.Context, start time.Time, prompt string, n int) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"model": s.model, "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": true,
		"stream": true, "stream_options": map[string]bool{"include_usage": true},
	})
	if err != nil {
		return answer{}, err
	}
	resp, err := s.send(ctx, http.MethodPost, "/v1/completions", body)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	return readAnswer(resp.Body, start, func(string) error { return nil })
}

// send returns a reply of status 200, or a *statusError.
func (s server) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if s.key != "" {
		req.Header.Set("Authorization", "Bearer "+s.key)
	}
	resp, err := s.http.Do(req)
	if err != nil || resp.StatusCode == http.StatusOK {
		return resp, err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it only explains the status
	text := string(b)
	if s.key != "" {
		text = strings.ReplaceAll(text, s.key, "***")
	}
	return nil, &statusError{s.base, text, resp.StatusCode}
}

// readAnswer gives each text of a stream to take, whose error ends it.
func readAnswer(r io.Reader, start time.Time, take func(text string) error) (a answer, err error) {
	last := start
	for c, err := range sse.Read[chunk](r) {
		switch {
		case err != nil:
			return a, err
		case c.Error != nil:
			return a, fmt.Errorf("the answer broke off: %v", c.Error)
		}
		a.count(c)
		if len(c.Choices) == 0 || c.Choices[0].text() == "" {
			continue
		}
		now := time.Now()
		if a.first == 0 {
			a.first = now.Sub(start)
		} else {
			a.gaps = append(a.gaps, now.Sub(last))
		}
		last = now
		if err := take(c.Choices[0].text()); err != nil {
			return a, err
		}
	}
	if a.tokens == 0 {
		return a, errors.New("the answer came without its usage, so its tokens cannot be counted")
	}
	return a, nil
}

// count notes what an event says of the whole answer.
func (a *answer) count(c chunk) {
	if u := c.Usage; u != nil {
		a.prompt, a.cached, a.tokens = u.Prompt, u.Details.Cached, u.Tokens
	}
	if len(c.Choices) > 0 {
		a.finish = cmp.Or(c.Choices[0].Finish, a.finish)
	}
}

// loaded is what came of a load.
type loaded struct {
	took    time.Duration
	answers []answer
}

// load runs a closed loop: each client sends its prompts one after the other,
// all clients at once.
func (s server) load(ctx context.Context, clients [][]string, n int) (loaded, error) {
	answers := make([][]answer, len(clients))
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i, prompts := range clients {
		group.Go(func() error {
			for _, p := range prompts {
				a, err := s.ask(ctx, p, n)
				if err != nil {
					return err
				}
				answers[i] = append(answers[i], a)
			}
			return nil
		})
	}
	err := group.Wait()
	return loaded{time.Since(start), slices.Concat(answers...)}, err
}

// rate is in tokens per second.
func (l loaded) rate() float64 {
	tokens := 0
	for _, a := range l.answers {
		tokens += a.tokens
	}
	return float64(tokens) / l.took.Seconds()
}

// check says whether the work was that which was asked for.
func (l loaded) check(prompt, tokens int) error {
	for _, a := range l.answers {
		if a.prompt != prompt || a.tokens != tokens {
			return fmt.Errorf("an answer has %d tokens for a prompt of %d, want %d for %d", a.tokens, a.prompt, tokens, prompt)
		}
	}
	return nil
}

// firstModel is the first that the server says it has.
func (s server) firstModel(ctx context.Context) (string, error) {
	resp, err := s.send(ctx, http.MethodGet, "/v1/models", nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var list struct {
		Data []struct{ ID string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list.Data) == 0 {
		return "", fmt.Errorf("%s lists no model: name one with -model", s.base)
	}
	return list.Data[0].ID, nil
}
