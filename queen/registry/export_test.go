package registry

import (
	"rbee/internal/bus"
	"rbee/queen/sched"
)

// Hear takes in what a bus would tell.
func (r *Registry) Hear(u bus.Update) { r.apply(u) }

// Look makes a snapshot as Run does.
func (r *Registry) Look() *sched.Snapshot { return sched.NewSnapshot(r.views(), r.flights) }
