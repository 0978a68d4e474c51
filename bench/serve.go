package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"rbee"
)

const (
	servePrompt = 128 // tokens
	serveTokens = 64
	serveEach   = 2 // requests of each client in one measurement
	serveSlots  = 16
	serveSpace  = 512 // tokens of context of each slot
)

// serveGoals are the numbers of clients, and what part of the ideal is to be reached.
func serveGoals() [][2]float64 { return [][2]float64{{1, 0.95}, {4, 0.97}, {8, 0.97}, {16, 0.97}} }

// startServer starts a colony with one worker for the 125m model, and warms it up.
func startServer(ctx context.Context, cfg config, space int) (*colony, server, error) {
	path, err := cfg.model("125m")
	if err != nil {
		return nil, server{}, err
	}
	cfg.plain = !cfg.drafts
	col, err := startColony(ctx, cfg)
	if err != nil {
		return nil, server{}, err
	}
	worker, _, _, err := col.spawnAs(ctx, rbee.SpawnRequest{ModelRef: "file:" + path, Slots: serveSlots, Context: space})
	if err != nil {
		return nil, server{}, errors.Join(err, col.close())
	}
	s := newServer(worker.Base(), "file:"+path)
	if _, err := s.ask(ctx, prompt, serveTokens); err != nil {
		return nil, server{}, errors.Join(err, col.close())
	}
	return col, s, nil
}

// benchServe compares tokens per second of several clients with the time that
// the engine alone takes for the same batches.
func benchServe(ctx context.Context, cfg config, out io.Writer) error {
	col, ours, err := startServer(ctx, cfg, serveSpace)
	if err != nil {
		return err
	}
	rows, err := serveRows(ctx, cfg, ours)
	if err == nil {
		table(out, cfg, "closed loop, 128-token prompts, 64 tokens out, 125M parameters Q4_0, greedy", rows)
	}
	return errors.Join(err, col.close())
}

func serveRows(ctx context.Context, cfg config, ours server) ([][]string, error) {
	path, err := cfg.model("125m")
	if err != nil {
		return nil, err
	}
	raw, err := loadRaw(cfg.libDir, path, serveSlots, serveSlots*serveSpace, cfg.threads)
	if err != nil {
		return nil, err
	}
	if _, _, err := raw.runMany(1, servePrompt, serveTokens); err != nil { // warms up
		return nil, errors.Join(err, raw.close())
	}
	rows := [][]string{{"clients", "ideal, tokens/s", "hive and worker, tokens/s", "ratio", "goal", "TTFT p50 / p99, ms", "between tokens p50 / p99, ms"}}
	texts := newLetters()
	for _, goal := range serveGoals() {
		n := int(goal[0])
		var ideal, rate, ratio []float64
		var late latencies
		for range cfg.reps {
			prefill, decode, err := raw.runMany(n, servePrompt, serveTokens)
			if err != nil {
				return nil, errors.Join(err, raw.close())
			}
			got, err := ours.load(ctx, texts.clients(n, serveEach, servePrompt), serveTokens)
			if err == nil {
				err = got.check(servePrompt, serveTokens)
			}
			if err != nil {
				return nil, errors.Join(err, raw.close())
			}
			ideal = append(ideal, float64(n*serveTokens)/(prefill+decode).Seconds())
			rate = append(rate, got.rate())
			ratio = append(ratio, rate[len(rate)-1]/ideal[len(ideal)-1])
			late.add(got.answers)
		}
		rows = append(rows, slices.Concat([]string{
			strconv.Itoa(n), spread("%.1f", ideal), spread("%.1f", rate), spread("%.3f", ratio), fmt.Sprint(goal[1]),
		}, late.cells()))
	}
	return rows, raw.close()
}

// check says whether the work was that which the ideal is made of.
func (l loaded) check(prompt, tokens int) error {
	for _, a := range l.answers {
		if a.prompt != prompt || a.tokens != tokens {
			return fmt.Errorf("an answer has %d tokens for a prompt of %d, want %d for %d", a.tokens, a.prompt, tokens, prompt)
		}
	}
	return nil
}

// benchURL puts the same load on another server, in turn with ours.
func benchURL(ctx context.Context, cfg config, out io.Writer) error {
	if cfg.url == "" {
		return errors.New("say which server: bench url -url http://HOST:PORT")
	}
	theirs := newServer(cfg.url, cfg.urlModel)
	if theirs.model == "" {
		var err error
		if theirs.model, err = theirs.firstModel(ctx); err != nil {
			return err
		}
	}
	if _, err := theirs.ask(ctx, prompt, serveTokens); err != nil { // warms up
		return err
	}
	col, ours, err := startServer(ctx, cfg, serveSpace)
	if err != nil {
		return err
	}
	rows, err := urlRows(ctx, cfg, ours, theirs)
	if err == nil {
		table(out, cfg, "closed loop, the same prompts in turn, 64 tokens out, against "+theirs.base+" with "+theirs.model, rows)
	}
	return errors.Join(err, col.close())
}

func urlRows(ctx context.Context, cfg config, ours, theirs server) ([][]string, error) {
	rows := [][]string{{
		"clients", "server", "tokens/s", "ratio", "TTFT p50 / p99, ms", "between tokens p50 / p99, ms", "tokens of a request, in + out",
	}}
	texts := newLetters()
	for _, goal := range serveGoals() {
		n := int(goal[0])
		var rates [2][]float64
		var late [2]latencies
		var sample [2]answer
		for range cfg.reps {
			prompts := texts.clients(n, serveEach, servePrompt)
			for i, s := range []server{ours, theirs} {
				got, err := s.load(ctx, prompts, serveTokens)
				if err != nil {
					return nil, err
				}
				rates[i] = append(rates[i], got.rate())
				late[i].add(got.answers)
				sample[i] = got.answers[0]
			}
		}
		var ratio []float64
		for r := range rates[0] {
			ratio = append(ratio, rates[0][r]/rates[1][r])
		}
		for i, cells := range [][]string{{"ours", spread("%.3f", ratio)}, {"theirs", ""}} {
			rows = append(rows, slices.Concat([]string{strconv.Itoa(n), cells[0], spread("%.1f", rates[i]), cells[1]},
				late[i].cells(), []string{fmt.Sprintf("%d + %d", sample[i].prompt, sample[i].tokens)}))
		}
	}
	return rows, nil
}
