package hive

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"rbee"
	"rbee/client"
	"rbee/hive/pool"
	"rbee/internal/forward"
	"rbee/internal/httpapi"
	"rbee/internal/prefix"
)

// digestLength is that of a SHA-256 in hex; what else names a model is no digest.
const digestLength = 64

const (
	// slotsTime bounds how long a worker may take to say what its slots do.
	slotsTime = 2 * time.Second
	// slotsPause bounds how often they are asked, however many requests end.
	slotsPause = 500 * time.Millisecond
)

// traffic is what the hive knows of requests to its workers, and of what was
// measured on them.
type traffic struct {
	mu      sync.Mutex
	workers map[rbee.WorkerID]*usage
	loads   map[rbee.ModelRef]time.Duration // the last of each model
	prefill map[rbee.ModelRef]float64       // prompt tokens per second, as measured last
	weighed map[string]int                  // loads that were measured, by the name of a model's bytes
	used    chan struct{}                   // rung by the end of each request
}

// usage is that of one worker.
type usage struct {
	running int
	caches  cached
	asked   bool // since requests ended last, what its slots do was asked
	queue   int  // requests that it lets wait; 0 as long as it was not asked
	speed   rbee.Speed
}

func newTraffic() *traffic {
	return &traffic{
		workers: map[rbee.WorkerID]*usage{}, loads: map[rbee.ModelRef]time.Duration{}, prefill: map[rbee.ModelRef]float64{},
		weighed: map[string]int{}, used: make(chan struct{}, 1),
	}
}

// of needs t.mu.
func (t *traffic) of(id rbee.WorkerID) *usage {
	u := t.workers[id]
	if u == nil {
		u = &usage{}
		t.workers[id] = u
	}
	return u
}

// with lets a function see the usage of a worker.
func (t *traffic) with(id rbee.WorkerID, see func(*usage)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	see(t.of(id))
}

// see is with for a worker that may not have been used yet: then there is
// nothing to see.
func (t *traffic) see(id rbee.WorkerID, what func(*usage)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.workers[id]; u != nil {
		what(u)
	}
}

// loadOf is what the last load of a model took.
func (t *traffic) loadOf(ref rbee.ModelRef) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.loads[ref]
	return d, ok
}

// prefillOf is how fast workers of a model computed prompts last; 0 for unknown.
func (t *traffic) prefillOf(ref rbee.ModelRef) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.prefill[ref]
}

// measuredAt notes what a worker was measured to do.
func (t *traffic) measuredAt(w rbee.Worker, list rbee.SlotList) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.of(w.ID)
	u.speed, u.queue = list.Speed, list.QueueSize
	if list.Speed.PrefillPerSec > 0 {
		t.prefill[w.ModelRef] = list.Speed.PrefillPerSec
	}
}

func (t *traffic) loaded(w rbee.Worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.LoadMS > 0 {
		t.loads[w.ModelRef] = time.Duration(w.LoadMS) * time.Millisecond
	}
}

// weigh counts a measured load.
func (t *traffic) weigh(model string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.weighed[model]++
}

// measured is how often loads of a model have been measured.
func (t *traffic) measured(model string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.weighed[model]
}

// gave counts the end of a request. Unless more is wanted of the worker than the
// requests that it has, the last of them has it forgotten.
func (t *traffic) gave(id rbee.WorkerID, keep bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.of(id)
	u.running--
	u.asked = false
	if !keep && u.running == 0 {
		delete(t.workers, id)
	}
}

// keep forgets the workers that are gone.
func (t *traffic) keep(live map[rbee.WorkerID]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, u := range t.workers {
		if !live[id] && u.running == 0 {
			delete(t.workers, id)
		}
	}
}

// takes counts a request to a worker until the function that it returns is
// called, and says in the reply who answers.
func (h *Hive) takes(w http.ResponseWriter, to pool.Target, chain []uint32) (done func()) {
	header := w.Header()
	header.Set(rbee.HiveHeader, h.name)
	header.Set(rbee.WorkerHeader, string(to.ID))
	if len(to.Digest) == digestLength {
		header.Set(rbee.DigestHeader, "sha256:"+to.Digest)
	}
	h.traffic.with(to.ID, func(u *usage) {
		u.running++
		if len(chain) > 0 {
			u.caches.add(chain, mostCached)
		}
	})
	m := h.member.Load()
	m.used()
	if len(chain) > 0 {
		m.cached()
	}
	return func() {
		m := h.member.Load()
		h.traffic.gave(to.ID, m != nil)
		m.used()
		select {
		case h.traffic.used <- struct{}{}:
		default:
		}
	}
}

// beginning is what the prompt of a request begins with, if anybody wants to
// know, and if it has one. The body can still be read.
func (h *Hive) beginning(req *http.Request, path string) ([]uint32, error) {
	if h.member.Load() == nil || !prompts(path) {
		return nil, nil
	}
	body, err := httpapi.Body(req)
	if err != nil {
		return nil, err
	}
	forward.SetBody(req, body)
	return h.chain(path, body), nil
}

func (h *Hive) chain(path string, body []byte) []uint32 {
	if h.member.Load() == nil {
		return nil
	}
	chain, _ := prefix.Of(path, body)
	return chain
}

func prompts(path string) bool {
	return path == "/v1/inference" || strings.HasSuffix(path, "/completions")
}

// waited says in the reply how long the request waited for its worker.
func waited(w http.ResponseWriter, d time.Duration) {
	w.Header().Set(rbee.LoadMSHeader, strconv.FormatInt(d.Milliseconds(), 10))
}

// attendSpeeds asks workers what they were measured to do: those in use each
// second, and each one after a request, until ctx ends.
func (h *Hive) attendSpeeds(ctx context.Context) {
	calls := map[rbee.WorkerID]*client.Client{}
	defer func() {
		for _, c := range calls {
			c.Close()
		}
	}()
	for ctx.Err() == nil {
		h.askSpeeds(ctx, calls)
		select {
		case <-time.After(slotsPause):
		case <-ctx.Done():
		}
		select {
		case <-time.After(time.Second):
		case <-h.traffic.used:
		case <-ctx.Done():
		}
	}
}

func (h *Hive) askSpeeds(ctx context.Context, calls map[rbee.WorkerID]*client.Client) {
	live := map[rbee.WorkerID]bool{}
	var all sync.WaitGroup
	for _, w := range h.pool.Workers() {
		live[w.ID] = true
		wanted := false
		h.traffic.with(w.ID, func(u *usage) { wanted = u.running > 0 || !u.asked })
		if !wanted || !w.State.Ready() {
			continue
		}
		to, err := h.pool.Reach(ctx, w.ID)
		if err != nil || to.Foreign != "" {
			continue
		}
		if calls[w.ID] == nil {
			calls[w.ID] = client.New(to.URL, client.Key(to.Key))
		}
		call := calls[w.ID]
		all.Go(func() { h.askSpeed(ctx, w, call) })
	}
	all.Wait()
	h.traffic.keep(live)
	for id, c := range calls {
		if !live[id] {
			c.Close()
			delete(calls, id)
		}
	}
}

func (h *Hive) askSpeed(ctx context.Context, w rbee.Worker, call *client.Client) {
	h.traffic.with(w.ID, func(u *usage) { u.asked = true }) // a request that ends meanwhile asks again
	ctx, cancel := context.WithTimeout(ctx, slotsTime)
	defer cancel()
	list, err := call.Slots(ctx)
	if err != nil {
		h.log.DebugContext(ctx, "a worker does not say what its slots do", "worker", w.ID, "err", err)
		return
	}
	h.traffic.measuredAt(w, list)
	h.member.Load().used()
}
