// Package registry remembers the workers of a hive. It is in memory only and
// empty after a restart, by design: workers are transient, and one that
// outlived its hive would be a stray, not a worker.
//
// It holds snapshots, which inform and never decide: a worker's state is
// written by the goroutine that owns its life (package pool). It must never
// reach a database.
package registry

import (
	"cmp"
	"slices"
	"sync"

	"rbee"
)

// Registry is a set of workers, found by id and by model. The zero value is
// empty and ready. Snapshots that it hands out are shared: nobody changes them.
type Registry struct {
	mu      sync.RWMutex
	byID    map[rbee.WorkerID]*entry
	byModel map[rbee.ModelRef][]*rbee.Worker
}

// entry is a worker and its place in the list of its model.
type entry struct {
	worker *rbee.Worker
	place  int
}

// Put takes in a worker, or replaces the snapshot of one that is there.
func (r *Registry) Put(w rbee.Worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID == nil {
		r.byID = map[rbee.WorkerID]*entry{}
		r.byModel = map[rbee.ModelRef][]*rbee.Worker{}
	}
	if e, ok := r.byID[w.ID]; ok {
		if e.worker.ModelRef == w.ModelRef {
			e.worker = &w
			r.byModel[w.ModelRef][e.place] = &w
			return
		}
		r.remove(w.ID)
	}
	r.byID[w.ID] = &entry{worker: &w, place: len(r.byModel[w.ModelRef])}
	r.byModel[w.ModelRef] = append(r.byModel[w.ModelRef], &w)
}

// Remove forgets a worker; one that is not there is no error.
func (r *Registry) Remove(id rbee.WorkerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(id)
}

// remove fills the gap in the model's list with its last worker.
func (r *Registry) remove(id rbee.WorkerID) {
	e, ok := r.byID[id]
	if !ok {
		return
	}
	ref := e.worker.ModelRef
	list := r.byModel[ref]
	last := len(list) - 1
	list[e.place] = list[last]
	r.byID[list[last].ID].place = e.place
	list[last] = nil
	if last == 0 {
		delete(r.byModel, ref)
	} else {
		r.byModel[ref] = list[:last]
	}
	delete(r.byID, id)
}

// Worker finds a worker by its id.
func (r *Registry) Worker(id rbee.WorkerID) (*rbee.Worker, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.byID[id]
	if !ok {
		return nil, false
	}
	return e.worker, true
}

// ByModel lists the workers of a model, in no order.
func (r *Registry) ByModel(ref rbee.ModelRef) []*rbee.Worker {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.byModel[ref])
}

// List is all workers, oldest first; never nil.
func (r *Registry) List() []rbee.Worker {
	r.mu.RLock()
	list := make([]rbee.Worker, 0, len(r.byID))
	for _, e := range r.byID {
		list = append(list, *e.worker)
	}
	r.mu.RUnlock()
	slices.SortFunc(list, func(a, b rbee.Worker) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Clear forgets all workers.
func (r *Registry) Clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.byID)
	clear(r.byModel)
}
