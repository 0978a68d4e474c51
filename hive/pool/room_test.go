package pool_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/hive/pool"
)

var errFull = rbee.Errorf(rbee.CodeInsufficientRAM, "no room")

// roomFor is a plan that starts when fewer than n workers live, and waits for that.
func roomFor(n int, patience time.Duration) pool.Plan {
	until := time.Now().Add(patience)
	return func(_ context.Context, live []rbee.Worker) (pool.Spec, error) {
		if len(live) >= n {
			return pool.Spec{}, &pool.Later{Refusal: func() error { return errFull }, Until: until}
		}
		return spec, nil
	}
}

func TestAStartWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, _ := r.idle(usual)
		started := make(chan error, 1)
		go func() {
			_, err := r.pool.Start(t.Context(), roomFor(1, time.Minute))
			started <- err
		}()
		synctest.Wait()
		if r.pool.Waiting() != 1 || len(r.pool.Workers()) != 1 {
			t.Errorf("%d wait, workers %v", r.pool.Waiting(), r.pool.Workers())
		}
		before := time.Now()
		if n := r.pool.Evict(t.Context(), []rbee.WorkerID{id, "nobody"}, pool.CauseEvicted, "for another"); n != 1 {
			t.Errorf("%d ended", n)
		}
		if err := <-started; err != nil || time.Since(before) > 0 || r.pool.Waiting() != 0 {
			t.Errorf("started after %s: %v; %d wait", time.Since(before), err, r.pool.Waiting())
		}
		r.stop()
	})
}

func TestAStartThatWaitsInVain(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(cancel func())
		took time.Duration
		err  error
	}{
		"its time is up":  {func(func()) {}, 7 * time.Second, errFull},
		"its caller goes": {func(cancel func()) { time.AfterFunc(2*time.Second, cancel) }, 2 * time.Second, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.idle(pool.KeepAlive{Forever: true})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				c.end(cancel)
				before := time.Now()
				_, err := r.pool.Start(ctx, roomFor(1, 7*time.Second))
				if !errors.Is(err, c.err) || time.Since(before) != c.took || r.pool.Waiting() != 0 {
					t.Errorf("after %s: %v", time.Since(before), err)
				}
				r.stop()
			})
		})
	}
}

func TestOnlySoManyStartsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.idle(pool.KeepAlive{Forever: true})
		codes := make(chan rbee.Code, 70)
		for range 70 {
			go func() {
				_, err := r.pool.Start(t.Context(), roomFor(1, time.Minute))
				codes <- rbee.CodeOf(err)
			}()
		}
		count := map[rbee.Code]int{}
		for range 70 {
			count[<-codes]++
		}
		if want := map[rbee.Code]int{rbee.CodeQueueFull: 6, rbee.CodeInsufficientRAM: 64}; !maps.Equal(count, want) {
			t.Errorf("ended: %v", count)
		}
		r.stop()
	})
}

func TestAStartThatWaitsEndsWithTheHive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.idle(pool.KeepAlive{Forever: true})
		ended := make(chan error, 1)
		go func() {
			_, err := r.pool.Start(t.Context(), roomFor(1, time.Hour))
			ended <- err
		}()
		synctest.Wait()
		r.stop()
		if err := <-ended; rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("ended: %v", err)
		}
	})
}

func TestOnlyIdleWorkersAreEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		busy, _ := r.idle(usual)
		lease, err := r.pool.Acquire(t.Context(), busy)
		must(t, err)
		pinned, _ := r.idle(usual)
		if w, err := r.pool.Pin(pinned, true); err != nil || !w.Pinned {
			t.Errorf("pinned: %+v, %v", w, err)
		}
		loading, _ := r.start(usual)
		idle, _ := r.idle(usual)
		if n := r.pool.Evict(t.Context(), []rbee.WorkerID{busy, pinned, loading, idle}, pool.CauseEvicted, "for another"); n != 1 {
			t.Errorf("%d ended", n)
		}
		r.want(busy, rbee.WorkerBusy)
		r.want(pinned, rbee.WorkerIdle)
		r.want(loading, rbee.WorkerStarting)
		if got := r.want(idle, rbee.WorkerStopped); got.Reason != "for another" || !slices.Equal(r.causes, []pool.Cause{pool.CauseEvicted}) {
			t.Errorf("reason %q, causes %v", got.Reason, r.causes)
		}
		lease.Release()
		r.stop()
	})
}

func TestAPinStopsTheClockOfIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, _ := r.idle(usual)
		_, err := r.pool.Pin(id, true)
		must(t, err)
		time.Sleep(time.Hour)
		r.want(id, rbee.WorkerIdle)
		_, err = r.pool.Pin(id, false)
		must(t, err)
		time.Sleep(time.Second)
		r.want(id, rbee.WorkerStopped) // it has been idle for long enough
		if _, err := r.pool.Pin(id, true); rbee.CodeOf(err) != rbee.CodeWorkerNotFound {
			t.Errorf("a pin of an ended worker: %v", err)
		}
		r.stop()
	})
}

