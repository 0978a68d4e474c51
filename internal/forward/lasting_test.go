package forward

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"rbee/internal/httpapi"
)

// bubble runs a test in virtual time.
func bubble(test func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

func TestAStreamOutlivesTheShutdownForItsLastWord(t *testing.T) {
	t.Run("the program shuts down", bubble(func(t *testing.T) {
		request, end := context.WithCancelCause(t.Context())
		ctx, release := Lasting(request)
		defer release()
		end(httpapi.ErrShutdown)
		time.Sleep(lastWord - time.Millisecond)
		if ctx.Err() != nil {
			t.Error("it ended with the program")
		}
		time.Sleep(2 * time.Millisecond)
		if ctx.Err() == nil {
			t.Error("it never ends")
		}
	}))
	t.Run("the reader goes away", bubble(func(t *testing.T) {
		request, end := context.WithCancel(t.Context())
		ctx, release := Lasting(request)
		defer release()
		end()
		synctest.Wait()
		if ctx.Err() == nil {
			t.Error("it goes on without a reader")
		}
	}))
	t.Run("the stream ends first", bubble(func(t *testing.T) {
		request, end := context.WithCancelCause(t.Context())
		_, release := Lasting(request)
		end(httpapi.ErrShutdown)
		synctest.Wait()
		begun := time.Now()
		release()
		if time.Since(begun) != 0 {
			t.Error("the shutdown waits for a stream that has ended")
		}
	}))
}
