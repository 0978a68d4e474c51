// Package worker is the role of one process with one loaded model: it answers
// on its port at once, tells its hive so, loads, and streams tokens until it is
// told to end.
//
//	listen → call back → load → serve → drain → end
//
// The engine is handed in, so the package names none; it touches no database
// and knows nothing of other workers. A worker never restarts what failed: it
// says why and ends, and its hive decides.
package worker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/internal/tracing"
	"rbee/worker/engine"
)

// Defaults of Config.
const (
	DefaultQueue       = 16 // requests
	DefaultLoadTimeout = 5 * time.Minute
	DefaultTokenStall  = 30 * time.Second
	DefaultDrainTime   = 30 * time.Second
)

// endBudget bounds how long the streams have to say goodbye when the worker ends.
const endBudget = 2 * time.Second

// errShutdown is the cause with which generations end when the worker does.
var errShutdown = errors.New("the worker shuts down")

// Config says what a worker loads and how it serves. Zero durations take the defaults above.
type Config struct {
	ID       rbee.WorkerID
	ModelRef string // what the worker says it serves
	Options  engine.Options
	Load     engine.Loader

	Key         string // bearer key that callers must know; "" demands none
	CallbackURL string // where to say that the worker answers; "" says it to nobody
	CallbackKey string

	LoadTimeout time.Duration // without progress of the load
	TokenStall  time.Duration // between two tokens of a stream
	DrainTime   time.Duration // for what runs when told to end in good order

	Tracer *tracing.Tracer // nil traces nothing
	Log    *slog.Logger    // default discards
}

// Worker is one process's worth of work. Run it once.
type Worker struct {
	cfg      Config
	log      *slog.Logger
	api      *httpapi.API
	floor    *floor
	progress *progress
	metrics  *metrics
	served   *served // made before the floor opens
	grammars grammars
	speed    speed
	loads    sync.WaitGroup

	drain context.Context // ends when the worker shall take nothing new
	end   context.Context // ends, with the cause, when the worker shall end now
	doDrain,
	doEnd context.CancelCauseFunc
}

// New makes a worker.
func New(cfg Config) *Worker {
	setDefault(&cfg.LoadTimeout, DefaultLoadTimeout)
	setDefault(&cfg.TokenStall, DefaultTokenStall)
	setDefault(&cfg.DrainTime, DefaultDrainTime)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Options.Logger = cfg.Log
	w := &Worker{cfg: cfg, log: cfg.Log, floor: newFloor(), progress: newProgress()}
	w.metrics = newMetrics(w.floor)
	w.end, w.doEnd = context.WithCancelCause(context.Background())
	w.drain, w.doDrain = context.WithCancelCause(w.end)
	w.api = httpapi.New(httpapi.Config{Role: "worker", Key: cfg.Key, Routes: w.routes(), Log: cfg.Log})
	return w
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Run answers on ln, calls back, loads and serves. It returns when all under it
// has ended: nil if the worker was told to end, by a request or by ctx, and the
// reason otherwise.
func (w *Worker) Run(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { w.doEnd(errShutdown) })
	defer stop()
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	group.Go(func() error {
		err := w.api.Serve(serving, ln)
		w.doEnd(orShutdown(err)) // without its port a worker is of no use
		return err
	})
	group.Go(func() error {
		defer stopServing()
		err := w.live("http://" + ln.Addr().String())
		w.doEnd(orShutdown(err))
		return err
	})
	err := group.Wait()
	w.loads.Wait()
	return err
}

// live is the life of the worker from its callback to its end.
func (w *Worker) live(url string) error {
	eng, err := w.start(url)
	if errors.Is(err, errShutdown) {
		w.progress.fail(rbee.Errorf(rbee.CodeWorkerNotReady, "the worker was told to end before its model was loaded"))
		return nil
	}
	if err != nil {
		return err
	}
	if w.served, err = newServed(w.cfg.ModelRef, eng); err != nil {
		return errors.Join(err, eng.Close())
	}
	w.floor.open(eng)
	w.progress.ready()
	info := eng.Info()
	w.log.Info("ready", "model", w.cfg.ModelRef, "device", info.Device, "slots", info.Slots,
		"context_tokens", info.Context, "kv_tokens", info.KVTokens, "threads", info.Threads)
	<-w.drain.Done()
	w.finish()
	return eng.Close()
}

// start tells the hive and loads. The cause errShutdown is for a worker that
// was told to end before there was anything to serve.
func (w *Worker) start(url string) (engine.Engine, error) {
	if err := w.announce(w.drain, url); err != nil {
		return nil, err
	}
	eng, err := w.load(w.drain)
	if err != nil && !errors.Is(err, errShutdown) {
		w.progress.fail(rbee.AsError(err))
		w.lingerForWatcher()
	}
	return eng, err
}

// finish lets what runs come to its end, or ends it if the worker must go now.
func (w *Worker) finish() {
	empty := w.floor.drain()
	w.log.Info("draining", "running", w.floor.running())
	select {
	case <-empty:
		return
	case <-w.end.Done():
	case <-time.After(w.cfg.DrainTime):
		w.log.Warn("ending what still runs", "after", w.cfg.DrainTime)
		w.doEnd(errShutdown)
	}
	w.floor.cancelAll(errShutdown)
	select {
	case <-empty:
	case <-time.After(endBudget):
		w.log.Warn("some streams did not end in time")
	}
}

// lingerForWatcher keeps a worker that failed for a moment, so that the hive
// hears the reason and not only of a process that is gone.
func (w *Worker) lingerForWatcher() {
	if w.cfg.CallbackURL == "" {
		return
	}
	select {
	case <-w.progress.told:
	case <-w.drain.Done():
	case <-time.After(endBudget):
	}
}

func orShutdown(err error) error {
	if err == nil {
		return errShutdown
	}
	return err
}
