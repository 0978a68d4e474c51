//go:build !unix

package conf

import "io/fs"

// tooOpen is never true where the mode does not say who may read a file: a
// user's profile on Windows is private by its access list.
func tooOpen(_, _ fs.FileMode) bool { return false }
