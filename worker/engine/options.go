package engine

import (
	"fmt"
	"log/slog"
	"runtime"

	"rbee"
)

// Defaults of Options.
const (
	DefaultSlots      = 4
	DefaultMaxContext = 8192 // tokens
)

// MaxSlots is the most slots that an engine serves.
const MaxSlots = 64

// Normalize sets the defaults and checks the options for a model that was
// trained with so many tokens of context. A longer context than the trained
// one is cut to it, which is worth a warning: beyond it models write nonsense.
func (o Options) Normalize(trainedContext int) (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Backend == "" {
		o.Backend = rbee.BackendCPU
	}
	if o.Slots == 0 {
		o.Slots = DefaultSlots
	}
	if o.Context == 0 {
		o.Context = min(trainedContext, DefaultMaxContext)
	}
	if o.Context > trainedContext {
		o.Logger.Warn("the context is cut to what the model was trained with", "asked_tokens", o.Context, "trained_tokens", trainedContext)
		o.Context = trainedContext
	}
	if o.KVTokens == 0 {
		o.KVTokens = o.Context
	}
	if o.Threads == 0 {
		o.Threads = max(1, runtime.GOMAXPROCS(0)-1)
	}
	var faults []rbee.Fault
	check := func(ok bool, field, format string, args ...any) {
		if !ok {
			faults = append(faults, rbee.Fault{Field: field, Problem: fmt.Sprintf(format, args...)})
		}
	}
	check(o.Slots >= 1 && o.Slots <= MaxSlots, "slots", "must be from 1 to %d", MaxSlots)
	check(o.Context >= 2, "context", "must be at least 2 tokens")
	check(o.KVTokens >= o.Context, "kv_tokens", "must be at least the context, %d tokens", o.Context)
	check(o.Threads >= 1 && o.Threads <= 512, "threads", "must be from 1 to 512")
	check(o.Queue >= 0, "queue", "must be 0 or more")
	if len(faults) > 0 {
		return o, rbee.InvalidRequest(faults...)
	}
	return o, nil
}
