package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// prompt is about 128 tokens of a vocabulary without its words. It warms up.
var prompt = strings.Repeat("Once upon a time a small bee flew. ", 4)

// benchStream compares one stream with the engine alone. Each prompt is new, or
// the worker would find it in its KV cache and the engine alone would not.
func benchStream(ctx context.Context, cfg config, out io.Writer) error {
	cfg.plain = !cfg.drafts
	path, err := cfg.model("125m")
	if err != nil {
		return err
	}
	col, err := startColony(ctx, cfg)
	if err != nil {
		return err
	}
	worker, _, _, err := col.spawn(ctx, path)
	if err != nil {
		return errors.Join(err, col.close())
	}
	raw, err := loadRaw(cfg.libDir, path, 4, 16384, cfg.threads)
	if err != nil {
		return errors.Join(err, col.close())
	}
	var rawRate, ourRate, decodeRatio, wholeRatio []float64
	texts := newLetters(cfg.seed)
	for i := range cfg.reps + 1 { // the first warms up
		prompt := texts.prompt(servePrompt)
		rp, rd, err := raw.run(prompt, cfg.tokens)
		if err != nil {
			return errors.Join(err, col.close())
		}
		op, od, err := stream(ctx, worker, prompt, cfg.tokens)
		if err != nil {
			return errors.Join(err, col.close())
		}
		if i > 0 {
			n := float64(cfg.tokens - 1)
			rawRate, ourRate = append(rawRate, n/rd.Seconds()), append(ourRate, n/od.Seconds())
			decodeRatio = append(decodeRatio, rd.Seconds()/od.Seconds())
			wholeRatio = append(wholeRatio, (rp+rd).Seconds()/(op+od).Seconds())
		}
	}
	table(out, cfg, "one stream, 128-token prompts, 125M parameters Q4_0, greedy, tokens/s", [][]string{
		{"", "median", "min", "max"},
		row("raw engine, decode", "%.1f", rawRate),
		row("through hive and worker, decode", "%.1f", ourRate),
		row("ratio, decode (goal 0.95)", "%.3f", decodeRatio),
		row("ratio, prompt and decode", "%.3f", wholeRatio),
	})
	return errors.Join(raw.close(), col.close())
}

func benchLoad(ctx context.Context, cfg config, out io.Writer) error {
	path, err := cfg.model("1.1gb")
	if err != nil {
		return err
	}
	col, err := startColony(ctx, cfg)
	if err != nil {
		return err
	}
	var rawMS, spawnMS, keeperMS, overheadMS, ratio []float64
	for i := range cfg.reps + 1 { // the first fills the page cache and the catalog
		raw, err := rawLoad(ctx, cfg)
		if err != nil {
			return errors.Join(err, col.close())
		}
		worker, id, spawned, err := col.spawn(ctx, path)
		if err != nil {
			return errors.Join(err, col.close())
		}
		ttft, _, err := stream(ctx, worker, "Once", 2)
		if err == nil {
			err = col.calls.StopWorker(ctx, id)
		}
		if err != nil {
			return errors.Join(err, col.close())
		}
		keeper, err := col.firstByte(ctx, path, "Once")
		if err != nil {
			return errors.Join(err, col.close())
		}
		if i > 0 {
			rawMS, spawnMS, keeperMS = append(rawMS, ms(raw)), append(spawnMS, ms(spawned)), append(keeperMS, ms(keeper))
			ratio = append(ratio, spawned.Seconds()/raw.Seconds())
			overheadMS = append(overheadMS, ms(keeper-spawned-ttft))
		}
	}
	table(out, cfg, "load of a random 1.1 GB model from the page cache, ms", [][]string{
		{"", "median", "min", "max"},
		row("raw engine, in its own process", "%.0f", rawMS),
		row("hive, spawn to ready", "%.0f", spawnMS),
		row("ratio (goal at most 1.2)", "%.3f", ratio),
		row("keeper, start to first token", "%.0f", keeperMS),
		row("keeper's own part (goal at most 150)", "%.0f", overheadMS),
	})
	return col.close()
}

// rawLoad loads in a new process, as a worker does, and returns the time from
// loading the libraries to a context that can decode.
func rawLoad(ctx context.Context, cfg config) (time.Duration, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	b, err := exec.CommandContext(ctx, self, "-engine-dir", cfg.engineDir, "-models", cfg.models,
		"-threads", fmt.Sprint(cfg.threads), "raw-load").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot load with the raw engine: %w", err)
	}
	var took time.Duration
	return took, json.Unmarshal(b, &took)
}

func printRawLoad(_ context.Context, cfg config, out io.Writer) error {
	path, err := cfg.model("1.1gb")
	if err != nil {
		return err
	}
	start := time.Now()
	raw, err := loadRaw(cfg.libDir, path, 4, 8192, cfg.threads)
	if err != nil {
		return err
	}
	took := time.Since(start)
	if err := raw.close(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(took)
}
