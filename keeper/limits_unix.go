//go:build unix

package keeper

import "syscall"

// openFilesLimit is how many files the programs may have open: Go raises the
// soft limit to the hard one when it starts. 0 is not known.
func openFilesLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return uint64(limit.Max) //nolint:unconvert // signed on FreeBSD
}
