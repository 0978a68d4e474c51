package hive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rbee"
	"rbee/hive"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// jumps are what may happen to the clock of a machine. To sleep is to jump
// ahead: time does not pass, and the date goes on.
func jumps() map[string]time.Duration {
	return map[string]time.Duration{"ahead by a day": day, "back by a day": -day, "ahead by ten years": 10 * year, "back by ten years": -10 * year}
}

// timed runs a hive by a clock that the test may set.
func timed(t *testing.T, env ...string) (*running, *hive.Wall) {
	t.Helper()
	wall := &hive.Wall{}
	tune := func(h *hive.Hive) { h.Clock(wall.Now, 20*time.Millisecond) }
	return startTuned(t, t.TempDir(), tune, env...), wall
}

func TestTheClockOfTheseTestsJumpsAsThatOfAMachine(t *testing.T) {
	for name, by := range jumps() {
		t.Run(name, func(t *testing.T) {
			var wall hive.Wall
			before := wall.Now()
			wall.Jump(by)
			after := wall.Now()
			if took := after.Sub(before); took < 0 || took > patience {
				t.Errorf("the time that passed jumped by %s", took)
			}
			if got := after.Round(0).Sub(before.Round(0)) - after.Sub(before); (got - by).Abs() > time.Second {
				t.Errorf("the date jumped by %s, not %s", got, by)
			}
		})
	}
}

func TestAJumpOfTheClockEndsNothingAndKeepsNothingForEver(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "load=300ms,token=10ms,eos_at=100000")
	lasting := func(s *rbee.SpawnRequest) { s.KeepAlive = "1h" }
	for name, by := range jumps() {
		t.Run(name, func(t *testing.T) {
			r, wall := timed(t)
			idle, _ := r.ready(lasting)
			streaming, stream := r.ready(lasting)
			brief := r.spawn(func(s *rbee.SpawnRequest) { s.KeepAlive = "1s" }).WorkerID
			r.pinned(brief, true)
			r.wait(brief, rbee.WorkerIdle)

			var loading rbee.WorkerID
			tokens := 60
			for ev, err := range stream.Infer(t.Context(), rbee.InferRequest{Prompt: "a", MaxTokens: &tokens}) {
				must(t, err)
				switch {
				case ev.InferDone != nil && ev.TotalTokens != tokens:
					t.Errorf("the stream ended with %+v", ev.InferDone)
				case ev.Token != "" && loading == "":
					loading = r.spawn(lasting).WorkerID
					wall.Jump(by)
				}
			}
			if w := r.wait(loading, rbee.WorkerIdle); w.LoadMS > patience.Milliseconds() {
				t.Errorf("the load took %d ms", w.LoadMS)
			}
			r.pinned(idle, true)
			r.pinned(idle, false) // now its idle time is counted anew
			r.pinned(brief, false)
			r.wait(brief, rbee.WorkerStopped)
			for _, id := range []rbee.WorkerID{idle, streaming, loading} {
				r.wait(id, rbee.WorkerIdle)
				if _, _, err := infer(t.Context(), r.At(r.Base()+"/v1/workers/"+string(id)), 3); err != nil {
					t.Errorf("worker %s: %v", id, err)
				}
			}
			r.toldOf(by)
			r.hasLogs(idle, streaming, loading, r.spawn().WorkerID) // that one's start removes old logs
		})
	}
}

// pinned keeps a worker from being ended, or no more.
func (r *running) pinned(id rbee.WorkerID, pin bool) {
	r.t.Helper()
	call := r.Unpin
	if pin {
		call = r.Pin
	}
	_, err := call(r.t.Context(), id)
	must(r.t, err)
}

// toldOf wants the hive to be well and to have told of one jump.
func (r *running) toldOf(by time.Duration) {
	r.t.Helper()
	if _, err := r.Health(r.t.Context()); err != nil {
		r.t.Error(err)
	}
	status, err := r.Status(r.t.Context())
	must(r.t, err)
	if status.State != rbee.HiveOpen || status.ClockJump == nil || status.ClockJump.BySeconds != by.Seconds() {
		r.t.Errorf("status: %+v, jump %+v", status.HiveStanding, status.ClockJump)
	}
	said := fmt.Sprintf("level=WARN msg=%q by=%s", "the clock of this machine jumped", by)
	if n := strings.Count(r.log.String(), said); n != 1 || strings.Count(r.log.String(), "jumped") != 1 {
		r.t.Errorf("%d lines with %s", n, said)
	}
}

