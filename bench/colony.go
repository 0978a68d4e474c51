package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rbee"
	"rbee/client"
)

// colony is one private hive, made of the real programs, with a state
// directory of its own.
type colony struct {
	cfg   config
	home  string
	hive  *exec.Cmd
	pipe  io.Closer // the hive ends when this closes
	calls *client.Client
}

func startColony(ctx context.Context, cfg config) (*colony, error) {
	home, err := os.MkdirTemp("", "rbee-bench-")
	if err != nil {
		return nil, err
	}
	if cfg.plain {
		if cfg.env, err = plainWorker(cfg, home); err != nil {
			return nil, err
		}
	}
	c := &colony{cfg: cfg, home: home}
	c.hive = c.command(ctx, "rbee-hive", "daemon", "--private", "--addr", "127.0.0.1:0")
	c.hive.Env = append(c.hive.Env, "RBEE_DEATH_PIPE=1")
	if c.pipe, err = c.hive.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.hive.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.hive.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the hive (run 'make build'): %w", err)
	}
	var said struct{ URL string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &said)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the hive's address from %q: %w", line, err)
	}
	c.calls = client.New(said.URL)
	return c, nil
}

// plainWorker makes a program that starts workers without prompt lookup, which
// the raw engine does not have: what random weights say repeats itself.
func plainWorker(cfg config, home string) ([]string, error) {
	worker, err := filepath.Abs(filepath.Join(cfg.bin, "llm-worker-rbee"))
	if err != nil {
		return nil, err
	}
	// Only a command line that begins with a flag starts a worker.
	script := fmt.Sprintf("#!/bin/sh\ncase \"$1\" in --*) exec '%s' \"$@\" --draft-tokens=-1;; esac\nexec '%s' \"$@\"\n", worker, worker)
	path := filepath.Join(home, "plain-worker")
	return append(slices.Clone(cfg.env), "RBEE_WORKER_PROGRAM="+path), os.WriteFile(path, []byte(script), 0o700)
}

func (c *colony) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.cfg.bin, program), args...)
	cmd.Env = append(append(os.Environ(), c.cfg.env...), "RBEE_HOME="+c.home, "RBEE_ENGINE_DIR="+c.cfg.engineDir, fmt.Sprintf("RBEE_WORKER_THREADS=%d", c.cfg.threads))
	var log strings.Builder
	cmd.Stderr = &log
	return cmd
}

func (c *colony) close() error {
	_ = c.pipe.Close() // its closing is the message
	err := c.hive.Wait()
	if rmErr := os.RemoveAll(c.home); err == nil {
		err = rmErr
	}
	return err
}

// spawn starts a worker and says how long it took to become ready.
func (c *colony) spawn(ctx context.Context, model string) (*client.Client, rbee.WorkerID, time.Duration, error) {
	return c.spawnAs(ctx, rbee.SpawnRequest{ModelRef: "file:" + model})
}

func (c *colony) spawnAs(ctx context.Context, req rbee.SpawnRequest) (*client.Client, rbee.WorkerID, time.Duration, error) {
	start := time.Now()
	reply, err := c.calls.Spawn(ctx, req)
	if err != nil {
		return nil, "", 0, err
	}
	w := c.calls.At(reply.URL)
	for {
		r, err := w.Ready(ctx)
		if err != nil && rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			return nil, "", 0, err
		}
		if r.Ready {
			return w, reply.WorkerID, time.Since(start), nil
		}
		for _, err := range w.LoadProgress(ctx) {
			if err != nil {
				break // the worker has not called back yet
			}
		}
	}
}

// stream runs one greedy generation and says when its tokens came.
func stream(ctx context.Context, w *client.Client, prompt string, n int) (first, rest time.Duration, err error) {
	greedy := 0.0
	start := time.Now()
	var at, last time.Time
	count := 0
	for ev, err := range w.Infer(ctx, rbee.InferRequest{Prompt: prompt, MaxTokens: &n, Temperature: &greedy, IgnoreEOS: true}) {
		if err != nil {
			return 0, 0, err
		}
		if ev.InferDone != nil {
			count = ev.TotalTokens
			continue
		}
		last = time.Now()
		if at.IsZero() {
			at = last
		}
	}
	if count != n {
		return 0, 0, fmt.Errorf("got %d tokens, want %d", count, n)
	}
	return at.Sub(start), last.Sub(at), nil
}

// firstByte runs the keeper on its own and says how long its first token took
// from the start of its process.
func (c *colony) firstByte(ctx context.Context, model, prompt string) (time.Duration, error) {
	cmd := c.command(ctx, "rbee", "infer", "--model", "file:"+model, "--prompt", prompt, "--max-tokens", "2", "--temperature", "0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("cannot start the keeper (run 'make build'): %w", err)
	}
	_, err = out.Read(make([]byte, 1))
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("the keeper wrote no token: %w\n%s", err, cmd.Stderr)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		return 0, err
	}
	return took, cmd.Wait()
}
