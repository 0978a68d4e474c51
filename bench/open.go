package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// capacityEach is how many requests each client sends to find the capacity.
const capacityEach = 4

// parseRates reads parts of the capacity, such as 0.5,0.8.
func parseRates(list string) (parts []float64, err error) {
	for one := range strings.SplitSeq(list, ",") {
		part, err := strconv.ParseFloat(strings.TrimSpace(one), 64)
		if err != nil || !(part > 0 && part <= 10) {
			return nil, fmt.Errorf("cannot take %q as a rate: it must be a part of the capacity above 0 and at most 10, such as 0.5", one)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// benchOpen lets requests arrive at random, whether or not those before them
// were answered: so they do from people, who do not wait for one another.
func benchOpen(ctx context.Context, cfg config, out io.Writer) error {
	parts, err := parseRates(cfg.rates)
	if err != nil {
		return err
	}
	ours, err := startServer(ctx, cfg, serveSlots, serveSpace)
	if err != nil {
		return err
	}
	rows := [][]string{{
		"part of the capacity", "requests/s", "arrived", "refused", "goodput ratio", "TTFT p50 / p99, ms", "between tokens p50 / p99, ms",
	}}
	texts := newLetters(cfg.seed)
	closed, err := ours.load(ctx, texts.clients(serveSlots, capacityEach, servePrompt), serveTokens)
	if err != nil {
		return ours.close(err)
	}
	capacity := float64(len(closed.answers)) / closed.took.Seconds()
	for _, part := range parts {
		var all opened
		for range cfg.reps {
			got, err := ours.open(ctx, texts, part*capacity, cfg.span)
			if err != nil {
				return ours.close(err)
			}
			all.arrived, all.answers = all.arrived+got.arrived, slices.Concat(all.answers, got.answers)
		}
		late := latenciesOf(all.answers)
		rows = append(rows, slices.Concat([]string{
			fmt.Sprint(part), fmt.Sprintf("%.2f", part*capacity), strconv.Itoa(all.arrived),
			strconv.Itoa(all.arrived - len(all.answers)), fmt.Sprintf("%.3f", all.goodput()),
		}, late.cells()))
	}
	table(out, cfg, fmt.Sprintf("open loop, Poisson arrivals (seed %d), 128-token prompts, 64 tokens out, 125M parameters Q4_0; "+
		"the capacity is that of %d clients in a closed loop, %.2f requests/s", cfg.seed, serveSlots, capacity), rows)
	return ours.close(nil)
}

// opened is what came of an open loop.
type opened struct {
	arrived int
	answers []answer // of those that were not refused
}

// goodput is which part of what arrived was answered.
func (o opened) goodput() float64 { return float64(len(o.answers)) / float64(max(1, o.arrived)) }

// open sends requests when they arrive, and returns when all have their answer.
// Their times count from their arrival, also where the sender is late.
func (s server) open(ctx context.Context, texts letters, perSecond float64, span time.Duration) (opened, error) {
	at := texts.arrivals(perSecond, span)
	prompts := texts.clients(1, len(at), servePrompt)[0]
	answers := make([]*answer, len(at))
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i, after := range at {
		due := start.Add(after)
		wait(ctx, time.Until(due))
		group.Go(func() error {
			a, err := s.askAt(ctx, due, prompts[i], serveTokens)
			if refused(err) {
				return nil
			}
			answers[i] = &a
			return err
		})
	}
	err := group.Wait()
	got := opened{arrived: len(at)}
	for _, a := range answers {
		if a != nil {
			got.answers = append(got.answers, *a)
		}
	}
	if err == nil && got.arrived == 0 {
		err = errors.New("no request arrived: take a longer time with -for")
	}
	return got, err
}
