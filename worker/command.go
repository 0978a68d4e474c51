package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/conf"
	"rbee/internal/httpapi"
	"rbee/internal/logging"
	"rbee/internal/supervise"
	"rbee/internal/tracing"
	"rbee/worker/engine"
)

// Program is the name of the worker's program.
const Program = "llm-worker-rbee"

// The variables that hand secrets to a worker: argv is for all to read.
const (
	KeyEnv         = "RBEE_WORKER_KEY"
	CallbackKeyEnv = "RBEE_CALLBACK_KEY"
)

// exitBudget bounds the time from the order to end to the end of the process.
const exitBudget = 4500 * time.Millisecond

// Process is what a program gets from its surroundings.
type Process struct {
	Args    []string // without the program's name
	Environ []string // NAME=value
	Stdout  io.Writer
	Stderr  io.Writer
}

// Engine is what a worker computes with.
type Engine struct {
	Load    engine.Loader
	Devices func(libDir string, log *slog.Logger) (rbee.DeviceList, error)
	Find    func(dir string) (libDir string, err error) // nil for an engine without libraries
}

// Main is the program: it runs until the worker has ended and returns the exit
// code. The caller exits at once afterwards, since a device that hangs, or a
// parent that is gone, is not waited for.
func Main(ctx context.Context, p Process, e Engine) int {
	usage := true // until a command runs, whatever fails is the usage
	root := command(ctx, p, e, func() { usage = false })
	root.SetArgs(p.Args)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return rbee.ExitDone
	}
	code := rbee.ExitFailed
	if usage {
		code = rbee.ExitUsage
	}
	shown := rbee.AsError(err)
	if rbee.CodeOf(err) == "" { // whoever reads a worker's stderr may know the cause
		shown = rbee.Errorf(rbee.CodeInternalError, "%w", err)
		if usage {
			shown = shown.Suggest("see '%s --help'", Program)
		}
	}
	_, _ = fmt.Fprintln(p.Stderr, "Error:", oneLine(shown.Message))
	if s := shown.Suggestion(); s != "" {
		_, _ = fmt.Fprintln(p.Stderr, "Suggestion:", oneLine(s))
	}
	return code
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// flags are the settings of the command line.
type flags struct {
	id, model, modelRef      string
	backend, device          string
	port                     int
	callbackURL              string
	slots, context, kvTokens int
	threads, queue           int
	engineDir, keyFile       string
	debugAddr                string
	loadTimeout              time.Duration
	logLevel, logFormat      string
	tuning                   tuning
}

func command(ctx context.Context, p Process, e Engine, begun func()) *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use:           Program + " --model FILE",
		Short:         "Load one model and stream its tokens over HTTP",
		Long:          "Load one model and stream its tokens over HTTP. A hive starts workers as they are needed; by hand it is for trying things out.\nThe key that callers must know comes from " + KeyEnv + " or --key-file, the hive's key from " + CallbackKeyEnv + ".",
		Version:       rbee.Version,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := f.config(p, e)
			if err != nil {
				return err
			}
			begun()
			if f.debugAddr != "" {
				stop, err := debugging(f.debugAddr, cfg.Log)
				if err != nil {
					return err
				}
				defer stop()
			}
			cfg.Tracer = tracing.New(Program, f.id, cfg.Log)
			defer cfg.Tracer.Close()
			return serve(ctx, cfg, f.port)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	set := root.Flags()
	set.StringVar(&f.id, "worker-id", "", "name of the worker (default worker-PID)")
	set.StringVar(&f.model, "model", "", "GGUF file to load")
	set.StringVar(&f.modelRef, "model-ref", "", "reference that the worker says it serves (default file:MODEL)")
	set.StringVar(&f.backend, "backend", string(rbee.BackendCPU), "cpu, cuda, vulkan or metal")
	set.StringVar(&f.device, "device", "", "device to load on (default the first of the backend)")
	set.IntVar(&f.port, "port", 0, "loopback port to listen on; 0 takes a free one")
	set.StringVar(&f.callbackURL, "callback-url", "", "the hive's "+readyPath+", called once the worker answers")
	set.IntVar(&f.slots, "slots", engine.DefaultSlots, "requests served in parallel")
	set.IntVar(&f.context, "context", 0, "longest prompt plus answer of one request, in tokens (default the model's, at most "+strconv.Itoa(engine.DefaultMaxContext)+")")
	set.IntVar(&f.kvTokens, "kv-tokens", 0, "KV cells of all slots together (default the context); on a CPU slots times context is divided among them")
	set.IntVar(&f.threads, "threads", 0, "compute threads (default one less than the CPUs)")
	set.IntVar(&f.queue, "queue", DefaultQueue, "requests that may wait for a slot")
	set.DurationVar(&f.loadTimeout, "load-timeout", DefaultLoadTimeout, "give up a load that shows no progress for so long")
	set.StringVar(&f.keyFile, "key-file", "", "file with the key that callers must know")
	set.StringVar(&f.debugAddr, "debug-addr", "", "loopback address that serves profiles (pprof) to anyone on this machine, such as 127.0.0.1:6060")
	f.tuning.flags(set)
	shared := root.PersistentFlags()
	shared.StringVar(&f.engineDir, "engine-dir", "", "directory of the engine (default engine.dir of the configuration)")
	shared.StringVar(&f.logLevel, "log-level", envOr(p, "RBEE_LOG_LEVEL", "info"), "debug, info, warn or error")
	shared.StringVar(&f.logFormat, "log-format", envOr(p, "RBEE_LOG_FORMAT", "auto"), "auto, text or json")
	root.AddCommand(&cobra.Command{
		Use:   "devices",
		Short: "Print the devices that the engine can use, as JSON",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			begun()
			return devices(p, e, &f)
		},
	})
	return root
}

