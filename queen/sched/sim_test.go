package sched_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"rbee"
	"rbee/queen/sched"
)

// A small simulation of a colony, event by event: machines of different speeds
// whose workers compute prompts one after the other and answers side by side,
// cache what prompts began with, and tell of themselves now and then.

// job is a request of the trace and what became of it.
type job struct {
	at     float64
	model  int
	prompt int // tokens
	chain  []uint32
	answer int // tokens

	left   float64 // tokens of what it is at
	first  float64 // when its first token came
	start  float64 // when it got its slot
	flight *sched.Flight
}

// simWorker is a worker of the simulation.
type simWorker struct {
	id       rbee.WorkerID
	model    int
	ready    float64
	waiting  []*job // for a slot
	filling  []*job // prompts, the first is computed
	decoding []*job
	cache    [][]uint32 // newest first
	used     float64    // when it was last busy
	served   int
	held     float64 // mean time in a slot
}

func (w *simWorker) busy() int { return len(w.waiting) + len(w.filling) + len(w.decoding) }

// machine is a hive of the simulation.
type machine struct {
	name    string
	prefill float64 // tokens per second
	step    float64 // seconds per token
	slots   int
	load    float64 // seconds
	room    int     // workers
	workers []*simWorker
	blocked []*job // that wait for room
	dirty   float64
	told    float64
	seq     uint64
	starts  int
	made    *sched.Hive
}

const (
	queueCapacity = 32
	cachedBlocks  = 2000
	reportDelay   = 0.05
	interleaved   = 0.5 // what prompts and answers get of the machine while both are there
)

// sim runs a trace.
type sim struct {
	now      float64
	machines []*machine
	models   int
	policy   func(*sim, *job) bool
	held     []*job // that the queen keeps
	flights  *sched.Flights
	snapshot *sched.Snapshot
	last     int
}

// run answers all jobs and returns the mean time to first token.
func (s *sim) run(jobs []*job) float64 {
	s.flights = sched.NewFlights()
	for _, m := range s.machines {
		s.report(m)
	}
	next, done := 0, 0
	for done < len(jobs) {
		at := math.Inf(1)
		if next < len(jobs) {
			at = jobs[next].at
		}
		for _, m := range s.machines {
			at = min(at, max(s.now, m.dirty), m.told+1)
			for _, w := range m.workers {
				at = min(at, s.event(m, w))
			}
		}
		step := at - s.now
		s.now = at
		for _, m := range s.machines {
			for _, w := range m.workers {
				done += s.advance(m, w, step)
			}
			s.unblock(m)
			if m.dirty <= s.now || m.told+1 <= s.now {
				s.report(m)
			}
		}
		s.held = slices.DeleteFunc(s.held, func(j *job) bool { return s.policy(s, j) })
		for ; next < len(jobs) && jobs[next].at <= s.now; next++ {
			if !s.policy(s, jobs[next]) {
				s.held = append(s.held, jobs[next])
			}
		}
	}
	sum := 0.0
	for _, j := range jobs {
		sum += j.first - j.at
	}
	return sum / float64(len(jobs))
}

// rates are tokens per second of the prompt that is computed and of each answer.
func (m *machine) rates(w *simWorker) (fill, decode float64) {
	fill, decode = m.prefill, 1/(m.step*(1+0.1*float64(max(0, len(w.decoding)-1))))
	if len(w.filling) > 0 && len(w.decoding) > 0 {
		fill, decode = fill*interleaved, decode*interleaved
	}
	return fill, decode
}

// event is when something happens in a worker.
func (s *sim) event(m *machine, w *simWorker) float64 {
	if w.ready > s.now {
		return w.ready
	}
	fill, decode := m.rates(w)
	at := math.Inf(1)
	if len(w.filling) > 0 {
		at = s.now + w.filling[0].left/fill
	}
	for _, j := range w.decoding {
		at = min(at, s.now+j.left/decode)
	}
	return at
}

