package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"rbee/internal/conf"
	"rbee/internal/logfile"
	"rbee/internal/service"
)

const (
	// answerEvery is how often a daemon that starts is asked whether it answers.
	answerEvery = 20 * time.Millisecond
	// attendEvery is how often one that answers is asked how it is.
	attendEvery = 10 * time.Second
)

// The bounds of a daemon's own log, where it has a file for itself.
const (
	logBytes = 16 << 20
	logsOld  = 3
)

// ErrHungUp is the cause of an end because the terminal went away.
var ErrHungUp = errors.New("the terminal was closed")

// Daemon is a program that runs until it is told to end, as its surroundings see it.
type Daemon struct {
	Run     func(context.Context) error
	Answers func(context.Context) bool // it is found, and answers a request like any other
	Summary func() string              // what it does, in a line
	Ending  func(context.Context)      // blocks until it begins to end, or ctx does
	Log     *slog.Logger
}

// Serve runs the daemon as a program of its own, and returns what Run does.
func (d Daemon) Serve(ctx context.Context) error {
	defer outliveReaders()()
	ctx, stop := untilHangUp(ctx)
	defer stop()
	manager, err := service.NewNotifier(os.Getenv)
	if err != nil {
		d.Log.WarnContext(ctx, "cannot tell the service manager how the daemon is", "err", err)
	}
	if manager == nil {
		return d.Run(ctx)
	}
	watch, end := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	watching.Go(func() { d.attend(watch, manager) })
	watching.Go(func() {
		if d.Ending(watch); watch.Err() == nil {
			_ = manager.Stopping() // the process tells by its end, too
		}
	})
	defer func() { _ = manager.Close() }()
	defer watching.Wait()
	defer end()
	return d.Run(ctx)
}

// attend tells the service manager that the daemon is ready once it answers, and
// that it is alive as long as it does, until ctx ends. One that hangs is silent,
// and the manager's watchdog ends it.
func (d Daemon) attend(ctx context.Context, manager *service.Notifier) {
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
		if !d.Answers(ctx) {
			continue
		}
		err := manager.Alive()
		if !ready {
			ready = true
			tick.Reset(every)
			err = errors.Join(manager.Ready(), err)
		}
		if err := errors.Join(err, manager.Status(d.Summary())); err != nil {
			d.Log.WarnContext(ctx, "cannot tell the service manager how the daemon is", "err", err)
		}
	}
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
			cancel(ErrHungUp)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		signal.Stop(hangUp)
		cancel(context.Canceled)
		watch.Wait()
	}
}

// LogFile is the file that a daemon of a role writes to when it was started in
// the background.
func LogFile(home conf.Home, role string) string {
	return filepath.Join(home.LogsDir(), role+".log")
}

// LogOf is where the log goes. If standard error is the daemon's own file in the
// state directory, that file is kept within bounds.
func LogOf(home conf.Home, role string, stderr io.Writer) io.Writer {
	if stream, ok := stderr.(*os.File); ok {
		if file, ok := logfile.Adopt(stream, LogFile(home, role), logfile.Limits{Bytes: logBytes, Old: logsOld}); ok {
			return file
		}
	}
	return stderr
}
