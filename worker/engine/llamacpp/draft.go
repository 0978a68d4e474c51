package llamacpp

import "rbee/worker/engine"

// Speculation without a second model: texts repeat themselves, and answers
// repeat their prompts. What followed the last tokens when they last occurred
// is computed in the same batch as the last token, and kept as far as it is
// what the sampler picks anyway. The answer is the same; a right guess saves a
// step, a wrong one costs the time of a row.

const (
	minMatch     = 3 // tokens that must have occurred before
	maxMatch     = 8
	firstDraft   = 3
	trialBudget  = 1.2  // steps that a request may lose before anything came true
	tokenBudget  = 0.01 // of a step that each token adds to what may be lost
	budgetAtMost = 8.0
	mostLapse    = 2 // steps in which to go on where the last match left off
)

// propose drafts what may come after the last tokens of the sequences that decode,
// beside their rows: if nothing else is in the step, which would be longer for it.
func (e *Engine) propose(rows int, alone bool) {
	for _, seq := range e.active {
		seq.draft = seq.draft[:0]
	}
	if e.guesser != nil {
		e.guesser.forget()
	}
	if !alone || e.maxDraft <= 0 {
		return
	}
	var none []*sequence // for which lookup finds nothing
	for _, seq := range e.active {
		if !seq.decoding() || seq.blocked() {
			continue
		}
		limit := min(e.draftRoom(seq), e.outputs-rows, e.book.Available()-rows)
		if limit < 1 {
			continue
		}
		seq.draft = seq.drafter.propose(seq.tokens, rows, limit, e.pace.times.price, seq.draft)
		if rows += len(seq.draft); len(seq.draft) == 0 {
			none = append(none, seq)
		}
	}
	if e.guesser != nil && len(none) > 0 {
		e.guess(none, rows)
	}
}

// draftRoom is how many tokens more than the next one a sequence can take.
func (e *Engine) draftRoom(seq *sequence) int {
	return min(e.maxDraft, seq.limit-seq.made()-1, cap(seq.out)-len(seq.out)-1)
}

// learnDraft hears how many of a sequence's drafts came true.
func (e *Engine) learnDraft(seq *sequence, accepted int) {
	n := len(seq.draft)
	if e.guesser != nil && e.guesser.learn(seq.slot, accepted) {
		e.count.ModelDrafts += uint64(n)
		e.count.ModelAccepted += uint64(accepted)
	} else {
		seq.drafter.learn(n, accepted)
	}
	seq.result.DraftTokens += n
	seq.result.AcceptedTokens += accepted
	e.count.DraftTokens += uint64(n)
	e.count.AcceptedTokens += uint64(accepted)
}

// drafter decides how much to guess for one request. Its budget is in decode
// steps: a token that came true is a step saved, a row costs a part of one. A
// request thus never loses more than a fixed part of its time.
type drafter struct {
	size   int
	budget float64
	begun  bool
	source int // where in the text the last draft came from, less the length of the text then
	lapse  int // steps since the text last was where it was expected
	cost   float64
}

// propose gives tokens that may follow the text, in the memory of into, up to limit.
// Beside the rows of the step that there are, more of them cost what price says.
func (d *drafter) propose(text []engine.Token, rows, limit int, price func(rows, more int) float64, into []engine.Token) []engine.Token {
	if !d.begun {
		d.begun, d.size, d.budget, d.lapse = true, firstDraft, trialBudget, mostLapse
	}
	d.budget = min(d.budget+tokenBudget, budgetAtMost)
	n := aligned(rows, min(d.size, limit), limit)
	for n > 0 && price(rows, n) > d.budget {
		n -= rowBlock
	}
	if n < 1 {
		return into[:0]
	}
	at := lookup(text)
	switch {
	case at >= 0:
		d.source, d.lapse = at-len(text), 0
	case d.lapse < mostLapse:
		// One word was replaced, perhaps, and what follows it is the same again.
		d.lapse++
		at = d.source + len(text)
	default:
		return into[:0]
	}
	d.cost = price(rows, n)
	into = into[:0]
	for i := at; i < at+n; i++ {
		if i < len(text) {
			into = append(into, text[i])
		} else {
			into = append(into, into[i-len(text)]) // a text that repeats itself goes on so
		}
	}
	return into
}

// rowBlock is how many rows CPUs multiply at once: four take little longer than
// two, and less long than three.
const rowBlock = 4

