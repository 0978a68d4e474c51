package hive

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/logging"
	"rbee/internal/supervise"
)

// byQueenVariable is in the environment of a hive that a queen starts.
const byQueenVariable = "RBEE_HIVE_BY_QUEEN"

// answerTime bounds how long the hive may take to answer itself.
const answerTime = 5 * time.Second

func daemonCommand(stdout, stderr io.Writer) *cobra.Command {
	var addr, level, format string
	var private, byQueen bool
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
	flags.BoolVar(&byQueen, "by-queen", os.Getenv(byQueenVariable) != "", "say that a queen started it and ends it with herself (also "+byQueenVariable+")")
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
		log := logging.New(daemon.LogOf(settings.Home, "hive", stderr), logging.Options{Level: settings.Log.Level, Format: settings.Log.Format, Role: "hive"})
		h, err := New(Config{Settings: settings, Private: private, ByQueen: byQueen, Announce: stdout, Log: log})
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

// daemon runs the hive as a program of its own.
func (h *Hive) daemon(ctx context.Context) error {
	h.sweepWorkerLogs()
	return daemon.Daemon{Run: h.Run, Answers: h.answers, Summary: h.summary, Ending: h.awaitEnd, Log: h.log}.Serve(ctx)
}

// awaitEnd blocks until the hive begins to shut down, or ctx ends.
func (h *Hive) awaitEnd(ctx context.Context) {
	for ctx.Err() == nil {
		_, changes := h.pool.Feed().Subscribe(ctx)
		var lost error
		for e, err := range changes {
			if lost = err; err == nil && e.Kind == rbee.EventShutdown {
				return
			}
		}
		if lost == nil {
			return
		}
	}
}

// answers says whether others find the hive, and it answers a request like any other.
func (h *Hive) answers(ctx context.Context) bool {
	base := h.base.Load()
	if base == nil || !h.announced.Load() {
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
