package llamacpp

import (
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"rbee/worker/engine/threads"
)

const (
	// minPromptShare is the least share of a prompt in a step beside running
	// streams, in tokens. Shares are multiples of it, so that the shapes of
	// batches repeat.
	minPromptShare = 16

	// minPromptTurn is the same where prompts have steps of their own: for fewer rows
	// CPUs compute attention row by row, in up to three times the time for each.
	minPromptTurn = 64

	// Beside running streams about as much time goes to long prompts as to the
	// streams, so that a long prompt does not show as a pause in them, but at a time
	// no less and no more than this.
	leastShare = 10 * time.Millisecond
	mostShare  = 100 * time.Millisecond

	// Of so many steps with prompts and streams one has no prompts, to know how long
	// the streams take.
	mostMixed = 16

	// A short prompt may have more time: it is soon done.
	shortPrompt = 256 // tokens
	shortTimes  = 2

	// Where prompts have steps of their own small ones cost more, and it is worth
	// while to compute a short prompt at once.
	shortTurn      = 100 * time.Millisecond
	shortTurnTimes = 4
	// With a short prompt for every few streams several such steps may follow one
	// another, for so long: together all are done sooner. For longer if none of the
	// streams is underway: those that begin together go on together.
	fewStreams     = 2
	mostTurns      = time.Second
	mostFirstTurns = 2 * time.Second
)

// watchFrom is how long steps have to take to be given up when nobody wants them any
// more: what their sequences have in the KV cache is lost then.
const watchFrom = 50 * time.Millisecond

// pace is what the loop knows of how fast it is.
type pace struct {
	last        time.Duration // of the last step
	promptSpeed float64       // tokens per second of late, 0 if unknown
	shortSpeed  float64       // the same of the beginnings of prompts, which have less before them to look at
	decode      time.Duration // of the rows that decode in a step, of late
	rows        int           // that decode in a step, of late
	mixed       int           // steps since the last one that had no prompts
	shares      int           // times that prompts were given room
	owed        time.Duration // since the last step that had streams
	shortHad    bool          // short prompts had a step since then
	times       stepTimes
	onCPU       bool
	threads     int // of the next step
	policy      threads.Policy
	began       time.Time
	used        time.Duration // CPU time of the process when the step began
	batch       threads.Step
}

// step is one computed batch.
type step struct {
	tokens, rows int  // all, and those of sequences that generate
	short        bool // what there is of prompts is near their beginnings
	time         time.Duration
}

func (p *pace) start() {
	p.used = threads.CPUTime()
	p.began = time.Now()
}

// computed notes the time of the batch alone.
func (p *pace) computed() {
	p.batch.Time = time.Since(p.began)
	if p.onCPU { // else threads sleep while a device computes
		p.batch.CPU = threads.CPUTime() - p.used
	}
}

// stop learns from a step that ended.
func (p *pace) stop(s step) time.Duration {
	took := time.Since(p.began)
	p.last = took
	prompt := s.tokens - s.rows
	p.owed += took
	if s.rows > 0 {
		p.owed, p.shortHad = 0, false
	}
	switch {
	case prompt == 0:
		p.times.learn(s.rows, p.batch.Time.Seconds())
		if p.decode == 0 {
			p.decode = took
		}
		p.decode += (took - p.decode) / 2
		p.rows, p.mixed = s.rows, 0
	case s.rows == 0:
		p.learnSpeed(prompt, s.short, took)
	default:
		p.mixed++
		p.learnSpeed(prompt, s.short, max(took/4, took-p.decode))
	}
	p.batch.Tokens, p.batch.Rows = s.tokens, s.rows
	p.threads = p.policy.Next(p.batch, time.Now())
	return took
}

func (p *pace) learnSpeed(tokens int, short bool, took time.Duration) {
	if tokens < minPromptShare {
		return
	}
	of := &p.promptSpeed
	if short {
		of = &p.shortSpeed
	}
	speed := float64(tokens) / took.Seconds()
	if *of == 0 {
		*of = speed
	}
	*of += (speed - *of) / 4
}

// promptsTurn says whether the next step is for prompts, where prompts and streams
// have steps of their own. So many streams are underway, and so many prompts short: one
// that came during a step for long ones need not wait for the streams as well.
func (p *pace) promptsTurn(underway, short int) bool {
	most := mostTurns
	if underway == 0 {
		most = mostFirstTurns
	}
	return p.owed == 0 || short > 0 && (!p.shortHad || short*fewStreams >= underway && p.owed < most)
}

// share is how many tokens of long prompts, and how many of prompts altogether, a
// step takes beside streams, or between their steps.
func (p *pace) share(turns bool) (long, all int) {
	span, unit := min(max(p.decode, leastShare), mostShare), minPromptShare
	short := min(shortTimes*span, mostShare)
	if turns {
		short, unit = max(shortTurn, shortTurnTimes*p.decode), minPromptTurn
	}
	of := func(span time.Duration, speed, other float64) int {
		if speed == 0 {
			speed = other
		}
		n := int(speed * span.Seconds())
		return max(unit, min(n/unit*unit, batchTokens))
	}
	return of(span, p.promptSpeed, p.shortSpeed), of(short, p.shortSpeed, p.promptSpeed)
}

// useThreads sets the threads of the next step.
func (e *Engine) useThreads() {
	if n := e.pace.threads; n != e.threads {
		e.threads = n
		llama.SetNThreads(e.context, int32(n), int32(n))
	}
}
