package crashes_test

import (
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/hive/crashes"
)

var (
	ref = rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/m/a.gguf"}
	why = rbee.Errorf(rbee.CodeWorkerCrashed, "it fell over")
)

// hold is how long the model is held back from now on.
func hold(t *testing.T, l *crashes.Log) time.Duration {
	t.Helper()
	loop, held := l.Check(ref, time.Now())
	if !held {
		return 0
	}
	if loop.ModelRef != ref || loop.Last != why {
		t.Errorf("held back for %+v", loop)
	}
	return time.Until(loop.RetryAt)
}

func TestThePauseDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l crashes.Log
		for i, want := range []time.Duration{
			0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second,
			64 * time.Second, 128 * time.Second, 256 * time.Second, 5 * time.Minute, 5 * time.Minute,
		} {
			l.Failed(ref, 0, why, time.Now())
			if got := hold(t, &l); got != want {
				t.Errorf("after %d failures: %s, want %s", i+1, got, want)
			}
			time.Sleep(want)
			if got := hold(t, &l); got != 0 {
				t.Errorf("after %d failures and their pause: %s", i+1, got)
			}
		}
		if list := l.List(time.Now()); len(list) != 1 || list[0].Failures != 13 {
			t.Errorf("listed: %+v", list)
		}
	})
}

func TestWhatEndsARow(t *testing.T) {
	for name, end := range map[string]func(*crashes.Log){
		"success":              func(l *crashes.Log) { l.Succeeded(ref) },
		"a long pause":         func(*crashes.Log) { time.Sleep(crashes.Memory + time.Second) },
		"a worker that served": func(l *crashes.Log) { l.Failed(ref, crashes.Stable, why, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l crashes.Log
				for range crashes.Tolerated - 1 {
					l.Failed(ref, 0, why, time.Now())
				}
				end(&l)
				l.Failed(ref, 0, why, time.Now())
				if got := hold(t, &l); got != 0 || len(l.List(time.Now())) != 0 {
					t.Errorf("held back for %s, listed %v", got, l.List(time.Now()))
				}
			})
		})
	}
}

func TestModelsAreHeldBackEachForItself(t *testing.T) {
	var l crashes.Log
	for range crashes.Tolerated {
		l.Failed(ref, 0, why, time.Now())
	}
	if _, held := l.Check(rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "a/b"}, time.Now()); held {
		t.Error("another model is held back")
	}
}
