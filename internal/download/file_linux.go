package download

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// reserve makes the file as large as it is going to be, with the space taken,
// so that a full disk is known before the first byte.
func reserve(f *os.File, sizeBytes int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, sizeBytes)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(sizeBytes)
	}
	return err
}

// bootID names this run of the machine, "" if it has no name.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
