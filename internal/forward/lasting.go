package forward

import (
	"context"
	"errors"
	"time"

	"rbee/internal/httpapi"
)

// lastWord is how long after the shutdown of its program a stream may still tell
// its reader what came before.
const lastWord = 2 * time.Second

// Lasting is the context of a stream. It ends at once when the reader goes
// away, but not when the program shuts down: by then what the stream tells of has
// ended, and only what is on its way is still to be told.
func Lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		cause := context.Cause(ctx)
		if errors.Is(cause, httpapi.ErrShutdown) {
			select {
			case <-time.After(lastWord):
			case <-out.Done():
			}
		}
		cancel(cause)
	})
	return out, func() {
		cancel(context.Canceled)
		if !stop() {
			<-ended
		}
	}
}
