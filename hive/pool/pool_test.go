package pool_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/hive/pool"
)

var usual = pool.KeepAlive{Idle: pool.DefaultKeepAlive}

// TestTheDrawingIsTheTransitionTable reads the life of a worker out of the
// package comment and compares it with what the vocabulary allows.
func TestTheDrawingIsTheTransitionTable(t *testing.T) {
	src, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[[2]rbee.WorkerState]bool{}
	arrow := regexp.MustCompile(` (<->|->) `)
	for line := range strings.Lines(string(src)) {
		line, ok := strings.CutPrefix(strings.TrimSpace(line), "//\t")
		if !ok {
			continue
		}
		groups, arrows := arrow.Split(line, -1), arrow.FindAllString(line, -1)
		for i, a := range arrows {
			for from := range strings.SplitSeq(groups[i], ", ") {
				for to := range strings.SplitSeq(groups[i+1], ", ") {
					drawn[[2]rbee.WorkerState{rbee.WorkerState(from), rbee.WorkerState(to)}] = true
					if a == " <-> " {
						drawn[[2]rbee.WorkerState{rbee.WorkerState(to), rbee.WorkerState(from)}] = true
					}
				}
			}
		}
	}
	for _, from := range rbee.WorkerStates() {
		for _, to := range rbee.WorkerStates() {
			pair := [2]rbee.WorkerState{from, to}
			if drawn[pair] != from.Can(to) {
				t.Errorf("%s -> %s: drawn %t, in the table %t", from, to, drawn[pair], from.Can(to))
			}
			delete(drawn, pair)
		}
	}
	for pair := range drawn {
		t.Errorf("the drawing has %v, which are no states", pair)
	}
}

func TestALifeFromStartToIdleDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		if got := r.want(id, rbee.WorkerStarting); got.PID != w.proc.pid || got.URL != "http://hive/v1/workers/"+string(id) {
			t.Errorf("worker: %+v", got)
		}
		r.callBack(id)
		r.want(id, rbee.WorkerLoading)
		r.finishLoading(w)
		synctest.Wait()
		if got := r.want(id, rbee.WorkerIdle); got.SlotsTotal != 4 || got.SlotsAvailable != 4 || got.ContextTokens != 1024 {
			t.Errorf("ready: %+v", got)
		}
		a, err := r.pool.Acquire(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.want(id, rbee.WorkerBusy); got.SlotsAvailable != 3 {
			t.Errorf("busy: %+v", got)
		}
		time.Sleep(time.Hour) // what runs is never idle
		r.want(id, rbee.WorkerBusy)
		a.Release()
		a.Release()
		r.want(id, rbee.WorkerIdle)
		time.Sleep(pool.DefaultKeepAlive - time.Second)
		r.want(id, rbee.WorkerIdle)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		got := r.want(id, rbee.WorkerStopped)
		if !slices.Equal(w.notes(), []string{"rest", "drain"}) || !strings.Contains(got.Reason, "idle for 5m") {
			t.Errorf("told %v, reason %q", w.notes(), got.Reason)
		}
		if len(r.pool.Workers()) != 0 {
			t.Error("an ended worker is still listed")
		}
		r.stop()
	})
}

func TestKeepAlive(t *testing.T) {
	t.Run("0 ends a worker after its request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			id, _ := r.idle(pool.KeepAlive{})
			time.Sleep(time.Minute) // nobody came yet
			r.want(id, rbee.WorkerIdle)
			a, err := r.pool.Acquire(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			a.Release()
			synctest.Wait()
			time.Sleep(time.Millisecond)
			r.want(id, rbee.WorkerStopped)
			r.stop()
		})
	})
	t.Run("forever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			id, _ := r.idle(pool.KeepAlive{Forever: true})
			time.Sleep(1000 * time.Hour)
			r.want(id, rbee.WorkerIdle)
			r.stop()
		})
	})
}

func TestACrashIsNoticedAtOnceAndExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.idle(usual)
		lease, err := r.pool.Acquire(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		w.proc.end("signal: segmentation fault (core dumped)")
		synctest.Wait()
		got := r.want(id, rbee.WorkerFailed)
		if got.ExitCause != "signal: segmentation fault (core dumped)" || !slices.Equal(got.LastLogs, []string{"line 1", "line 2"}) ||
			rbee.CodeOf(got.Failure) != rbee.CodeWorkerCrashed || !strings.Contains(got.Reason, "busy") {
			t.Errorf("failed: %+v", got)
		}
		if len(r.pool.Workers()) != 0 || len(r.pool.ByModel(ref)) != 0 {
			t.Error("a dead worker is still in the registry")
		}
		if len(r.ended) != 1 || r.ended[0].ID != id {
			t.Errorf("ended: %v", r.ended)
		}
		if err := lease.Broke(t.Context(), errors.New("cut")); rbee.CodeOf(err) != rbee.CodeWorkerCrashed || !strings.Contains(err.Error(), "segmentation") {
			t.Errorf("the request hears %v", err)
		}
		lease.Release()
		if _, err := r.pool.Acquire(t.Context(), id); rbee.CodeOf(err) != rbee.CodeWorkerCrashed {
			t.Errorf("the next request hears %v", err)
		}
		r.stop()
	})
}

func TestThreeMissedHealthChecksKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.idle(pool.KeepAlive{Forever: true})
		w.proc.deafTERM = true
		w.set(func() { w.sick = true })
		time.Sleep(2*pool.HealthEvery + time.Second)
		r.want(id, rbee.WorkerIdle)
		w.set(func() { w.sick = false }) // it recovers, and the count begins anew
		time.Sleep(pool.HealthEvery)
		w.set(func() { w.sick = true })
		time.Sleep(2 * pool.HealthEvery)
		r.want(id, rbee.WorkerIdle)
		time.Sleep(pool.HealthEvery + pool.TermGrace + time.Second)
		if got := r.want(id, rbee.WorkerFailed); got.ExitCause != "signal: killed" || !strings.Contains(got.Reason, "did not answer") {
			t.Errorf("failed: %+v", got)
		}
		r.stop()
	})
}

func TestALoadThatMovesNothingTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		r.callBack(id)
		for layer := range 4 { // slow, but it moves
			w.progress <- rbee.LoadProgress{Stage: rbee.LoadToVRAM, LayersLoaded: layer + 1, LayersTotal: 8}
			time.Sleep(50 * time.Second)
		}
		for range 3 { // it talks, but nothing moves
			r.want(id, rbee.WorkerLoading)
			w.progress <- rbee.LoadProgress{Stage: rbee.LoadToVRAM, LayersLoaded: 4, LayersTotal: 8}
			time.Sleep(4 * time.Second)
		}
		synctest.Wait()
		if got := r.want(id, rbee.WorkerFailed); rbee.CodeOf(got.Failure) != rbee.CodeLoadingTimeout || !strings.Contains(got.Reason, "layer 4 of 8") {
			t.Errorf("failed: %+v", got.Failure)
		}
		r.stop()
	})
}

func TestAWorkerThatNeverCallsBackTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, _ := r.start(usual)
		time.Sleep(61 * time.Second)
		if got := r.want(id, rbee.WorkerFailed); !strings.Contains(got.Reason, "not called back") {
			t.Errorf("reason %q", got.Reason)
		}
		r.stop()
	})
}

func TestWhatTheWorkerSaysOfItsLoadingIsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		r.callBack(id)
		w.progress <- rbee.LoadProgress{Stage: rbee.LoadError, Error: rbee.Errorf(rbee.CodeVRAMExhausted, "no room on cuda0")}
		synctest.Wait()
		if got := r.want(id, rbee.WorkerFailed); rbee.CodeOf(got.Failure) != rbee.CodeVRAMExhausted || got.Reason != "no room on cuda0" {
			t.Errorf("failed: %+v", got.Failure)
		}
		r.stop()
	})
}

