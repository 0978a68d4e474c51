//go:build linux

package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rbee"
	"rbee/client"
)

// The kill table of the model store: a hive is killed at random moments of
// whatever it does to its models, again and again with one state directory.
// After each kill the directory is looked at without a hive, then through the
// hive that is started next.
//
// E2E_ROUNDS sets the number of kills, E2E_SEED repeats what was chosen.

const (
	usualRounds = 48
	quotaBytes  = 120_000_000
	slack       = 8 << 20 // bytes that may be fetched again
)

// table is the state of the test.
type table struct {
	*shelf
	rnd   *rand.Rand
	all   map[string]goods // all models that there are
	have  map[string]bool  // what a hive that was asked had
	hurt  map[string]bool  // what was damaged and not verified to the end since; its row may be left without a file
	paces map[string]*pace
	hive  *running
	calls *client.Client

	inside    map[string]int // kills before the deed was over, by deed and clock
	outside   int
	resumed   int
	overshoot int64 // most bytes that were fetched though they had been written
}

func TestKilledHiveLosesNoModel(t *testing.T) {
	t.Parallel()
	rounds, seed := usualRounds, uint64(time.Now().UnixNano())
	if n, err := strconv.Atoi(os.Getenv("E2E_ROUNDS")); err == nil {
		rounds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("E2E_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("E2E_ROUNDS=%d E2E_SEED=%d", rounds, seed)
	k := &table{
		shelf: newShelf(t, fmt.Sprintf("RBEE_MODELS_QUOTA_GB=%g", quotaBytes/1e9)),
		rnd:   rand.New(rand.NewPCG(seed, seed)),
		have:  map[string]bool{}, hurt: map[string]bool{}, paces: map[string]*pace{}, inside: map[string]int{},
	}
	k.fill()
	k.start()
	for n := range rounds {
		if k.round(n); t.Failed() {
			for _, r := range k.started[max(0, len(k.started)-3):] {
				t.Logf("hive %d said:\n%s", r.pid(), r.stderr())
			}
			t.Fatalf("in round %d", n+1)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(k.inside)) {
		t.Logf("killed inside %-24s %d", what, k.inside[what])
	}
	k.tidy()
	t.Logf("killed when the deed was over: %d; downloads resumed: %d; most bytes fetched again: %d", k.outside, k.resumed, k.overshoot)
	kill(t, k.hive.pid(), syscall.SIGTERM)
	k.hive.mustExit("exit status 0")
}

// start starts a hive and waits until it answers.
func (k *table) start() {
	k.t.Helper()
	k.hive = k.colony.start("rbee-hive", "daemon", "--addr", "127.0.0.1:0")
	k.calls = k.answers(k.hive)
}

// round is one kill, and what must be true then.
func (k *table) round(n int) {
	rebuilt := false
	var deeds []deed
	switch n % 12 {
	case 0, 6:
		deeds = []deed{k.pull("hf:kill/large:Q8_0")}
	case 1:
		deeds = []deed{k.verify(true)}
	case 2:
		k.stock()
		deeds = []deed{k.remove()}
	case 3:
		deeds = []deed{k.importing()}
	case 4:
		k.stock()
		deeds, rebuilt = []deed{k.rebuild()}, true
	case 5:
		k.stock()
		deeds = []deed{k.collect()}
	case 7:
		deeds = []deed{k.pull("hf:kill/split:F16"), k.importing()}
	case 8:
		deeds = []deed{k.verify(false), k.remove()}
	case 9:
		deeds = []deed{k.pull(""), k.collect()}
	case 10:
		deeds = []deed{k.pull("hf:kill/small::small.Q4_K_M.gguf"), k.pull("hf:kill/twin:Q4_K_M")}
	case 11:
		deeds = []deed{k.importing(), k.verify(k.rnd.IntN(2) == 0)}
	}
	may := k.mayGo(deeds)
	if rebuilt {
		k.killed(k.hive)
		k.loseCatalog()
		k.hive = k.colony.start("rbee-hive", "daemon", "--addr", "127.0.0.1:0")
	}
	done := k.killDuring(n, deeds)
	k.checkDead(deeds, done, may, rebuilt)
	if k.t.Failed() {
		return
	}
	written := make([]int64, len(deeds))
	for i, d := range deeds {
		written[i] = k.written(d.pulls)
	}
	k.hub.Heal()
	k.start()
	k.checkAlive(may)
	for i, d := range deeds {
		if len(d.pulls.files) > 0 {
			k.resume(d.pulls, written[i])
		}
	}
	if len(k.hurt) > 0 || n%4 == 3 {
		k.tidy()
	}
}

// killDuring does the deeds at once, kills the hive meanwhile, and says which of
// them had succeeded.
func (k *table) killDuring(n int, deeds []deed) []bool {
	var names []string
	quiet := true
	for _, d := range deeds {
		names = append(names, d.name)
		quiet = quiet && d.quiet
	}
	name := strings.Join(names, "+")
	p := k.paces[name]
	if p == nil {
		p = &pace{took: 50 * time.Millisecond, reports: 2, changes: 10}
		k.paces[name] = p
	}
	clock := []string{"time", "change", "report"}[(n/12+n)%3]
	if quiet && clock == "report" {
		clock = "change"
	}
	m := newMoment(k.rnd, p, clock)
	stop := m.begin(k.t, k.home)
	ctx, cancel := k.within()
	defer cancel()
	for _, repo := range []struct {
		name string
		rate int64
		path []string
	}{
		{"kill/large", 24 << 20, []string{"large.Q8_0.gguf"}},
		{"kill/split", 48 << 20, []string{"s-f16-00001-of-00003.gguf", "s-f16-00002-of-00003.gguf", "s-f16-00003-of-00003.gguf"}},
	} {
		k.throttle(repo.name, repo.rate, repo.path...)
	}
	errs := make([]error, len(deeds))
	var work sync.WaitGroup
	began := time.Now()
	for i, d := range deeds {
		work.Go(func() { errs[i] = d.do(ctx, k.calls, m.reported) })
	}
	over := make(chan struct{}) // closed when all deeds are over
	var waiting sync.WaitGroup
	waiting.Go(func() {
		work.Wait()
		close(over)
	})
	whole := false
	select {
	case <-m.come:
		k.inside[name+" by "+m.clock]++
	case <-over:
		k.outside++
		whole = true
	}
	p.learn(whole, time.Since(began), int(m.reports.Load()), int(m.changes.Load()))
	k.killed(k.hive)
	waiting.Wait()
	stop()
	done := make([]bool, len(deeds))
	for i, err := range errs {
		done[i] = err == nil
		if err != nil && !client.IsCut(err) && !(len(deeds) > 1 && rbee.CodeOf(err) == rbee.CodeConflict) {
			k.t.Errorf("%s: %v", deeds[i].name, err)
		}
	}
	return done
}

// checkDead looks at the state directory while no hive runs.
func (k *table) checkDead(deeds []deed, done []bool, may map[string]bool, rebuilt bool) {
	k.t.Helper()
	if aside, _ := filepath.Glob(k.db() + ".corrupt-*"); len(aside) > 0 {
		k.t.Errorf("the catalog was taken for damaged: %v", aside)
	}
	if _, err := os.Stat(k.db() + ".rebuild"); rebuilt && err == nil {
		may = k.have // the catalog says itself that it has not all rows
	}
	if info, err := os.Stat(k.db()); rebuilt && (err != nil || info.Size() == 0) {
		may = k.have // it is not made yet
	}
	there := map[string]bool{}
	for _, r := range k.rows() {
		there[r.ref] = true
		if !k.hurt[r.ref] {
			k.checkDigests(r, k.all[r.ref])
		}
	}
	for ref := range k.have {
		if !there[ref] && !may[ref] {
			k.t.Errorf("%s is gone from the catalog", ref)
		}
	}
	for i, d := range deeds {
		for _, ref := range d.puts {
			if done[i] && !there[ref] && !slices.ContainsFunc(deeds, func(o deed) bool { return o.bound >= 0 && o.name != d.name }) {
				k.t.Errorf("%s had succeeded, and %s is not in the catalog", d.name, ref)
			}
		}
		for _, ref := range d.takes {
			if done[i] && there[ref] {
				k.t.Errorf("%s had succeeded, and %s is in the catalog", d.name, ref)
			}
		}
	}
}

// checkAlive asks the hive that was started after the kill.
func (k *table) checkAlive(may map[string]bool) {
	k.t.Helper()
	ctx, cancel := k.within()
	defer cancel()
	dry, err := k.calls.CollectModels(ctx, rbee.GCRequest{DryRun: true}) // waits for a rebuild
	k.must(err)
	served, err := k.calls.Models(ctx)
	k.must(err)
	k.missing(served, may)
	k.checkFiles(k.rows(), dry.Removed)
	k.note(served)
}

// tidy verifies all models and lets gc remove what it names: then there is
// nothing but models.
func (k *table) tidy() {
	k.t.Helper()
	ctx, cancel := k.within()
	defer cancel()
	k.verifyAll(ctx)
	reply, err := k.calls.CollectModels(ctx, rbee.GCRequest{})
	k.must(err)
	served, err := k.calls.Models(ctx)
	k.must(err)
	k.missing(served, evictedBy(reply))
	k.note(served)
	rows := k.rows()
	k.checkFiles(rows, nil)
	for _, r := range rows {
		if !k.have[r.ref] {
			k.t.Errorf("%s has a row and is not served", r.ref)
		}
	}
}

// missing looks for models that were there and are not served any more.
func (k *table) missing(served []rbee.Model, may map[string]bool) {
	k.t.Helper()
	there := map[string]bool{}
	for _, m := range served {
		there[m.Ref().String()] = true
	}
	for ref := range k.have {
		if !there[ref] && !may[ref] {
			k.t.Errorf("%s is lost", ref)
		}
	}
}

// note makes what a hive has the least that it must have from now on.
func (k *table) note(served []rbee.Model) {
	clear(k.have)
	for _, m := range served {
		k.have[m.Ref().String()] = true
	}
}

// verifyAll has all models read, undisturbed: what was damaged is found, and
// nothing else.
func (k *table) verifyAll(ctx context.Context) {
	k.t.Helper()
	want := map[string]bool{}
	for _, r := range k.rows() {
		if k.hurt[r.ref] {
			want[r.ref] = true
		}
	}
	found := map[string]bool{}
	for p, err := range k.calls.VerifyModels(ctx, rbee.VerifyRequest{}) {
		k.must(err)
		if p.Error != nil && p.Stage != rbee.StoreDamaged {
			k.t.Errorf("verify: %s %v: %v", p.Stage, p.ModelRef, p.Error)
		}
		if p.Stage == rbee.StoreDamaged {
			found[p.ModelRef.String()] = true
		}
	}
	if !maps.Equal(found, want) {
		k.t.Errorf("verify found damaged: %v; damaged are %v", found, want)
	}
	for ref := range found {
		delete(k.have, ref)
	}
	clear(k.hurt)
}

// resume ends what the kill broke off, and counts what the hub sends for it.
func (k *table) resume(g goods, written int64) {
	k.t.Helper()
	ctx, cancel := k.within()
	defer cancel()
	may := k.mayGo([]deed{{size: g.size(), bound: quotaBytes}})
	if k.have[g.ref] {
		return // it was complete, or is there for another reason
	}
	k.hub.Reset()
	if err := pulled(ctx, k.calls, g.ref, unheard); err != nil {
		k.t.Errorf("the pull of %s after the kill: %v", g.ref, err)
	}
	sent := k.hub.Counts().Bytes
	if again := sent - (g.size() - written); again > slack {
		k.t.Errorf("%d bytes of %s (%d) were written, and %d were fetched after the kill: %d again", written, g.ref, g.size(), sent, again)
	} else if written > 0 {
		k.resumed++
		k.overshoot = max(k.overshoot, again)
	}
	served, err := k.calls.Models(ctx)
	k.must(err)
	k.missing(served, may)
	k.note(served)
	if !k.have[g.ref] {
		k.t.Errorf("%s was pulled, and is not there", g.ref)
	}
}

// mayGo is what deeds may take away: what they are for, and what must go for the
// quota, as a dry run says.
func (k *table) mayGo(deeds []deed) map[string]bool {
	k.t.Helper()
	may := map[string]bool{}
	var size int64
	bound := int64(-1)
	for _, d := range deeds {
		for _, ref := range slices.Concat(d.takes, d.hurts) {
			may[ref] = true
		}
		size += d.size
		if d.bound >= 0 && (bound < 0 || d.bound < bound) {
			bound = d.bound
		}
	}
	if bound < 0 {
		return may
	}
	bound = max(0, bound-size)
	reply, err := k.calls.CollectModels(k.t.Context(), rbee.GCRequest{DryRun: true, MaxBytes: &bound})
	k.must(err)
	maps.Copy(may, evictedBy(reply))
	return may
}

func evictedBy(reply rbee.GCReply) map[string]bool {
	gone := map[string]bool{}
	for _, f := range reply.Removed {
		if f.Kind == rbee.SpareEvicted {
			gone[f.ModelRef.String()] = true
		}
	}
	return gone
}
