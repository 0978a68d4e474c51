// Package llamacpp is the engine that computes: llama.cpp through its shared
// libraries, without cgo.
//
// One goroutine owns the model and its context. Requests wait in a line for a
// slot and KV cells. Each step of the loop builds one batch, first a token for
// each slot that generates, with what prompt lookup, or else the draft model,
// expects after it, then pieces of prompts, computes it, and samples. A prompt therefore never stalls
// running streams, and a reader that is slow holds up its own sequence only.
//
// A request gets a slot when its prompt and a part of its answer fit. If the KV
// cells run out later, what is only kept for later prompts goes first; then the
// youngest request goes back into the line, in its place, with the tokens that it
// has, and goes on where it was.
//
// A prompt takes over the KV cells of the longest beginning that it has in common
// with any sequence, running or ended, and waits for another one that is just
// computing such a beginning. Models whose memory can't be shared or cut, such as
// recurrent ones and those with a sliding window, can only go on with a text that
// ended: it is then computed once, and never wrongly.
//
// On a CPU each row of a batch passes over all cells that sequences share. With enough
// of them for the whole context in each slot, each has cells of its own: what others
// hold then costs nothing, beginnings are copied, what ended stays where it is until
// its slot is needed, and is then packed. See liesApart.
//
// Logits of reused cells are those of computed ones to the last bit. But a model
// in floating point, and flash attention above all, rounds otherwise when a batch
// has another shape or the cells are in other places, and both depend on what else
// runs and was kept. So the same request gives the same tokens as long as no two
// are all but equally likely (for the model of the tests within a few hundredths,
// and a tenth at most, of the logarithm of their probabilities). With NoPrefixCache
// and without DraftTokens it gives the same whenever it runs alone, and with
// Reproducible always. Drafts are accepted only if they are what the sampler picks
// from the same random numbers, so they change texts for that one reason, too.
//
// Models see texts only, no pictures: the libraries that the engine is fetched as
// have no libmtmd, the part of llama.cpp that reads them.
//
// The package knows nothing of HTTP or processes, and nothing outside it
// imports the binding to llama.cpp.
package llamacpp

import (
	"context"
	"os"
	"runtime"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/internal/gguf"
	"rbee/worker/engine"
	"rbee/worker/engine/threads"
)

// batchTokens is the most tokens that one step computes.
const batchTokens = 512

// Load is the engine.Loader of this package. All engines of a process use the
// libraries of the directory that the first one named.
func Load(ctx context.Context, o engine.Options, progress func(rbee.LoadProgress)) (engine.Engine, error) {
	e, err := start(ctx, o, progress, isWhole)
	if err != nil {
		return nil, err // not a nil *Engine
	}
	return e, nil
}