// aligned is about n, but so many that all rows are whole blocks, if there is room for that.
func aligned(rows, n, limit int) int {
	if n < 1 {
		return 0
	}
	over := (rows + n) % rowBlock
	switch {
	case over == 0:
		return n
	case n > over:
		return n - over
	case n+rowBlock-over <= limit:
		return n + rowBlock - over
	}
	return n
}

// learn hears how many of the proposed tokens came true.
func (d *drafter) learn(proposed, accepted int) {
	d.budget = min(d.budget+float64(accepted)-d.cost, budgetAtMost)
	if accepted == 0 && d.lapse == 0 {
		d.lapse = mostLapse // it was no match to go on from
	}
	d.size = max(firstDraft, accepted+1)
	if accepted == proposed {
		d.size = min(2*proposed+1, maxDraft)
	}
}

// lookup finds where the longest run of tokens that ends the text occurred
// before, the last time if several are equally long, and returns what is behind it; -1
// if there is none of minMatch tokens.
func lookup(text []engine.Token) int {
	last := len(text) - 1
	best, at := minMatch-1, -1
	for i := last - 1; i >= minMatch-1; i-- {
		if text[i] != text[last] || text[i-1] != text[last-1] {
			continue
		}
		n := 2
		for n < maxMatch && n <= i && text[i-n] == text[last-n] {
			n++
		}
		if n > best {
			if best, at = n, i+1; n == maxMatch {
				break
			}
		}
	}
	return at
}

// stepTimes are how long steps take by their rows. A machine that has other things
// to do makes all of them longer, so there is one number for how fast it is of late,
// and the others say how much longer more rows take.
type stepTimes struct {
	level float64               // seconds, 0 if no step is known
	shape [mostRows + 1]float64 // in parts of the level, 0 if unknown
}

// mostRows is the most rows of a step whose time is learned.
const mostRows = 64 + maxDraft

// learn takes a step of so many rows without prompts.
func (t *stepTimes) learn(rows int, seconds float64) {
	if rows >= len(t.shape) {
		return
	}
	if t.level == 0 {
		t.level, t.shape[rows] = seconds/guessedTime(rows), guessedTime(rows)
		return
	}
	if t.shape[rows] == 0 {
		t.shape[rows] = seconds / t.level
		return
	}
	// Steps that stood still say little.
	off := min(seconds/(t.level*t.shape[rows]), 2) - 1
	t.level *= 1 + off/4
	t.shape[rows] *= 1 + off/8
}

// guessedRow is the part of a one-row step that a row more takes, until it is known.
const guessedRow = 0.35

// of is the time of a step, guessed from the nearest known one if need be, 0 if
// none is known.
func (t *stepTimes) of(rows int) float64 { return t.level * t.relative(rows) }

// relative is the same in parts of the level. It is never more than for more rows:
// a step that stood still must not speak against its rows for ever.
func (t *stepTimes) relative(rows int) float64 {
	least := 0.0
	for off := range len(t.shape) {
		if r := rows - off; least == 0 && r > 0 && r < len(t.shape) && t.shape[r] > 0 {
			least = t.shape[r] * guessedTime(rows) / guessedTime(r)
		}
		if r := rows + off; r < len(t.shape) && t.shape[r] > 0 {
			known := t.shape[r]
			if least == 0 {
				known *= guessedTime(rows) / guessedTime(r)
			}
			if least == 0 || known < least {
				least = known
			}
		}
	}
	return least
}

// guessedTime is the time of a step in times of a step of one row.
func guessedTime(rows int) float64 { return 1 + guessedRow*float64(rows-1) }

// price is what more rows cost beside others, in parts of the time that a step
// of these takes for each token.
func (t *stepTimes) price(rows, more int) float64 {
	base, all := t.relative(rows), t.relative(rows+more)
	if base == 0 {
		base, all = guessedTime(rows), guessedTime(rows+more)
	}
	return (all - base) / base * float64(rows)
}

// padding is how many rows more make a step of so many rows shorter: those up to a whole
// block, or none. It tries once it knows how long it is without.
func (t *stepTimes) padding(rows int) int {
	n := -rows & (rowBlock - 1)
	if n > mostPads || rows+n > mostRows || t.shape[rows] == 0 || t.shape[rows+n] >= 0.97*t.shape[rows] {
		return 0
	}
	return n
}

// mostPads is the most rows that can be worth their while.
const mostPads = rowBlock / 2
