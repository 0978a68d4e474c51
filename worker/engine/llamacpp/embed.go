package llamacpp

import (
	"context"
	"math"
	"math/bits"
	"strconv"
	"sync/atomic"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
)

// embedSequences is how many short inputs are computed in one batch.
const embedSequences = 16

// embedJob is one call of Embed. But for quit it belongs to the loop.
type embedJob struct {
	inputs [][]engine.Token
	out    [][]float32
	err    error
	quit   atomic.Bool   // nobody waits any more
	done   chan struct{} // closed by the loop
	fed    int           // tokens of the input that is being computed
	sum    []float64     // of their vectors
}

// embeds is what the loop needs for vectors. Generation has logits and vectors
// don't, so they have a context of their own, made when first needed.
type embeds struct {
	waiting []*embedJob // guarded by the engine's mutex
	pooling llama.PoolingType
	causal  bool // tokens see only what is before them
	context llama.Context
	batch   llama.Batch
	size    int // tokens that the context has room for
}

// Embed implements engine.Engine.
func (e *Engine) Embed(ctx context.Context, inputs [][]engine.Token) ([][]float32, error) {
	if e.ending.Load() {
		return nil, engine.ErrClosed()
	}
	if err := engine.CheckInputs(inputs, e.info); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	job := &embedJob{inputs: inputs, done: make(chan struct{})}
	e.mu.Lock()
	switch {
	case e.line.closed:
		e.mu.Unlock()
		return nil, engine.ErrClosed()
	case len(e.embeds.waiting) >= e.info.Slots+e.queue:
		err := engine.ErrBusy(e.info.Slots, min(e.line.inside, e.info.Slots), e.wait())
		e.mu.Unlock()
		return nil, err
	}
	e.embeds.waiting = append(e.embeds.waiting, job)
	e.mu.Unlock()
	e.nudge()
	select {
	case <-job.done:
	case <-ctx.Done():
		job.quit.Store(true)
		e.nudge()
		<-job.done
		return nil, ctx.Err()
	}
	return job.out, job.err
}

// readPooling says how a model makes one vector of those of its tokens; the
// mean if it does not say.
func (e *Engine) readPooling(architecture string) {
	e.embeds.pooling = llama.PoolingTypeMean
	if text, ok := llama.ModelMetaValStr(e.model, architecture+".pooling_type"); ok {
		if n, err := strconv.Atoi(text); err == nil && n > 0 {
			e.embeds.pooling = llama.PoolingType(n)
		}
	}
	text, ok := llama.ModelMetaValStr(e.model, architecture+".attention.causal")
	e.embeds.causal = e.memory != 0 && (!ok || text != "false")
}

// embed computes one batch of vectors, if somebody waits for some.
func (e *Engine) embed() bool {
	e.mu.Lock()
	var job *embedJob
	if len(e.embeds.waiting) > 0 {
		job = e.embeds.waiting[0]
	}
	e.mu.Unlock()
	if job == nil {
		return false
	}
	if !job.quit.Load() {
		job.err = e.embedStep(job)
	}
	if job.err != nil || job.quit.Load() || len(job.out) == len(job.inputs) {
		if job.fed > 0 {
			e.clearEmbeds()
		}
		e.mu.Lock()
		e.embeds.waiting = e.embeds.waiting[1:]
		e.mu.Unlock()
		e.publish()
		close(job.done)
	}
	return true
}

func (e *Engine) endEmbeds() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, job := range e.embeds.waiting {
		job.err = engine.ErrClosed()
		close(job.done)
	}
	e.embeds.waiting = nil
}

func (e *Engine) clearEmbeds() {
	if m, err := llama.GetMemory(e.embeds.context); err == nil && m != 0 {
		_ = llama.MemoryClear(m, false) // fails for a zero handle only
	}
}

// run is a part of an input in a batch.
type run struct{ input, from, to, row int }

