package main

import (
	"context"
	"fmt"
	"io"
)

const (
	prefixTokens = 1500
	suffixTokens = 32
	prefixOut    = 16
	prefixSpace  = 2048 // tokens of context of each slot
)

// benchPrefix lets as many requests as there are slots arrive at once: with one
// common prefix, and with a prefix each.
func benchPrefix(ctx context.Context, cfg config, out io.Writer) error {
	ours, err := startServer(ctx, cfg, serveSlots, prefixSpace)
	if err != nil {
		return err
	}
	texts := newLetters(cfg.seed)
	var prefilled, work, with, without, ratio []float64
	for range cfg.reps {
		apart, err := ours.burst(ctx, texts, false)
		if err != nil {
			return ours.close(err)
		}
		shared, err := ours.burst(ctx, texts, true)
		if err != nil {
			return ours.close(err)
		}
		prefilled = append(prefilled, float64(shared.prefilled()))
		work = append(work, float64(shared.prefilled())/(prefixTokens+serveSlots*suffixTokens))
		without, with = append(without, apart.slowest()), append(with, shared.slowest())
		ratio = append(ratio, shared.slowest()/apart.slowest())
	}
	title := fmt.Sprintf("%d requests at once, a prefix of %d tokens and a suffix of %d, 125M parameters Q4_0", serveSlots, prefixTokens, suffixTokens)
	table(out, cfg, title, [][]string{
		{"", "median", "min", "max"},
		row("prompt tokens computed, one prefix", "%.0f", prefilled),
		row("ratio to prefix and suffixes (goal at most 1.1)", "%.3f", work),
		row("TTFT p99, a prefix each, ms", "%.0f", without),
		row("TTFT p99, one prefix, ms", "%.0f", with),
		row("ratio (goal at most 0.2)", "%.3f", ratio),
	})
	return ours.close(nil)
}

// burst sends one request for each slot at the same time.
func (s server) burst(ctx context.Context, texts letters, share bool) (loaded, error) {
	prefix := texts.prompt(prefixTokens)
	clients := make([][]string, serveSlots)
	for i := range clients {
		if !share {
			prefix = texts.prompt(prefixTokens)
		}
		clients[i] = []string{prefix + texts.text(suffixTokens)}
	}
	got, err := s.load(ctx, clients, prefixOut)
	if err != nil {
		return got, err
	}
	return got, got.check(prefixTokens+suffixTokens, prefixOut)
}

// prefilled is how many tokens of the prompts were computed.
func (l loaded) prefilled() (n int) {
	for _, a := range l.answers {
		n += a.prompt - a.cached
	}
	return n
}

// slowest is the 99th percentile of the times to the first token, in ms.
func (l loaded) slowest() float64 {
	return percentile(latenciesOf(l.answers).first, 99)
}
