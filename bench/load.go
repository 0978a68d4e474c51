package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee/internal/sse"
)

// server is one that answers POST /v1/completions as OpenAI's does.
type server struct {
	base, model string
	http        *http.Client
}

func newServer(base, model string) server {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.MaxIdleConnsPerHost = nil, 1024
	return server{strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1"), model, &http.Client{Transport: t}}
}

// answer is what came of one request.
type answer struct {
	first                  time.Duration   // to the first text
	gaps                   []time.Duration // between texts
	prompt, cached, tokens int
}

// chunk is what all servers have in common of an event.
type chunk struct {
	Choices []struct{ Text string }
	Usage   *struct {
		Prompt  int `json:"prompt_tokens"`
		Tokens  int `json:"completion_tokens"`
		Details struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
	Error any
}

// ask streams one greedy answer of n tokens.
func (s server) ask(ctx context.Context, prompt string, n int) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"model": s.model, "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": true,
		"stream": true, "stream_options": map[string]bool{"include_usage": true},
	})
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/v1/completions", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	start := time.Now()
	resp, err := s.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it only explains the status
		return answer{}, fmt.Errorf("%s answers %s: %s", s.base, resp.Status, b)
	}
	return readAnswer(resp.Body, start)
}

func readAnswer(r io.Reader, start time.Time) (a answer, err error) {
	last := start
	for c, err := range sse.Read[chunk](r) {
		switch {
		case err != nil:
			return a, err
		case c.Error != nil:
			return a, fmt.Errorf("the answer broke off: %v", c.Error)
		case len(c.Choices) > 0 && c.Choices[0].Text != "":
			now := time.Now()
			if a.first == 0 {
				a.first = now.Sub(start)
			} else {
				a.gaps = append(a.gaps, now.Sub(last))
			}
			last = now
		}
		if u := c.Usage; u != nil {
			a.prompt, a.cached, a.tokens = u.Prompt, u.Details.Cached, u.Tokens
		}
	}
	if a.tokens == 0 {
		return a, errors.New("the answer came without its usage, so its tokens cannot be counted")
	}
	return a, nil
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

// letters draws texts that have nothing in common. In a generated vocabulary
// each letter is a token, and one more begins the text.
type letters struct{ *rand.Rand }

func newLetters() letters { return letters{rand.New(rand.NewPCG(1, 2))} }

func (l letters) text(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + l.IntN(26))
	}
	return string(b)
}

// clients are the prompts of a closed loop, all of them new.
func (l letters) clients(clients, each, tokens int) [][]string {
	all := make([][]string, clients)
	for i := range all {
		for range each {
			all[i] = append(all[i], l.text(tokens-1))
		}
	}
	return all
}

// latencies are those of many answers.
type latencies struct{ first, gaps []float64 } // ms

func (l *latencies) add(answers []answer) {
	for _, a := range answers {
		l.first = append(l.first, ms(a.first))
		for _, g := range a.gaps {
			l.gaps = append(l.gaps, ms(g))
		}
	}
}

// cells are the time to first token and between tokens, p50 and p99.
func (l *latencies) cells() []string {
	return []string{
		fmt.Sprintf("%.0f / %.0f", percentile(l.first, 50), percentile(l.first, 99)),
		fmt.Sprintf("%.1f / %.1f", percentile(l.gaps, 50), percentile(l.gaps, 99)),
	}
}

// percentile is the smallest value that p of 100 values do not exceed; 0 of none.
func percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[max(0, (len(values)*p+99)/100-1)]
}

// spread is a median with the least and the greatest value.
func spread(format string, values []float64) string {
	r := row("", format, values)
	return fmt.Sprintf("%s (%s–%s)", r[1], r[2], r[3])
}

// firstModel is the first that the server says it has.
func (s server) firstModel(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/v1/models", nil)
	if err != nil {
		return "", err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var list struct {
		Data []struct{ ID string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list.Data) == 0 {
		return "", fmt.Errorf("%s lists no model (%s): name one with -model", s.base, resp.Status)
	}
	return list.Data[0].ID, nil
}
