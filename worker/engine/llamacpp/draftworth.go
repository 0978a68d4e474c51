package llamacpp

// When a draft model is worth its time. It is if the tokens that come true save
// more steps than the draft's own steps and the rows that check its guesses cost.
// What is known of that is measured: how often guesses come true, by how sure the
// draft was of them, and how long both models take. A draft that does not pay is
// asked again only now and then, in case the texts are other ones now, and never
// for more than a small part of the time.

const (
	sureness     = 8   // classes of how sure the draft was
	firstRate    = 0.7 // of guesses come true, until it is known
	rateSpeed    = 1.0 / 16
	trialCredit  = 20   // steps that may be lost before anything is known
	creditAtMost = 60   // steps
	allowance    = 0.01 // of each step's time may be lost
	trialGuesses = 2    // for each stream, where guesses do not seem to pay
	firstPause   = 16   // steps between such trials
	longestPause = 256
	readAcross   = 128 // tokens of an answer that are reckoned to come at most
)

// offer is what a step could do with a draft model. Times are in seconds.
type offer struct {
	streams int                     // that would get guesses
	limit   int                     // guesses for each at most
	left    int                     // tokens that each may still want
	token   float64                 // of the model's step for each token, without guesses
	rows    func(n int) float64     // by which n rows more make the model's step longer
	step    func(texts int) float64 // of the draft, for a guess for each of so many texts
	reading float64                 // of the draft, for what it has to read first
}

// row is about the time that a guess takes to check.
func (o offer) row() float64 { return o.rows(rowBlock) / rowBlock }

// worth is what is known of a draft model. Its credit, in seconds, is what may
// still be lost.
type worth struct {
	begun  bool
	rates  [sureness]float64 // of guesses that came true, by how sure the draft was
	rate   float64           // of all
	credit float64
	pause  int // steps between trials
	since  int // steps since there were guesses
}

func (w *worth) begin(o offer) {
	if w.begun {
		return
	}
	w.begun, w.rate, w.credit = true, firstRate, trialCredit*o.token
	for i := range w.rates {
		w.rates[i] = firstRate
	}
	w.pause, w.since = firstPause, firstPause
}

// plan decides whether to guess in this step, and whether that is only a trial.
func (w *worth) plan(o offer) (guess, trial bool) {
	w.begin(o)
	w.since++
	w.credit = min(w.credit+allowance*o.token*float64(o.streams), creditAtMost*o.token)
	gain, tokens := w.gain(o)
	steps := float64(min(o.left, readAcross)) / (1 + tokens)
	if gain > 0 && gain*steps > o.reading && w.credit > 0 {
		return true, false
	}
	n := min(trialGuesses, o.limit)
	cost := o.reading + float64(n)*o.step(o.streams) + o.rows(n*o.streams)
	return w.since >= w.pause && w.credit >= cost, true
}

// gain is the time that guesses save in a step like this one, with the best number
// of them, and how many of a stream's come true. It is negative if they cost time.
func (w *worth) gain(o offer) (best, tokens float64) {
	chance, sum := 1.0, 0.0
	for n := 1; n <= o.limit; n++ {
		chance *= w.rate
		sum += chance
		saved := float64(o.streams)*o.token*sum - float64(n)*o.step(o.streams) - o.rows(n*o.streams)
		if n == 1 || saved > best {
			best, tokens = saved, sum
		}
	}
	return best, tokens
}

// keeps says whether a guess that comes true with this chance pays for its row.
func (w *worth) keeps(o offer, chance float64) bool { return chance*o.token > o.row() }

// goesOn says whether one more guess pays for each text whose guesses so far come
// true with these chances.
func (w *worth) goesOn(o offer, chances []float64) bool {
	n := len(chances)
	gain := -o.step(n) - float64(n)*o.row()
	for _, chance := range chances {
		gain += chance * w.rate * o.token
	}
	return gain > 0
}

// spend notes time that guesses took.
func (w *worth) spend(seconds float64) { w.credit -= seconds }

// learn hears how many of the guesses for a stream came true, which were as sure
// as that, and what each is worth.
func (w *worth) learn(sure []int, accepted int, token float64) {
	w.since = 0
	for i, s := range sure[:min(accepted+1, len(sure))] {
		came := 0.0
		if i < accepted {
			came = 1
		}
		w.rates[s] += (came - w.rates[s]) * rateSpeed
		w.rate += (came - w.rate) * rateSpeed
	}
	w.credit += float64(accepted) * token
	if accepted > 0 {
		w.pause = firstPause
	} else {
		w.pause = min(2*w.pause, longestPause)
	}
}

// surest is the token with the largest logit, and in which class of sureness that is.
func surest(logits []float32) (token, sure int) {
	first, second := float32(-1e30), float32(-1e30)
	for i, l := range logits {
		if l > second {
			if l > first {
				token, first, second = i, l, first
			} else {
				second = l
			}
		}
	}
	const classes = 1.5 // for each unit of the logits
	return token, int(min(classes*max(0, first-second), sureness-1))
}
