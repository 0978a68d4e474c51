//go:build unix && !linux

package supervise

import "syscall"

// deathSignal does nothing: only Linux has it. The death pipe remains.
func deathSignal(*syscall.SysProcAttr, syscall.Signal) {}
