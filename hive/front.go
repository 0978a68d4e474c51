package hive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"rbee"
	"rbee/hive/pool"
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
	name, at, err := modelIn(body)
	if err != nil {
		return err
	}
	ref, err := h.cfg.Settings.Resolve(name)
	if err != nil {
		return err
	}
	release := h.claims.add(ref)
	defer release()
	lease, err := h.worker(r.Context(), ref)
	if err != nil {
		return err
	}
	defer lease.Release()
	h.metrics.inFlight.Inc()
	defer h.metrics.inFlight.Dec()
	if _, alias := h.cfg.Settings.Aliases[name]; lease.Foreign != "" {
		body = at.replaced(body, lease.Foreign)
	} else if alias { // which the worker need not know
		body = at.replaced(body, ref.String())
	}
	setBody(r, body)
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

// span is where in a body something stands.
type span struct{ from, to int }

// replaced is the body with a text in place of what stands there.
func (s span) replaced(body []byte, text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil { // a text can be encoded
		return body
	}
	out := append(make([]byte, 0, len(body)+len(quoted)), body[:s.from]...)
	return append(append(out, quoted...), body[s.to:]...)
}

// modelIn finds the model that the body of a request names, and where. The rest
// of the body is only skipped.
func modelIn(body []byte) (model string, at span, err error) {
	bad := func(problem string) error { return rbee.InvalidRequest(rbee.Fault{Field: "body", Problem: problem}) }
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return "", at, bad("is not a JSON object")
	}
	var skipped json.RawMessage
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return "", at, bad("is not valid JSON")
		}
		begin := int(dec.InputOffset())
		if err := dec.Decode(&skipped); err != nil {
			return "", at, bad("is not valid JSON")
		}
		if key != "model" {
			continue
		}
		end := int(dec.InputOffset())
		at = span{end - len(skipped), end}
		if json.Unmarshal(skipped, &model) != nil || at.from < begin {
			return "", at, rbee.InvalidRequest(rbee.Fault{Field: "body.model", Problem: "must be a text"})
		}
	}
	if _, err := dec.Token(); err != nil {
		return "", at, bad("is not valid JSON")
	}
	if model == "" {
		return "", at, rbee.InvalidRequest(rbee.Fault{Field: "body.model", Problem: "must name the model"})
	}
	return model, at, nil
}
