//go:build !unix

package keeper

// openFilesLimit is 0, not known: there is no such limit.
func openFilesLimit() uint64 { return 0 }
