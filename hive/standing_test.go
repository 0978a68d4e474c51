package hive

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rbee"
	"rbee/internal/conf"
)

func TestWhatAHiveTakesOn(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 5, 1, hour, 0, 0, 0, time.UTC) }
	night, sparing := conf.Hive{Hours: "22:00-08:00"}, conf.Hive{OnBattery: "never"}
	for name, c := range map[string]struct {
		ordered rbee.HiveState
		policy  conf.Hive
		now     time.Time
		battery bool
		state   rbee.HiveState
		cause   rbee.HiveCause
	}{
		"nothing was said":          {rbee.HiveOpen, conf.Hive{}, at(12), false, rbee.HiveOpen, ""},
		"in its hours":              {rbee.HiveOpen, night, at(23), false, rbee.HiveOpen, ""},
		"out of its hours":          {rbee.HiveOpen, night, at(12), false, rbee.HiveCordoned, rbee.ByHours},
		"on battery, always":        {rbee.HiveOpen, conf.Hive{OnBattery: "always"}, at(12), true, rbee.HiveOpen, ""},
		"on battery, never":         {rbee.HiveOpen, sparing, at(12), true, rbee.HiveCordoned, rbee.ByBattery},
		"on mains":                  {rbee.HiveOpen, sparing, at(12), false, rbee.HiveOpen, ""},
		"an order":                  {rbee.HiveCordoned, conf.Hive{}, at(12), false, rbee.HiveCordoned, rbee.ByOperator},
		"an order before the hours": {rbee.HiveDraining, night, at(12), true, rbee.HiveDraining, rbee.ByOperator},
	} {
		t.Run(name, func(t *testing.T) {
			got := stand(c.ordered, c.policy, c.now, c.battery)
			if got.State != c.state || got.Cause != c.cause || (got.Reason == "") != (c.state == rbee.HiveOpen) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestTheLikelyNextModel(t *testing.T) {
	row := func(name string, size, uses int64) rbee.Model {
		return rbee.Model{Provider: rbee.ProviderFile, Reference: "/" + name, SizeBytes: size, UseCount: uses}
	}
	models := []rbee.Model{row("rare", 10, 1), row("often", 10, 5), row("huge", 1000, 9), row("unused", 1, 0)}
	worker := func(name string, s rbee.WorkerState) rbee.Worker {
		return rbee.Worker{ModelRef: rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/" + name}, State: s}
	}
	none := func(rbee.Model) bool { return false }
	for name, c := range map[string]struct {
		live []rbee.Worker
		warm func(rbee.Model) bool
		want string
	}{
		"used most of those that fit": {nil, none, "/often"},
		"not one that is loaded":      {[]rbee.Worker{worker("often", rbee.WorkerBusy)}, none, "/rare"},
		"not one that is warm":        {nil, func(m rbee.Model) bool { return m.UseCount == 5 }, "/rare"},
		"none while something loads":  {[]rbee.Worker{worker("huge", rbee.WorkerLoading)}, none, ""},
		"none":                        {nil, func(rbee.Model) bool { return true }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := likelyNext(models, c.live, 100, c.warm)
			if got.Reference != c.want || ok != (c.want != "") {
				t.Errorf("%+v, %t", got, ok)
			}
		})
	}
}

func TestWhichWorkerIsReused(t *testing.T) {
	ref := rbee.ModelRef{Provider: rbee.ProviderFile, Reference: "/a"}
	worker := func(id rbee.WorkerID, s rbee.WorkerState, free int) rbee.Worker {
		return rbee.Worker{ID: id, ModelRef: ref, State: s, SlotsTotal: 4, SlotsAvailable: free, ContextTokens: 1024, Backend: rbee.BackendCPU, Device: "cpu"}
	}
	all := []rbee.Worker{
		{ID: "other", State: rbee.WorkerIdle, SlotsTotal: 64, SlotsAvailable: 64},
		worker("loads", rbee.WorkerLoading, 0), worker("full", rbee.WorkerBusy, 0), worker("half", rbee.WorkerBusy, 2),
		worker("free", rbee.WorkerIdle, 4), worker("ends", rbee.WorkerDraining, 0),
	}
	for name, c := range map[string]struct {
		req  rbee.SpawnRequest
		live []rbee.Worker
		want rbee.WorkerID
	}{
		"the freest":               {rbee.SpawnRequest{}, all, "free"},
		"a busy one":               {rbee.SpawnRequest{}, all[:4], "half"},
		"a ready before a loader":  {rbee.SpawnRequest{}, all[:3], "full"},
		"one that loads":           {rbee.SpawnRequest{}, all[:2], "loads"},
		"none of another model":    {rbee.SpawnRequest{}, all[:1], ""},
		"none that ends":           {rbee.SpawnRequest{}, all[5:], ""},
		"none with fewer slots":    {rbee.SpawnRequest{Slots: 5}, all, ""},
		"none with less context":   {rbee.SpawnRequest{Context: 2048}, all, ""},
		"none of another backend":  {rbee.SpawnRequest{Backend: rbee.BackendCUDA}, all, ""},
		"none on another device":   {rbee.SpawnRequest{Device: "cuda0"}, all, ""},
		"as much as was asked for": {rbee.SpawnRequest{Slots: 4, Context: 1024, Device: "cpu"}, all, "free"},
	} {
		t.Run(name, func(t *testing.T) {
			c.req.Reuse = true
			o := order{SpawnRequest: c.req, ref: ref}
			if got, ok := o.reusable(c.live); got.ID != c.want || ok != (c.want != "") {
				t.Errorf("%q, %t", got.ID, ok)
			}
			if o.Reuse = false; c.want != "" {
				if _, ok := o.reusable(c.live); ok {
					t.Error("reused unasked")
				}
			}
		})
	}
}

func TestWhoAsksForDevicesSharesOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		d := &devices{
			ctx: t.Context(),
			ask: func(context.Context) (rbee.DeviceList, error) {
				looks.Add(1)
				time.Sleep(10 * time.Second)
				return rbee.DeviceList{Devices: []rbee.Device{{ID: "cuda0", Kind: rbee.BackendCUDA}}}, nil
			},
			backends: func() []rbee.BackendStatus {
				return []rbee.BackendStatus{{Backend: rbee.BackendCPU, Available: true}, {Backend: rbee.BackendCUDA, Available: true}}
			},
		}
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				if got := d.recent(t.Context()); !hasKind(got.Devices, rbee.BackendCUDA) || !hasKind(got.Devices, rbee.BackendCPU) {
					t.Errorf("devices: %+v", got)
				}
			})
		}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		before := time.Now()
		if got := d.recent(hasty); time.Since(before) != time.Second || len(got.Devices) != 1 || got.Devices[0].Kind != rbee.BackendCPU {
			t.Errorf("in a hurry, after %s: %+v", time.Since(before), got)
		}
		callers.Wait()
		if n := looks.Load(); n != 1 {
			t.Errorf("%d looks", n)
		}
		d.recent(t.Context()) // the look is 10 s old by now
		d.list(t.Context(), time.Now().Add(-10*time.Second))
		d.list(t.Context(), time.Now()) // and has to be of now
		if n := looks.Load(); n != 3 {
			t.Errorf("%d looks", n)
		}
		d.work.Wait()
	})
}
