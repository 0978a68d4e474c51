package dispatch

import (
	"context"
	"slices"
	"sync"
	"time"

	"rbee"
	"rbee/internal/httpapi"
)

// queue holds the requests that wait: for a model to be loaded, or for a slot
// anywhere. Those that want the same are served in the order in which they came.
type queue struct {
	capacity int

	mu    sync.Mutex
	held  int           // tickets
	stay  time.Duration // that a ticket is held, on average
	lines map[wish][]*ticket
}

// wish is what requests may want alike.
type wish struct {
	model rbee.ModelRef
	node  string
}

// ticket is the place of one request in the queue.
type ticket struct {
	queue *queue
	since time.Time
	wish  wish
	turn  chan struct{} // closed by advance when all before it have gone; nil out of line
}

func newQueue(capacity int) *queue {
	return &queue{capacity: capacity, lines: map[wish][]*ticket{}}
}

// enter takes a ticket, which has to leave. The expected wait is that of who
// is refused while nothing is known of others.
func (q *queue) enter(expected time.Duration) (*ticket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held >= q.capacity {
		if q.stay > 0 && q.held > 0 { // places are free one after the other
			expected = q.stay / time.Duration(q.held)
		}
		seconds := min(max(1, int((expected+time.Second-1)/time.Second)), 600)
		return nil, httpapi.RetryAfter(rbee.Errorf(rbee.CodeQueueFull, "%d requests wait already for a model to be loaded or a slot to be free", q.held).
			With("queue_size", q.held).With("queue_capacity", q.capacity).Suggest("try again in %d s", seconds), seconds)
	}
	q.held++
	return &ticket{queue: q, since: time.Now()}, nil
}

// leave gives a ticket back; more than once, or nil, is fine.
func (t *ticket) leave() {
	if t == nil || t.queue == nil {
		return
	}
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	t.unline()
	t.queue = nil
	q.held--
	if stayed := time.Since(t.since); q.stay == 0 {
		q.stay = stayed
	} else {
		q.stay += (stayed - q.stay) / 8
	}
}

// crowded says whether others wait for the same already.
func (q *queue) crowded(w wish) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.lines[w]) > 0
}

// stand puts a ticket into line and waits until it is the first. It returns an
// error only when ctx ends.
func (t *ticket) stand(ctx context.Context, w wish) error {
	q := t.queue
	q.mu.Lock()
	if t.turn == nil {
		t.wish, t.turn = w, make(chan struct{})
		q.lines[w] = append(q.lines[w], t)
		if len(q.lines[w]) == 1 {
			close(t.turn)
		}
	}
	turn := t.turn
	q.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// step leaves the line and keeps the ticket.
func (t *ticket) step() {
	if t == nil || t.queue == nil {
		return
	}
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	t.unline()
}

// unline takes a ticket out of its line; with the lock.
func (t *ticket) unline() {
	if t.turn == nil {
		return
	}
	line := t.queue.lines[t.wish]
	i := slices.Index(line, t)
	line = slices.Delete(line, i, i+1)
	t.turn = nil
	if len(line) == 0 {
		delete(t.queue.lines, t.wish)
		return
	}
	t.queue.lines[t.wish] = line
	if i == 0 {
		close(line[0].turn)
	}
}

// before is how many requests stand before a ticket.
func (q *queue) before(t *ticket) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(0, slices.Index(q.lines[t.wish], t))
}

// size is how many tickets are held.
func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held
}
