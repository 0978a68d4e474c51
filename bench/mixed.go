package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	streamClients = 8
	streamPrompt  = 32
	streamTokens  = 400
	longPrompt    = 2000
	longTokens    = 16
	shortPrompt   = 64
	shortTokens   = 8
	shortPause    = time.Second // between short requests, on average
	shortAlone    = 15          // short requests without the load
	mixedSpace    = 4096        // tokens of context of each slot
)

// mixture is what came of one measurement of benchMixed, by the kind of request.
type mixture struct {
	prefill                     time.Duration // of a long prompt, by the engine alone
	took                        time.Duration
	alone, streams, long, short []answer
}

// benchMixed lets long prompts, and short requests now and then, arrive beside
// long answers: these must go on smoothly, and the short ones not wait.
func benchMixed(ctx context.Context, cfg config, out io.Writer) error {
	ours, err := startServer(ctx, cfg, serveSlots, mixedSpace)
	if err != nil {
		return err
	}
	all, err := ours.mixtures(ctx, cfg)
	if err != nil {
		return ours.close(err)
	}
	rows := [][]string{{"", "median", "min", "max"}}
	for i, f := range all[0].figures() {
		var values []float64
		for _, m := range all {
			values = append(values, m.figures()[i].value)
		}
		rows = append(rows, row(f.name, f.format, values))
	}
	table(out, cfg, fmt.Sprintf("%d streams of %d tokens, prompts of %d tokens one after the other, short requests of %d and %d now and then, 125M parameters Q4_0, greedy",
		streamClients, streamTokens, longPrompt, shortPrompt, shortTokens), rows)
	return ours.close(nil)
}

func (s *served) mixtures(ctx context.Context, cfg config) (all []mixture, err error) {
	path, err := cfg.model("125m")
	if err != nil {
		return nil, err
	}
	raw, err := loadRaw(cfg.libDir, path, serveSlots, serveSlots*mixedSpace, cfg.threads)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, raw.close()) }()
	if _, _, err := raw.runMany(1, longPrompt, 1); err != nil { // warms up
		return nil, err
	}
	texts := newLetters(cfg.seed)
	for range cfg.reps {
		m, err := s.mix(ctx, raw, texts, cfg.span)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func (s *served) mix(ctx context.Context, raw *rawEngine, texts letters, span time.Duration) (m mixture, err error) {
	if m.prefill, _, err = raw.runMany(1, longPrompt, 1); err != nil {
		return m, err
	}
	alone, err := s.load(ctx, texts.clients(1, shortAlone, shortPrompt), shortTokens)
	if err != nil {
		return m, err
	}
	m.alone = alone.answers
	streams := make([][]answer, streamClients)
	during, stop := context.WithTimeout(ctx, span)
	defer stop()
	group, during := errgroup.WithContext(during)
	follow := func(into *[]answer, prompt, tokens int, pause time.Duration) {
		texts := texts.split()
		group.Go(func() (err error) {
			*into, err = s.follow(during, texts, prompt, tokens, pause)
			return err
		})
	}
	for i := range streams {
		follow(&streams[i], streamPrompt, streamTokens, 0)
	}
	follow(&m.long, longPrompt, longTokens, 0)
	follow(&m.short, shortPrompt, shortTokens, shortPause)
	if err := group.Wait(); err != nil {
		return m, err
	}
	m.streams, m.took = slices.Concat(streams...), span
	if len(latenciesOf(m.long).first) == 0 || len(latenciesOf(m.short).first) == 0 {
		return m, fmt.Errorf("in %s no prompt of %d tokens was computed beside the streams, or no short one: take a longer time with -for", span, longPrompt)
	}
	return m, ctx.Err()
}

// follow sends requests one after the other, with a pause of random length
// between them, until the context ends. What the last one got by then counts.
func (s server) follow(ctx context.Context, texts letters, prompt, tokens int, pause time.Duration) (all []answer, err error) {
	for ctx.Err() == nil {
		a, err := s.ask(ctx, texts.prompt(prompt), tokens)
		all = append(all, a)
		if err != nil && ctx.Err() == nil {
			return all, err
		}
		wait(ctx, time.Duration(texts.ExpFloat64()*float64(pause)))
	}
	return all, nil
}

// figure is a row of a table.
type figure struct {
	name, format string
	value        float64
}

func (m mixture) figures() []figure {
	streams := latenciesOf(m.streams)
	p50, p99 := percentile(streams.gaps, 50), percentile(streams.gaps, 99)
	alone, short := percentile(latenciesOf(m.alone).first, 50), percentile(latenciesOf(m.short).first, 50)
	long := latenciesOf(m.long).first
	return []figure{
		{"between tokens of the streams, p50, ms", "%.1f", p50},
		{"between tokens of the streams, p99, ms", "%.1f", p99},
		{"ratio (goal at most 2)", "%.2f", p99 / p50},
		{"TTFT p50 of short requests alone, ms", "%.0f", alone},
		{"TTFT p50 of short requests beside the load, ms", "%.0f", short},
		{"ratio (goal at most 2)", "%.2f", short / alone},
		{"a long prompt, raw engine, ms", "%.0f", ms(m.prefill)},
		{"TTFT p50 of long prompts beside the load, ms", "%.0f", percentile(long, 50)},
		{"ratio", "%.2f", percentile(long, 50) / ms(m.prefill)},
		{"tokens/s of the streams", "%.1f", float64(len(streams.first)+len(streams.gaps)) / m.took.Seconds()},
		{"long prompts computed", "%.0f", float64(len(long))},
	}
}
