package sched

// Hives are those of the snapshot.
func (s *Snapshot) Hives() []*Hive { return s.hives }

// Doors is how many counts there are of requests that wait for a worker.
func (f *Flights) Doors() (n int) {
	for _, x := range f.hives {
		n += len(x.models)
	}
	return n
}

// Markets is how many models the snapshot knows by now.
func (s *Snapshot) Markets() int { return len(s.markets) }