// start loads a model; whole says whether its memory is one that can't be shared or cut.
func start(
	ctx context.Context, o engine.Options, progress func(rbee.LoadProgress), whole func(llama.Model) bool,
) (*Engine, error) {
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
	e := &Engine{lib: lib, wake: make(chan struct{}, 1), abort: new(uint64)}
	loaded := make(chan error, 1)
	e.loop.Go(func() {
		// The model and its context are used from this thread alone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer e.free()
		err := e.load(ctx, o, header, progress, whole)
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
	ctx context.Context, o engine.Options, header gguf.File, progress func(rbee.LoadProgress), whole func(llama.Model) bool,
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
	if err := e.adapt(o); err != nil {
		return err
	}
	e.whole = whole(e.model)
	e.apart = liesApart(o, e.whole)
	if err := e.loadDraft(ctx, o, device); err != nil {
		return err
	}
	e.options = o
	if err := e.makeContext(); err != nil {
		return err
	}
	e.batch = llama.BatchInit(batchTokens, 0, 1)
	e.describe(o, header)
	e.queue = o.Queue
	e.cellTime = headTime
	if e.pace.onCPU = o.Backend == rbee.BackendCPU; !e.pace.onCPU {
		e.cellTime = deviceTime
	}
	e.cellTime *= float64(max(1, llama.ModelNHead(e.model))) * float64(max(1, llama.ModelNLayer(e.model)))
	e.pace.threads = o.Threads
	e.pace.policy = threads.NewPolicy(o.Threads, threads.IdleWatch(os.DirFS("/")))
	e.makeSlots(o)
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
	params, keep, err := e.modelParams(o, device)
	if err != nil {
		return err
	}
	id, done := e.lib.follow(report)
	defer done()
	params.ProgressCallback, params.ProgressCallbackUserData = e.lib.progress, id
	e.model, err = llama.ModelLoadFromFile(o.ModelPath, params)
	runtime.KeepAlive(keep)
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

// makeContext makes what computes, and the KV cache.
func (e *Engine) makeContext() error {
	var err error
	params := contextParams(e.options, e.whole)
	if e.context, err = llama.InitFromModel(e.model, params); err != nil {
		return e.lib.explain("make room for the context", e.options.Backend)
	}
	if e.guesser != nil {
		if err := e.guesser.makeContext(e.lib, e.options); err != nil {
			return err
		}
	}
	e.mixes.applied = &e.mixes.plain
	e.outputs, e.threads = int(params.NOutputsMax), e.options.Threads
	e.lib.watchAbort(e.context, e.abort)
	// A model that keeps no memory of what it reads gives vectors only.
	e.memory, _ = llama.GetMemory(e.context)
	if err := e.useAdapters(e.context); err != nil {
		return err
	}
	if e.options.Backend != rbee.BackendCPU {
		// Makes the device's kernels now, not in the first request.
		if err := llama.Warmup(e.context, e.model); err != nil {
			return e.lib.explain("warm up the device", e.options.Backend)
		}
	}
	return nil
}

// freeContext gives back what makeContext took.
func (e *Engine) freeContext() {
	if e.guesser != nil {
		e.guesser.freeContext()
	}
	if e.context != 0 {
		_ = llama.Free(e.context) // fails for a zero handle only
	}
	e.context, e.memory = 0, 0
}

func (e *Engine) describe(o engine.Options, header gguf.File) {
	e.readPooling(header.Architecture)
	embedding := int(llama.ModelNEmbdOut(e.model))
	if e.embeds.pooling == llama.PoolingTypeRank {
		embedding = 0
	}
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
		Embedding:      embedding,
		EmbeddingOnly:  e.memory == 0,
		SizeBytes:      header.SizeBytes,
		Parameters:     llama.ModelNParams(e.model),
		Backend:        o.Backend,
		Device:         o.Device,
		BOS:            e.textOf(llama.VocabBOS(e.vocab)),
		EOS:            e.textOf(llama.VocabEOS(e.vocab)),
		FIM:            e.fim(),
		Adapters:       o.AdapterNames(),
	}
}

// textOf is a token of the vocabulary as it is written there, "" if it has no such token.
func (e *Engine) textOf(t llama.Token) string {
	if t < 0 {
		return ""
	}
	return llama.VocabGetText(e.vocab, t)
}

func (e *Engine) fim() engine.FIM {
	f := engine.FIM{
		Prefix: engine.Token(llama.VocabFIMPre(e.vocab)),
		Suffix: engine.Token(llama.VocabFIMSuf(e.vocab)),
		Middle: engine.Token(llama.VocabFIMMid(e.vocab)),
	}
	if f.OK = min(f.Prefix, f.Suffix, f.Middle) >= 0; !f.OK {
		return engine.FIM{}
	}
	return f
}

// free gives back what load took; it runs on the loop's thread, after the loop.
func (e *Engine) free() {
	e.inUse.Lock()
	defer e.inUse.Unlock()
	e.freed = true
	e.freeEmbeds()
	if e.batch.Token != nil {
		_ = llama.BatchFree(e.batch) // never fails
	}
	e.freeContext()
	for _, a := range e.adapters {
		_ = llama.AdapterLoraFree(a) // fails for a zero handle only
	}
	if e.guesser != nil {
		e.guesser.free()
	}
	if e.model != 0 {
		_ = llama.ModelFree(e.model) // fails for a zero handle only
	}
}
