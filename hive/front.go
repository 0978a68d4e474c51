package hive

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"rbee"
	"rbee/hive/pool"
	"rbee/internal/forward"
	"rbee/internal/httpapi"
)

const (
	// frontWait is how long a request waits for memory that others hold.
	frontWait = time.Minute
	// frontTries is how often a worker that ended before a request reached it is
	// replaced.
	frontTries = 5
	// maxFrontWaiting is how many requests wait for workers that are being
	// started; each holds its body.
	maxFrontWaiting = 256
)

// openAI answers OpenAI's API: it finds or starts a worker of the model that
// the body names, and relays the request to it as it came.
func (h *Hive) openAI(w http.ResponseWriter, r *http.Request) error {
	if err := h.standing.enter(); err != nil {
		return err
	}
	defer h.standing.leave()
	body, err := httpapi.Body(r)
	if err != nil {
		return err
	}
	asked, err := forward.Parse(body)
	if err != nil {
		return err
	}
	ref, err := h.cfg.Settings.Resolve(asked.Model)
	if err != nil {
		return forward.NoModel(err)
	}
	release := h.claims.add(ref)
	defer release()
	began := h.clock.now()
	lease, err := h.worker(r.Context(), ref)
	if err != nil {
		return err
	}
	defer lease.Release()
	waited(w, h.clock.now().Sub(began))
	defer h.takes(w, lease.Target, h.chain(r.URL.Path, body))()
	h.metrics.inFlight.Inc()
	defer h.metrics.inFlight.Dec()
	if _, alias := h.cfg.Settings.Aliases[asked.Model]; lease.Foreign != "" {
		body = asked.Renamed(body, lease.Foreign)
	} else if alias { // which the worker need not know
		body = asked.Renamed(body, ref.String())
	}
	forward.SetBody(r, body)
	return h.relay.pass(w, r, lease.Target, r.URL.Path)
}

// worker leases a worker of a model: one that is there, or a new one.
func (h *Hive) worker(ctx context.Context, ref rbee.ModelRef) (lease *pool.Lease, err error) {
	for range frontTries {
		req := rbee.SpawnRequest{ModelRef: ref.String(), Reuse: true, Wait: frontWait.String()}
		w, there := order{SpawnRequest: req, ref: ref}.reusable(h.pool.Workers())
		if !there {
			s, err := h.starts.share(ctx, ref, func() (spawned, error) { return h.spawn(ctx, req) })
			if err != nil {
				return nil, err
			}
			w = s.worker
		}
		lease, err = h.pool.Await(ctx, w.ID)
		if rbee.CodeOf(err) != rbee.CodeWorkerNotFound { // which says that it was ended for other reasons
			return lease, err
		}
	}
	return nil, err
}

// starts are the workers that requests wait for: one start of a model at a
// time, however many ask.
type starts struct {
	mu      sync.Mutex
	running map[rbee.ModelRef]*starting
	waiting int
}

// starting is a start that is on its way.
type starting struct {
	done   chan struct{}
	result spawned
	err    error
}

// share starts a worker, or waits for the one that is being started. A start
// whose caller left counts for him alone.
func (s *starts) share(ctx context.Context, ref rbee.ModelRef, start func() (spawned, error)) (spawned, error) {
	for {
		s.mu.Lock()
		running := s.running[ref]
		if running == nil {
			break // with the lock
		}
		if s.waiting >= maxFrontWaiting {
			s.mu.Unlock()
			return spawned{}, httpapi.RetryAfter(rbee.Errorf(rbee.CodeQueueFull, "%d requests wait for workers already", maxFrontWaiting).
				With("queue_size", maxFrontWaiting).With("queue_capacity", maxFrontWaiting).Suggest("try again in a while"), 5)
		}
		s.waiting++
		s.mu.Unlock()
		select {
		case <-running.done:
		case <-ctx.Done():
		}
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
		if ctx.Err() != nil {
			return spawned{}, context.Cause(ctx)
		}
		if !errors.Is(running.err, context.Canceled) {
			return running.result, running.err
		}
	}
	if s.running == nil {
		s.running = map[rbee.ModelRef]*starting{}
	}
	mine := &starting{done: make(chan struct{})}
	s.running[ref] = mine
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.running, ref)
		s.mu.Unlock()
		close(mine.done)
	}()
	mine.result, mine.err = start()
	if ctx.Err() != nil {
		mine.err = errors.Join(mine.err, context.Canceled)
		return spawned{}, context.Cause(ctx)
	}
	return mine.result, mine.err
}
