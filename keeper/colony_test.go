package keeper

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rbee"
)

func TestHivesAndWorkersAreTables(t *testing.T) {
	o, stdout, stderr := testOutput()
	a := &app{out: o}
	tiny := rbee.ModelRef{Provider: rbee.ProviderBuiltin, Reference: "bee-tiny"}
	a.printHives([]rbee.ColonyHive{
		{
			ID: "00000000000000aa", Name: "big", Presence: rbee.HivePresent, LastHeard: time.Now(), Standing: rbee.HiveStanding{State: rbee.HiveOpen},
			Devices: []rbee.Device{{ID: "cpu"}, {ID: "cuda0"}}, DownloadMBps: 87.4, Models: make([]rbee.ColonyModel, 3), Workers: make([]rbee.ColonyWorker, 1),
			Memory: []rbee.DeviceMemory{{Device: "cpu", FreeBytes: 4e9, TotalBytes: 8e9}, {Device: "cuda0", FreeBytes: 1e9, TotalBytes: 24e9}},
		},
		{ID: "00000000000000bb", Name: "old", Presence: rbee.HiveLost, Reason: "nothing is heard of it", LastHeard: time.Now().Add(-90 * time.Second)},
	})
	a.printWorkers([]rbee.PlacedWorker{
		{HiveName: "old", ColonyWorker: rbee.ColonyWorker{ID: "w-2", ModelRef: tiny, State: rbee.WorkerLoading, LoadedFraction: 0.42, SlotsTotal: 4}},
		{HiveName: "big", ColonyWorker: rbee.ColonyWorker{
			ID: "w-1", ModelRef: tiny, State: rbee.WorkerBusy, Device: "cuda0", SlotsTotal: 4, SlotsBusy: 3, Waiting: 2,
			MemoryBytes: 16e6, PrefillPerSec: 2400, TokenMS: 10,
		}},
	})
	want := `HIVE  ID                STATE  DEVICES     MEMORY FREE                                 MODELS  WORKERS  DOWNLOAD  HEARD
big   00000000000000aa  open   cpu, cuda0  cpu 4.0 GB of 8.0 GB, cuda0 1.0 GB of 24.0 GB  3       1        87 MB/s   now
old   00000000000000bb  lost   -           -                                           0       0        -         1 min 30 s ago
WORKER  HIVE  MODEL             STATE        DEVICE  SLOTS FREE  WAITING  MEMORY  PREFILL        SPEED
w-1     big   builtin:bee-tiny  busy         cuda0   1/4         2        16 MB   2400 tokens/s  100.0 tokens/s
w-2     old   builtin:bee-tiny  loading 42%  -       4/4         0        0.0 MB  -              -
`
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if diff := cmp.Diff(squeeze(want), squeeze(stdout.String())); diff != "" {
		t.Error(diff)
	}
	if got := stderr.String(); got != "old: nothing is heard of it\n" {
		t.Errorf("beside it stands %q", got)
	}
}

func TestARouteTableHasNoColumnsThatSayNothing(t *testing.T) {
	o, stdout, _ := testOutput()
	chosen := rbee.Route{HiveName: "big", Worker: "w-1", Kind: rbee.RouteReady, Cost: rbee.RouteCost{Total: 0.5, Queue: 0.3, Prefill: 0.2}}
	(&app{out: o}).printRoutes(rbee.RouteDecision{
		Chosen: &chosen, Sentence: "goes to big",
		Others: []rbee.Route{
			{HiveName: "slow", Kind: rbee.RouteStart, Cost: rbee.RouteCost{Total: 102.04, Load: 102, Prefill: 0.0001}},
			{HiveName: "full", Kind: rbee.RouteStart, Excluded: "it is cordoned"},
		},
	})
	want := `   HIVE  WORKER  MODEL    TOTAL  QUEUE  LOAD  PREFILL  NOT TAKEN
*  big   w-1     loaded   0.500  0.300  -     0.200
   slow  -       on disk  102    -      102   <0.001
   full  -       on disk  -      -      -     -        it is cordoned

It goes to big.
`
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTheWayOfARequestIsToldInPhases(t *testing.T) {
	o, _, stderr := testOutput()
	j := &journey{out: o, colony: &colony{}, phases: true}
	for _, what := range []string{
		"waits for a free slot, 1 before it", "waits for a free slot, 1 before it", "big loads builtin:bee-tiny, 40%", "big loads builtin:bee-tiny, 80%", "big answers, after 2s",
	} {
		j.waits(what)
	}
	want := "  waits for a free slot, 1 before it\n[Phase 7] Loading\n  big loads builtin:bee-tiny, 40%\n  big loads builtin:bee-tiny, 80%\n"
	if diff := cmp.Diff(want, stderr.String()); diff != "" || j.from() != "by big" {
		t.Errorf("from %q, told %s", j.from(), diff)
	}
}

func TestAStatusTellsOfAClockThatJumped(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.Local)
	for seconds, want := range map[float64]string{
		-3600: "was set back by 1h0m0s while the hive ran, to 2026-05-01 12:00:00",
		90:    "went ahead by 1m30s while the hive ran, to 2026-05-01 12:00:00: it was set, or the machine slept",
	} {
		o, stdout, _ := testOutput()
		(&app{out: o}).printStatus(rbee.HiveStatus{ClockJump: &rbee.ClockJump{At: at, BySeconds: seconds}, Colony: &rbee.HiveColony{Connected: true}})
		if got := stdout.String(); !strings.Contains(got, "clock:   "+want+"\n") || !strings.Contains(got, "colony:  in a colony\n") {
			t.Errorf("%v seconds: %s", seconds, got)
		}
	}
}
