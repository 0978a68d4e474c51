// Package llamacpp is the engine that computes: llama.cpp through its shared
// libraries, without cgo.
//
// One goroutine owns the model and its context. Requests wait at a gate for a
// slot and KV cells, then join the loop. Each step of the loop builds one
// batch, first a token for each slot that generates, then pieces of prompts,
// computes it, and samples. A prompt therefore never stalls running streams,
// and a reader that is slow holds up its own sequence only.
//
// The same request gives the same tokens whenever it runs alone, and beside
// others as long as none of them ends before it. After that its new tokens may
// take KV cells that the other left, attention sums in another order, and where
// two tokens are all but equally likely rounding may choose the other one. So
// may a batch of another shape, when prompts of others are computed beside it.
//
// The package knows nothing of HTTP or processes, and nothing outside it
// imports the binding to llama.cpp.
package llamacpp

import (
	"context"
	"runtime"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/internal/gguf"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

// batchTokens is the most tokens that one step computes.
const batchTokens = 512

// Load is the engine.Loader of this package. All engines of a process use the
// libraries of the directory that the first one named.
func Load(ctx context.Context, o engine.Options, progress func(rbee.LoadProgress)) (engine.Engine, error) {
	header, err := gguf.Read(o.ModelPath)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	lib, err := open(o.LibDir, o.Logger)
	if err != nil {
		return nil, err
	}
	e := &Engine{lib: lib, wake: make(chan struct{}, 1)}
	loaded := make(chan error, 1)
	e.loop.Go(func() {
		// The model and its context are used from this thread alone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer e.free()
		err := e.load(ctx, o, header, progress)
		loaded <- err
		if err == nil {
			e.run()
		}
	})
	if err := <-loaded; err != nil {
		e.loop.Wait()
		return nil, err
	}
	return e, nil
}

// load reads the model and makes its context.
func (e *Engine) load(
	ctx context.Context, o engine.Options, header gguf.File, progress func(rbee.LoadProgress),
) error {
	e.lib.loading.Lock()
	defer e.lib.loading.Unlock()
	e.lib.log.begin(o.Logger)

	device, err := e.lib.choose(o.Backend, o.Device)
	if err != nil {
		return err
	}
	o.Backend, o.Device = device.info.Kind, device.info.ID
	if err := e.loadModel(ctx, o, device, header, progress); err != nil {
		return err
	}
	if o, err = o.Normalize(int(llama.ModelNCtxTrain(e.model))); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := e.makeContext(o, device); err != nil {
		return err
	}
	e.describe(o, header)
	e.gate = slots.New(o.Slots, e.info.KVTokens, o.Queue)
	e.queue = o.Queue
	e.makeSlots(o.Slots)
	return nil
}

func (e *Engine) loadModel(
	ctx context.Context, o engine.Options, device device, header gguf.File, progress func(rbee.LoadProgress),
) error {
	report := func(fraction float32) bool {
		if progress != nil {
			progress(rbee.LoadProgress{
				Stage:        rbee.LoadToVRAM,
				LayersLoaded: int(fraction * float32(header.Layers)), LayersTotal: header.Layers,
				VRAMMB: float64(fraction) * float64(header.SizeBytes) / 1e6,
			})
		}
		return ctx.Err() == nil
	}
	params := llama.ModelDefaultParams()
	id, done := e.lib.follow(report)
	defer done()
	params.ProgressCallback, params.ProgressCallbackUserData = e.lib.progress, id
	devices := []llama.GGMLBackendDevice{device.handle, 0}
	if device.info.Kind == rbee.BackendCPU {
		// An empty list keeps all weights in RAM; without one llama.cpp takes each GPU it finds.
		devices, params.NGpuLayers = devices[1:], 0
	} else {
		params.NGpuLayers = 999
	}
	if err := params.SetDevices(devices); err != nil {
		return err
	}
	var err error
	e.model, err = llama.ModelLoadFromFile(o.ModelPath, params)
	runtime.KeepAlive(devices)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return e.lib.explain("load the model "+o.ModelPath, device.info.Kind)
	}
	e.vocab = llama.ModelGetVocab(e.model)
	if !llama.ModelHasDecoder(e.model) || llama.ModelHasEncoder(e.model) || llama.ModelIsDiffusion(e.model) ||
		llama.GetVocabType(e.vocab) == llama.VocabTypeNone {
		return rbee.Errorf(rbee.CodeInvalidRequest,
			"cannot load the model %s: a model of the architecture %s does not generate text token by token",
			o.ModelPath, header.Architecture).Suggest("choose a text generation model")
	}
	return nil
}

// contextParams are what a context is made with.
func contextParams(o engine.Options) llama.ContextParams {
	params := llama.ContextDefaultParams()
	params.NCtx = uint32(o.KVTokens)
	params.NBatch, params.NUbatch = batchTokens, batchTokens
	params.NSeqMax = uint32(o.Slots)
	// One row of logits per slot; the default is one per token of a batch, which is hundreds of MB.
	params.NOutputsMax = params.NSeqMax
	if o.Slots > 1 {
		// Slots share all cells. It costs a fixed time per step, so one slot goes without.
		params.KVUnified = 1
	}
	params.NThreads, params.NThreadsBatch = int32(o.Threads), int32(o.Threads)
	params.NoPerf = 1
	return params
}

func (e *Engine) makeContext(o engine.Options, device device) error {
	var err error
	if e.context, err = llama.InitFromModel(e.model, contextParams(o)); err != nil {
		return e.lib.explain("make room for the context", device.info.Kind)
	}
	if e.memory, err = llama.GetMemory(e.context); err != nil || e.memory == 0 {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot load the model: it keeps no memory of what it reads")
	}
	if device.info.Kind != rbee.BackendCPU {
		// Makes the device's kernels now, not in the first request.
		if err := llama.Warmup(e.context, e.model); err != nil {
			return e.lib.explain("warm up the device", device.info.Kind)
		}
	}
	e.batch = llama.BatchInit(batchTokens, 0, 1)
	return nil
}

func (e *Engine) describe(o engine.Options, header gguf.File) {
	e.info = engine.Info{
		Name:           header.Name,
		Architecture:   header.Architecture,
		Quantisation:   header.Quantisation,
		ChatTemplate:   header.ChatTemplate,
		Layers:         int(llama.ModelNLayer(e.model)),
		Vocab:          int(llama.VocabNTokens(e.vocab)),
		TrainedContext: int(llama.ModelNCtxTrain(e.model)),
		Context:        o.Context,
		KVTokens:       int(llama.NCtx(e.context)),
		Slots:          o.Slots,
		Threads:        o.Threads,
		SizeBytes:      header.SizeBytes,
		Parameters:     llama.ModelNParams(e.model),
		Backend:        o.Backend,
		Device:         o.Device,
	}
}

// free gives back what load took; it runs on the loop's thread, after the loop.
func (e *Engine) free() {
	e.inUse.Lock()
	defer e.inUse.Unlock()
	e.freed = true
	if e.abortID != 0 {
		e.lib.watched.Delete(e.abortID)
	}
	if e.batch.Token != nil {
		_ = llama.BatchFree(e.batch) // never fails
	}
	if e.context != 0 {
		_ = llama.Free(e.context) // fails for a zero handle only
	}
	if e.model != 0 {
		_ = llama.ModelFree(e.model) // fails for a zero handle only
	}
}
