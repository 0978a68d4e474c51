//go:build unix

package supervise

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// openDeathPipe returns stdin as a file whose reads can be interrupted.
func openDeathPipe() (*os.File, error) {
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "death pipe"), nil
}

// interrupt ends the watch and waits for it.
func interrupt(pipe *os.File, watch *sync.WaitGroup) {
	_ = pipe.SetReadDeadline(time.Unix(1, 0))
	watch.Wait()
	_ = pipe.Close()
}
