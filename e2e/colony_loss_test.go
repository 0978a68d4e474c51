//go:build linux

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rbee"
)

// long answers, so that requests are in all of their stages at any moment.
const longAnswers = "prefill=300ms,token=25ms,eos_at=100000"

// story is a load of chats, streamed and whole.
func aTale(i int) shot {
	return shot{kind: "chat", model: "builtin:bee-tiny", prompt: fmt.Sprintf("Tell %d", i), stream: i%3 > 0, tokens: 40}
}

// What happens to a hive while requests are there, and how it comes back.
type blow struct {
	name   string
	strike func(a *apiary, h *member)
	mend   func(a *apiary, h *member)
}

func blows() []blow {
	return []blow{
		{"its network is cut", func(a *apiary, h *member) {
			if a.net.Apart() {
				cut(a.t, h.place, true)
				return
			}
			h.signal(syscall.SIGSTOP)
		}, func(a *apiary, h *member) {
			if a.net.Apart() {
				cut(a.t, h.place, false)
				return
			}
			h.signal(syscall.SIGCONT)
		}},
		{"it is killed", func(_ *apiary, h *member) {
			kill(h.t, h.run.pid(), syscall.SIGKILL)
		}, func(_ *apiary, h *member) {
			h.run.wait()
			h.start()
			h.await()
		}},
		{"it is stopped", func(_ *apiary, h *member) {
			h.signal(syscall.SIGSTOP)
		}, func(_ *apiary, h *member) {
			h.signal(syscall.SIGCONT)
		}},
	}
}

// signal sends a signal to the hive and its workers.
func (h *member) signal(sig syscall.Signal) {
	for _, p := range h.procs() {
		kill(h.t, p.pid, sig)
	}
}

// Whatever befalls a hive in the middle of its work, each request is answered or
// fails with a code: elsewhere if its first token had not come, with what was
// produced if it had. The queen knows, and the hive serves again when it is back.
func TestRequestsSurviveTheLossOfHives(t *testing.T) {
	a := newApiary(t, longAnswers, longAnswers, longAnswers)
	for _, h := range a.hives {
		h.spawn(h.calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	}
	b := a.barrage(t.Context(), 18, aTale)
	defer b.stop()
	for i, blow := range blows() {
		h := a.hives[i]
		eventually(t, "all hives have requests", func() bool { return a.busy() == len(a.hives) })
		told, pinned := a.losses(), a.pin(h)
		began := time.Now()
		blow.strike(a, h)
		a.awaitPresence(h, rbee.HiveLost)
		t.Logf("%s: the queen knew after %v", blow.name, time.Since(began).Round(10*time.Millisecond))
		eventually(t, "what it had is answered elsewhere, or has failed", func() bool { return a.losses() > told })
		if cut := <-pinned; cut.code != rbee.CodeWorkerCrashed || cut.text == "" {
			t.Errorf("%s: a stream that had begun there ended after %q with %v", blow.name, cut.text, cut.err)
		}
		began = time.Now()
		blow.mend(a, h)
		a.present(h)
		t.Logf("%s: the queen knew that it was back after %v", blow.name, time.Since(began).Round(10*time.Millisecond))
		eventually(t, "it serves again", func() bool {
			again := fire(t.Context(), a.official(), shot{kind: "chat", model: "builtin:bee-tiny", prompt: "Again", tokens: 2, node: string(h.id)})
			return again.err == nil
		})
	}
	hits := b.stop()
	l := judge(t, hits, rbee.CodeWorkerCrashed)
	for _, h := range hits {
		if h.err != nil && (!h.stream || h.text == "") {
			t.Errorf("a request failed that had no token yet: %+v: %v", h.shot, h.err)
		}
	}
	retries := a.metric("rbee_queen_retries_total")
	t.Logf("%d requests were sent: %s; %g attempts were made elsewhere", len(hits), l, retries)
	if retries == 0 {
		t.Error("no request was tried elsewhere")
	}
	if got := a.metric("rbee_queen_requests_in_flight"); got != 0 {
		t.Errorf("%g requests are in flight at the end", got)
	}
}

// pin begins a long stream at a hive, and returns when its first token has come.
func (a *apiary) pin(h *member) <-chan hit {
	a.t.Helper()
	seen, ended := make(chan struct{}), make(chan hit, 1)
	s := shot{kind: "completion", model: "builtin:bee-tiny", prompt: "Long", stream: true, tokens: 600, node: string(h.id), seen: seen}
	var all sync.WaitGroup
	all.Go(func() { ended <- fire(a.t.Context(), a.official(), s) })
	a.t.Cleanup(all.Wait)
	select {
	case <-seen:
	case <-time.After(patience):
		a.t.Fatal("a stream does not begin")
	}
	return ended
}

// busy is how many hives have requests.
func (a *apiary) busy() (n int) {
	a.t.Helper()
	list, err := a.calls.Hives(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	for _, h := range list {
		for _, w := range h.Workers {
			if w.SlotsBusy > 0 {
				n++
				break
			}
		}
	}
	return n
}

// losses counts attempts that failed, of which the requests know.
func (q *queen) losses() float64 {
	return q.metric("rbee_queen_retries_total") + q.metric(`rbee_queen_requests_total{end="WORKER_CRASHED"}`)
}

// metric is a figure of the queen, 0 if she has none of that name.
func (q *queen) metric(name string) float64 {
	q.t.Helper()
	text, err := q.calls.Metrics(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				q.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// A queen who is killed under load knows hives and workers again once she is
// back, and they have gone on. A second one on her bus serves meanwhile.
func TestAQueenWhoIsKilledFindsHivesAndWorkersAgain(t *testing.T) {
	a := newApiary(t, longAnswers, longAnswers)
	for _, h := range a.hives {
		h.spawn(h.calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})
	}
	second := newQueen(t, a.net.Gate, "RBEE_QUEEN_JOIN="+a.token(rbee.JoinQueen))
	for _, h := range a.hives {
		second.present(h)
	}
	before := a.pids()
	lost, kept := a.barrage(t.Context(), 6, aTale), second.barrage(t.Context(), 6, aTale)
	defer lost.stop()
	defer kept.stop()
	eventually(t, "all hives have requests", func() bool { return a.busy() == len(a.hives) })
	kill(t, a.run.pid(), syscall.SIGKILL)
	a.run.wait()
	killed := lost.stop() // nobody is there to answer
	for i := range 4 {    // the second answers with the bus gone
		s := aTale(i)
		s.tokens = 2
		judge(t, []hit{fire(t.Context(), second.official(), s)})
	}
	a.start()
	a.await()
	began := time.Now()
	for _, h := range a.hives {
		a.present(h)
	}
	eventually(t, "she knows the workers", func() bool {
		workers, err := a.calls.ColonyWorkers(t.Context())
		return err == nil && len(workers) == len(a.hives)
	})
	t.Logf("she knew %d hives and their workers %v after she answered", len(a.hives), time.Since(began).Round(time.Millisecond))
	if after := a.pids(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the workers were %v and are %v", before, after)
	}
	again := volley(t.Context(), a.official(), 6, count(24, func(i int) shot { return aTale(i) }))
	t.Logf("at the first queen, before: %d; when she was back: %s", len(killed), judge(t, again))
	t.Logf("at the second queen: %s", judge(t, kept.stop()))
}

// pids are those of hives and workers.
func (a *apiary) pids() (all [][]int) {
	for _, h := range a.hives {
		all = append(all, append([]int{h.run.pid()}, h.workers()...))
	}
	return all
}
