package hive

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// readAheadBytes is how much is asked for at a time, so that a hive that ends
// does not wait for a disk.
const readAheadBytes = 8 << 20

// readAhead has the system read a file into its cache.
func readAhead(ctx context.Context, path string, size int64) (err error) {
	f, err := os.Open(path) //nolint:gosec // a file of the catalog
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for at := int64(0); at < size && err == nil && ctx.Err() == nil; at += readAheadBytes {
		err = unix.Fadvise(int(f.Fd()), at, readAheadBytes, unix.FADV_WILLNEED) //nolint:gosec // a descriptor is small
	}
	return err
}
