package llamacpp

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee"
	"rbee/worker/engine"
	"rbee/worker/engine/slots"
)

// maxDraft is the most tokens that are proposed for one sequence, and the most
// in one step.
const maxDraft = 16

func (e *Engine) makeSlots(o engine.Options) {
	for s := o.Slots - 1; s >= 0; s-- {
		e.spareSlots = append(e.spareSlots, s)
	}
	e.doing = make([]engine.SlotInfo, o.Slots)
	e.turns = o.Backend == rbee.BackendCPU
	e.noReuse, e.alone = o.NoPrefixCache, o.Reproducible
	e.maxDraft = min(o.DraftTokens, maxDraft)
	if e.whole {
		e.maxDraft = 0 // wrong guesses could not be taken back
	}
	e.makeBook(o)
	e.pieces = make([][]byte, e.info.Vocab)
	e.ends = make([]bool, e.info.Vocab)
	for t := range e.info.Vocab {
		if llama.VocabIsEOG(e.vocab, llama.Token(t)) {
			e.ends[t] = true
			e.enders = append(e.enders, engine.Token(t))
		}
	}
	e.parallelFrom = manyLogits
	for _, t := range llama.VocabGetSuppressTokens(e.vocab) {
		if e.inVocabulary(engine.Token(t)) {
			e.masked = append(e.masked, engine.Token(t))
		}
	}
	e.publish()
}

// makeBook says how sequences lie in the KV cache.
func (e *Engine) makeBook(o engine.Options) {
	n := sequences(o, e.whole)
	packed := max(0, o.PrefixMemory)
	if e.whole || e.noReuse {
		packed = 0
	}
	if e.apart {
		e.keepsAll = true // it is in nobody's way
		each := e.info.KVTokens / n
		cells := &apart{Engine: e, each: each, limit: max(packed, leastState)}
		e.cells, e.book = cells, slots.NewBookApart(n, each, cells, packed)
		return
	}
	e.keepsAll = packed == 0
	if !e.whole && !e.alone {
		n--
		e.scratch = llama.SeqId(n)
		e.pads = e.turns
	}
	e.cells = unified{e}
	e.book = slots.NewBook(n, e.info.KVTokens, e.cells, e.whole || e.noReuse, packed)
}

// forgetCells empties the KV cache and forgets where the next cell was to be.
func (e *Engine) forgetCells() { _ = llama.MemoryClear(e.memory, false) } // fails for a zero handle only

// run is the loop. It returns after Close, when no sequence is left.
func (e *Engine) run() {
	for e.gather() {
		embedded := e.embed()
		switch {
		case e.fill() > 0:
			e.compute()
		case !embedded:
			e.cells.idle()
			<-e.wake
		}
	}
	for _, seq := range append(slices.Clone(e.active), e.takeLine()...) {
		e.end(seq, rbee.StopShutdown, nil)
	}
	e.endEmbeds()
	e.endRests()
}

// gather lets go of sequences whose reader left and takes up new ones. It
// returns false once the engine is closed.
func (e *Engine) gather() bool {
	for i := len(e.active) - 1; i >= 0; i-- { // end takes it off the list
		if seq := e.active[i]; seq.quit.Load() {
			e.end(seq, rbee.StopCanceled, nil)
		}
	}
	if e.ending.Load() {
		return false
	}
	for _, seq := range e.takeQuitters() {
		e.end(seq, rbee.StopCanceled, nil)
	}
	e.settle()
	if !e.resting { // else one came in just now, and the next round wakes up for it
		e.admit()
	}
	if len(e.active) > 1 { // for one alone place did it
		e.book.Tidy(e.keepable())
	}
	return true
}

// fill makes the batch of the next step and returns how many tokens it has.
func (e *Engine) fill() int {
	_ = e.batch.Clear() // never fails
	e.computed, e.padding = e.computed[:0], 0
	if e.alone {
		return e.fillAlone()
	}
	var filling []*sequence
	for _, seq := range e.active {
		e.follow(seq)
	}
	e.takeTurns()
	for _, seq := range e.active {
		if seq.fills() && !seq.decoding() {
			filling = append(filling, seq)
		}
	}
	rows := e.makeRoom()
	switch {
	case rows+len(filling) > 0:
	case e.othersWait():
		return e.fill() // makeRoom put back those whose turn it was
	default:
		return 0
	}
	streams, prompts := rows > 0, len(filling) > 0
	if !streams {
		e.pace.owed = 0
	}
	if streams && prompts && e.turns {
		streams = !e.pace.promptsTurn(e.underway(), short(filling))
		prompts = !streams
		if e.pace.owed > 0 { // the turn was the long ones'
			filling = slices.DeleteFunc(filling, func(seq *sequence) bool { return !seq.short })
		}
	}
	if prompts && !streams {
		e.fillPrompts(filling, rows+e.waitingStreams())
		streams = e.batch.NTokens == 0 // there are no cells for prompts
		prompts = !streams
	}
	if streams {
		e.propose(rows, !prompts)
		e.cells.rows(e.ready())
		if prompts {
			e.fillPrompts(filling, rows)
		}
	}
	// What is available may be taken by what is only kept.
	e.book.Room(int(e.batch.NTokens))
	if e.batch.NTokens == 0 && len(filling) > 0 && len(e.active) > 1 {
		// Readers that are behind hold the KV cells that others wait for.
		if !e.passTurn() {
			e.putBack(e.youngest())
		}
		return e.fill()
	}
	return int(e.batch.NTokens)
}

