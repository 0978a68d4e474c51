package pool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rbee"
)

// The numbers of a life (the contract, section 6).
const (
	HealthEvery      = 30 * time.Second
	HealthTimeout    = 5 * time.Second
	HealthFailures   = 3
	DefaultKeepAlive = 5 * time.Minute
	DrainTime        = 30 * time.Second // for what runs to finish
	ShutdownGrace    = 5 * time.Second  // for the process to end by itself
	TermGrace        = 2 * time.Second  // between SIGTERM and SIGKILL
)

// lastLines is how many lines of a failed worker's output its state holds.
const lastLines = 20

// lastWords is how long the words of a worker that is gone may take to arrive.
const lastWords = time.Second

// never is a timer's time that does not come.
const never = time.Duration(1<<63 - 1)

// manner is how a life is ended on purpose.
type manner int

const (
	drain manner = iota // finish what runs
	hurry               // end what runs
)

// Cause says why a worker ended.
type Cause string

// The causes. Each but failed is an order.
const (
	CauseFailed   Cause = "failed"
	CauseIdle     Cause = "idle"    // it was idle for long enough
	CauseEvicted  Cause = "evicted" // another model needed its memory
	CauseOrdered  Cause = "ordered" // somebody told it to stop
	CauseDrained  Cause = "drained" // the hive drains
	CauseShutdown Cause = "shutdown"

	CauseWithdrawn Cause = "withdrawn" // its foreign server has the model no more
)

// life is one worker from start to end. All fields below run's line belong to
// the goroutine of run; others reach them through ask.
type life struct {
	pool *Pool
	id   rbee.WorkerID
	spec Spec
	key  string
	seen atomic.Pointer[rbee.Worker] // the last published snapshot
	asks chan func()
	done chan struct{} // closed by run (or by Pool.forget) when all is over

	ctx     context.Context // ends when the life is over; errands end with it
	cancel  context.CancelFunc
	errands sync.WaitGroup // goroutines that work for run

	// of run
	w        rbee.Worker
	proc     Process         // nil for an external worker
	exit     <-chan struct{} // of the process; nil for an external worker
	url      string          // of the worker itself, "" until it called back
	foreign  string          // what a foreign server calls the model; "" for a worker of our kind
	link     Link
	changed  chan struct{} // closed and renewed at each change of state
	inFlight int
	granting []chan *Lease // of who waits until it is ready, first come first
	cause    Cause
	weight   Weight      // what it takes
	rested   rbee.Memory // what of it was given back
	launched time.Time
	failing  *rbee.Error // it is being killed for this
	told     *rbee.Error // what the worker itself said about its loading
	progress rbee.LoadProgress
	misses   int

	preparing bool // its model is being prepared, and there is no process yet
	following bool // somebody listens to what it says of its loading
	silent    bool // the process is gone, and its last words are waited for

	urgent context.CancelFunc // ends the patience of a drain; nil before an order
	idle   *time.Timer
	rest   *time.Timer
	stall  *time.Timer
	health *time.Timer
}

