// Package pool owns the workers of a hive: the set of them, and the life of
// each from its start to the moment nothing of it is left.
//
// One goroutine per worker writes that worker's state; everyone else asks it or
// reads snapshots (package registry). A life goes like this:
//
//	starting -> loading -> idle <-> busy
//	starting, loading, idle, busy -> draining -> stopped
//	starting, loading, idle, busy, draining -> failed
//
// starting ends with the worker's callback, loading with its readiness; busy is
// at least one request in flight; draining begins with an order to end or with
// idleness; failed is an end that nobody ordered, or a kill for cause.
//
// Orders from outside are one method each: Stop and Order end a worker, Evict
// ends one that is idle, Pin keeps one from that. An idle worker rests after a
// while, which is no state of its own: it gives its KV cache back, and the next
// request makes it again.
//
// A model of a server that is not of our kind is a worker as well (Adopt): idle
// from the start, without process and link; whoever watches the server says what
// becomes of it.
//
// The package reaches processes and workers through the interfaces of
// effects.go only, so that tests need neither. It does not know where models
// come from and whether they fit: the caller decides that in a Plan, one at a
// time. It never restarts a worker.
package pool
