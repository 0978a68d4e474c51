//go:build unix

package catalog

import (
	"errors"
	"os"

	"rbee/internal/sqlite"
)

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return sqlite.Explain("write to "+dir, err)
	}
	return sqlite.Explain("write to "+dir, errors.Join(d.Sync(), d.Close()))
}
