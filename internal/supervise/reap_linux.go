package supervise

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// deathSignal makes the kernel signal the child when the forking thread ends.
func deathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) {
	if sig == 0 {
		sig = syscall.SIGKILL
	}
	attr.Pdeathsig = sig
}

// reap blocks until the leader has ended and kills what is left of its group
// before it collects the exit status: an uncollected pid cannot be given to
// another group in between.
func (p *Process) reap() {
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own.kill(p)
	p.collect(p.cmd.Wait())
}
