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
	// Rest has the worker give its KV cache back until the next request.
	Rest(ctx context.Context) error
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
	Ref       rbee.ModelRef
	Path      string // of the GGUF file
	Backend   rbee.Backend
	Device    rbee.DeviceID
	Slots     int
	Context   int    // tokens of one request
	KVTokens  int    // tokens of all slots together
	Queue     int    // requests that may wait
	Digest    string // of the model's bytes, or what else tells them from others
	Before    Before
	Weight    Weight // estimated need
	KeepAlive KeepAlive
	RestAfter time.Duration // idle time after which it rests; 0 for half of KeepAlive, negative for never
}

// Before is a device at the moment when it was decided to start a worker on it.
type Before struct {
	FreeBytes int64
	Turn      int64 // counts the starts and ends there
}

// Weight is the memory of a worker.
type Weight struct {
	Memory rbee.Memory // by device
	Mapped int64       // of main memory, the bytes of mapped files, which the system shows as free
}

// Weigh measures the memory of a worker's process that has loaded its model.
// It reports false where that is not possible.
type Weigh func(ctx context.Context, w rbee.Worker, spec Spec) (Weight, bool)

// KeepAlive says how long a worker may be idle. Zero means until its first
// requests are over; then, and after DefaultKeepAlive without any, it ends.
type KeepAlive struct {
	Idle    time.Duration
	Forever bool
}
