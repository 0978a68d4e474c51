// Package fake is an engine without a model: fast, the same on every machine,
// and told by a script to be slow, to stall, to crash or to refuse. It is for
// tests of what surrounds an engine; it passes the same contract as the real one.
package fake

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

// Engine is a fake model. It has no goroutine of its own.
type Engine struct {
	script  Script
	info    engine.Info
	gate    *slots.Gate
	queue   int
	prompts *prompts // nil where prompts are at once computed

	once   sync.Once
	closed chan struct{} // closed by Close

	steps, promptTokens, generated atomic.Uint64

	mu      sync.Mutex
	inside  int // requests that run or wait
	resting bool
}

var _ engine.Engine = (*Engine)(nil)

// Loader makes an engine.Loader that follows a script. It wants a model file
// to be there, and looks at its size only.
func Loader(s Script) engine.Loader {
	return func(ctx context.Context, o engine.Options, progress func(rbee.LoadProgress)) (engine.Engine, error) {
		e, err := load(ctx, s, o, progress)
		if err != nil {
			return nil, err
		}
		return e, nil
	}
}

// Devices is what the fake computes on.
func Devices() rbee.DeviceList {
	list := rbee.DeviceList{Devices: []rbee.Device{{
		ID: "cpu", Kind: rbee.BackendCPU, Name: "fake CPU", MemoryTotal: 64 << 30, MemoryFree: 64 << 30,
	}}}
	for _, b := range rbee.Backends() {
		status := rbee.BackendStatus{Backend: b, Available: b == rbee.BackendCPU}
		if !status.Available {
			status.Reason = "the fake engine knows the CPU only"
		}
		list.Backends = append(list.Backends, status)
	}
	return list
}

func load(ctx context.Context, s Script, o engine.Options, progress func(rbee.LoadProgress)) (*Engine, error) {
	if s.Refuse != "" {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot load the model %s: %s", o.ModelPath, s.Refuse)
	}
	file, err := os.Stat(o.ModelPath)
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeModelNotFound, "cannot find the model file %s", o.ModelPath).WithCause(err)
	}
	if o.Backend != "" && o.Backend != rbee.BackendCPU || o.Device != "" && o.Device != "cpu" {
		return nil, rbee.Errorf(rbee.CodeBackendUnavailable, "cannot use the backend %s: the fake engine knows the CPU only", o.Backend)
	}
	o.Device = "cpu"
	layers := s.layers()
	e := &Engine{script: s, closed: make(chan struct{})}
	for layer := range layers + 1 {
		if progress != nil {
			progress(rbee.LoadProgress{
				Stage: rbee.LoadToVRAM, LayersLoaded: layer, LayersTotal: layers,
				VRAMMB: float64(file.Size()) * float64(layer) / float64(layers) / 1e6,
			})
		}
		if s.LoadStallAt > 0 && layer >= s.LoadStallAt {
			<-ctx.Done()
		}
		if layer < layers && e.pause(ctx, s.Load/time.Duration(layers), nil) != "" || ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if o, err = o.Normalize(s.context()); err != nil {
		return nil, err
	}
	e.gate, e.queue = slots.New(o.Slots, o.KVTokens, o.Queue), o.Queue
	if s.PrefillToken > 0 {
		cells := o.KVTokens
		if o.NoPrefixCache || o.Reproducible {
			cells = 0
		}
		e.prompts = newPrompts(s.PrefillToken, cells)
	}
	e.info = engine.Info{
		Name: "fake", Architecture: "fake", Quantisation: "F16", Layers: layers, Vocab: vocabulary(),
		TrainedContext: s.context(), Context: o.Context, KVTokens: o.KVTokens,
		Slots: o.Slots, Threads: o.Threads, SizeBytes: file.Size(), Parameters: 1, Embedding: embedding,
		Backend: o.Backend, Device: o.Device, BOS: beginText, EOS: endText, FIM: fim, Adapters: o.AdapterNames(),
	}
	return e, nil
}

// Info implements engine.Engine.
func (e *Engine) Info() engine.Info { return e.info }

func (e *Engine) isClosed() bool {
	select {
	case <-e.closed:
		return true
	default:
		return false
	}
}

// Tokenize implements engine.Engine.
func (e *Engine) Tokenize(text string, addSpecial bool) ([]engine.Token, error) {
	if e.isClosed() {
		return nil, engine.ErrClosed()
	}
	if !utf8.ValidString(text) {
		return nil, rbee.InvalidRequest(rbee.Fault{Field: "text", Problem: "must be valid UTF-8"})
	}
	return tokenize(text, addSpecial), nil
}

// Detokenize implements engine.Engine.
func (e *Engine) Detokenize(tokens []engine.Token) []byte {
	if e.isClosed() {
		return nil
	}
	var out []byte
	for _, t := range tokens {
		out = append(out, bytesOf(t)...)
	}
	return out
}

// Stats implements engine.Engine.
func (e *Engine) Stats() engine.Stats {
	c := e.gate.Counts()
	total := e.info.KVTokens
	if e.rests() {
		total = 0
	}
	s := engine.Stats{
		SlotsTotal: e.info.Slots, SlotsBusy: c.Busy, Queued: c.Queued, QueueSize: e.queue,
		Threads: e.info.Threads, KVUsed: c.CellsUsed, KVTotal: total, Steps: e.steps.Load(), Requests: c.Entered,
		PromptTokens: e.promptTokens.Load(), GeneratedTokens: e.generated.Load(),
	}
	if e.prompts != nil {
		e.prompts.tell(&s)
	}
	return s
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.once.Do(func() {
		close(e.closed)
		e.gate.Close()
	})
	return nil
}

