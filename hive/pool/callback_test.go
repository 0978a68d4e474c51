package pool_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"rbee"
)

func TestManyGreetingsOfOneExternalWorkerMakeOneLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.add("outside")
		var greetings sync.WaitGroup
		for range 16 {
			greetings.Go(func() { r.callBack("outside") })
		}
		greetings.Wait()
		if got := r.pool.Workers(); len(got) != 1 || !got[0].External {
			t.Errorf("workers: %+v", got)
		}
		r.stop() // hangs if a life is running that nobody knows
	})
}

func TestALateCallbackOfAWorkerThatEndedIsNoExternalWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, w := r.start(usual)
		w.proc.end("signal: killed")
		synctest.Wait()
		err := r.pool.Ready(t.Context(), rbee.ReadyRequest{WorkerID: id, URL: workerURL(id), ModelRef: ref.String()})
		if rbee.CodeOf(err) != rbee.CodeWorkerNotFound || len(r.pool.Workers()) != 0 {
			t.Errorf("%v, workers: %+v", err, r.pool.Workers())
		}
		r.stop()
	})
}
