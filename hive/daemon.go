package hive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/logfile"
	"rbee/internal/logging"
	"rbee/internal/service"
	"rbee/internal/supervise"
)

const (
	// answerEvery is how often a hive that starts is asked whether it answers.
	answerEvery = 20 * time.Millisecond
	// attendEvery is how often one that answers is asked how it is.
	attendEvery = 10 * time.Second
	// answerTime bounds an answer.
	answerTime = 5 * time.Second
)

// The bounds of the hive's own log, where it has a file for itself.
const (
	hiveLogBytes = 16 << 20
	hiveLogsOld  = 3
)

// errHungUp is the cause of a shutdown because the terminal went away.
var errHungUp = errors.New("the terminal was closed")

func daemonCommand(stdout, stderr io.Writer) *cobra.Command {
	var addr, level, format string
	var private bool
	var keepAlive conf.KeepAlive
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the hive until it is told to end",
		Long: "Run the hive in the foreground until SIGINT, SIGTERM, the end of its terminal or\n" +
			"POST /v1/shutdown; its workers end with it. Settings come from config.yaml, then\n" +
			"the environment, then the flags below. Under systemd it says when it is ready.",
		Args: noArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&addr, "addr", "", "HOST:PORT to listen on (default hive.addr of the config)")
	flags.BoolVar(&private, "private", false, "serve one caller: take no lock of the state directory and print the address on standard output")
	flags.Var(&keepAlive, "keep-alive", "idle time after which a worker ends: a duration, 0 or forever (default worker.keep_alive of the config)")
	flags.StringVar(&level, "log-level", "", "debug, info, warn or error (default log.level of the config)")
	flags.StringVar(&format, "log-format", "", "auto, text or json (default log.format of the config)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := conf.Load(conf.Options{Override: func(c *conf.Config) {
			override(&c.Hive.Addr, addr)
			override(&c.Log.Level, level)
			override(&c.Log.Format, format)
			if flags.Changed("keep-alive") {
				c.Worker.KeepAlive = keepAlive
			}
		}})
		if err != nil {
			return err
		}
		log := logging.New(logOf(settings.Home, stderr), logging.Options{Level: settings.Log.Level, Format: settings.Log.Format, Role: "hive"})
		h, err := New(Config{Settings: settings, Private: private, Announce: stdout, Log: log})
		if err != nil {
			return err
		}
		ctx, stop := supervise.WatchParent(cmd.Context())
		defer stop()
		return h.daemon(ctx)
	}
	return cmd
}

func override(setting *string, flag string) {
	if flag != "" {
		*setting = flag
	}
}

// logOf is where the log goes. If standard error is the hive's own file in the
// state directory, that file is kept within bounds.
func logOf(home conf.Home, stderr io.Writer) io.Writer {
	if stream, ok := stderr.(*os.File); ok {
		path := filepath.Join(home.LogsDir(), "hive.log")
		if file, ok := logfile.Adopt(stream, path, logfile.Limits{Bytes: hiveLogBytes, Old: hiveLogsOld}); ok {
			return file
		}
	}
	return stderr
}

// daemon runs the hive as a program of its own, with what surrounds one: a
// terminal, readers of its output, a service manager.
func (h *Hive) daemon(ctx context.Context) error {
	defer outliveReaders()()
	ctx, stop := untilHangUp(ctx)
	defer stop()
	sweepWorkerLogs(h.cfg.Settings.Home, h.log)
	manager, err := service.NewNotifier(os.Getenv)
	if err != nil {
		h.log.WarnContext(ctx, "cannot tell the service manager how the hive is", "err", err)
	}
	if manager == nil {
		return h.Run(ctx)
	}
	watch, end := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	watching.Go(func() { h.attend(watch, manager) })
	watching.Go(func() { h.sayEnd(watch, manager) })
	defer func() { _ = manager.Close() }()
	defer watching.Wait()
	defer end()
	return h.Run(ctx)
}

// outliveReaders makes a reader of our output that went away show as a failed
// write. Without it the runtime ends the program. Children are not concerned.
// The function that is returned undoes it.
func outliveReaders() func() {
	broken := make(chan os.Signal, 1) // nobody reads it: that there is a channel is what counts
	signal.Notify(broken, syscall.SIGPIPE)
	return func() { signal.Stop(broken) }
}

// untilHangUp ends a context when the terminal goes away, unless somebody
// wants that ignored, as nohup does.
func untilHangUp(ctx context.Context) (context.Context, func()) {
	if signal.Ignored(syscall.SIGHUP) {
		return context.WithCancel(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-hangUp:
			cancel(errHungUp)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		signal.Stop(hangUp)
		cancel(context.Canceled)
		watch.Wait()
	}
}

// attend tells the service manager that the hive is ready once others find it and
// it answers itself, and that it is alive as long as it does, until ctx ends. A hive that
// hangs is silent, and the manager's watchdog ends it.
func (h *Hive) attend(ctx context.Context, manager *service.Notifier) {
	every := attendEvery
	if w := manager.Watchdog(); w > 0 {
		every = min(every, w/3)
	}
	tick := time.NewTicker(answerEvery)
	defer tick.Stop()
	for ready := false; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !h.announced.Load() || !h.answers(ctx) {
			continue
		}
		err := manager.Alive()
		if !ready {
			ready = true
			tick.Reset(every)
			err = errors.Join(manager.Ready(), err)
		}
		if err := errors.Join(err, manager.Status(h.summary())); err != nil {
			h.log.WarnContext(ctx, "cannot tell the service manager how the hive is", "err", err)
		}
	}
}

// sayEnd tells the service manager when the hive begins to shut down.
func (h *Hive) sayEnd(ctx context.Context, manager *service.Notifier) {
	for ctx.Err() == nil {
		_, changes := h.pool.Feed().Subscribe(ctx)
		var lost error
		for e, err := range changes {
			if lost = err; err == nil && e.Kind == rbee.EventShutdown {
				_ = manager.Stopping() // the process tells by its end, too
				return
			}
		}
		if lost == nil {
			return
		}
	}
}

// answers says whether the hive answers a request like any other.
func (h *Hive) answers(ctx context.Context) bool {
	base := h.base.Load()
	if base == nil {
		return false // it does not listen yet
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	call := client.New(nearest(*base, h.cfg.Settings.Hive))
	defer call.Close()
	_, err := call.Health(ctx)
	return err == nil
}

// nearest is the URL of a hive for itself: the way by which others reach it, if
// the settings name one, is not ours to watch.
func nearest(base string, settings conf.Hive) string {
	host, port, err := net.SplitHostPort(settings.Addr)
	if base != settings.URL || err != nil {
		return base
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// summary is what the hive does, in a line.
func (h *Hive) summary() string {
	busy, all := 0, 0
	for _, w := range h.pool.Workers() {
		all++
		if w.State == rbee.WorkerBusy {
			busy++
		}
	}
	if all == 1 {
		return fmt.Sprintf("1 worker, %d busy", busy)
	}
	return fmt.Sprintf("%d workers, %d busy", all, busy)
}