func TestTheLastWordsOfAWorkerAreHeardAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		r.callBack(id)
		synctest.Wait()
		w.proc.end("exit status 1")
		synctest.Wait()
		r.want(id, rbee.WorkerLoading)
		w.progress <- rbee.LoadProgress{Stage: rbee.LoadError, Error: rbee.Errorf(rbee.CodeVRAMExhausted, "no room on cuda0")}
		synctest.Wait()
		if got := r.want(id, rbee.WorkerFailed); rbee.CodeOf(got.Failure) != rbee.CodeVRAMExhausted || got.ExitCause != "exit status 1" {
			t.Errorf("failed: %+v", got)
		}
		id, w = r.start(usual)
		r.callBack(id)
		synctest.Wait()
		w.proc.end("signal: killed") // and no word
		time.Sleep(2 * time.Second)
		if got := r.want(id, rbee.WorkerFailed); rbee.CodeOf(got.Failure) != rbee.CodeWorkerCrashed {
			t.Errorf("failed: %+v", got)
		}
		r.stop()
	})
}

func TestStopDrainsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.idle(usual)
		w.busyFor = 20 * time.Second
		before := time.Now()
		ended := make(chan error)
		go func() { ended <- r.pool.Stop(t.Context(), id) }()
		synctest.Wait()
		r.want(id, rbee.WorkerDraining)
		if _, err := r.pool.Acquire(t.Context(), id); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("a draining worker takes a request: %v", err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(before); took != 20*time.Second {
			t.Errorf("Stop returned after %s", took)
		}
		r.want(id, rbee.WorkerStopped)
		if err := r.pool.Stop(t.Context(), id); err != nil {
			t.Errorf("stopping it again: %v", err)
		}
		r.stop()
	})
}

func TestAWorkerThatHearsNothingIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.idle(usual)
		w.deaf, w.proc.deafTERM = true, true
		before := time.Now()
		if err := r.pool.Stop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		want := pool.DrainTime + pool.ShutdownGrace + pool.ShutdownGrace + pool.TermGrace
		if took := time.Since(before); took != want {
			t.Errorf("killed after %s, want %s", took, want)
		}
		if got := r.want(id, rbee.WorkerStopped); got.ExitCause != "signal: killed" {
			t.Errorf("exit cause %q", got.ExitCause)
		}
		if !slices.Equal(w.notes(), []string{"drain", "shutdown"}) {
			t.Errorf("told %v", w.notes())
		}
		r.stop()
	})
}

func TestTheCascadeEndsAllWorkersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		_, polite := r.idle(usual)
		_, deaf := r.idle(usual)
		deaf.deaf, deaf.proc.deafTERM = true, true
		starting, unborn := r.start(usual)
		draining, slow := r.idle(usual)
		slow.busyFor = time.Hour
		r.pool.Order(draining, true)
		synctest.Wait()
		r.want(draining, rbee.WorkerDraining)

		_, events := r.pool.Feed().Subscribe(t.Context())
		before := time.Now()
		r.stop()
		if took := time.Since(before); took != pool.ShutdownGrace+pool.TermGrace {
			t.Errorf("took %s: not in parallel, or not as firm as it should be", took)
		}
		if !slices.Equal(polite.notes(), []string{"shutdown"}) || !slices.Equal(slow.notes(), []string{"drain", "shutdown"}) {
			t.Errorf("told %v and %v", polite.notes(), slow.notes())
		}
		if unborn.proc.exit != "signal: terminated" {
			t.Errorf("a worker without an address ended by %q", unborn.proc.exit)
		}
		if got, err := r.pool.Worker(starting); err != nil || got.State != rbee.WorkerStopped {
			t.Errorf("worker: %+v, %v", got, err)
		}
		if n := len(r.pool.Workers()); n != 0 {
			t.Errorf("%d workers left in the registry", n)
		}
		var kinds []rbee.EventKind
		for e, err := range events {
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, e.Kind)
		}
		if len(kinds) == 0 || kinds[0] != rbee.EventShutdown || !slices.Contains(kinds, rbee.EventWorkerGone) {
			t.Errorf("events %v", kinds)
		}
		if _, err := r.pool.Start(r.t.Context(), func(context.Context, []rbee.Worker) (pool.Spec, error) { return pool.Spec{Ref: ref}, nil }); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("a start after the end: %v", err)
		}
	})
}

