package supervise

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
)

// ErrParentGone is the cause of a context that WatchParent cancelled.
var ErrParentGone = errors.New("the parent process is gone")

// WatchParent is the child's side of the death pipe. If this program's parent
// gave it one, the context is cancelled with ErrParentGone once the parent has
// ended, and what comes on stdin is thrown away; otherwise stdin is not
// touched. The function that is returned ends the watch.
func WatchParent(ctx context.Context) (context.Context, context.CancelFunc) {
	if os.Getenv(DeathPipeEnv) != "1" {
		return context.WithCancel(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	pipe, err := openDeathPipe()
	if err != nil {
		cancel(ErrParentGone)
		return ctx, func() {}
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		_, err := io.Copy(io.Discard, pipe)
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
			cancel(ErrParentGone)
		}
	})
	return ctx, func() {
		cancel(context.Canceled)
		interrupt(pipe, &watch)
	}
}
