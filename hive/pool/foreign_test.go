package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/hive/pool"
)

var abroad = pool.Foreign{
	ID: "x-1", Ref: rbee.ModelRef{Provider: rbee.ProviderExternal, Reference: "srv/m"}, URL: "http://127.0.0.1:9", Key: "sesame", Model: "m",
	Slots: 2, Context: 4096, Weight: pool.Weight{Memory: rbee.Memory{"cpu": 100}, Mapped: 40},
}

func TestAForeignModelIsAWorkerThatOnlyItsWatcherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		must(t, r.pool.Adopt(abroad))
		w := r.want("x-1", rbee.WorkerIdle)
		if !w.External || w.PID != 0 || w.SlotsAvailable != 2 || w.ContextTokens != 4096 || w.MemoryBytes != 100 || w.Promised["cpu"] != 40 || w.URL == abroad.URL {
			t.Errorf("worker: %+v", w)
		}
		if list := r.pool.ByModel(abroad.Ref); len(list) != 1 {
			t.Errorf("workers of the model: %v", list)
		}
		if n := r.pool.Evict(t.Context(), []rbee.WorkerID{"x-1"}, pool.CauseEvicted, ""); n != 0 {
			t.Error("it was evicted")
		}
		time.Sleep(48 * time.Hour) // it is neither idle for too long nor unhealthy
		r.want("x-1", rbee.WorkerIdle)
		if p, err := r.pool.Process("x-1"); p != nil || err != nil {
			t.Errorf("process: %v, %v", p, err)
		}
		if err := r.pool.Adopt(abroad); rbee.CodeOf(err) != rbee.CodeConflict {
			t.Errorf("adopted twice: %v", err)
		}
		r.pool.Lose("x-1", rbee.Errorf(rbee.CodeWorkerCrashed, "it is silent"), "")
		synctest.Wait()
		if w := r.want("x-1", rbee.WorkerFailed); w.Reason != "it is silent" || len(r.pool.Workers()) != 0 {
			t.Errorf("worker: %+v", w)
		}
		must(t, r.pool.Adopt(abroad)) // it is back
		r.want("x-1", rbee.WorkerIdle)
		r.pool.Lose("x-1", nil, "withdrawn")
		synctest.Wait()
		r.want("x-1", rbee.WorkerStopped)
		if len(r.causes) != 2 || r.causes[0] != pool.CauseFailed || r.causes[1] != pool.CauseWithdrawn {
			t.Errorf("causes: %v", r.causes)
		}
		r.stop()
	})
}

func TestARequestToAForeignModelGoesToItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		must(t, r.pool.Adopt(abroad))
		lease, err := r.pool.Await(t.Context(), "x-1")
		must(t, err)
		if lease.URL != abroad.URL || lease.Key != "sesame" || lease.Foreign != "m" {
			t.Errorf("lease: %+v", lease.Target)
		}
		if w := r.want("x-1", rbee.WorkerBusy); w.SlotsAvailable != 1 {
			t.Errorf("worker: %+v", w)
		}
		begun := time.Now()
		err = lease.Broke(t.Context(), context.DeadlineExceeded)
		if rbee.CodeOf(err) != rbee.CodeWorkerCrashed || time.Since(begun) > 0 {
			t.Errorf("a broken reply after %s: %v", time.Since(begun), err)
		}
		// What runs goes on when it is taken off the list.
		must(t, r.pool.Stop(t.Context(), "x-1"))
		r.want("x-1", rbee.WorkerStopped)
		lease.Release()
		if r.pool.Renew(abroad) {
			t.Error("it was renewed after it was taken off the list")
		}
		r.stop()
		if err := r.pool.Adopt(abroad); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("adopted by a pool that has ended: %v", err)
		}
	})
}

func TestWhatAServerSaysAnewIsTakenOverAndToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		must(t, r.pool.Adopt(abroad))
		_, changes := r.pool.Feed().Subscribe(t.Context())
		news := abroad
		news.Context, news.Weight = 8192, pool.Weight{Memory: rbee.Memory{"cpu": 200}}
		for range 3 {
			if !r.pool.Renew(news) {
				t.Fatal("it is not listed")
			}
		}
		if w := r.want("x-1", rbee.WorkerIdle); w.ContextTokens != 8192 || w.MemoryBytes != 200 || len(w.Promised) != 0 {
			t.Errorf("worker: %+v", w)
		}
		r.stop()
		told := 0
		for e, err := range changes {
			if err == nil && e.Kind == rbee.EventWorker && e.Worker.State == rbee.WorkerIdle {
				told++
			}
		}
		if told != 1 {
			t.Errorf("told of it %d times", told)
		}
	})
}
