package hive

import (
	"context"
	"slices"
	"sync"

	"rbee"
	"rbee/internal/httpapi"
)

// keptDecisions is how many decisions can be asked about.
const keptDecisions = 256

// decisions are the last decisions about memory.
type decisions struct {
	mu   sync.Mutex
	all  []rbee.Decision // oldest first
	last int64
}

func (d *decisions) add(x rbee.Decision) rbee.Decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	x.ID = d.last
	if len(d.all) == keptDecisions {
		d.all = slices.Delete(d.all, 0, 1)
	}
	d.all = append(d.all, x)
	return x
}

// list is newest first; never nil.
func (d *decisions) list() []rbee.Decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := append([]rbee.Decision{}, d.all...)
	slices.Reverse(list)
	return list
}

// decided records a decision and tells of it. What starts tells itself.
func (h *Hive) decided(ctx context.Context, d rbee.Decision) rbee.Decision {
	d.Time, d.RequestID = h.clock.now(), httpapi.RequestID(ctx)
	d = h.decisions.add(d)
	h.metrics.decided(d)
	if d.Verdict != rbee.VerdictStart {
		h.log.InfoContext(ctx, "decided about memory", "model", d.Request.ModelRef.String(), "verdict", string(d.Verdict), "reason", d.Sentence)
		h.pool.Feed().Publish(rbee.Event{Kind: rbee.EventDecision, Time: d.Time, Decision: &d})
	}
	return d
}
