package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// benchURL puts the same load on another server, in turn with ours.
func benchURL(ctx context.Context, cfg config, out io.Writer) error {
	if cfg.url == "" {
		return errors.New("say which server: bench url -url http://HOST:PORT")
	}
	theirs := newServer(cfg.url, cfg.urlModel)
	theirs.key = cfg.urlKey
	if theirs.model == "" {
		var err error
		if theirs.model, err = theirs.firstModel(ctx); err != nil {
			return err
		}
	}
	if _, err := theirs.ask(ctx, prompt, serveTokens); err != nil { // warms up
		return err
	}
	ours, err := startServer(ctx, cfg, serveSlots, serveSpace)
	if err != nil {
		return err
	}
	pairs, rows, err := compare(ctx, cfg, ours.server, theirs)
	if err != nil {
		return ours.close(err)
	}
	table(out, cfg, "closed loop, the same prompts in turn, 64 tokens out, against "+theirs.base+" with "+theirs.model, rows)
	return ours.close(cfg.draw(urlChart(cfg, pairs)))
}

// compare measures both servers with each number of clients.
func compare(ctx context.Context, cfg config, ours, theirs server) (pairs [][2]measured, rows [][]string, err error) {
	rows = [][]string{{
		"clients", "server", "tokens/s", "ratio", "TTFT p50 / p99, ms", "between tokens p50 / p99, ms", "tokens of a request, in + out",
	}}
	texts := newLetters(cfg.seed)
	for _, goal := range serveGoals() {
		n := int(goal[0])
		both := [2]measured{{clients: n}, {clients: n}}
		var sample [2]answer
		for range cfg.reps {
			prompts := texts.clients(n, serveEach, servePrompt)
			for i, s := range []server{ours, theirs} {
				got, err := s.load(ctx, prompts, serveTokens)
				if err != nil {
					return nil, nil, err
				}
				both[i].rate = append(both[i].rate, got.rate())
				both[i].late.add(got.answers)
				sample[i] = got.answers[0]
			}
		}
		ratio := spread("%.3f", both[0].ratios(both[1].rate))
		for i, cells := range [][]string{{"ours", ratio}, {"theirs", ""}} {
			rows = append(rows, slices.Concat([]string{strconv.Itoa(n), cells[0], spread("%.1f", both[i].rate), cells[1]},
				both[i].late.cells(), []string{fmt.Sprintf("%d + %d", sample[i].prompt, sample[i].tokens)}))
		}
		pairs = append(pairs, both)
	}
	return pairs, rows, nil
}