func TestAnExternalWorkerIsCheckedAndNeverKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		w := r.add("outside-1")
		r.callBack("outside-1")
		r.callBack("outside-1") // greeting twice is no harm
		r.finishLoading(w)
		synctest.Wait()
		if got := r.want("outside-1", rbee.WorkerIdle); !got.External || got.PID != 0 {
			t.Errorf("worker: %+v", got)
		}
		time.Sleep(time.Hour) // no idle time for it
		r.want("outside-1", rbee.WorkerIdle)
		w.set(func() { w.sick = true })
		time.Sleep(4 * pool.HealthEvery)
		if got := r.want("outside-1", rbee.WorkerFailed); !strings.Contains(got.Reason, "did not answer") || len(r.pool.Workers()) != 0 {
			t.Errorf("worker: %+v", got)
		}
		w = r.add("outside-2")
		r.callBack("outside-2")
		if err := r.pool.Stop(t.Context(), "outside-2"); err != nil {
			t.Error(err)
		}
		r.stop()
		if len(w.notes()) != 0 {
			t.Errorf("an external worker was told %v", w.notes())
		}
	})
}

func TestACallbackFromElsewhereIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, _ := r.start(usual)
		call := func(url string) error {
			return r.pool.Ready(t.Context(), rbee.ReadyRequest{WorkerID: id, URL: url, ModelRef: ref.String()})
		}
		if err := call("http://192.0.2.1:80"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("another machine: %v", err)
		}
		if err := call("ftp://127.0.0.1"); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("another protocol: %v", err)
		}
		r.callBack(id)
		if err := call("http://127.0.0.1:9999"); rbee.CodeOf(err) != rbee.CodeConflict {
			t.Errorf("a second address: %v", err)
		}
		r.want(id, rbee.WorkerLoading)
		r.stop()
	})
}

func TestAWorkerThatIsReadySinceAMomentTakesTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		r.callBack(id)
		if _, err := r.pool.Acquire(t.Context(), id); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("a loading worker takes a request: %v", err)
		}
		w.set(func() { w.ready = true }) // and the progress has not said so yet
		lease, err := r.pool.Acquire(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		lease.Release()
		r.stop()
	})
}

func TestReachWaitsForTheCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, _ := r.start(usual)
		got := make(chan pool.Target)
		go func() {
			target, err := r.pool.Reach(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			got <- target
		}()
		synctest.Wait()
		r.callBack(id)
		if target := <-got; target.URL != workerURL(id) || target.Key == "" {
			t.Errorf("target: %+v", target)
		}
		if _, err := r.pool.Reach(t.Context(), "nobody"); rbee.CodeOf(err) != rbee.CodeWorkerNotFound {
			t.Errorf("error is %v", err)
		}
		r.stop()
	})
}

func TestAPlanThatRefusesStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		refusal := rbee.Errorf(rbee.CodeInsufficientRAM, "too big")
		_, err := r.pool.Start(t.Context(), func(context.Context, []rbee.Worker) (pool.Spec, error) { return pool.Spec{}, refusal })
		if !errors.Is(err, refusal) || len(r.workers) != 0 || len(r.pool.Workers()) != 0 {
			t.Errorf("error %v, %d processes", err, len(r.workers))
		}
		r.stop()
	})
}
