//go:build linux

package e2e

import (
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sync/semaphore"

	"rbee"
)

// queenState is what goes on in the colony when the queen is killed.
type queenState string

const (
	queenIdle      queenState = "idle"
	queenLoading   queenState = "loading"
	queenStreaming queenState = "streaming"
)

// script is what the fake engine does so that the state lasts.
func (s queenState) script() string {
	return map[queenState]string{queenLoading: "load_stall_at=6", queenStreaming: "token=50ms,eos_at=100000"}[s]
}

// The kill table of the colony: a queen gets a signal, whatever goes on. An
// ephemeral one takes along what she started. Another one leaves the hive that
// she started to the next queen when she is killed, and ends it when she ends.
func TestKillTableOfTheQueen(t *testing.T) {
	t.Parallel()
	places := semaphore.NewWeighted(3) // scenes at a time; each is three processes
	for round := range rounds() {
		for _, ephemeral := range []bool{true, false} {
			for _, state := range []queenState{queenIdle, queenLoading, queenStreaming} {
				for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
					name := fmt.Sprintf("%d/ephemeral=%t/%s/%s", round+1, ephemeral, state, sig)
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						if err := places.Acquire(t.Context(), 1); err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { places.Release(1) })
						killQueen(t, ephemeral, state, sig)
					})
				}
			}
		}
	}
}

func killQueen(t *testing.T, ephemeral bool, state queenState, sig syscall.Signal) {
	q := newHousehold(t, ephemeral, state)
	request := q.set(state)
	hive, worker := q.hivePID(), q.workerPID()
	kill(t, q.run.pid(), sig)
	want := "exit status 0"
	if sig == syscall.SIGKILL {
		want = "signal: killed"
	}
	q.run.mustExit(want)
	if got := <-request; state == queenStreaming && (got.err == nil || got.text == "") {
		t.Errorf("the stream ended after %q with %v", got.text, got.err)
	}
	if ephemeral || sig != syscall.SIGKILL {
		return // verify sees that nothing is left
	}
	if !runs(hive) || !runs(worker) {
		t.Fatal("the hive or its worker went with a queen who was killed")
	}
	q.start(ephemeral)
	q.await()
	eventually(t, "she finds her hive again", func() bool {
		s, err := q.calls.QueenStatus(t.Context())
		return err == nil && s.LocalHive.State == rbee.LocalHiveRunning && s.LocalHive.PID == hive && s.Hives[rbee.HivePresent] == 1
	})
	if _, err := q.calls.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	q.run.mustExit("exit status 0")
}

// household is a queen and the hive of her machine, in one state directory.
type household struct{ *queen }

func newHousehold(t *testing.T, ephemeral bool, state queenState) household {
	t.Helper()
	q := household{&queen{colony: newColony(t, "RBEE_HIVE_ADDR=127.0.0.1:0", "RBEE_QUEEN_NAMES=127.0.0.1"), bus: "127.0.0.1:0"}}
	q.env = append(q.env, "RBEE_WORKER_PROGRAM="+programs.fake, "RBEE_FAKE_ENGINE="+state.script())
	q.start(ephemeral)
	q.await()
	return q
}

func (q household) start(ephemeral bool) {
	q.t.Helper()
	line := []string{"daemon", "--addr", "127.0.0.1:0", "--bus-addr", q.bus}
	if ephemeral {
		line = append(line, "--ephemeral")
	}
	q.run = q.colony.start("queen-rbee", line...)
}

// await waits until she answers and hears of her hive.
func (q household) await() {
	q.t.Helper()
	q.queen.await()
	eventually(q.t, "her hive has joined", func() bool {
		s, err := q.calls.QueenStatus(q.t.Context())
		return err == nil && s.LocalHive.State == rbee.LocalHiveRunning && s.Hives[rbee.HivePresent] == 1
	})
}

// set brings the colony into a state. The request that it takes ends with the queen.
func (q household) set(state queenState) <-chan hit {
	q.t.Helper()
	ended := make(chan hit, 1)
	if state == queenIdle {
		hive := q.caller(noteOf(filepath.Join(q.home, "run", "hive.json")).URL)
		q.spawn(hive, rbee.SpawnRequest{ModelRef: beeTiny, KeepAlive: "forever"})
		close(ended)
		return ended
	}
	c, seen := q.official(), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		ended <- fire(q.t.Context(), c, shot{kind: "completion", model: beeTiny, prompt: "x", stream: true, tokens: 800, seen: seen})
	})
	q.t.Cleanup(all.Wait)
	if state == queenStreaming {
		<-seen
		return ended
	}
	eventually(q.t, "a worker loads", func() bool {
		workers, err := q.calls.ColonyWorkers(q.t.Context())
		return err == nil && len(workers) == 1 && workers[0].State == rbee.WorkerLoading
	})
	return ended
}

func (q household) hivePID() int { return q.find("the hive", isHive).pid }

func (q household) workerPID() int { return q.find("the worker", isWorker).pid }