// fillAlone makes a batch of one sequence, the next one in turn, so that nothing
// of what it computes depends on others.
func (e *Engine) fillAlone() int {
	for range e.active {
		seq := e.active[0]
		e.active = append(e.active[1:], seq)
		switch {
		case seq.decoding() && !seq.blocked():
			e.addDecode(seq)
			return 1
		case seq.rest() > 1:
			e.fillPrompts([]*sequence{seq}, 0)
			return int(e.batch.NTokens)
		}
	}
	return 0
}

func (e *Engine) youngest() *sequence {
	return slices.MaxFunc(e.active, func(a, b *sequence) int { return cmp.Compare(a.number, b.number) })
}

// makeRoom sees to it that each sequence that decodes has a KV cell for its
// token, if it must by putting back the youngest, and returns how many do.
func (e *Engine) makeRoom() int {
	for {
		rows := len(e.ready())
		if e.book.Room(rows) || len(e.active) < 2 {
			return rows
		}
		e.putBack(e.youngest())
	}
}

// ready lists the sequences that decode.
func (e *Engine) ready() (list []*sequence) {
	for _, seq := range e.active {
		if seq.decoding() && !seq.blocked() {
			list = append(list, seq)
		}
	}
	return list
}

// underway is how many sequences that decode have more than their first token.
func (e *Engine) underway() (n int) {
	for _, seq := range e.ready() {
		if seq.made() > 1 {
			n++
		}
	}
	return n
}

// addDecode puts a sequence's last token into the batch, and what may follow it.
func (e *Engine) addDecode(seq *sequence) {
	seq.row = e.batch.NTokens
	seq.held.Steady = true
	e.add(seq.tokens[seq.fed], seq.fed, seq, true)
	seq.fed++
	e.computed = append(e.computed, seq)
	for i, t := range seq.draft {
		e.add(t, seq.fed+i, seq, true)
	}
}

// short is how many of those whose prompts are to be computed are soon done.
func short(filling []*sequence) (n int) {
	for _, seq := range filling {
		if seq.short {
			n++
		}
	}
	return n
}

// fillPrompts gives the room that is left to prompts. The shortest comes first,
// so that a short one need not wait for a long one, but one time in four
// the oldest does, so that a long one gets done beside any number of short ones.
// So many streams are in the step already, or wait for theirs.
func (e *Engine) fillPrompts(filling []*sequence, streams int) {
	room := batchTokens - int(e.batch.NTokens)
	cells := e.book.Available() - max(streams, int(e.batch.NTokens))
	long, all := room, room
	if streams > 0 {
		if long, all = e.pace.share(e.turns); e.pace.mixed >= mostMixed {
			long, all = 0, 0
		}
	}
	begin, taken := int(e.batch.NTokens), 0
	var pieces []piece
	e.pace.shares++
	slices.SortStableFunc(filling, func(a, b *sequence) int {
		if e.pace.shares%4 == 0 {
			return cmp.Compare(a.number, b.number)
		}
		return cmp.Compare(a.rest(), b.rest())
	})
	for _, seq := range filling {
		limit := long
		if seq.short {
			limit = all
			e.pace.shortHad = true
		}
		if taken == 0 && seq.short && seq.rest() <= limit+limit/2 {
			limit = seq.rest() // rather than leave a little
		}
		n := min(room-taken, limit-taken, seq.rest(), cells-taken)
		if seq.held == nil || n < 1 {
			continue // put back, or no room in this step
		}
		if over := (begin + taken + n) % rowBlock; n < seq.rest() && n > over {
			n -= over
		}
		pieces = append(pieces, piece{seq, n})
		taken += n
	}
	e.cells.prompts(pieces)
}

