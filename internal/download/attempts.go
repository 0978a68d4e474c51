package download

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"rbee"
)

var errShort = errors.New("the connection ended before the last byte")

// silence is the error of a connection that was ended because nothing came.
type silence time.Duration

func (s silence) Error() string {
	return fmt.Sprintf("no byte came for %g seconds", time.Duration(s).Seconds())
}

// stalled prefers the reason why a request was ended over what the end looks like.
func stalled(ctx context.Context, err error) error {
	if silent, ok := errors.AsType[silence](context.Cause(ctx)); ok {
		return silent
	}
	return err
}

// attempts are those of one connection in a row that brought nothing.
type attempts struct {
	n       int
	arrived int64 // by all connections, when the row began
}

// endures says whether a connection goes on after an attempt that failed with
// err and brought n bytes. It waits before that.
func (t *transfer) endures(ctx context.Context, try *attempts, n int64, err error) bool {
	var final *rbee.Error
	switch {
	case t.cause() != nil:
		return false
	case errors.As(err, &final), errors.Is(err, ErrChanged):
		t.fail(err)
		return false
	case errors.Is(err, ErrNoRanges):
		t.fromTheBeginning()
		return true
	}
	others := t.count(try, n, err)
	switch {
	case try.n >= Attempts && others:
		return false // they can do without
	case try.n >= Attempts:
		t.fail(rbee.Errorf(rbee.CodeDownloadFailed, "cannot download: %d attempts in a row brought nothing, the last: %w", Attempts, err).
			Suggest("check the connection and try again; what has arrived is kept, and the download goes on from there"))
		return false
	}
	return pause(ctx, pauseAfter(try.n, err))
}

// count adds an attempt to the row, or begins a new one if it brought bytes. It
// reports whether other connections brought some since the row began.
func (t *transfer) count(try *attempts, n int64, err error) (others bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n > 0 {
		*try = attempts{}
	}
	if try.n == 0 {
		try.arrived = t.arrived
	}
	if n == 0 {
		try.n++
	}
	t.pace.less()
	if try.n < Attempts {
		t.say(fmt.Sprintf("attempt %d of %d: %s", try.n+1, Attempts, err))
	}
	return t.arrived > try.arrived && t.workers > 1
}

// fromTheBeginning goes on with one connection, which skips what is there already.
func (t *transfer) fromTheBeginning() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.whole, t.pace = true, newPace(1)
	t.say("the source sends no parts of a file; one connection reads it from its beginning")
}

// say tells what happened. t.mu is held.
func (t *transfer) say(note string) {
	t.note = note
	poke(t.news)
}

// pauseAfter is how long to wait after so many attempts in a row.
func pauseAfter(n int, err error) time.Duration {
	var p Pause
	if errors.As(err, &p) {
		return p.RetryAfter()
	}
	d := min(firstPause<<max(0, n-1), maxPause)
	return d/2 + rand.N(d) //nolint:gosec // jitter
}

// pause reports whether ctx outlasted it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