// embedStep computes as many short inputs as fit into a batch, or the next piece of a long one.
func (e *Engine) embedStep(job *embedJob) error {
	at := len(job.out)
	if err := e.embedContext(len(job.inputs[at])); err != nil {
		return err
	}
	room := batchTokens
	if !e.embeds.causal {
		room = e.embeds.size // all tokens of an input see each other
	}
	var runs []run
	rows := 0
	_ = e.embeds.batch.Clear() // never fails
	for i := at; i < len(job.inputs) && len(runs) < embedSequences; i++ {
		r := run{input: i, from: 0, to: len(job.inputs[i]), row: rows}
		if i == at {
			r.from = job.fed
			r.to = min(r.to, r.from+room)
		}
		if rows+r.to-r.from > room || i > at && r.to > e.embeds.size-rows {
			break
		}
		for p := r.from; p < r.to; p++ {
			// It fails for a full batch only.
			_ = e.embeds.batch.Add(llama.Token(job.inputs[i][p]), llama.Pos(p), []llama.SeqId{llama.SeqId(i - at)}, true)
		}
		rows += r.to - r.from
		if runs = append(runs, r); r.to < len(job.inputs[i]) || r.from > 0 {
			break // a long input has batches of its own
		}
	}
	llama.SetNThreads(e.embeds.context, int32(e.pace.threads), int32(e.pace.threads))
	if code, err := llama.Decode(e.embeds.context, e.embeds.batch); err != nil || code != 0 {
		return rbee.Errorf(rbee.CodeInternalError, "cannot embed: llama.cpp could not compute the batch (code %d)", code)
	}
	e.count.EmbeddedTokens += uint64(rows)
	for _, r := range runs {
		if err := e.pool(job, r); err != nil {
			return err
		}
	}
	if job.fed == 0 {
		e.clearEmbeds()
	}
	return nil
}

// pool adds the vectors of a run's tokens to those of its input, and gives the
// input its vector after the last one.
func (e *Engine) pool(job *embedJob, r run) error {
	n := e.info.Embedding
	if r.from == 0 {
		job.sum = make([]float64, n)
	}
	length := len(job.inputs[r.input])
	for p := r.from; p < r.to; p++ {
		if e.embeds.pooling == llama.PoolingTypeCLS && p > 0 || e.embeds.pooling == llama.PoolingTypeLast && p < length-1 {
			continue
		}
		v, err := llama.GetEmbeddingsIth(e.embeds.context, int32(r.row+p-r.from), int32(n))
		if err != nil || v == nil {
			return rbee.Errorf(rbee.CodeBackendUnavailable, "cannot embed: the model %s gives no vectors", e.info.Name).
				Suggest("choose an embedding model")
		}
		for i, x := range v {
			job.sum[i] += float64(x)
		}
	}
	if job.fed = r.to; r.to < length {
		return nil
	}
	job.fed = 0
	norm := 0.0
	for _, x := range job.sum {
		norm += x * x
	}
	if norm = math.Sqrt(norm); norm == 0 || math.IsNaN(norm) || math.IsInf(norm, 0) {
		return rbee.Errorf(rbee.CodeInternalError, "cannot embed: the model gave no usable vector").
			Suggest("copy the file again, or choose another model")
	}
	out := make([]float32, n)
	for i, x := range job.sum {
		out[i] = float32(x / norm)
	}
	job.out = append(job.out, out)
	return nil
}

// embedContext makes the context of vectors, or a larger one.
func (e *Engine) embedContext(tokens int) error {
	size := min(max(batchTokens, 1<<bits.Len(uint(tokens-1))), max(batchTokens, e.info.Context))
	if size <= e.embeds.size {
		return nil
	}
	e.freeEmbeds()
	params := llama.ContextDefaultParams()
	setCommon(&params, e.options)
	params.NCtx, params.NSeqMax = uint32(size), embedSequences
	params.KVUnified, params.Embeddings = 1, 1
	params.PoolingType = llama.PoolingTypeNone // ours works over batches
	params.NBatch, params.NUbatch = batchTokens, batchTokens
	if !e.embeds.causal {
		params.NBatch, params.NUbatch = params.NCtx, params.NCtx
	}
	var err error
	if e.embeds.context, err = llama.InitFromModel(e.model, params); err != nil {
		return e.lib.explain("make room for an input of "+strconv.Itoa(tokens)+" tokens", e.info.Backend)
	}
	e.embeds.batch = llama.BatchInit(int32(params.NBatch), 0, 1)
	e.embeds.size = size
	return e.useAdapters(e.embeds.context)
}

func (e *Engine) freeEmbeds() {
	if e.embeds.batch.Token != nil {
		_ = llama.BatchFree(e.embeds.batch) // never fails
	}
	if e.embeds.context != 0 {
		_ = llama.Free(e.embeds.context) // fails for a zero handle only
	}
	e.embeds.batch, e.embeds.context, e.embeds.size = llama.Batch{}, 0, 0
}
