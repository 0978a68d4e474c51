package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// StartTime says when the process with this pid was started, in a form that
// can only be compared: it differs for two processes that ever had the same
// pid, also across a restart of the machine. A process that has ended, a zombie
// included, is ErrNoProcess.
func StartTime(pid int) (string, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return "", ErrNoProcess
	}
	if err != nil {
		return "", err
	}
	// proc_pid_stat(5): the name in field 2 is in parentheses and may hold any
	// character; the state is field 3, the start in clock ticks since boot is 22.
	_, rest, found := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte{' '})
	fields := bytes.Fields(rest)
	if !found || len(fields) < 20 {
		return "", fmt.Errorf("cannot read /proc/%d/stat: it has %d fields after the name", pid, len(fields))
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return "", ErrNoProcess
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return string(fields[19]) + "-" + string(boot[:min(8, len(boot))]), nil
}