// addPiece puts some of a prompt into the batch.
func (e *Engine) addPiece(p piece) {
	seq := p.seq
	seq.row = -1
	seq.draft = seq.draft[:0]
	for range p.n {
		wanted := seq.rest() == 1
		if wanted {
			seq.row = e.batch.NTokens
		}
		e.add(seq.tokens[seq.fed], seq.fed, seq, wanted)
		seq.fed++
	}
	e.computed = append(e.computed, seq)
}

func (e *Engine) add(t engine.Token, position int, seq *sequence, logits bool) {
	// It fails for a full batch only, and fill counts.
	_ = e.batch.Add(llama.Token(t), llama.Pos(position), seq.ids[:], logits)
}

// compute runs the batch and hands out the tokens that come of it.
func (e *Engine) compute() {
	step := step{tokens: int(e.batch.NTokens), short: true}
	for _, seq := range e.computed {
		if seq.made() == 0 && seq.fed > shortPrompt {
			step.short = false
		}
		if seq.made() > 0 && seq.row >= 0 {
			step.rows += 1 + len(seq.draft)
		}
	}
	if step.rows > 0 {
		step.rows += e.padding
	} else {
		step.tokens -= e.padding
	}
	prompt := step.tokens - step.rows
	e.useThreads()
	if prompt >= minPromptShare || e.pace.last >= watchFrom {
		e.watch(e.computed)
	}

	e.pace.start()
	code, err := e.decode()
	e.watch(nil)
	e.cells.unpad()
	if err != nil || code != 0 {
		e.giveUp(code)
		return
	}
	for _, seq := range e.computed {
		// In its array the draft is behind the tokens, and in nobody's way there.
		e.book.Grow(seq.held, append(seq.tokens[:seq.fed], seq.draft...))
	}
	e.pace.computed()
	e.sample()
	step.time = e.pace.stop(step)
	e.count.Steps++
	e.count.PromptTokens += uint64(prompt)
	e.count.BatchTokens += uint64(step.tokens)
	e.count.StepTime += step.time
	e.count.ComputeTime += e.pace.batch.Time
	e.count.LastStep = step.time
	for _, seq := range e.computed {
		if seq.row >= 0 {
			e.judge(seq)
			e.hand(seq)
		}
	}
	e.publish()
}

// judge takes the guesses that did not come true out of the KV cache again.
func (e *Engine) judge(seq *sequence) {
	n := len(seq.draft)
	if n == 0 {
		return
	}
	// Each guess that was picked made the row after it count.
	accepted := max(0, len(seq.picked)-1)
	if p := seq.picked[accepted]; accepted < n && p.token == seq.draft[accepted] {
		accepted++ // the end of the answer was guessed, too
	}
	e.learnDraft(seq, accepted)
	seq.fed += accepted
	e.book.Cut(seq.held, seq.fed)
}

// watch says who is in the batch that is about to be computed, nil if it is to be
// computed in any case.
func (e *Engine) watch(batch []*sequence) {
	e.mu.Lock()
	e.watched = batch
	e.mu.Unlock()
	e.reconsider()
}

// reconsider has llama.cpp give up the batch that it computes if nobody wants it.
func (e *Engine) reconsider() {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := uint64(0)
	if e.watched != nil && e.abandoned(e.watched) {
		text = 1 | 1<<56 // one character, in either order of bytes
	}
	atomic.StoreUint64(e.abort, text)
}

// abandoned says whether nobody wants a batch: the engine closes, or the readers of
// all its sequences left. As long as one is wanted the batch goes on, or that one
// would have to begin anew.
func (e *Engine) abandoned(batch []*sequence) bool {
	return e.ending.Load() || !slices.ContainsFunc(batch, func(seq *sequence) bool { return !seq.quit.Load() })
}

// giveUp ends all sequences of a batch that was not computed: what of them is
// in the KV cache is not known. Those not in it go on.
func (e *Engine) giveUp(code int32) {
	const noCells, aborted = 1, 2
	if code == noCells && len(e.active) > 1 {
		// The KV cache has less room than it has cells: what it has is as before.
		for _, seq := range slices.Clone(e.computed) {
			seq.fed = seq.held.Len()
		}
		e.book.Clear()
		e.putBack(e.youngest())
		return
	}
	for _, seq := range slices.Clone(e.computed) {
		seq.lost = true
		if code == aborted && e.abandoned(e.computed) {
			reason := rbee.StopCanceled
			if e.ending.Load() {
				reason = rbee.StopShutdown
			}
			e.end(seq, reason, nil)
			continue
		}
		e.end(seq, "", rbee.Errorf(rbee.CodeInternalError,
			"cannot generate: llama.cpp could not compute the batch (code %d)", code).
			Suggest("try again; if it happens again, start a worker with a smaller --context"))
	}
}
