package sched

// Hives are those of the snapshot.
func (s *Snapshot) Hives() []*Hive { return s.hives }
