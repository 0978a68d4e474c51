package keeper

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/conf"
	"rbee/internal/daemon"
	"rbee/internal/supervise"
)

// startInBackground starts a daemon of ours in the background, with its log in
// the state directory. It returns its pid when it answers.
func startInBackground(ctx context.Context, cfg conf.Config, role, name string, args []string) (int, error) {
	program, err := daemon.Program(name)
	if err != nil {
		return 0, err
	}
	if err := cfg.Home.Create(); err != nil {
		return 0, err
	}
	log, err := os.OpenFile(daemon.LogFile(cfg.Home, role), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, rbee.Errorf(rbee.CodeInvalidRequest, "cannot open the log of the %s: %w", role, err).Suggest("see 'rbee doctor'")
	}
	defer func() { _ = log.Close() }()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	pid, err := supervise.Detach(supervise.Spec{Path: program, Args: args, Dir: string(cfg.Home), Stdout: log})
	if err != nil {
		return 0, rbee.Errorf(rbee.CodeInternalError, "cannot start the %s: %w", role, err).Suggest("see 'rbee doctor'")
	}
	return pid, awaitAnswer(ctx, cfg, role, pid, before)
}

// awaitAnswer blocks until the daemon with this pid answers or has ended.
func awaitAnswer(ctx context.Context, cfg conf.Config, role string, pid int, logOffset int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hiveStartTime,
		rbee.Errorf(rbee.CodeConnectionTimeout, "the %s (pid %d) does not answer after %s", role, pid, hiveStartTime).Suggest("see 'rbee %s logs'", role))
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if _, err := supervise.StartTime(pid); errors.Is(err, supervise.ErrNoProcess) {
			return daemon.LastWords("the "+role+" ended at once", "see its log", tailOf(daemon.LogFile(cfg.Home, role), logOffset))
		}
		if note, alive := daemon.ReadNote(cfg.Home, role); alive && note.PID == pid && answersAt(ctx, note.URL) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answersAt says whether a daemon of ours is there.
func answersAt(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c := client.New(url)
	defer c.Close()
	h, err := c.Health(ctx)
	return err == nil && h.Status == "alive" && h.APIVersion != ""
}

// shutDown has a daemon end, and blocks until its process is gone.
func shutDown(ctx context.Context, role string, pid int, order func(context.Context) (rbee.Message, error)) error {
	start, err := supervise.StartTime(pid)
	if errors.Is(err, supervise.ErrNoProcess) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := order(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stopTime,
		rbee.Errorf(rbee.CodeConnectionTimeout, "the %s (pid %d) still runs after %s", role, pid, stopTime).Suggest("kill it: kill %d", pid))
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if now, err := supervise.StartTime(pid); errors.Is(err, supervise.ErrNoProcess) || err == nil && now != start {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
