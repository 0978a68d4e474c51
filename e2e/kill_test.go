//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"rbee"
	"rbee/client"
)

// The kill table: whichever of the three programs gets whichever signal in
// whichever state of the worker, nothing is left that nobody owns. Apart from
// the state idle, the scene is `rbee infer` with a private hive.

type victim string

const (
	keeperVictim victim = "keeper"
	hiveVictim   victim = "hive"
	workerVictim victim = "worker"
)

var signals = []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL}

// scene is a colony with one worker in a certain state.
type scene struct {
	*colony
	keeper  *running
	daemon  *running // nil if the hive is the keeper's own
	calls   *client.Client
	hivePID int
	worker  proc
	id      rbee.WorkerID
	end     func() // ends what the test itself has in flight
}

// script is what the fake engine does so that the state lasts.
func script(state rbee.WorkerState) string {
	switch state {
	case rbee.WorkerLoading:
		return "load_stall_at=6"
	case rbee.WorkerBusy, rbee.WorkerDraining:
		return "token=50ms,eos_at=100000"
	default:
		return ""
	}
}

func TestKillTable(t *testing.T) {
	t.Parallel()
	places := semaphore.NewWeighted(4) // scenes at a time; each is three processes
	for round := range rounds() {
		for _, victim := range []victim{keeperVictim, hiveVictim, workerVictim} {
			for _, state := range rbee.WorkerStates() {
				if state.Final() {
					continue
				}
				for _, sig := range signals {
					name := string(victim) + "/" + string(state) + "/" + sig.String()
					if rounds() > 1 {
						name = fmt.Sprintf("%d/%s", round+1, name)
					}
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						if err := places.Acquire(t.Context(), 1); err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { places.Release(1) })
						killOnce(t, victim, state, sig)
					})
				}
			}
		}
	}
}

func killOnce(t *testing.T, victim victim, state rbee.WorkerState, sig syscall.Signal) {
	c := newColony(t)
	c.fake(script(state))
	s := &scene{colony: c, end: func() {}}
	defer func() { s.end() }()
	s.set(state, "builtin:bee-tiny")
	s.kill(victim, sig)
	s.check(victim, state, sig)
}

// set brings the worker into the state.
func (s *scene) set(state rbee.WorkerState, model string) {
	s.t.Helper()
	if state == rbee.WorkerIdle {
		s.setIdle(model)
		return
	}
	if state == rbee.WorkerStarting {
		gate := filepath.Join(s.tmp, "gate")
		if err := syscall.Mkfifo(gate, 0o600); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = os.Remove(gate) })
		s.env = append(s.env, "E2E_GATE="+gate)
	}
	s.keeper = s.start("rbee", "infer", "--model", model, "--prompt", "x", "--max-tokens", "800")
	s.worker = s.find("the worker", isWorker)
	s.id = rbee.WorkerID(s.worker.flag("--worker-id"))
	s.hivePID = s.find("the hive", isHive).pid
	base, _, _ := strings.Cut(s.worker.flag("--callback-url"), "/v1/")
	s.calls = s.caller(base, client.Key(environ(s.t, s.hivePID, "RBEE_HIVE_KEY"))) // known to keeper and hive alone
	switch state {
	case rbee.WorkerBusy, rbee.WorkerDraining:
		eventually(s.t, "tokens arrive", func() bool { return len(s.keeper.stdout()) > 0 })
		s.awaitState(s.calls, s.id, rbee.WorkerBusy)
		if state == rbee.WorkerDraining {
			s.drain()
		}
	}
	s.awaitState(s.calls, s.id, state)
	s.procs() // notes their ports
}

// setIdle lets a keeper watch an idle worker of a daemon.
func (s *scene) setIdle(model string) {
	s.t.Helper()
	s.daemon, s.calls = s.colony.daemon()
	s.hivePID = s.daemon.pid()
	w := s.spawn(s.calls, rbee.SpawnRequest{ModelRef: model, KeepAlive: "forever"})
	s.id = w.ID
	s.worker = s.find("the worker", isWorker)
	s.keeper = s.start("rbee", "workers", "logs", string(s.id), "--follow", "--node", "localhost")
	eventually(s.t, "the keeper follows the log", func() bool {
		return runs(s.keeper.pid()) && s.connected()
	})
}

// connected says whether the keeper has a socket.
func (s *scene) connected() bool {
	sockets, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.keeper.pid()))
	return err == nil && slices.ContainsFunc(sockets, func(fd string) bool {
		target, err := os.Readlink(fd)
		return err == nil && strings.HasPrefix(target, "socket:")
	})
}

// drain asks the hive to stop the worker that streams; the hive answers when
// the stream has ended.
func (s *scene) drain() {
	var stop sync.WaitGroup
	stop.Go(func() { _ = s.calls.StopWorker(s.t.Context(), s.id) })
	s.end = stop.Wait
}

func (s *scene) kill(who victim, sig syscall.Signal) {
	s.t.Helper()
	pid := map[victim]int{keeperVictim: s.keeper.pid(), hiveVictim: s.hivePID, workerVictim: s.worker.pid}[who]
	kill(s.t, pid, sig)
	eventually(s.t, "the victim has ended", func() bool { return !runs(pid) })
	s.killed = time.Now()
}

// check says how the others must take it. That nothing is left is checked by
// colony.verify, after the daemon, if there is one, was asked to end.
func (s *scene) check(who victim, state rbee.WorkerState, sig syscall.Signal) {
	s.t.Helper()
	if s.daemon != nil {
		s.checkIdle(who, sig)
		return
	}
	switch {
	case who == keeperVictim && sig == syscall.SIGKILL:
		s.keeper.mustExit("signal: killed")
	case who == keeperVictim:
		s.keeper.mustExit("exit status 130")
	default:
		s.keeper.mustExit("exit status 1")
		if !strings.Contains(s.keeper.stderr(), "Error: ") || !strings.Contains(s.keeper.stderr(), "Suggestion: ") {
			s.t.Errorf("the keeper does not say what happened and what to try:\n%s", s.keeper.stderr())
		}
		if state == rbee.WorkerBusy || state == rbee.WorkerDraining {
			checkPartial(s.t, s.colony, s.keeper)
		}
	}
}

func (s *scene) checkIdle(who victim, sig syscall.Signal) {
	s.t.Helper()
	switch who {
	case keeperVictim: // hive and worker are not the keeper's
		if w, err := s.calls.Worker(s.t.Context(), s.id); err != nil || w.State != rbee.WorkerIdle || !runs(s.worker.pid) {
			s.t.Errorf("the end of a keeper that looked on changed the worker: %+v, %v", w, err)
		}
	case workerVictim: // the hive notices, and goes on
		eventually(s.t, "the hive lists the worker no more", func() bool {
			workers, err := s.calls.Workers(s.t.Context())
			return err == nil && len(workers) == 0
		})
		eventually(s.t, "the hive has collected the worker", func() bool { return len(s.zombies()) == 0 })
		s.keeper.wait()
	case hiveVictim:
		if sig != syscall.SIGKILL {
			s.daemon.mustExit("exit status 0")
		}
		s.keeper.wait()
		eventually(s.t, "the worker is gone", func() bool { return !runs(s.worker.pid) })
		return
	}
	kill(s.t, s.daemon.pid(), syscall.SIGTERM)
	s.daemon.mustExit("exit status 0")
	s.keeper.wait()
}
