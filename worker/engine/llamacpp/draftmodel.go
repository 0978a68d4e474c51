package llamacpp

import (
	"cmp"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/internal/gguf"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

const (
	draftWindow = 1024 // tokens of each text that a draft model knows
	draftBegin  = 4    // tokens of the beginning that it always knows: models lean on them
	mostPadding = 128  // by which vocabularies of one family differ in size
	vocabSample = 4096 // tokens that are compared
)

// draftModel guesses what comes next, with a smaller model of the same vocabulary.
// The model checks the guesses in the batch of the last token, and only what its
// own sampler picks is kept, as with prompt lookup, which goes first.
//
// Its context has room for the last part of each slot's text. What a slot's
// sequence in it has is compared with the text before each use: guesses that did
// not come true, and texts of other requests, are cut off then.
type draftModel struct {
	path    string
	model   llama.Model
	context llama.Context
	memory  llama.Memory
	batch   llama.Batch
	logger  *slog.Logger
	broken  bool // it could not compute a batch
	vocab   int  // its tokens
	common  int  // of these, those that the model has, too
	window  int  // tokens of a text
	threads int
	slots   []guessed
	times   stepTimes
	reading float64 // seconds per token of long texts, 0 if unknown
	scale   float64 // how long it takes by the size of the models, until it is known
	token   float64 // seconds that each guess of this step is worth if it comes true
	worth   worth
	plan    func(offer) (guess, trial bool)
}

// guessed is what there is for one slot.
type guessed struct {
	id     [1]llama.SeqId
	held   []engine.Token // what the KV cache has
	text   []engine.Token // what it should have
	sure   []int          // of the guesses for this step, empty if there are none
	seq    *sequence
	limit  int
	chance float64 // that all of the guesses so far come true
	row    int32
}

// loadDraft loads the draft model beside the model.
func (e *Engine) loadDraft(ctx context.Context, o engine.Options, device device) error {
	if o.DraftModel == "" {
		return nil
	}
	if e.whole {
		return rbee.Errorf(rbee.CodeInvalidRequest,
			"cannot use the draft model %s: the memory of %s can't take wrong guesses back", o.DraftModel, o.ModelPath).
			Suggest("leave out --draft-model")
	}
	header, err := gguf.Read(o.DraftModel)
	if err != nil {
		return err
	}
	// It is small: it need not be spread, and its positions are its own.
	o.Split, o.Devices, o.TensorSplit, o.GPULayers = engine.SplitNone, nil, nil, min(0, o.GPULayers)
	o.RoPEScaling, o.RoPEFreqBase, o.RoPEFreqScale = "", 0, 0
	params, keep, err := e.modelParams(o, device)
	if err != nil {
		return err
	}
	id, done := e.lib.follow(func(float32) bool { return ctx.Err() == nil })
	defer done()
	params.ProgressCallback, params.ProgressCallbackUserData = e.lib.progress, id
	d := &draftModel{path: o.DraftModel, logger: o.Logger}
	d.plan = d.worth.plan
	d.model, err = llama.ModelLoadFromFile(o.DraftModel, params)
	runtime.KeepAlive(keep)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return e.lib.explain("load the draft model "+o.DraftModel, device.info.Kind)
	}
	e.guesser = d
	if err := d.fits(e.vocab, o.ModelPath); err != nil {
		return err
	}
	d.window = min(draftWindow, int(llama.ModelNCtxTrain(d.model)), o.Context)
	d.scale = float64(llama.ModelNParams(d.model)) / float64(max(1, llama.ModelNParams(e.model)))
	d.slots = make([]guessed, o.Slots)
	for i := range d.slots {
		d.slots[i].id[0] = llama.SeqId(i)
	}
	d.batch = llama.BatchInit(batchTokens, 0, 1)
	need := header.Estimate(d.cells(), o.Slots, o.Backend)
	memory := need.Host
	if need.Device.Total() > 0 {
		memory = need.Device
	}
	o.Logger.Info("a draft model is loaded", "draft_model", header.Name, "kv_tokens", d.cells(),
		"weights_mb", memory.Weights>>20, "kv_mb", memory.KV>>20, "compute_mb", memory.Compute>>20)
	return nil
}

// fits refuses a draft model whose tokens are not those of the model.
func (d *draftModel) fits(vocab llama.Vocab, model string) error {
	refuse := func(format string, args ...any) error {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the draft model %s for %s: "+format,
			append([]any{d.path, model}, args...)...).Suggest("choose a smaller model of the same family")
	}
	if llama.ModelIsRecurrent(d.model) || llama.ModelIsHybrid(d.model) || !llama.ModelHasDecoder(d.model) ||
		llama.ModelHasEncoder(d.model) || llama.ModelIsDiffusion(d.model) {
		return refuse("it is no model that can take wrong guesses back")
	}
	own := llama.ModelGetVocab(d.model)
	d.vocab = int(llama.VocabNTokens(own))
	size := int(llama.VocabNTokens(vocab))
	d.common = min(d.vocab, size)
	if max(d.vocab, size)-d.common > mostPadding || llama.GetVocabType(own) != llama.GetVocabType(vocab) {
		return refuse("its vocabulary has %d tokens, and that of the model %d", d.vocab, size)
	}
	for t := 0; t < d.common; t += max(1, d.common/vocabSample) {
		mine, theirs := llama.VocabGetText(own, llama.Token(t)), llama.VocabGetText(vocab, llama.Token(t))
		if mine != theirs {
			return refuse("token %d of its vocabulary is %q, and of the model's %q", t, mine, theirs)
		}
	}
	return nil
}

