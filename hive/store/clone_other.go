//go:build !linux

package store

import (
	"errors"
	"os"
)

// clone fails: files share blocks on Linux only.
func clone(_, _ *os.File) error { return errors.ErrUnsupported }
