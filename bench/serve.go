package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"rbee"
	"rbee/client"
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

// served is a colony with one worker for the 125m model.
type served struct {
	server
	colony *colony
	worker *client.Client
	id     rbee.WorkerID
}

// startServer starts one, with that much context for each slot, and warms it up.
func startServer(ctx context.Context, cfg config, slots, space int) (*served, error) {
	path, err := cfg.model("125m")
	if err != nil {
		return nil, err
	}
	cfg.plain = !cfg.drafts
	col, err := startColony(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &served{colony: col}
	s.worker, s.id, _, err = col.spawnAs(ctx, rbee.SpawnRequest{ModelRef: "file:" + path, Slots: slots, Context: space})
	if err != nil {
		return nil, errors.Join(err, col.close())
	}
	s.server = newServer(s.worker.Base(), "file:"+path)
	if _, err = s.ask(ctx, prompt, serveTokens); err == nil {
		err = s.hasRoom(ctx, slots*space)
	}
	if err != nil {
		return nil, errors.Join(err, col.close())
	}
	return s, nil
}

// hasRoom refuses a worker whose KV cache was made smaller than asked for: its
// requests would wait for one another.
func (s *served) hasRoom(ctx context.Context, tokens int) error {
	list, err := s.worker.Slots(ctx)
	if err == nil && list.KVSizeTokens < tokens {
		err = fmt.Errorf("the worker has room for %d tokens instead of %d: free some memory", list.KVSizeTokens, tokens)
	}
	return err
}

// close ends the colony; err is what happened before.
func (s *served) close(err error) error { return errors.Join(err, s.colony.close()) }

// measured is what came of one number of clients.
type measured struct {
	clients     int
	ideal, rate []float64 // tokens/s of each measurement
	late        latencies
}

// ratios are those of our rates to others.
func (m measured) ratios(others []float64) []float64 {
	all := make([]float64, len(m.rate))
	for i, r := range m.rate {
		all[i] = r / others[i]
	}
	return all
}

// benchServe compares tokens per second of several clients with the time that
// the engine alone takes for the same batches.
func benchServe(ctx context.Context, cfg config, out io.Writer) error {
	ours, err := startServer(ctx, cfg, serveSlots, serveSpace)
	if err != nil {
		return err
	}
	all, err := ours.measure(ctx, cfg)
	if err != nil {
		return ours.close(err)
	}
	rows := [][]string{{"clients", "ideal, tokens/s", "hive and worker, tokens/s", "ratio", "goal", "TTFT p50 / p99, ms", "between tokens p50 / p99, ms"}}
	for i, m := range all {
		rows = append(rows, slices.Concat([]string{
			strconv.Itoa(m.clients), spread("%.1f", m.ideal), spread("%.1f", m.rate),
			spread("%.3f", m.ratios(m.ideal)), fmt.Sprint(serveGoals()[i][1]),
		}, m.late.cells()))
	}
	table(out, cfg, "closed loop, 128-token prompts, 64 tokens out, 125M parameters Q4_0, greedy", rows)
	return ours.close(cfg.draw(serveChart(cfg, all)))
}

func (s *served) measure(ctx context.Context, cfg config) (all []measured, err error) {
	path, err := cfg.model("125m")
	if err != nil {
		return nil, err
	}
	raw, err := loadRaw(cfg.libDir, path, serveSlots, serveSlots*serveSpace, cfg.threads)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, raw.close()) }()
	if _, _, err := raw.runMany(1, servePrompt, serveTokens); err != nil { // warms up
		return nil, err
	}
	texts := newLetters(cfg.seed)
	for _, goal := range serveGoals() {
		m := measured{clients: int(goal[0])}
		for range cfg.reps {
			prefill, decode, err := raw.runMany(m.clients, servePrompt, serveTokens)
			if err != nil {
				return nil, err
			}
			got, err := s.load(ctx, texts.clients(m.clients, serveEach, servePrompt), serveTokens)
			if err == nil {
				err = got.check(servePrompt, serveTokens)
			}
			if err != nil {
				return nil, err
			}
			m.ideal = append(m.ideal, float64(m.clients*serveTokens)/(prefill+decode).Seconds())
			m.rate = append(m.rate, got.rate())
			m.late.add(got.answers)
		}
		all = append(all, m)
	}
	return all, nil
}