// advance computes for a while, and returns how many requests are done.
func (s *sim) advance(m *machine, w *simWorker, step float64) (done int) {
	const nothing = 1e-6
	if w.ready > s.now {
		return 0
	}
	if w.ready < s.now {
		fill, decode := m.rates(w)
		for _, j := range w.decoding {
			j.left -= decode * step
		}
		if len(w.filling) > 0 {
			w.filling[0].left -= fill * step
		}
	}
	before := w.busy()
	w.decoding = slices.DeleteFunc(w.decoding, func(j *job) bool {
		if j.left > nothing {
			return false
		}
		done++
		w.served++
		w.held += (s.now - j.start - w.held) / float64(min(w.served, 20))
		if j.flight != nil {
			j.flight.End()
		}
		return true
	})
	if len(w.filling) > 0 && w.filling[0].left <= nothing {
		j := w.filling[0]
		w.filling = w.filling[1:]
		j.first, j.left = s.now+m.step, float64(j.answer)
		w.decoding = append(w.decoding, j)
		if j.flight != nil {
			j.flight.At(w.id)
			j.flight.First()
		}
		if len(w.filling) > 0 {
			w.begin(w.filling[0])
		}
	}
	for len(w.waiting) > 0 && len(w.filling)+len(w.decoding) < m.slots {
		j := w.waiting[0]
		w.waiting = w.waiting[1:]
		j.start = s.now
		w.filling = append(w.filling, j)
		if len(w.filling) == 1 {
			w.begin(j)
		}
	}
	if before > 0 {
		w.used = s.now
	}
	if before != w.busy() || done > 0 {
		m.touch(s.now)
	}
	return done
}

// begin finds what is cached of a prompt that is about to be computed.
func (w *simWorker) begin(j *job) {
	most := 0
	for _, c := range w.cache {
		n := 0
		for n < min(len(c), len(j.chain)) && c[n] == j.chain[n] {
			n++
		}
		most = max(most, n)
	}
	j.left = float64(max(1, j.prompt-most*sched.BlockTokens))
	w.cache = append([][]uint32{j.chain}, w.cache...)
	blocks := 0
	for i, c := range w.cache {
		if blocks += len(c); blocks > cachedBlocks {
			w.cache = w.cache[:i]
			break
		}
	}
}

func (m *machine) touch(now float64) { m.dirty = min(m.dirty, now+reportDelay) }

// give sends a request to a machine, which has or starts a worker.
func (s *sim) give(m *machine, j *job) {
	m.touch(s.now)
	for _, w := range m.workers {
		if w.model == j.model {
			w.waiting = append(w.waiting, j)
			s.advance(m, w, 0)
			return
		}
	}
	m.blocked = append(m.blocked, j)
	s.unblock(m)
}

// unblock starts workers for those that wait for room.
func (s *sim) unblock(m *machine) {
	blocked := m.blocked
	m.blocked = nil
	for _, j := range blocked {
		i := slices.IndexFunc(m.workers, func(w *simWorker) bool { return w.model == j.model })
		if i < 0 && len(m.workers) >= m.room {
			idle := m.idlest()
			if idle < 0 {
				m.blocked = append(m.blocked, j)
				continue
			}
			m.workers = slices.Delete(m.workers, idle, idle+1)
		}
		if i < 0 {
			m.starts++
			m.workers = append(m.workers, &simWorker{
				id: rbee.WorkerID(fmt.Sprintf("%s-%d", m.name, m.starts)), model: j.model, ready: s.now + m.load, used: s.now + m.load,
			})
			i = len(m.workers) - 1
		}
		m.workers[i].waiting = append(m.workers[i].waiting, j)
		m.touch(s.now)
		s.advance(m, m.workers[i], 0)
	}
}

func (m *machine) idlest() int {
	at := -1
	for i, w := range m.workers {
		if w.busy() == 0 && (at < 0 || w.used < m.workers[at].used) {
			at = i
		}
	}
	return at
}

