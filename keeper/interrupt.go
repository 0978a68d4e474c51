package keeper

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"rbee"
)

// WithInterrupts makes the context of the program: the first Ctrl-C, SIGTERM
// or closing of the terminal ends it, so that the command can clean up; the
// second ends the program at once. The function that is returned ends the
// watch and must be called.
//
// A reader of our output that goes away (rbee infer | head -1) shows as a
// failed write, not as the death of the program, so that the worker is still
// stopped.
func WithInterrupts(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	desk := &interruptDesk{}
	ctx = context.WithValue(ctx, deskKey{}, desk)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	brokenPipe := make(chan os.Signal, 1) // nobody reads it: that there is a channel is what counts
	signal.Notify(brokenPipe, syscall.SIGPIPE)
	stop := make(chan struct{}) // closed by the function that is returned
	var watch sync.WaitGroup
	watch.Go(func() {
		for n := 0; ; {
			select {
			case s := <-signals:
				if s == os.Interrupt && n == 0 && desk.pass() {
					continue
				}
				if n++; n > 1 {
					os.Exit(rbee.ExitInterrupted)
				}
				cancel(errInterrupted)
				fmt.Fprintln(os.Stderr, "Canceling... (once more ends at once)")
			case <-stop:
				return
			}
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		close(stop)
		watch.Wait()
		cancel(context.Canceled)
	}
}

type deskKey struct{}

// interruptDesk is where a command asks for Ctrl-C not to end it.
type interruptDesk struct {
	mu    sync.Mutex
	taker func()
}

// pass gives an interrupt to the command that wants it, if one does.
func (d *interruptDesk) pass() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.taker == nil {
		return false
	}
	d.taker()
	return true
}

func (d *interruptDesk) set(taker func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taker = taker
}

// untilInterrupted is a context that Ctrl-C ends with a cause, in place of the
// whole command; SIGTERM still ends that. The function that is returned gives
// Ctrl-C back and must be called.
func untilInterrupted(ctx context.Context, cause error) (context.Context, func()) {
	inner, cancel := context.WithCancelCause(ctx)
	desk, ok := ctx.Value(deskKey{}).(*interruptDesk)
	if ok {
		desk.set(func() { cancel(cause) })
	}
	return inner, func() {
		if ok {
			desk.set(nil)
		}
		cancel(nil)
	}
}
