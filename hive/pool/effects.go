package pool

import (
	"context"
	"iter"
	"time"

	"rbee"
)

// Process is the operating-system process of a worker.
type Process interface {
	PID() int
	// Done is closed when nothing of the process is left.
	Done() <-chan struct{}
	// Exit says how it ended, such as "signal: killed". It blocks until Done.
	Exit() string
	// Lines are the last lines it wrote, oldest first.
	Lines() []string
	// Follow yields what it wrote and will write, until it ends or ctx does.
	Follow(ctx context.Context) iter.Seq[string]
	// Stop asks the process to end, kills it after grace, and blocks until Done.
	Stop(ctx context.Context, grace time.Duration)
}

// Link is the API of one worker, as far as a hive needs it.
type Link interface {
	Health(ctx context.Context) error
	Ready(ctx context.Context) (rbee.Readiness, error)
	LoadProgress(ctx context.Context) iter.Seq2[rbee.LoadProgress, error]
	// Drain tells the worker to finish what runs and exit.
	Drain(ctx context.Context) error
	// Shutdown tells the worker to end its streams and exit.
	Shutdown(ctx context.Context) error
	// Close drops its idle connections.
	Close()
}

// Launch starts the process of a worker. The key is what the worker will
// demand of its callers.
type Launch func(id rbee.WorkerID, key string, spec Spec) (Process, error)

// Dial makes the link to a worker. The key is "" for an external worker.
type Dial func(url, key string) Link

// Spec says what worker to start.
type Spec struct {
	Ref         rbee.ModelRef
	Path        string // of the GGUF file
	Backend     rbee.Backend
	Device      rbee.DeviceID
	Slots       int
	Context     int   // tokens of one request
	KVTokens    int   // tokens of all slots together
	Queue       int   // requests that may wait
	MemoryBytes int64 // estimated need
	KeepAlive   KeepAlive
}

// KeepAlive says how long a worker may be idle. Zero means until its first
// requests are over; then, and after DefaultKeepAlive without any, it ends.
type KeepAlive struct {
	Idle    time.Duration
	Forever bool
}
