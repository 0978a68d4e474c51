//go:build !linux

package hive

import (
	"context"
	"errors"
)

// readAhead is not to be had on these systems.
func readAhead(context.Context, string, int64) error { return errors.ErrUnsupported }
