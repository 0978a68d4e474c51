package queen

import (
	"rbee"
	"rbee/queen/dispatch"
	"rbee/queen/registry"
)

// colony is the registry as requests see it.
type colony struct{ *registry.Registry }

// Reach says how requests get to a hive.
func (c colony) Reach(id rbee.HiveID) (dispatch.Target, error) {
	t, err := c.Registry.Reach(id)
	return dispatch.Target(t), err
}

func newDispatcher(q *Queen) *dispatch.Dispatcher {
	return dispatch.New(dispatch.Config{
		Settings: q.cfg.Settings, Colony: colony{q.registry}, Flights: q.registry.Flights(), Metrics: q.metrics.registry, Log: q.log,
	})
}
