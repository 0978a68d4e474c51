package pool_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/hive/pool"
)

// later starts a worker that is prepared when the returned function is called.
func (r *rig) later() (id rbee.WorkerID, prepared func(pool.Plan, error), ended <-chan error) {
	r.t.Helper()
	type outcome struct {
		plan pool.Plan
		err  error
	}
	outcomes, over := make(chan outcome, 1), make(chan error, 1)
	w, err := r.pool.StartLater(ref, func(ctx context.Context) (pool.Plan, error) {
		select {
		case o := <-outcomes:
			over <- nil
			return o.plan, o.err
		case <-ctx.Done():
			over <- context.Cause(ctx)
			return nil, context.Cause(ctx)
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return w.ID, func(plan pool.Plan, err error) { outcomes <- outcome{plan, err} }, over
}

func planned(spec pool.Spec) pool.Plan {
	return func(context.Context, []rbee.Worker) (pool.Spec, error) { return spec, nil }
}

var spec = pool.Spec{
	Ref: ref, Path: "/m/a.gguf", Backend: rbee.BackendCUDA, Device: "cuda:0", Slots: 3, Context: 512, Weight: pool.Weight{Memory: rbee.Memory{"cuda:0": 42}},
	KeepAlive: pool.KeepAlive{Forever: true},
}

func TestAWorkerThatIsPreparedIsListedAtOnceAndStartsThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		_, changes := r.pool.Feed().Subscribe(t.Context())
		id, prepared, _ := r.later()
		synctest.Wait()
		if got := r.want(id, rbee.WorkerStarting); got.PID != 0 || got.ModelRef != ref || got.URL == "" {
			t.Errorf("worker: %+v", got)
		}
		if list := r.pool.ByModel(ref); len(list) != 1 || list[0].ID != id {
			t.Errorf("workers of the model: %v", list)
		}
		if p, err := r.pool.Process(id); p != nil || err != nil {
			t.Errorf("process: %v, %v", p, err)
		}
		if _, err := r.pool.Acquire(t.Context(), id); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("acquired: %v", err)
		}
		prepared(planned(spec), nil)
		synctest.Wait()
		got := r.want(id, rbee.WorkerStarting)
		if got.PID == 0 || got.Backend != spec.Backend || got.Device != spec.Device || got.SlotsTotal != 3 || got.MemoryBytes != 42 || got.ContextTokens != 512 {
			t.Errorf("started: %+v", got)
		}
		if p, err := r.pool.Process(id); p == nil || err != nil {
			t.Errorf("process: %v, %v", p, err)
		}
		r.callBack(id)
		r.finishLoading(r.workers[id])
		synctest.Wait()
		r.want(id, rbee.WorkerIdle)
		var pids []int
		for e, err := range changes {
			if err != nil || e.Worker.State != rbee.WorkerStarting {
				break
			}
			pids = append(pids, e.Worker.PID)
		}
		if !slices.Equal(pids, []int{0, got.PID}) {
			t.Errorf("told of the processes %v", pids)
		}
		r.stop()
	})
}

func TestWhatFailsBeforeTheStartIsTheWorkersFailure(t *testing.T) {
	full := rbee.Errorf(rbee.CodeInsufficientRAM, "no room").Suggest("another day")
	for name, c := range map[string]struct {
		plan pool.Plan
		err  error
		code rbee.Code
	}{
		"its preparation":             {nil, rbee.Errorf(rbee.CodeDownloadFailed, "the hub is gone"), rbee.CodeDownloadFailed},
		"a cause that nobody may see": {nil, errors.New("secret"), rbee.CodeInternalError},
		"the plan":                    {func(context.Context, []rbee.Worker) (pool.Spec, error) { return pool.Spec{}, full }, nil, rbee.CodeInsufficientRAM},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				id, prepared, _ := r.later()
				prepared(c.plan, c.err)
				synctest.Wait()
				got := r.want(id, rbee.WorkerFailed)
				if got.Failure == nil || got.Failure.Code != c.code || got.Reason == "" || got.Reason == "secret" {
					t.Errorf("failure: %+v, reason %q", got.Failure, got.Reason)
				}
				if len(r.workers) != 0 || len(r.pool.Workers()) != 0 || len(r.ended) != 1 {
					t.Errorf("processes: %d, listed: %v, ended: %v", len(r.workers), r.pool.Workers(), r.ended)
				}
				r.stop()
			})
		})
	}
}

func TestAProcessThatCannotBeStartedLaterIsTheWorkersFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.launch = func() error { return rbee.Errorf(rbee.CodeInternalError, "there is no such program") }
		id, prepared, _ := r.later()
		prepared(planned(spec), nil)
		synctest.Wait()
		if got := r.want(id, rbee.WorkerFailed); got.Reason != "there is no such program" {
			t.Errorf("failed: %+v", got)
		}
		r.stop()
	})
}