// pause waits for a time and for the script's gate, which may be nil, and says
// what ended it early.
func (e *Engine) pause(ctx context.Context, d time.Duration, gate <-chan struct{}) rbee.StopReason {
	timer := time.NewTimer(d)
	defer timer.Stop()
	due := timer.C
	for due != nil || gate != nil {
		select {
		case <-due:
			due = nil
		case <-gate:
			gate = nil
		case <-ctx.Done():
			return rbee.StopCanceled
		case <-e.closed:
			return rbee.StopShutdown
		}
	}
	switch {
	case e.isClosed():
		return rbee.StopShutdown
	case ctx.Err() != nil:
		return rbee.StopCanceled
	}
	return ""
}

// Generate implements engine.Engine.
func (e *Engine) Generate(ctx context.Context, r engine.Request, emit func(engine.Piece) bool) (engine.Result, error) {
	var result engine.Result
	prompt, limit, err := e.prepare(r)
	if err != nil {
		return result, err
	}
	result.PromptTokens = len(prompt)
	defer e.come()()
	called := time.Now()
	cells := len(prompt) + limit
	slot, err := e.gate.Enter(ctx, cells)
	result.Queued = time.Since(called)
	switch {
	case errors.Is(err, slots.ErrFull):
		return result, engine.ErrBusy(e.info.Slots, e.gate.Counts().Busy, time.Second)
	case errors.Is(err, slots.ErrClosed):
		result.Reason = rbee.StopShutdown
		return result, nil
	case err != nil:
		result.Reason = rbee.StopCanceled
		return result, nil
	}
	defer e.gate.Leave(slot, cells)
	if result.Reason = e.compute(ctx, prompt, &result, called); result.Reason != "" {
		return result, nil
	}
	if result.Reason = e.pause(ctx, e.script.Prefill, nil); result.Reason != "" {
		return result, nil
	}
	e.promptTokens.Add(uint64(len(prompt) - result.CachedTokens)) //nolint:gosec // fewer are cached
	result.Prefill = time.Since(called) - result.Queued
	began := time.Now()
	err = e.decode(ctx, r, prompt, limit, &result, emit)
	result.Decode = time.Since(began)
	return result, err
}

func (e *Engine) prepare(r engine.Request) (prompt []engine.Token, limit int, err error) {
	if err := engine.CheckRequest(r, e.info); err != nil {
		return nil, 0, err
	}
	if e.isClosed() {
		return nil, 0, engine.ErrClosed()
	}
	prompt = r.Tokens
	if prompt == nil {
		if prompt, err = e.Tokenize(r.Prompt, true); err != nil {
			return nil, 0, err
		}
	}
	for i, t := range prompt {
		if t < 0 || int(t) >= e.info.Vocab {
			return nil, 0, rbee.InvalidRequest(rbee.Fault{
				Field: fmt.Sprintf("tokens[%d]", i), Problem: fmt.Sprintf("must be from 0 to %d", e.info.Vocab-1),
			})
		}
	}
	room := e.info.Context - len(prompt)
	if room < 1 {
		return nil, 0, engine.ErrContextLength(len(prompt), e.info.Context)
	}
	return prompt, min(r.MaxTokens, room), nil
}

func (e *Engine) decode(
	ctx context.Context, r engine.Request, prompt []engine.Token, limit int, result *engine.Result, emit func(engine.Piece) bool,
) error {
	s := e.script
	text := source(r, prompt)
	rule := newRule(r)
	for n := 1; n <= limit; n++ {
		if s.StallAt == n {
			result.Reason = e.pause(ctx, 0, make(chan struct{})) // for ever
			return nil
		}
		if s.CrashAt == n {
			s.exit()
		}
		if s.FailAt == n {
			return rbee.Errorf(rbee.CodeInternalError, "cannot generate: the script says that token %d fails", n)
		}
		if result.Reason = e.pause(ctx, s.Token, s.Hold); result.Reason != "" {
			return nil
		}
		e.steps.Add(1)
		if n > s.eosAt() && !r.IgnoreEOS {
			result.Reason = rbee.StopEOS
			return nil
		}
		t := rule.follow(text())
		if t == tokenEnd {
			result.Reason = rbee.StopEOS
			return nil
		}
		e.generated.Add(1)
		result.Tokens++
		if !emit(piece(r, t)) {
			result.Reason = rbee.StopString
			return nil
		}
	}
	result.Reason = rbee.StopLength
	return nil
}

// source makes the tokens of a text. They depend on the prompt and, unless
// greedy, on the seed.
func source(r engine.Request, prompt []engine.Token) func() engine.Token {
	seed := uint64(0)
	if r.Sampling.Temperature > 0 {
		seed = r.Sampling.Seed + 1
	}
	random := rand.New(rand.NewPCG(hash(prompt), seed)) //nolint:gosec // not for secrets
	rest := ""
	return func() engine.Token {
		if rest == "" {
			word := random.IntN(len(words) + 1)
			if word < len(words) {
				return firstWord + engine.Token(word)
			}
			rest = bee
		}
		b := rest[0]
		rest = rest[1:]
		return firstByte + engine.Token(b)
	}
}

func hash(tokens []engine.Token) uint64 {
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, tokens) // a hash takes everything
	return h.Sum64()
}