// report tells the queen of a machine.
func (s *sim) report(m *machine) {
	m.seq++
	m.dirty, m.told = math.Inf(1), s.now
	h := &sched.Hive{ID: rbee.HiveID(m.name), Name: m.name, Seq: m.seq, Prefixes: map[rbee.WorkerID][]uint32{}}
	idle := m.idlest()
	for i := range s.models {
		c := rbee.ColonyModel{ModelRef: ref(i), SizeBytes: 1e9, LoadMS: int64(m.load * 1000), Verdict: rbee.VerdictStart}
		switch {
		case len(m.workers) < m.room:
		case idle >= 0:
			c.Verdict = rbee.VerdictEvict
			c.LossMS = int64(1000 * m.load / (1 + (s.now-m.workers[idle].used)/10))
		default:
			c.Verdict = rbee.VerdictWait
		}
		h.Models = append(h.Models, c)
	}
	for _, w := range m.workers {
		c := rbee.ColonyWorker{
			ID: w.id, ModelRef: ref(w.model), Backend: rbee.BackendCPU, State: rbee.WorkerIdle,
			SlotsTotal: m.slots, SlotsBusy: len(w.filling) + len(w.decoding), QueueCapacity: queueCapacity,
		}
		if w.served > 0 {
			c.PrefillPerSec, c.TokenMS, c.RequestMS = m.prefill, m.step*1000, w.held*1000
		}
		c.Waiting = len(w.waiting)
		if w.ready > s.now {
			c.State, c.LoadLeftMS, c.Waiting = rbee.WorkerLoading, int64(1000*(w.ready-s.now)), 0
		}
		for _, x := range w.cache {
			h.Prefixes[w.id] = append(h.Prefixes[w.id], x...)
		}
		h.Workers = append(h.Workers, c)
	}
	m.made = h
	hives := make([]*sched.Hive, 0, len(s.machines))
	for _, m := range s.machines {
		if m.made != nil {
			hives = append(hives, m.made)
		}
	}
	s.snapshot = sched.NewSnapshot(hives, s.flights)
}

// roundRobin sends each request to the next machine.
func roundRobin(s *sim, j *job) bool {
	s.last = (s.last + 1) % len(s.machines)
	s.give(s.machines[s.last], j)
	return true
}

// leastLoaded sends each request to the machine with the fewest, which it knows exactly.
func leastLoaded(s *sim, j *job) bool {
	load := func(m *machine) int {
		n := len(m.blocked)
		for _, w := range m.workers {
			n += w.busy()
		}
		return n
	}
	s.last++ // turns among equals
	best := s.machines[s.last%len(s.machines)]
	for i := range s.machines {
		if m := s.machines[(s.last+i)%len(s.machines)]; load(m) < load(best) {
			best = m
		}
	}
	s.give(best, j)
	return true
}

// soonest asks the scheduler, which knows what was reported.
func soonest(s *sim, j *job) bool {
	req := &rbee.RouteRequest{ModelRef: ref(j.model), PromptTokens: j.prompt, Prefix: j.chain}
	r, ok := sched.Pick(s.snapshot, req)
	if !ok {
		return false
	}
	j.flight = s.flights.Begin(&r, req)
	i := slices.IndexFunc(s.machines, func(m *machine) bool { return m.name == string(r.Hive) })
	s.give(s.machines[i], j)
	return true
}

// colony is three machines whose speeds differ by what throttled ones differ.
func colony(room int) []*machine {
	return []*machine{
		{name: "fast", prefill: 2000, step: 0.01, slots: 4, load: 3, room: room},
		{name: "middle", prefill: 900, step: 0.02, slots: 4, load: 5, room: room},
		{name: "slow", prefill: 350, step: 0.05, slots: 4, load: 8, room: room},
	}
}

// trace draws requests with exponential gaps. Some of shared different long
// beginnings are what most prompts begin with.
func trace(seed uint64, n, models, shared int, perSec float64) []*job {
	r := rand.New(rand.NewPCG(seed, 1))
	jobs := make([]*job, n)
	at := 0.0
	for i := range jobs {
		at += r.ExpFloat64() / perSec
		j := &job{at: at, model: int(float64(models) * r.Float64() * r.Float64()), answer: 10 + r.IntN(120)}
		own := 1 + int(math.Exp(r.Float64()*4)) // 2 to 55 blocks
		if shared > 0 {
			own = 1 + r.IntN(4)
			j.chain = chain(uint32(1000+r.IntN(shared)), 30)
		}
		j.chain = append(slices.Clone(j.chain), chain(uint32(10_000+i), own)...)
		j.prompt = len(j.chain)*sched.BlockTokens + r.IntN(sched.BlockTokens)
		jobs[i] = j
	}
	return jobs
}

func (s *sim) String() string {
	var b strings.Builder
	for _, m := range s.machines {
		served := 0
		for _, w := range m.workers {
			served += w.served
		}
		fmt.Fprintf(&b, " %s: %d requests, %d loads;", m.name, served, m.starts)
	}
	return b.String()
}