func TestWhoAwaitsAWorkerHasItBeforeItIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		leases := make(chan *pool.Lease, 3)
		for range 3 {
			go func() {
				lease, err := r.pool.Await(t.Context(), id)
				must(t, err)
				leases <- lease
			}()
		}
		gone, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := r.pool.Await(gone, id)
			left <- err
		}()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v", err)
		}
		r.callBack(id)
		r.finishLoading(w)
		synctest.Wait()
		if got := r.want(id, rbee.WorkerBusy); got.SlotsAvailable != 1 || got.Requests != 3 || len(leases) != 3 {
			t.Errorf("worker %+v, %d leases", got, len(leases))
		}
		if n := r.pool.Evict(t.Context(), []rbee.WorkerID{id}, pool.CauseEvicted, ""); n != 0 {
			t.Error("it was evicted before who waited had it")
		}
		for range 3 {
			(<-leases).Release()
		}
		synctest.Wait()
		r.want(id, rbee.WorkerIdle)
		r.stop()
	})
}

func TestWhoAwaitsAWorkerThatFailsHearsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		heard := make(chan error, 1)
		go func() {
			_, err := r.pool.Await(t.Context(), id)
			heard <- err
		}()
		synctest.Wait()
		w.proc.end("signal: killed")
		if err := <-heard; rbee.CodeOf(err) != rbee.CodeWorkerCrashed {
			t.Errorf("heard %v", err)
		}
		r.stop()
	})
}

func TestARequestSaysHowLongItsWorkerStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, _ := r.idle(usual)
		use := func(k pool.KeepAlive) {
			lease, err := r.pool.Acquire(t.Context(), id)
			must(t, err)
			lease.KeepAlive(k)
			lease.Release()
		}
		use(pool.KeepAlive{Forever: true})
		time.Sleep(24 * time.Hour)
		r.want(id, rbee.WorkerIdle)
		use(pool.KeepAlive{Idle: time.Hour})
		time.Sleep(59 * time.Minute)
		r.want(id, rbee.WorkerIdle)
		use(pool.KeepAlive{})
		time.Sleep(time.Millisecond)
		r.want(id, rbee.WorkerStopped)
		r.stop()
	})
}

func TestMemoryIsPromisedUntilItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.weigh = func(_ context.Context, w rbee.Worker, s pool.Spec) (pool.Weight, bool) {
			host := int64(150)
			if w.Resting {
				host = 110
			}
			return pool.Weight{Memory: rbee.Memory{"cpu": host}, Mapped: s.Weight.Mapped}, true
		}
		says := func(id rbee.WorkerID, state rbee.WorkerState, memory, promised, shown int64) {
			t.Helper()
			got := r.want(id, state)
			if got.Memory["cpu"] != memory || got.Promised["cpu"] != promised || got.MemoryBytes != shown {
				t.Errorf("%s: memory %v, promised %v, shown %d", state, got.Memory, got.Promised, got.MemoryBytes)
			}
		}
		id, w := r.start(usual)
		says(id, rbee.WorkerStarting, 100, 100, 100) // the estimate
		r.callBack(id)
		r.finishLoading(w)
		synctest.Wait()
		says(id, rbee.WorkerIdle, 150, 60, 150) // measured; the file is mapped
		time.Sleep(2*time.Minute + 31*time.Second)
		synctest.Wait()
		says(id, rbee.WorkerIdle, 150, 100, 110) // it rests, and may take 40 again
		if got := r.want(id, rbee.WorkerIdle); !got.Resting || !got.Measured || !slices.Equal(w.notes(), []string{"rest"}) {
			t.Errorf("worker %+v, told %v", got, w.notes())
		}
		lease, err := r.pool.Acquire(t.Context(), id)
		must(t, err)
		synctest.Wait()
		says(id, rbee.WorkerBusy, 150, 60, 150)
		lease.Release()
		time.Sleep(5*time.Minute + 2*time.Second)
		synctest.Wait()
		r.want(id, rbee.WorkerStopped)
		if want := []string{"rest", "rest", "drain"}; !slices.Equal(w.notes(), want) {
			t.Errorf("told %v, want %v", w.notes(), want)
		}
		r.stop()
	})
}

func TestADrainingHiveEndsWorkersWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		busy, _ := r.idle(usual)
		lease, err := r.pool.Acquire(t.Context(), busy)
		must(t, err)
		pinned, _ := r.idle(usual)
		_, err = r.pool.Pin(pinned, true)
		must(t, err)
		loading, _ := r.start(usual)
		for _, id := range []rbee.WorkerID{busy, pinned, loading} {
			r.pool.Retire(id, false)
		}
		synctest.Wait()
		r.want(busy, rbee.WorkerBusy)
		r.want(pinned, rbee.WorkerStopped)
		r.want(loading, rbee.WorkerStarting)
		r.pool.Retire(busy, true)
		r.pool.Retire(loading, true)
		synctest.Wait()
		r.want(busy, rbee.WorkerBusy)
		lease.Release()
		r.pool.Retire(busy, true)
		time.Sleep(time.Second)
		r.want(busy, rbee.WorkerStopped)
		r.want(loading, rbee.WorkerStopped)
		r.stop()
	})
}
