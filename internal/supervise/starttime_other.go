//go:build !linux

package supervise

import (
	"errors"
	"strconv"

	"github.com/shirou/gopsutil/v4/process"
)

// StartTime says when the process with this pid was started, in a form that
// can only be compared: it differs for two processes that ever had the same
// pid. A process that has ended is ErrNoProcess.
func StartTime(pid int) (string, error) {
	p, err := process.NewProcess(int32(pid))
	if errors.Is(err, process.ErrorProcessNotRunning) {
		return "", ErrNoProcess
	}
	if err != nil {
		return "", err
	}
	created, err := p.CreateTime()
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(created, 10), nil
}
