//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"rbee"
	"rbee/client"
)

func TestBehaviourSIGTERMEndsTheWorkersAndClearsTheRegistry(t *testing.T) {
	t.Parallel()
	testDaemonEnd(t, func(hive *running, _ *client.Client) { kill(hive.t, hive.pid(), syscall.SIGTERM) })
}

func TestBehaviourSIGINTEndsTheWorkersAndClearsTheRegistry(t *testing.T) {
	t.Parallel()
	testDaemonEnd(t, func(hive *running, _ *client.Client) { kill(hive.t, hive.pid(), syscall.SIGINT) })
}

func TestBehaviourShutdownRequestEndsTheWorkersAndClearsTheRegistry(t *testing.T) {
	t.Parallel()
	testDaemonEnd(t, func(hive *running, calls *client.Client) {
		if _, err := calls.Shutdown(hive.t.Context()); err != nil {
			hive.t.Error(err)
		}
	})
}

func testDaemonEnd(t *testing.T, end func(*running, *client.Client)) {
	c := newColony(t)
	hive, calls := c.daemon()
	for range 2 {
		w := c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
		if !runs(w.PID) {
			t.Errorf("worker %s is idle, but its pid %d does not run", w.ID, w.PID)
		}
	}
	c.procs() // notes their ports
	end(hive, calls)
	hive.mustExit("exit status 0")
	if left := c.procs(); len(left) > 0 {
		t.Errorf("the hive ended before %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(c.home, "run", "*.json")); len(left) > 0 {
		t.Errorf("left in run: %v", left)
	}

	again, calls := c.daemon()
	workers, err := calls.Workers(t.Context())
	if err != nil || len(workers) > 0 {
		t.Errorf("workers after the restart: %v, %v", workers, err)
	}
	kill(t, again.pid(), syscall.SIGTERM)
	again.mustExit("exit status 0")
}

func TestKeeperUsesARunningHiveAndLeavesIt(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	hive, calls := c.daemon()
	r := c.run("rbee", append(story[:1:1], append([]string{"--node", "localhost"}, story[1:]...)...)...)
	r.mustExit("exit status 0")
	workers, err := calls.Workers(t.Context())
	if err != nil || len(workers) > 0 {
		t.Errorf("workers after the request: %v, %v", workers, err)
	}
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
}

func TestHiveStartAndStopLeaveNothing(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.env = append(c.env, "RBEE_HIVE_ADDR=127.0.0.1:0")
	c.run("rbee", "hive", "start").mustExit("exit status 0")
	daemon := c.find("the daemon", isHive)
	calls := c.hive()
	if calls == nil {
		t.Fatal("the hive does not answer after 'rbee hive start'")
	}
	c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	c.run("rbee", "hive", "stop").mustExit("exit status 0")
	if runs(daemon.pid) {
		t.Error("'rbee hive stop' returned before the hive had ended")
	}
}

// partialFile is the file that the keeper names when a stream breaks.
var partialFile = regexp.MustCompile(`[^\s'"]*rbee-partial-[^\s'"]*\.txt`)

func TestKilledHiveTakesItsWorkerAndTheKeeperKeepsTheText(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.fake("token=20ms,eos_at=100000")
	hive, _ := c.daemon()
	keeper := c.start("rbee", "infer", "--node", "localhost", "--model", "builtin:bee-tiny", "--prompt", "x", "--max-tokens", "500")
	worker := c.find("the worker", isWorker)
	eventually(t, "tokens arrive", func() bool { return len(keeper.stdout()) > 20 })
	kill(t, hive.pid(), syscall.SIGKILL)
	eventually(t, "the worker is gone", func() bool { return !runs(worker.pid) })
	keeper.mustExit("exit status 1")
	checkPartial(t, c, keeper)
	for _, want := range []string{"Error: ", "Suggestion: ", "Tokens generated: "} {
		if !strings.Contains(keeper.stderr(), want) {
			t.Errorf("the keeper does not say %q:\n%s", want, keeper.stderr())
		}
	}
}

// checkPartial finds the file that the keeper names and compares it with what
// the user saw.
func checkPartial(t *testing.T, c *colony, keeper *running) {
	t.Helper()
	name := partialFile.FindString(keeper.stderr())
	if name == "" {
		t.Errorf("the keeper names no file with the partial text:\n%s", keeper.stderr())
		return
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(c.work, name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
		return
	}
	if got, want := strings.TrimRight(string(text), "\n"), strings.TrimRight(keeper.stdout(), "\n"); got != want || got == "" {
		t.Errorf("%s holds %q, the user saw %q", name, got, want)
	}
}

func TestStraysOfAKilledHiveAreSweptByTheNextOne(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.fake("")
	hive, calls := c.daemon()
	c.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	kill(t, hive.pid(), syscall.SIGKILL)
	hive.mustExit("signal: killed")
	ledgers, _ := filepath.Glob(filepath.Join(c.home, "run", "ledger-*"))
	if len(ledgers) == 0 {
		t.Error("a hive that was killed with a worker left no ledger")
	}
	again, _ := c.daemon()
	for _, ledger := range ledgers {
		if _, err := os.Stat(ledger); err == nil {
			t.Errorf("the next hive did not take %s away", ledger)
		}
	}
	kill(t, again.pid(), syscall.SIGTERM)
	again.mustExit("exit status 0")
}

func TestInterruptedHiveEndsAStreamAndItsWorker(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.fake("token=20ms,eos_at=100000")
	hive, _ := c.daemon()
	keeper := c.start("rbee", "infer", "--node", "localhost", "--model", "builtin:bee-tiny", "--prompt", "x", "--max-tokens", "500")
	worker := c.find("the worker", isWorker)
	eventually(t, "tokens arrive", func() bool { return len(keeper.stdout()) > 20 })
	kill(t, hive.pid(), syscall.SIGINT)
	hive.mustExit("exit status 0")
	if runs(worker.pid) {
		t.Error("the hive ended before its worker")
	}
	keeper.mustExit("exit status 1")
}

func TestWorkerOfAKilledKeeperStopsGeneratingAndEnds(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.fake("token=20ms,eos_at=100000")
	hive, calls := c.daemon()
	keeper := c.start("rbee", "infer", "--node", "localhost", "--model", "builtin:bee-tiny", "--prompt", "x", "--max-tokens", "1000", "--context", "1024")
	worker := c.find("the worker", isWorker)
	eventually(t, "tokens arrive", func() bool { return len(keeper.stdout()) > 20 })
	kill(t, keeper.pid(), syscall.SIGKILL)
	c.awaitState(calls, rbee.WorkerID(worker.flag("--worker-id")), rbee.WorkerIdle)
	eventually(t, "the worker is gone", func() bool { return !runs(worker.pid) })
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
}

func TestQueenEndsWhenAsked(t *testing.T) {
	t.Parallel()
	addr := regexp.MustCompile(`127\.0\.0\.1:[1-9][0-9]*`)
	for name, end := range map[string]func(*running, *client.Client){
		"SIGTERM":  func(queen *running, _ *client.Client) { kill(queen.t, queen.pid(), syscall.SIGTERM) },
		"SIGINT":   func(queen *running, _ *client.Client) { kill(queen.t, queen.pid(), syscall.SIGINT) },
		"shutdown": func(queen *running, calls *client.Client) { _, _ = calls.Shutdown(queen.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newColony(t)
			queen := c.start("queen-rbee", "daemon", "--addr", "127.0.0.1:0")
			eventually(t, "the queen says where it listens", func() bool { return addr.MatchString(queen.stderr()) })
			calls := c.caller("http://" + addr.FindString(queen.stderr()))
			if health, err := calls.Health(t.Context()); err != nil || health != rbee.Alive() {
				t.Errorf("health = %+v, %v", health, err)
			}
			end(queen, calls)
			queen.mustExit("exit status 0")
		})
	}
}
