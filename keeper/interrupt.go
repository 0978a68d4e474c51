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
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	brokenPipe := make(chan os.Signal, 1) // nobody reads it: that there is a channel is what counts
	signal.Notify(brokenPipe, syscall.SIGPIPE)
	stop := make(chan struct{}) // closed by the function that is returned
	var watch sync.WaitGroup
	watch.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-signals:
				if n > 0 {
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
