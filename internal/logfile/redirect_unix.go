//go:build unix && !linux

package logfile

import (
	"os"

	"golang.org/x/sys/unix"
)

const canRedirect = true

// redirect leads the descriptor of stream to file, in one step.
func redirect(stream, file *os.File) error { return unix.Dup2(int(file.Fd()), int(stream.Fd())) }