func TestAPlanSeesTheLiveWorkersWhileNoOtherStartIsDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		// One fits; whoever decides while another does would see too few.
		plan := func(_ context.Context, live []rbee.Worker) (pool.Spec, error) {
			runtime.Gosched()
			for _, w := range live {
				if w.MemoryBytes > 0 {
					return pool.Spec{}, rbee.Errorf(rbee.CodeInsufficientRAM, "%s has it", w.ID)
				}
			}
			return spec, nil
		}
		var ids []rbee.WorkerID
		for range 4 {
			id, prepared, _ := r.later()
			ids = append(ids, id)
			prepared(plan, nil)
		}
		synctest.Wait()
		failed := 0
		for _, id := range ids {
			if w, _ := r.pool.Worker(id); w.State == rbee.WorkerFailed {
				failed++
			}
		}
		if failed != 3 || len(r.workers) != 1 {
			t.Errorf("%d failed, %d run", failed, len(r.workers))
		}
		r.stop()
	})
}

func TestAWorkerThatEndsBeforeItsStartEndsItsPreparation(t *testing.T) {
	for name, end := range map[string]func(*rig, rbee.WorkerID){
		"by Stop":                 func(r *rig, id rbee.WorkerID) { must(r.t, r.pool.Stop(r.t.Context(), id)) },
		"by an order":             func(r *rig, id rbee.WorkerID) { r.pool.Order(id, true) },
		"by the hive's shutdown":  func(r *rig, _ rbee.WorkerID) { r.stop() },
		"by an order in a hurry":  func(r *rig, id rbee.WorkerID) { r.pool.Order(id, false) },
		"by two orders at a time": func(r *rig, id rbee.WorkerID) { both(func() { r.pool.Order(id, false) }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				id, prepared, ended := r.later()
				before := time.Now()
				end(r, id)
				synctest.Wait()
				select {
				case err := <-ended:
					if err == nil {
						t.Error("the preparation ended as if it were done")
					}
				default:
					t.Error("the preparation goes on")
				}
				if got := r.want(id, rbee.WorkerStopped); got.Reason == "" || got.Failure != nil || time.Since(before) > 0 {
					t.Errorf("worker after %s: %+v", time.Since(before), got)
				}
				prepared(planned(spec), nil)
				synctest.Wait()
				if len(r.workers) != 0 || len(r.ended) != 1 {
					t.Errorf("processes: %d, ends: %d", len(r.workers), len(r.ended))
				}
				r.stop()
			})
		})
	}
}

func both(do func()) {
	var at sync.WaitGroup
	at.Go(do)
	at.Go(do)
	at.Wait()
}

// TestAStopThatComesWithThePlan has no process left, whoever is first.
func TestAStopThatComesWithThePlan(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			id, prepared, _ := r.later()
			var at sync.WaitGroup
			at.Go(func() { prepared(planned(spec), nil) })
			at.Go(func() { must(t, r.pool.Stop(t.Context(), id)) })
			at.Wait()
			synctest.Wait()
			r.want(id, rbee.WorkerStopped)
			for _, w := range r.workers {
				select {
				case <-w.proc.done:
				default:
					t.Error("a process is left")
				}
			}
			r.stop()
		})
	}
}

func TestTheDeadlineOfALoadBeginsWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t) // a load may stall for a minute
		id, prepared, _ := r.later()
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		r.want(id, rbee.WorkerStarting)
		prepared(planned(spec), nil)
		time.Sleep(59 * time.Second)
		synctest.Wait()
		r.want(id, rbee.WorkerStarting)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := r.want(id, rbee.WorkerFailed); got.Failure.Code != rbee.CodeLoadingTimeout {
			t.Errorf("failure: %v", got.Failure)
		}
		r.stop()
	})
}

func TestACallbackBeforeTheStartIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, prepared, _ := r.later()
		greet := func() error {
			return r.pool.Ready(t.Context(), rbee.ReadyRequest{WorkerID: id, URL: workerURL(id), ModelRef: ref.String()})
		}
		if err := greet(); rbee.CodeOf(err) != rbee.CodeConflict {
			t.Errorf("a stranger was taken for the worker: %v", err)
		}
		r.want(id, rbee.WorkerStarting)
		prepared(planned(spec), nil)
		synctest.Wait()
		if err := greet(); err != nil {
			t.Errorf("the worker itself: %v", err)
		}
		r.want(id, rbee.WorkerLoading)
		r.stop()
	})
}

func TestNothingIsPreparedWhenTheHiveHasShutDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.stop()
		_, err := r.pool.StartLater(ref, func(context.Context) (pool.Plan, error) {
			t.Error("it was prepared")
			return nil, nil
		})
		if rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("started: %v", err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