func envOr(p Process, name, fallback string) string {
	if v := env(p, name); v != "" {
		return v
	}
	return fallback
}

func env(p Process, name string) string {
	for _, e := range slices.Backward(p.Environ) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

func (f *flags) log(p Process) *slog.Logger {
	return logging.New(p.Stderr, logging.Options{Level: f.logLevel, Format: f.logFormat, Role: "worker"})
}

// libDir is the directory of the engine's libraries, "" for an engine without.
func (f *flags) libDir(p Process, e Engine) (string, error) {
	if e.Find == nil {
		return f.engineDir, nil
	}
	dir := f.engineDir
	if dir == "" {
		c, err := conf.Load(conf.Options{Environ: p.Environ})
		if err != nil {
			return "", err
		}
		dir = c.EnginesDir()
	}
	return e.Find(dir)
}

// config checks the flags, all at once.
func (f *flags) config(p Process, e Engine) (Config, error) {
	var faults []rbee.Fault
	check := func(ok bool, flag, problem string) {
		if !ok {
			faults = append(faults, rbee.Fault{Field: "--" + flag, Problem: problem})
		}
	}
	if f.id == "" {
		f.id = fmt.Sprintf("worker-%d", os.Getpid())
	}
	check(rbee.ValidRequestID(f.id) && !strings.Contains(f.id, ":"), "worker-id", "must have letters, digits, '.', '_' or '-' only")
	check(f.model != "", "model", "is missing")
	check(slices.Contains(rbee.Backends(), rbee.Backend(f.backend)), "backend", "must be cpu, cuda, vulkan or metal")
	check(f.port >= 0 && f.port <= 65535, "port", "must be from 0 to 65535")
	check(f.callbackURL == "" || strings.HasPrefix(f.callbackURL, "http") && strings.HasSuffix(f.callbackURL, readyPath),
		"callback-url", "must be a hive's address followed by "+readyPath)
	check(f.slots >= 1 && f.slots <= engine.MaxSlots, "slots", fmt.Sprintf("must be from 1 to %d", engine.MaxSlots))
	check(f.context >= 0, "context", "must be 0 or more")
	check(f.kvTokens >= 0, "kv-tokens", "must be 0 or more")
	check(f.threads >= 0 && f.threads <= 512, "threads", "must be from 0 to 512")
	check(f.queue >= 0 && f.queue <= 1024, "queue", "must be from 0 to 1024")
	check(f.loadTimeout > 0, "load-timeout", "must be above 0")
	options := engine.Options{
		Backend: rbee.Backend(f.backend), Slots: f.slots, Context: f.context, KVTokens: f.kvTokens, Threads: f.threads, Queue: f.queue,
	}
	f.tuning.apply(&options, check)
	if len(faults) > 0 {
		return Config{}, rbee.InvalidRequest(faults...).Suggest("see '%s --help'", Program)
	}
	key := conf.Secret(env(p, KeyEnv))
	if f.keyFile != "" {
		var err error
		if key, err = conf.ReadKeyFile("worker", f.keyFile); err != nil {
			return Config{}, err
		}
	}
	path, err := filepath.Abs(f.model)
	if err != nil {
		return Config{}, fmt.Errorf("cannot find the model %s: %w", f.model, err)
	}
	if f.modelRef == "" {
		f.modelRef = string(rbee.ProviderFile) + ":" + path
	}
	if f.device == "" {
		f.device = f.backend
		if f.backend != string(rbee.BackendCPU) {
			f.device += "0"
		}
	}
	options.ModelPath, options.Device = path, rbee.DeviceID(f.device)
	return Config{
		ID: rbee.WorkerID(f.id), ModelRef: f.modelRef, Key: key.Reveal(),
		CallbackURL: f.callbackURL, CallbackKey: env(p, CallbackKeyEnv), LoadTimeout: f.loadTimeout,
		Log:     f.log(p).With("worker", f.id),
		Options: options,
		Load: func(ctx context.Context, o engine.Options, progress func(rbee.LoadProgress)) (engine.Engine, error) {
			var err error
			if o.LibDir, err = f.libDir(p, e); err != nil {
				return nil, err
			}
			return e.Load(ctx, o, progress)
		},
	}, nil
}

func devices(p Process, e Engine, f *flags) error {
	dir, err := f.libDir(p, e)
	if err != nil {
		return err
	}
	list, err := e.Devices(dir, f.log(p))
	if err != nil {
		return err
	}
	out := json.NewEncoder(p.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(list)
}

// serve runs the worker until it has ended, its parent is gone, or it is over
// its time: streams that cannot be written and devices that hang are left to
// the end of the process.
func serve(ctx context.Context, cfg Config, port int) error {
	ln, err := httpapi.Listen(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), cfg.Key)
	if rbee.CodeOf(err) == rbee.CodeConflict {
		return rbee.AsError(err).Suggest("choose another with --port, or 0 for a free one")
	}
	if err != nil {
		return err
	}
	parent, unwatch := supervise.WatchParent(context.WithoutCancel(ctx))
	defer unwatch()
	w := New(cfg)
	done := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { done <- w.Run(ctx, ln) })
	var late <-chan time.Time
	ended := w.end.Done()
	for {
		select {
		case err := <-done:
			running.Wait()
			return err
		case <-parent.Done():
			return rbee.Errorf(rbee.CodeInternalError, "the program that started the worker is gone")
		case <-ended:
			ended, late = nil, time.After(exitBudget)
		case <-late:
			cfg.Log.Warn("ending without what does not give way")
			if cause := context.Cause(w.end); !errors.Is(cause, errShutdown) {
				return cause
			}
			return nil
		}
	}
}
