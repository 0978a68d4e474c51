//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rbee"
	"rbee/client"
)

// swarm is how many workers are started at once.
const swarm = 20

// standstill is how long what is stopped stands still: E2E_STANDSTILL, else
// what is enough to see that nobody takes it for dead.
func standstill() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("E2E_STANDSTILL")); err == nil {
		return d
	}
	return 2 * time.Second
}

// workers counts the processes of workers.
func (c *colony) workers() int {
	n := 0
	for _, p := range c.procs() {
		if isWorker(p) {
			n++
		}
	}
	return n
}

// checkLedgers starts a hive once more, after which no ledger of a dead one is left.
func (c *colony) checkLedgers() {
	c.t.Helper()
	again, _ := c.daemon()
	kill(c.t, again.pid(), syscall.SIGTERM)
	again.mustExit("exit status 0")
	if left, _ := filepath.Glob(filepath.Join(c.home, "run", "ledger-*")); len(left) > 0 {
		c.t.Errorf("left: ledgers %v", left)
	}
}

// A hive is told to start many workers at once, and ends in the middle of it.
func TestASwarmOfWorkersDiesWithItsHive(t *testing.T) {
	t.Parallel()
	for round := range rounds() {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			for when, enough := range map[string]int{"at the first": 1, "half way": swarm / 2, "at the last": swarm} {
				t.Run(fmt.Sprintf("%d/%s/%s", round+1, sig, when), func(t *testing.T) {
					c := newColony(t)
					c.fake("load=2s")
					hive, calls := c.daemon()
					ctx, stop := context.WithCancel(t.Context())
					var asking sync.WaitGroup
					var refused atomic.Int32
					for range swarm {
						asking.Go(func() {
							if _, err := calls.Spawn(ctx, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"}); err != nil {
								refused.Add(1)
							}
						})
					}
					eventually(t, fmt.Sprintf("%d workers run", enough), func() bool { return c.workers() >= enough-int(refused.Load()) })
					kill(t, hive.pid(), sig)
					hive.wait()
					c.killed = time.Now()
					stop()
					asking.Wait()
					c.awaitNothing()
					c.checkLedgers()
				})
			}
		}
	}
}

// streams runs streams of so many tokens through a worker. The functions that
// are returned tell how many events came, and wait for how the streams ended.
func (c *colony) streams(worker *client.Client, n, tokens int) (arrived func() int, wait func() []error) {
	var total atomic.Int64
	errs := make([]error, n)
	var streams sync.WaitGroup
	for i := range n {
		streams.Go(func() {
			var done *rbee.InferDone
			for ev, err := range worker.Infer(c.t.Context(), rbee.InferRequest{Prompt: "x", MaxTokens: &tokens}) {
				if err != nil {
					errs[i] = err
					return
				}
				total.Add(1)
				if ev.InferDone != nil {
					done = ev.InferDone
				}
			}
			if done == nil || done.TotalTokens != tokens {
				errs[i] = fmt.Errorf("the stream of %d tokens ended with %+v", tokens, done)
			}
		})
	}
	return func() int { return int(total.Load()) }, func() []error {
		streams.Wait()
		return errs
	}
}

// still stops a process for a while, as Ctrl-Z, a debugger or a machine
// without memory does.
func (c *colony) still(pid int) {
	c.t.Helper()
	kill(c.t, pid, syscall.SIGSTOP)
	eventually(c.t, "the process stands still", func() bool {
		state, _ := stat(pid)
		return state == 'T'
	})
	select {
	case <-time.After(standstill()):
	case <-c.t.Context().Done():
	}
}

func TestAHiveThatStoodStillGoesOn(t *testing.T) {
	t.Parallel()
	for range rounds() {
		c := newColony(t)
		c.fake("token=10ms,eos_at=100000")
		hive, calls := c.daemon()
		w := c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"})
		arrived, wait := c.streams(c.caller(w.URL), 4, 400)
		eventually(t, "tokens arrive", func() bool { return arrived() > 20 })
		c.still(hive.pid())
		kill(t, hive.pid(), syscall.SIGCONT)
		if err := errors.Join(wait()...); err != nil {
			t.Errorf("streams: %v", err)
		}
		if got := c.awaitState(calls, w.ID, rbee.WorkerIdle); got.PID != w.PID {
			t.Errorf("the worker is another: %+v", got)
		}
		kill(t, hive.pid(), syscall.SIGTERM)
		hive.mustExit("exit status 0")
	}
}

func TestAHiveThatIsKilledWhileItStandsStillLeavesNothing(t *testing.T) {
	t.Parallel()
	for range rounds() {
		c := newColony(t)
		c.fake("token=10ms,eos_at=100000")
		hive, calls := c.daemon()
		w := c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"})
		arrived, wait := c.streams(c.caller(w.URL), 4, 5000)
		eventually(t, "tokens arrive", func() bool { return arrived() > 20 })
		c.still(hive.pid())
		kill(t, hive.pid(), syscall.SIGKILL)
		hive.mustExit("signal: killed")
		c.killed = time.Now()
		for _, err := range wait() {
			if err == nil {
				t.Error("a stream of a killed hive ended as if it were whole")
			}
		}
		c.awaitNothing()
		c.checkLedgers()
	}
}

func TestAWorkerThatStandsStillDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.fake("token=10ms,eos_at=100000")
	hive, calls := c.daemon()
	w := c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"})
	arrived, wait := c.streams(c.caller(w.URL), 2, 5000)
	eventually(t, "tokens arrive", func() bool { return arrived() > 20 })
	kill(t, w.PID, syscall.SIGSTOP)
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
	wait()
	if runs(w.PID) {
		t.Error("the worker is left")
	}
}

// A reader that reads no more, and does not go away either.
func TestACallerThatStandsStillDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.fake("token=1ms,eos_at=1000000")
	hive, _ := c.daemon()
	keeper := c.start("rbee", "infer", "--node", "localhost", "--model", "builtin:bee-tiny", "--prompt", "x", "--max-tokens", "8000")
	eventually(t, "tokens arrive", func() bool { return len(keeper.stdout()) > 20 })
	kill(t, keeper.pid(), syscall.SIGSTOP)
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
	kill(t, keeper.pid(), syscall.SIGCONT)
	keeper.wait()
}
