package hive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/conf"
	"rbee/internal/durable"
	"rbee/internal/logfile"
	"rbee/internal/service"
	"rbee/internal/supervise"
)

// workerName is the program of a worker.
const workerName = "llm-worker-rbee"

// workerOOMScore makes the kernel end a worker, which can be started again,
// rather than the hive or what else the machine is for.
const workerOOMScore = 500

// The bounds of what workers wrote, on disk.
const (
	workerLogBytes  = 4 << 20
	workerLogAge    = 14 * 24 * time.Hour
	workerLogFiles  = 64
	workerLogsBytes = 128 << 20 // all together
)

// workerProgram finds the worker: where the settings say, beside this program, in PATH.
func workerProgram(configured string) (string, error) {
	if configured != "" {
		path, err := exec.LookPath(configured)
		if err != nil {
			return "", rbee.Errorf(rbee.CodeInvalidRequest, "worker.program is %s, which cannot be run", configured).
				WithCause(err).Suggest("correct worker.program, or leave it out to use the %s beside rbee-hive", workerName)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), workerName)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(workerName)
	if err != nil {
		return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot find the program %s, neither beside rbee-hive nor in PATH", workerName).
			WithCause(err).Suggest("install all four programs of rbee in one directory")
	}
	return filepath.Abs(path)
}

// launch starts the process of a worker.
func (h *Hive) launch(id rbee.WorkerID, key string, s pool.Spec) (pool.Process, error) {
	args := []string{
		"--worker-id", string(id),
		"--model", s.Path,
		"--model-ref", s.Ref.String(),
		"--backend", string(s.Backend),
		"--device", string(s.Device),
		"--port", "0",
		"--callback-url", h.callback,
		"--slots", strconv.Itoa(s.Slots),
		"--context", strconv.Itoa(s.Context),
		"--kv-tokens", strconv.Itoa(s.KVTokens),
		"--queue", strconv.Itoa(s.Queue),
		"--engine-dir", h.engines.Dir(),
		"--load-timeout", h.cfg.Settings.Worker.LoadTimeout.String(),
	}
	if n := h.cfg.Settings.Worker.Threads; n > 0 {
		args = append(args, "--threads", strconv.Itoa(n))
	}
	env := append(childEnv(), "RBEE_WORKER_KEY="+key)
	if h.key != "" {
		env = append(env, "RBEE_CALLBACK_KEY="+h.key.Reveal())
	}
	p, err := h.spawner.Start(supervise.Spec{
		Path: h.program, Args: args, Env: env, Copy: h.workerLog(id, s.Ref),
		Contain: true, MemoryBytes: memoryBound(h.cfg.Settings.Hive), OOMScore: workerOOMScore,
	})
	if err != nil {
		return nil, cannotRun(h.program, err)
	}
	h.metrics.spawns.Inc()
	return supervised{p}, nil
}

// memoryBound is where the kernel ends a worker: well above what is admitted,
// so that an estimate that is a little short costs nothing. 0 is no bound.
func memoryBound(settings conf.Hive) int64 {
	limit := int64(settings.MemoryLimitMB) * megabyte
	return limit + limit/8
}

// workerLog is the file for what a worker writes; nil where there is to be
// none. A private hive leaves nothing behind.
func (h *Hive) workerLog(id rbee.WorkerID, ref rbee.ModelRef) io.WriteCloser {
	if h.cfg.Private {
		return nil
	}
	dir := workerLogs(h.cfg.Settings.Home)
	h.sweepWorkerLogs()
	err := durable.MkdirAll(dir)
	if err == nil {
		var file *logfile.File
		if file, err = logfile.Open(filepath.Join(dir, logName(id, ref)), logfile.Limits{Bytes: workerLogBytes, Old: 1}); err == nil {
			return file
		}
	}
	h.log.Warn("cannot keep what the worker writes on disk", "worker", id, "err", err)
	return nil
}

func workerLogs(home conf.Home) string { return filepath.Join(home.LogsDir(), "workers") }

// sweepWorkerLogs removes old logs of workers.
func (h *Hive) sweepWorkerLogs() {
	err := logfile.Sweep(workerLogs(h.cfg.Settings.Home), h.clock.steady(), logfile.Bounds{Age: workerLogAge, Files: workerLogFiles, Bytes: workerLogsBytes})
	if err != nil {
		h.log.Warn("cannot remove old logs of workers", "err", err)
	}
}

// logName names the log of a worker for its model. What a model is called
// comes from outside, and file names are short and have no slash.
func logName(id rbee.WorkerID, ref rbee.ModelRef) string {
	model := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c) {
			return c
		}
		return '_'
	}, ref.String())
	model = strings.TrimLeft(model[max(0, len(model)-80):], "._-")
	return model + "-" + string(id) + ".log"
}

func cannotRun(program string, err error) error {
	if errors.Is(err, supervise.ErrSpawnerEnded) {
		return rbee.Errorf(rbee.CodeWorkerNotReady, "the hive shuts down and starts no worker").WithCause(err)
	}
	return rbee.Errorf(rbee.CodeInternalError, "cannot start %s on %s", program, hostname()).WithCause(err).
		Suggest("check that the program is there and may be run")
}

// childEnv is the environment of a child: ours, without what is secret and
// what the service manager says to this process alone.
func childEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); !isSecret(name) && !service.Own(name) {
			env = append(env, kv)
		}
	}
	return env
}

// supervised is a supervised process as the pool knows one.
type supervised struct{ *supervise.Process }

func (p supervised) Exit() string                                { return p.Process.Exit().String() }
func (p supervised) Lines() []string                             { return p.Log().Lines() }
func (p supervised) Follow(ctx context.Context) iter.Seq[string] { return p.Log().Follow(ctx) }
func (p supervised) Stop(ctx context.Context, grace time.Duration) {
	p.Process.Stop(ctx, grace)
}

// run runs a short-lived child and returns what it wrote to standard output.
func (h *Hive) run(ctx context.Context, args ...string) ([]byte, error) {
	var out strings.Builder
	p, err := h.spawner.Start(supervise.Spec{Path: h.program, Args: args, Env: childEnv(), Stdout: &out})
	if err != nil {
		return nil, cannotRun(h.program, err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Stop(ctx, 0)
		return nil, fmt.Errorf("%s %s took too long: %w", workerName, args[0], context.Cause(ctx))
	}
	if e := p.Exit(); !e.Success() {
		lines := p.Log().Lines()
		return nil, fmt.Errorf("%s %s ended with %s: %s", workerName, args[0], e, strings.Join(lines[max(0, len(lines)-3):], "; "))
	}
	return []byte(out.String()), nil
}