// cells is how many KV cells it has: a window and guesses for each slot.
func (d *draftModel) cells() int { return len(d.slots) * (d.window + maxDraft) }

func (d *draftModel) makeContext(lib *library, o engine.Options) error {
	params := llama.ContextDefaultParams()
	o.RoPEScaling, o.RoPEFreqBase, o.RoPEFreqScale = "", 0, 0
	setCommon(&params, o)
	params.NCtx, params.NSeqMax = uint32(d.cells()), uint32(len(d.slots))
	params.NBatch, params.NUbatch = batchTokens, batchTokens
	params.NOutputsMax = params.NSeqMax
	params.KVUnified = 1
	params.SwaFull = 1 // or wrong guesses could not be taken back
	var err error
	if d.context, err = llama.InitFromModel(d.model, params); err != nil {
		return lib.explain("make room for the draft model "+d.path, o.Backend)
	}
	d.memory, _ = llama.GetMemory(d.context) // zero only for models that fits refuses
	d.threads = o.Threads
	for i := range d.slots {
		d.slots[i].held = d.slots[i].held[:0]
	}
	return nil
}

func (d *draftModel) freeContext() {
	if d.context != 0 {
		_ = llama.Free(d.context) // fails for a zero handle only
	}
	d.context, d.memory = 0, 0
}

func (d *draftModel) free() {
	d.freeContext()
	if d.batch.Token != nil {
		_ = llama.BatchFree(d.batch) // never fails
	}
	_ = llama.ModelFree(d.model) // fails for a zero handle only
}

// view is what the draft should know of a text: all of it, or its beginning and
// the last part. The last part begins where it did for most texts that were a
// little shorter, so that what was read of them still holds.
func (d *draftModel) view(text, into []engine.Token) []engine.Token {
	into = into[:0]
	if over := len(text) - d.window; over > 0 {
		half := d.window / 2
		from := draftBegin + (over+half-1)/half*half
		into = append(into, text[:draftBegin]...)
		text = text[from:]
	}
	into = append(into, text...)
	for i, t := range into {
		if int(t) >= d.vocab {
			into[i] = 0 // padding of the model's vocabulary, which no text has
		}
	}
	return into
}

// guess has the draft model guess for sequences for which nothing else did, beside
// so many rows.
func (e *Engine) guess(among []*sequence, rows int) {
	d := e.guesser
	room := min(e.outputs, e.book.Available()) - rows
	var list []*guessed
	for _, seq := range among {
		if limit := min(e.draftRoom(seq), room/len(among)); limit > 0 {
			list = append(list, d.look(seq, limit))
		}
	}
	if len(list) == 0 || d.broken || e.pace.times.of(rows) == 0 {
		return
	}
	o := e.offer(list, rows)
	d.token = o.token
	guess, trial := d.plan(o)
	if !guess {
		return
	}
	if n := e.pace.threads; n != d.threads {
		d.threads = n
		llama.SetNThreads(d.context, int32(n), int32(n))
	}
	ready := d.read(list, e.pace.decode.Seconds())
	for round := 1; ; round++ {
		ready = d.extend(ready, o, trial, e.ends)
		if len(ready) == 0 || trial && round == trialGuesses || !trial && !d.goesOn(ready, o) || !d.step(ready) {
			break
		}
	}
	total := 0
	for _, g := range list {
		total += len(g.sure)
	}
	d.worth.spend(o.rows(total))
}

// offer says what guesses would cost and give.
func (e *Engine) offer(list []*guessed, rows int) offer {
	d, times := e.guesser, &e.pace.times
	o := offer{streams: len(list), token: times.of(rows) / float64(rows)}
	o.rows = func(n int) float64 { return times.of(rows+n) - times.of(rows) }
	o.step = func(texts int) float64 {
		if known := d.times.of(texts); known > 0 {
			return known
		}
		return times.of(texts) * d.scale
	}
	for _, g := range list {
		o.limit = max(o.limit, g.limit)
		o.left = max(o.left, g.seq.limit-g.seq.made())
		if behind := len(g.text) - len(g.held); behind > usualReading {
			o.reading += d.readTime(e.pace.promptSpeed) * float64(behind)
		}
	}
	return o
}