func newLife(p *Pool, spec Spec, key string, w rbee.Worker) *life {
	l := &life{pool: p, id: w.ID, spec: spec, key: key, w: w, asks: make(chan func()), done: make(chan struct{}), changed: make(chan struct{})}
	l.seen.Store(&w)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// run owns the life. It returns when the worker is gone and nobody works for it any more.
func (l *life) run() {
	defer close(l.done)
	defer l.errands.Wait()
	defer l.cancel()
	l.idle, l.rest, l.stall, l.health = time.NewTimer(never), time.NewTimer(never), time.NewTimer(l.pool.cfg.LoadStall), time.NewTimer(never)
	if l.preparing || l.foreign != "" {
		l.stall.Stop()
	}
	defer l.idle.Stop()
	defer l.rest.Stop()
	defer l.stall.Stop()
	defer l.health.Stop()
	for !l.w.State.Final() {
		select {
		case fn := <-l.asks:
			fn()
		case <-l.exit:
			l.exited()
		case <-l.idle.C:
			l.idleEnough()
		case <-l.rest.C:
			l.restEnough()
		case <-l.stall.C:
			l.stalled()
		case <-l.health.C:
			l.errand(l.checkHealth)
		}
	}
	if l.link != nil {
		l.link.Close()
	}
}

// ask runs fn in the goroutine of run and returns when it has run. It reports
// false when the life is over.
func (l *life) ask(fn func()) bool {
	ran := make(chan struct{})
	select {
	case l.asks <- func() { defer close(ran); fn() }:
		<-ran
		return true
	case <-l.ctx.Done():
		return false
	}
}

// errand runs fn beside run, with a context that ends with the life.
func (l *life) errand(fn func(context.Context)) {
	l.errands.Go(func() { fn(l.ctx) })
}

// become changes the state; run's goroutine alone calls it.
func (l *life) become(to rbee.WorkerState) {
	if !l.w.State.Can(to) {
		// A bug of this package: better loud in the log than a state that cannot be.
		l.pool.cfg.Log.Error("a worker cannot change its state so", "worker", l.id, "from", string(l.w.State), "to", string(to))
		return
	}
	l.w.State = to
	l.w.LastActivity = l.pool.cfg.Now()
	l.count()
	l.account()
	close(l.changed)
	l.changed = make(chan struct{})
	if !to.Final() {
		l.pool.publish(l)
	}
}

func (l *life) count() {
	l.w.SlotsAvailable = 0
	if l.w.State.Ready() {
		l.w.SlotsAvailable = max(0, l.w.SlotsTotal-l.inFlight)
	}
}

// calledBack takes the worker's word that it answers at a URL.
func (l *life) calledBack(url string, local bool) error {
	var err error
	alive := l.ask(func() {
		switch {
		case l.preparing:
			err = rbee.Errorf(rbee.CodeConflict, "worker %s has not been started yet and cannot call back", l.id)
		case l.proc != nil && !local:
			err = rbee.Errorf(rbee.CodeInvalidRequest, "worker %s was started on this machine and cannot answer on another", l.id)
		case l.url == url: // it did not hear our answer, or greets again
		case l.url != "" && l.proc != nil:
			err = rbee.Errorf(rbee.CodeConflict, "worker %s has called back before, from another address", l.id)
		case l.w.State == rbee.WorkerDraining || l.failing != nil:
			err = rbee.Errorf(rbee.CodeWorkerNotReady, "worker %s is being ended", l.id)
		case l.url != "":
			err = rbee.Errorf(rbee.CodeConflict, "an external worker %s is registered with another address", l.id).
				Suggest("choose another id, or remove the old one with 'rbee workers shutdown %s'", l.id)
		default:
			l.url, l.link = url, l.pool.cfg.Dial(url, l.key)
			l.become(rbee.WorkerLoading)
			l.stall.Reset(l.pool.cfg.LoadStall)
			l.health.Reset(HealthEvery)
			l.following = true
			l.errand(l.followLoading)
		}
	})
	if !alive {
		return rbee.Errorf(rbee.CodeWorkerNotFound, "worker %s has ended", l.id)
	}
	return err
}

// idleAfter is how long the worker may be idle from now on.
func (l *life) idleAfter() time.Duration {
	switch k := l.spec.KeepAlive; {
	case k.Forever || l.w.Pinned || l.proc == nil:
		return never
	case k.Idle <= 0 && l.w.Requests == 0:
		return DefaultKeepAlive // until somebody comes
	default:
		return k.Idle
	}
}

func (l *life) idleEnough() {
	if l.w.State != rbee.WorkerIdle || l.failing != nil {
		return
	}
	idle := l.idleAfter()
	l.pool.cfg.Log.Info("worker is idle and ends", "worker", l.id, "model", l.w.ModelRef.String(), "idle", idle)
	l.end(drain, CauseIdle, fmt.Sprintf("it was idle for %s", idle))
}

// checkHealth asks the worker once whether it lives.
func (l *life) checkHealth(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, HealthTimeout)
	defer cancel()
	err := l.link.Health(ctx)
	l.ask(func() {
		l.health.Reset(HealthEvery)
		if err == nil {
			l.misses = 0
			return
		}
		if l.w.State == rbee.WorkerDraining {
			return // it may close its port before it ends
		}
		l.misses++
		l.pool.cfg.Log.Warn("worker does not answer", "worker", l.id, "misses", l.misses, "err", err)
		if l.misses >= HealthFailures {
			l.fail(rbee.Errorf(rbee.CodeWorkerCrashed, "worker %s did not answer %d times in a row", l.id, l.misses))
		}
	})
}

// fail ends the worker for cause. It has failed once its process is gone; an
// external one is only forgotten.
func (l *life) fail(why *rbee.Error) {
	if l.failing != nil || l.w.State == rbee.WorkerDraining {
		return
	}
	l.failing = why
	if l.proc == nil {
		l.over(rbee.WorkerFailed, why)
		return
	}
	l.errand(func(context.Context) { l.proc.Stop(context.WithoutCancel(l.ctx), TermGrace) })
}

// exited takes notice that the process is gone. What it said of its loading
// last may still be on its way.
func (l *life) exited() {
	l.exit = nil
	if l.w.State == rbee.WorkerLoading && l.following && l.told == nil {
		l.silent = true
		l.stall.Reset(lastWords)
		return
	}
	l.conclude()
}

// conclude says what the end of the process means.
func (l *life) conclude() {
	l.w.ExitCause = l.proc.Exit()
	switch {
	case l.w.State == rbee.WorkerDraining:
		l.over(rbee.WorkerStopped, nil)
	case l.failing != nil:
		l.over(rbee.WorkerFailed, l.failing)
	case l.told != nil:
		l.over(rbee.WorkerFailed, l.told)
	default:
		l.over(rbee.WorkerFailed, rbee.Errorf(rbee.CodeWorkerCrashed, "worker %s ended by itself (%s) while it was %s%s", l.id, l.w.ExitCause, l.w.State, confession(l.proc.Lines())).
			Suggest("see what it wrote with 'rbee workers logs %s'", l.id))
	}
}

// confession is the error with which our programs end, if it is among the last lines.
func confession(lines []string) string {
	for _, line := range slices.Backward(lines[max(0, len(lines)-3):]) {
		if why, ok := strings.CutPrefix(line, "Error: "); ok {
			return ": " + why
		}
	}
	return ""
}

// over is the end of the life. The worker's state stays to be asked for.
func (l *life) over(state rbee.WorkerState, why *rbee.Error) {
	if why != nil {
		why = why.With("exit_cause", l.w.ExitCause)
		l.w.Failure, l.w.Reason = why, why.Message
		if l.proc != nil {
			lines := l.proc.Lines()
			l.w.LastLogs = lines[max(0, len(lines)-lastLines):]
		}
	}
	before := l.w.State
	l.become(state)
	if state == rbee.WorkerFailed {
		l.cause = CauseFailed
		l.pool.cfg.Log.Error("worker failed", "worker", l.id, "model", l.w.ModelRef.String(), "state", string(before),
			"err", why, "exit", l.w.ExitCause, "last_lines", l.w.LastLogs)
	} else {
		l.pool.cfg.Log.Info("worker stopped", "worker", l.id, "model", l.w.ModelRef.String(), "reason", l.w.Reason, "exit", l.w.ExitCause)
	}
	l.pool.bury(l)
}