// hasLogs wants what the workers wrote to be on disk.
func (r *running) hasLogs(ids ...rbee.WorkerID) {
	r.t.Helper()
	for _, id := range ids {
		if _, err := os.Stat(filepath.Join(r.home, "logs", "workers", "builtin_bee-tiny-"+string(id)+".log")); err != nil {
			r.t.Error(err)
		}
	}
}

func TestTheHoursFollowAClockThatIsSet(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "token=10ms,eos_at=100000")
	now := time.Now()
	r, wall := timed(t, "RBEE_HIVE_HOURS="+now.Add(2*time.Hour).Format("15:04")+"-"+now.Add(6*time.Hour).Format("15:04"))
	standing := func(state rbee.HiveState, cause rbee.HiveCause) {
		t.Helper()
		r.eventually(string(state), func() bool {
			s, err := r.Status(t.Context())
			must(t, err)
			return s.State == state && s.Cause == cause
		})
	}
	refused := func() {
		t.Helper()
		if _, err := r.Spawn(t.Context(), rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"}); rbee.CodeOf(err) != rbee.CodeWorkerNotReady {
			t.Errorf("a start out of the hours: %v", err)
		}
	}
	standing(rbee.HiveCordoned, rbee.ByHours)
	refused()
	wall.Jump(4 * time.Hour)
	standing(rbee.HiveOpen, "")
	id, w := r.ready()
	tokens, jumped := 30, false
	for ev, err := range w.Infer(t.Context(), rbee.InferRequest{Prompt: "a", MaxTokens: &tokens}) {
		must(t, err)
		if !jumped {
			jumped = true
			wall.Jump(-4 * time.Hour)
		}
		if ev.InferDone != nil && ev.TotalTokens != tokens {
			t.Errorf("the stream ended with %+v", ev.InferDone)
		}
	}
	standing(rbee.HiveCordoned, rbee.ByHours)
	refused()
	r.wait(id, rbee.WorkerIdle)
	r.eventually("two jumps are told of", func() bool {
		return strings.Contains(r.log.String(), "by=4h0m0s") && strings.Contains(r.log.String(), "by=-4h0m0s")
	})
}

func TestWhenAModelMayStartAgainIsToldByTheClockAsItIs(t *testing.T) {
	t.Setenv("RBEE_FAKE_ENGINE", "refuse=the moon is full")
	r, wall := timed(t)
	for range 3 {
		r.wait(r.spawn().WorkerID, rbee.WorkerFailed)
	}
	for name, by := range jumps() {
		wall.Jump(by)
		s, err := r.Status(t.Context())
		must(t, err)
		if len(s.CrashLoops) != 1 || s.CrashLoops[0].RetryAt.Sub(wall.Now()).Abs() > time.Minute {
			t.Errorf("%s: %+v, and it is %s", name, s.CrashLoops, wall.Now())
		}
	}
}

func TestAModelThatWasUsedLastIsKnownAlsoWhenTheClockWasSetBack(t *testing.T) {
	r, wall := timed(t)
	bee, err := os.ReadFile("../models/bee-tiny.gguf")
	must(t, err)
	path := filepath.Join(t.TempDir(), "other.gguf")
	must(t, os.WriteFile(path, bee, 0o600))
	r.ready()
	wall.Jump(-10 * year)
	r.ready(func(s *rbee.SpawnRequest) { s.ModelRef = "file:" + path })
	models, err := r.Models(t.Context())
	must(t, err)
	last := map[rbee.Provider]time.Time{}
	for _, m := range models {
		last[m.Provider] = m.LastUsed
	}
	if !last[rbee.ProviderFile].After(last[rbee.ProviderBuiltin]) {
		t.Errorf("used last: %v", last)
	}
}