// readTime is about how long it takes to read a token of a long text, in seconds,
// beside a model that reads so many in a second.
func (d *draftModel) readTime(speed float64) float64 {
	if d.reading == 0 && speed > 0 {
		return d.scale / speed
	}
	return d.reading
}

// usualReading is how many tokens of a text are new to the draft at most if it was
// asked in the step before and all of its guesses came true.
const usualReading = 2

// forget forgets the guesses of the step before.
func (d *draftModel) forget() {
	for i := range d.slots {
		d.slots[i].sure = d.slots[i].sure[:0]
	}
}

// learn hears how many of the guesses for a slot came true; false if there were none.
func (d *draftModel) learn(slot, accepted int) bool {
	sure := d.slots[slot].sure
	if len(sure) == 0 {
		return false
	}
	d.worth.learn(sure, accepted, d.token)
	return true
}

// look says what is wanted for a sequence, and cuts off what the draft has of
// other texts.
func (d *draftModel) look(seq *sequence, limit int) *guessed {
	g := &d.slots[seq.slot]
	g.seq, g.limit, g.chance = seq, limit, 1
	g.text = d.view(seq.tokens, g.text)
	// The last token is always computed, for its logits.
	if n := slots.Common(g.held, g.text[:len(g.text)-1]); n < len(g.held) {
		g.held = g.held[:n]
		_, _ = llama.MemorySeqRm(d.memory, g.id[0], llama.Pos(n), -1) // fails for a zero handle only
	}
	return g
}

// read computes what the draft has not read yet of the texts, the least first, and
// returns those that it has read. Much is read in several steps, so that it takes
// about as long as the step that it delays.
func (d *draftModel) read(list []*guessed, seconds float64) (ready []*guessed) {
	room := batchTokens
	if d.reading > 0 {
		room = min(room, max(minPromptShare, int(seconds/d.reading)))
	}
	slices.SortStableFunc(list, func(a, b *guessed) int {
		return cmp.Compare(len(a.text)-len(a.held), len(b.text)-len(b.held))
	})
	_ = d.batch.Clear() // never fails
	for _, g := range list {
		behind := len(g.text) - len(g.held)
		n := min(behind, max(room-int(d.batch.NTokens), 0))
		for i := range n {
			d.add(g, g.text[len(g.held)], i == behind-1)
		}
		if n == behind {
			ready = append(ready, g)
		}
	}
	if !d.compute() {
		return nil
	}
	return ready
}

// step computes the last guesses, for the next ones.
func (d *draftModel) step(ready []*guessed) bool {
	_ = d.batch.Clear() // never fails
	for _, g := range ready {
		d.add(g, g.seq.draft[len(g.seq.draft)-1], true)
	}
	return d.compute()
}

func (d *draftModel) add(g *guessed, t engine.Token, logits bool) {
	if logits {
		g.row = d.batch.NTokens
	}
	// It fails for a full batch only, and there are no more slots than it has room for.
	_ = d.batch.Add(llama.Token(t), llama.Pos(len(g.held)), g.id[:], logits)
	g.held = append(g.held, t)
}

// compute runs the batch and notes how long it took. A draft model that fails once
// is not asked again.
func (d *draftModel) compute() bool {
	rows := int(d.batch.NTokens)
	began := time.Now()
	if code, err := llama.Decode(d.context, d.batch); code != 0 || err != nil {
		d.broken = true
		d.logger.Warn("the draft model is not asked any more: llama.cpp could not compute its batch", "code", code)
		return false
	}
	_ = llama.Synchronize(d.context) // fails for a zero handle only
	seconds := time.Since(began).Seconds()
	if rows <= mostRows {
		if known := d.times.of(rows); known > 0 {
			seconds = min(seconds, 2*known) // it stood still
		}
		d.times.learn(rows, seconds)
	} else {
		each := seconds / float64(rows)
		if d.reading == 0 {
			d.reading = each
		}
		d.reading += (each - d.reading) / 4
	}
	d.worth.spend(seconds)
	return true
}

// extend adds the likeliest token to the guesses for each text, unless it is too
// unlikely to come true, and returns those for which to guess on.
func (d *draftModel) extend(ready []*guessed, o offer, trial bool, ends []bool) (more []*guessed) {
	for _, g := range ready {
		logits, err := llama.GetLogitsIth(d.context, g.row, d.vocab)
		if err != nil || logits == nil {
			continue
		}
		token, sure := surest(logits[:d.common])
		g.chance *= d.worth.rates[sure]
		if !trial && !d.worth.keeps(o, g.chance) {
			continue
		}
		g.seq.draft = append(g.seq.draft, engine.Token(token))
		if g.sure = append(g.sure, sure); len(g.sure) < g.limit && !ends[token] {
			more = append(more, g)
		}
	}
	return more
}

func (d *draftModel) goesOn(ready []*guessed, o offer) bool {
	chances := make([]float64, 0, len(ready))
	for _, g := range ready {
		chances = append(chances, g.chance)
	}
	return d.worth.goesOn(o, chances)
}
