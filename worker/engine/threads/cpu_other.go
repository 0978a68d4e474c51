//go:build !linux

package threads

import "time"

// affinity is known on Linux only.
func affinity() []int { return nil }

// CPUTime is how long the process had the CPU; it is known on Linux only.
func CPUTime() time.Duration { return 0 }
