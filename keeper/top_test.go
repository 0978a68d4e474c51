package keeper

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"rbee"
)

func topExample() topPicture {
	ref, _ := rbee.ParseModelRef("hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:Q4_K_M")
	worker := rbee.Worker{
		ID: "w-1", ModelRef: ref, Device: "cuda0", State: rbee.WorkerIdle, SlotsTotal: 4, SlotsAvailable: 4, MemoryBytes: 1_400_000_000, Pinned: true,
	}
	busy := worker
	busy.ID, busy.State, busy.SlotsAvailable, busy.Pinned = "w-2", rbee.WorkerBusy, 1, false
	return topPicture{
		Host: "box:8080", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local),
		Hive: &rbee.HiveStatus{
			HiveStanding: rbee.HiveStanding{State: rbee.HiveOpen}, RequestsInFlight: 3,
			Memory: []rbee.DeviceMemory{{Device: "cuda0", TotalBytes: 8_000_000_000, FreeBytes: 5_200_000_000}},
		},
		Workers: []topRow{{Worker: worker, IdleSeconds: 84.4, Requests: 12}, {Worker: busy, TokensPerSecond: 41.26, Requests: 7, Queued: 2}},
	}
}

func TestTheTableOfTopFitsTheTerminal(t *testing.T) {
	for width, want := range map[int]string{
		0: `
ID   MODEL                                             STATE         DEVICE  MEMORY  SLOTS  TOKENS/S   IDLE  REQUESTS
w-1  hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:Q4_K_M  idle, pinned  cuda0   1.4 GB    0/4       0.0  1m24s        12
w-2  hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:Q4_K_M  busy          cuda0   1.4 GB  3/4+2      41.3      -         7`,
		90: `
ID   MODEL                  STATE         DEVICE  MEMORY  SLOTS  TOKENS/S   IDLE  REQUESTS
w-1  …hat-v1.0-GGUF:Q4_K_M  idle, pinned  cuda0   1.4 GB    0/4       0.0  1m24s        12
w-2  …hat-v1.0-GGUF:Q4_K_M  busy          cuda0   1.4 GB  3/4+2      41.3      -         7`,
		60: `
ID   MODEL             STATE         MEMORY  SLOTS  TOKENS/S
w-1  …1.0-GGUF:Q4_K_M  idle, pinned  1.4 GB    0/4       0.0
w-2  …1.0-GGUF:Q4_K_M  busy          1.4 GB  3/4+2      41.3`,
		30: `
ID   MODEL        STATE
w-1  …GUF:Q4_K_M  idle, pinned
w-2  …GUF:Q4_K_M  busy`,
		12: ``,
	} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			got := topExample().lines(width, 0, newStyles(false))
			for _, line := range got {
				if width > 0 && utf8.RuneCountInString(line) > width {
					t.Errorf("%q is longer than %d", line, width)
				}
			}
			if table := "\n" + strings.Join(got[2:], "\n"); want != "" {
				if diff := cmp.Diff(want, table); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestTopSaysHowTheHiveIsAndHowMuchIsNotShown(t *testing.T) {
	p := topExample()
	want := []string{"hive box:8080   open   3 requests running   cuda0 5.2 GB of 8.0 GB free   03:04:05", ""}
	if diff := cmp.Diff(want, p.lines(0, 0, newStyles(false))[:2]); diff != "" {
		t.Error(diff)
	}
	for height, most := range map[int]int{5: 5, 4: 4, 3: 4, 1: 4} {
		if got := p.lines(0, height, newStyles(false)); len(got) > most {
			t.Errorf("%d lines on a terminal of %d", len(got), height)
		}
	}
	if got := p.lines(0, 4, newStyles(false)); !strings.HasPrefix(got[3], "… and 2 more") {
		t.Errorf("got %q", got)
	}
	p.Workers, p.Hive = nil, nil
	if got := p.lines(0, 0, newStyles(false)); got[2] != "No workers." {
		t.Errorf("got %q", got)
	}
}

func TestSpeedIsWhatWasGeneratedSinceThePictureBefore(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text := func(tokens int) string {
		return "# HELP rbee_worker_generated_tokens_total Tokens generated.\n# TYPE x counter\n" +
			fmt.Sprintf("rbee_worker_generated_tokens_total %d\nrbee_worker_slots_busy 2\nrbee_worker_queued_requests 1\n", tokens) +
			"rbee_worker_admitted_requests_total 9\nrbee_worker_requests_total{reason=\"eos\"} 5\n"
	}
	row := topRow{Worker: rbee.Worker{ID: "w", State: rbee.WorkerBusy, SlotsTotal: 4, SlotsAvailable: 4}}
	first := row.fill(text(100), at, nil)
	if row.TokensPerSecond != 0 || row.SlotsAvailable != 2 || row.Queued != 1 || row.Requests != 9 {
		t.Errorf("at first %+v", row)
	}
	row.fill(text(180), at.Add(2*time.Second), map[rbee.WorkerID]tokenCount{"w": first})
	if row.TokensPerSecond != 40 {
		t.Errorf("then %g tokens/s", row.TokensPerSecond)
	}
	row = topRow{Worker: rbee.Worker{ID: "w", State: rbee.WorkerIdle, LastActivity: at, SlotsTotal: 4, SlotsAvailable: 4}}
	row.fill("", at.Add(3*time.Second), map[rbee.WorkerID]tokenCount{"w": first})
	if row.TokensPerSecond != 0 || row.IdleSeconds != 3 || row.SlotsAvailable != 4 {
		t.Errorf("without figures %+v", row)
	}
}

func TestTopKnowsTheWorkersOfTheFeed(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	worker := func(id string, minute int, state rbee.WorkerState) rbee.Worker {
		return rbee.Worker{ID: rbee.WorkerID(id), StartedAt: at.Add(time.Duration(minute) * time.Minute), State: state}
	}
	tp := &top{}
	if _, known := tp.known(); known {
		t.Error("workers are known before the first event")
	}
	one, two, three := worker("b", 1, "idle"), worker("a", 2, "idle"), worker("c", 3, "idle")
	busyOne := worker("b", 1, "busy")
	tp.take(rbee.Event{Kind: rbee.EventSnapshot, Workers: []rbee.Worker{two, one}})
	tp.take(rbee.Event{Kind: rbee.EventWorker, Worker: &three})
	tp.take(rbee.Event{Kind: rbee.EventWorker, Worker: &busyOne})
	tp.take(rbee.Event{Kind: rbee.EventWorkerGone, Worker: &two})
	tp.take(rbee.Event{Kind: rbee.EventModel})
	got, _ := tp.known()
	if diff := cmp.Diff([]rbee.Worker{busyOne, three}, got); diff != "" {
		t.Error(diff)
	}
	tp.take(rbee.Event{Kind: rbee.EventSnapshot})
	if got, known := tp.known(); len(got) != 0 || !known {
		t.Errorf("after an empty snapshot: %v, %t", got, known)
	}
}
