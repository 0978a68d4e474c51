package dispatch

import (
	"slices"
	"sync"
	"time"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/queen/sched"
)

const (
	// maxRecords is how many requests the journal knows.
	maxRecords = 1000
	// maxWeight bounds what their decisions hold, in bytes: in a colony of a thousand
	// hives one holds most of a megabyte.
	maxWeight = 64 << 20
	// maxAttempts is how many attempts it knows of one; of more it knows the last.
	maxAttempts = 16
)

// journal is what was decided for the last requests.
type journal struct {
	mu     sync.Mutex
	ring   []*record // oldest first
	byID   map[string]*record
	weight int // of all
}

// record is what was decided for one request, and how it ended.
type record struct {
	journal *journal
	id      string
	time    time.Time
	weight  int  // with the journal's lock
	dropped bool // likewise

	mu       sync.Mutex
	attempts []decided
	outcome  *rbee.Outcome
}

// decided is one decision. What is told of it is made when somebody asks.
type decided struct {
	decision *sched.Decision
	request  rbee.RouteRequest
	failed   *rbee.Error
}

// begin makes the record of a request. One whose id is that of another that runs
// gets an id of its own: clients choose them, and workers take each once.
func (j *journal) begin(id string) *record {
	j.mu.Lock()
	defer j.mu.Unlock()
	if other := j.byID[id]; other != nil && other.runs() {
		id = httpapi.NewRequestID()
	}
	r := &record{journal: j, id: id, time: time.Now()}
	if j.byID == nil {
		j.byID = map[string]*record{}
	}
	j.ring = append(j.ring, r)
	j.byID[id] = r
	j.drop()
	return r
}

// grow notes that a record holds more.
func (j *journal) grow(r *record, weight int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.dropped {
		return
	}
	r.weight += weight
	j.weight += weight
	j.drop()
}

// drop forgets the oldest records, if they are too many. The newest stays. The
// lock is held.
func (j *journal) drop() {
	for len(j.ring) > maxRecords || len(j.ring) > 1 && j.weight > maxWeight {
		old := j.ring[0]
		j.ring = slices.Delete(j.ring, 0, 1)
		j.weight -= old.weight
		old.dropped = true
		if j.byID[old.id] == old {
			delete(j.byID, old.id)
		}
	}
}

func (j *journal) find(id string) *record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.byID[id]
}

// newest are up to n records, newest first.
func (j *journal) newest(n int) []*record {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := make([]*record, 0, min(n, len(j.ring)))
	for i := len(j.ring) - 1; i >= 0 && len(list) < n; i-- {
		list = append(list, j.ring[i])
	}
	return list
}

func (r *record) decided(d *sched.Decision, req rbee.RouteRequest) {
	r.journal.grow(r, d.Weight())
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.attempts) == maxAttempts {
		r.attempts = r.attempts[:maxAttempts-1]
	}
	r.attempts = append(r.attempts, decided{decision: d, request: req})
}

// failed says why the last decision led to nothing.
func (r *record) failed(err *rbee.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts[len(r.attempts)-1].failed = err
}

func (r *record) runs() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outcome == nil
}

func (r *record) end(o rbee.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcome = &o
}

// tell is the record as it is told, with or without the state of the colony.
func (r *record) tell(whole bool) rbee.DecisionRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := rbee.DecisionRecord{RequestID: r.id, Time: r.time, Attempts: []rbee.DecisionAttempt{}, Outcome: r.outcome}
	for _, a := range r.attempts {
		t := rbee.DecisionAttempt{Plan: planOf(a.decision, a.request), Input: rbee.RouteInput{Hives: []rbee.RouteHive{}}, Failed: a.failed}
		if whole {
			t.Input = a.decision.Input()
		}
		out.Attempts = append(out.Attempts, t)
	}
	return out
}
