package download

import (
	"context"
	"errors"
	"io"
	"time"
)

// Source is a file elsewhere. It is safe for concurrent use.
type Source interface {
	// Open returns the bytes [from, to) of the file. The reader may end early,
	// with an error or without, and ends with ctx; it never returns more. An *rbee.Error in the
	// chain of an error of Open is final; ErrChanged and ErrNoRanges mean what
	// they say; whatever else is wrong may be over at the next try, not before
	// a Pause, if the error is one.
	Open(ctx context.Context, from, to int64) (io.ReadCloser, error)
}

// ErrChanged says that the file is not the one that the request is for any more.
var ErrChanged = errors.New("the file has changed at its source")

// ErrNoRanges says that the source sends files from their beginning only.
var ErrNoRanges = errors.New("the source does not send parts of a file")

// Pause is an error of a source that wants no request for a while.
type Pause interface {
	error
	RetryAfter() time.Duration
}
