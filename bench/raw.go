package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// rawEngine is the yardstick: the engine's library with nothing around it, one
// sequence, the model and the context set up as a worker sets them up.
type rawEngine struct {
	model llama.Model
	ctx   llama.Context
	vocab llama.Vocab
	batch llama.Batch
}

// batchTokens is how many tokens are computed at once, as in a worker.
const batchTokens = 512

// maxDraft is how many rows of logits a worker's context has for drafts (params.go
// of worker/engine/llamacpp). It decides what llama.cpp reserves, and so how fast it
// is: a context without them would be another yardstick. As in a worker with room for
// it each sequence has KV cells of its own, with which the raw engine is faster, too.
const maxDraft = 16

// loadRaw loads a model and blocks until it could decode.
func loadRaw(libDir, path string, slots, kvTokens, threads int) (*rawEngine, error) {
	if err := llama.Load(libDir); err != nil {
		return nil, fmt.Errorf("cannot load the engine from %s: %w", libDir, err)
	}
	llama.LogSet(llama.LogSilent())
	llama.Init()
	mp := llama.ModelDefaultParams()
	mp.NGpuLayers = 0
	model, err := llama.ModelLoadFromFile(path, mp)
	if err != nil {
		return nil, fmt.Errorf("cannot load %s: %w", path, err)
	}
	cp := llama.ContextDefaultParams()
	cp.NCtx, cp.KVUnified, cp.NSeqMax, cp.NoPerf = uint32(kvTokens), 0, uint32(slots), 1
	cp.NOutputsMax = uint32(slots + maxDraft)
	cp.NBatch, cp.NUbatch = batchTokens, batchTokens
	cp.NThreads, cp.NThreadsBatch = int32(threads), int32(threads)
	ctx, err := llama.InitFromModel(model, cp)
	if err != nil {
		return nil, fmt.Errorf("cannot make a context for %s: %w", path, err)
	}
	return &rawEngine{model: model, ctx: ctx, vocab: llama.ModelGetVocab(model), batch: llama.BatchInit(batchTokens, 0, 1)}, nil
}

func (e *rawEngine) close() error {
	if err := llama.BatchFree(e.batch); err != nil {
		return err
	}
	if err := llama.Free(e.ctx); err != nil {
		return err
	}
	return llama.ModelFree(e.model)
}

// run decodes greedily and says how long the prompt took, up to the first
// token, and the n-1 tokens after it.
func (e *rawEngine) run(prompt string, n int) (prefill, decode time.Duration, err error) {
	if err := e.clear(); err != nil {
		return 0, 0, err
	}
	vocab := int(llama.VocabNTokens(e.vocab))
	tokens := llama.Tokenize(e.vocab, prompt, true, true)
	start := time.Now()
	var first time.Time
	var pos llama.Pos
	for i := range n {
		if err := e.batch.Clear(); err != nil {
			return 0, 0, err
		}
		for j, t := range tokens {
			if err := e.batch.Add(t, pos, []llama.SeqId{0}, j == len(tokens)-1); err != nil {
				return 0, 0, err
			}
			pos++
		}
		if rc, err := llama.Decode(e.ctx, e.batch); err != nil || rc != 0 {
			return 0, 0, fmt.Errorf("cannot decode: %d, %w", rc, err)
		}
		logits, err := llama.GetLogitsIth(e.ctx, -1, vocab)
		if err != nil {
			return 0, 0, err
		}
		logits[llama.VocabEOS(e.vocab)] = -1e30 // as ignore_eos does
		tokens = append(tokens[:0], llama.Token(slices.Index(logits, slices.Max(logits))))
		if i == 0 {
			first = time.Now()
		}
	}
	return first.Sub(start), time.Since(first), nil
}

func (e *rawEngine) clear() error {
	mem, err := llama.GetMemory(e.ctx)
	if err != nil {
		return err
	}
	return llama.MemoryClear(mem, true)
}

// runMany says how long it takes to compute so many prompts in full batches,
// which gives each its first token, and the other tokens of all answers in
// steps of one token each. Nothing is sampled: the tokens are any.
func (e *rawEngine) runMany(sequences, prompt, tokens int) (prefill, decode time.Duration, err error) {
	if err := e.clear(); err != nil {
		return 0, 0, err
	}
	if err := e.batch.Clear(); err != nil {
		return 0, 0, err
	}
	vocab := int(llama.VocabNTokens(e.vocab))
	add := func(pos, seq int, logits bool) error {
		t := llama.Token(1000 + (pos*31+seq*977)%(vocab-1000))
		if err := e.batch.Add(t, llama.Pos(pos), []llama.SeqId{llama.SeqId(seq)}, logits); err != nil || int(e.batch.NTokens) < batchTokens {
			return err
		}
		return e.compute()
	}
	start := time.Now()
	for seq := range sequences {
		for pos := range prompt {
			if err := add(pos, seq, pos == prompt-1); err != nil {
				return 0, 0, err
			}
		}
	}
	if err := e.compute(); err != nil {
		return 0, 0, err
	}
	first := time.Now()
	for pos := prompt; pos < prompt+tokens-1; pos++ {
		for seq := range sequences {
			if err := add(pos, seq, true); err != nil {
				return 0, 0, err
			}
		}
		if err := e.compute(); err != nil {
			return 0, 0, err
		}
	}
	return first.Sub(start), time.Since(first), nil
}

// compute runs the batch, if there is anything in it, and empties it.
func (e *rawEngine) compute() error {
	if e.batch.NTokens == 0 {
		return nil
	}
	if rc, err := llama.Decode(e.ctx, e.batch); err != nil || rc != 0 {
		return fmt.Errorf("cannot decode: %d, %v", rc, err)
	}
	if err := llama.Synchronize(e.ctx); err != nil {
		return err
	}
	return e.batch.Clear()
}
