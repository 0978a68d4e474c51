//go:build !linux

package supervise

// oomKills knows nothing: only Linux counts.
func oomKills() uint64 { return 0 }

// setOOMScore does nothing: only Linux has scores.
func setOOMScore(int, int) {}
