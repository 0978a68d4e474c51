package registry_test

import (
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/bus"
	"rbee/queen/registry"
	"rbee/queen/sched"
)

func TestAHiveThatLiesHarmsNobodyElse(t *testing.T) {
	r := registry.New(registry.Config{Machine: machine, Log: slog.New(slog.DiscardHandler)})
	r.Hear(bus.Update{About: &rbee.HiveAbout{
		ID: hiveID, Name: "bee\x1b[2J\r\n\x9b\xff" + strings.Repeat("e", 1000), Version: rbee.Version, APIVersion: rbee.APIVersion,
		URL: "http://user@127.0.0.1:1/hive/?really=#", Machine: machine, Models: []rbee.ColonyModel{{ModelRef: model}},
	}})
	worker := func(id rbee.WorkerID) rbee.ColonyWorker {
		return rbee.ColonyWorker{
			ID: id, ModelRef: model, State: rbee.WorkerIdle, SlotsTotal: math.MaxInt, QueueCapacity: math.MaxInt,
			SlotsBusy: math.MaxInt, Waiting: math.MaxInt, ContextTokens: math.MinInt, PrefillPerSec: -1, RequestMS: math.MaxFloat64,
		}
	}
	now := &rbee.HiveNow{ID: hiveID, Seq: 1, Workers: []rbee.ColonyWorker{worker("w-1"), worker("w-1")}}
	for _, id := range []rbee.WorkerID{"", "..", ".", "../../shutdown?", "a/b", "a%2fb", "a?b", "a#b", "a b", "a\r\nb"} {
		now.Workers = append(now.Workers, worker(id))
	}
	r.Hear(bus.Update{Now: now})
	told := r.Hives()[0]
	if len(told.Workers) != 1 || told.Workers[0].ID != "w-1" {
		t.Errorf("it has the workers %+v", told.Workers)
	}
	if !strings.HasPrefix(told.Name, "bee[2Jee") || len(told.Name) > 256 {
		t.Errorf("it is called %q", told.Name)
	}
	if target, err := r.Reach(hiveID); err != nil || target.Base != "http://127.0.0.1:1/hive" {
		t.Errorf("it is reached at %+v, %v", target, err)
	}
	d := sched.Decide(r.Look(), &rbee.RouteRequest{ModelRef: model, PromptTokens: 10})
	if in := d.Input(); in.Hives[0].Workers[0].SlotsBusy < 0 || d.Explain(1).Code != rbee.CodeAllSlotsBusy && d.Explain(1).Chosen == nil {
		t.Errorf("the decision is %+v of %+v", d.Explain(1), in)
	}
}

func TestThatRequestsGoInClearIsSaidOnce(t *testing.T) {
	var log strings.Builder
	r := registry.New(registry.Config{Machine: machine, Log: slog.New(slog.NewTextHandler(&log, nil))})
	r.Hear(bus.Update{About: &rbee.HiveAbout{ID: hiveID, Name: "bee", Key: "honey", URL: "http://10.0.0.1:80", Machine: "other"}})
	for range 2 {
		target, err := r.Reach(hiveID)
		if err != nil {
			t.Fatal(err)
		}
		target.Transport.(*http.Transport).CloseIdleConnections()
	}
	if said := log.String(); strings.Count(said, "in clear") != 1 || strings.Contains(said, "honey") {
		t.Errorf("the log says %q", said)
	}
}
