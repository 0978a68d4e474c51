//go:build unix

package conf

import "io/fs"

func tooOpen(mode, forbidden fs.FileMode) bool { return mode.Perm()&forbidden != 0 }
