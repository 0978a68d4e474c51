package registry_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/internal/bus"
	"rbee/queen/registry"
)

// quiet is a bus on which nobody speaks.
type quiet struct{}

func (quiet) Watch(ctx context.Context, _ func(bus.Update)) error { <-ctx.Done(); return nil }
func (quiet) Connected() (bool, error)                            { return true, nil }

func TestAHiveThatIsSilentIsLostAndThenForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := registry.New(registry.Config{Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { _ = r.Run(ctx, quiet{}) })
		r.Hear(bus.Update{About: &rbee.HiveAbout{ID: hiveID, APIVersion: rbee.APIVersion, Version: rbee.Version}})
		r.Hear(bus.Update{Now: &rbee.HiveNow{ID: hiveID, Seq: 1}})
		presence := func() (p rbee.HivePresence) {
			for _, h := range r.Hives() {
				p = h.Presence
			}
			return p
		}
		for _, want := range []struct {
			after    time.Duration
			presence rbee.HivePresence
		}{{2 * time.Second, rbee.HivePresent}, {2 * time.Second, rbee.HiveLost}, {9 * time.Minute, rbee.HiveLost}, {2 * time.Minute, ""}} {
			<-time.After(want.after)
			if got := presence(); got != want.presence {
				t.Errorf("after another %s it is %q, not %q", want.after, got, want.presence)
			}
		}
	})
}

func TestAHiveThatTellsThatItIsWellAndFailsIsAvoidedForLonger(t *testing.T) {
	t.Parallel()
	r := registry.New(registry.Config{Log: slog.New(slog.DiscardHandler)})
	seq := uint64(0)
	tell := func() {
		seq++
		r.Hear(bus.Update{Now: &rbee.HiveNow{ID: hiveID, Seq: seq}})
	}
	about := func(key string) {
		r.Hear(bus.Update{About: &rbee.HiveAbout{ID: hiveID, APIVersion: rbee.APIVersion, Version: rbee.Version, Key: key}})
		tell()
	}
	avoided := func() bool { return r.Hives()[0].Reason != "" }
	fail := func() { r.Failed(hiveID, rbee.Errorf(rbee.CodeConnectionTimeout, "nobody answers")) }
	about("a")
	fail()
	fail() // at the same time
	if !avoided() {
		t.Error("it is not avoided")
	}
	if tell(); avoided() {
		t.Error("one failure counts though it was heard since")
	}
	fail()
	if tell(); !avoided() {
		t.Error("the second failure is forgiven at its next word")
	}
	if about("b"); !avoided() {
		return
	}
	t.Error("another process is avoided for what the last one did")
}
