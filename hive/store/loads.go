package store

import "rbee/hive/catalog"

// Loads is where the catalog remembers what loads took; nil if it does not.
func (s *Store) Loads() catalog.Loads {
	loads, _ := s.cfg.Catalog.(catalog.Loads)
	return loads
}
