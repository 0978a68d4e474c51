//go:build unix

package supervise

import (
	"os"
	"os/exec"
	"syscall"
)

// group is the process group that a child leads; its id is the child's pid.
type group struct{}

// lead makes cmd the leader of a new group.
func (group) lead(cmd *exec.Cmd, sig syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	deathSignal(cmd.SysProcAttr, sig)
}

// adopt has nothing to do: the child joined its group before it ran.
func (group) adopt(*os.Process) (group, error) { return group{}, nil }

// ask and kill ignore that the group has ended in the meantime.
func (group) ask(p *Process)  { _ = syscall.Kill(-p.PID(), syscall.SIGTERM) }
func (group) kill(p *Process) { _ = syscall.Kill(-p.PID(), syscall.SIGKILL) }
func (group) close()          {}

// killStray kills a process that this program did not start, and the group it leads.
func killStray(pid int) error {
	if pgid, err := syscall.Getpgid(pid); err == nil && pgid == pid {
		return syscall.Kill(-pid, syscall.SIGKILL)
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// ownSession detaches cmd from the terminal and the group of this program.
func ownSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func exitOf(state *os.ProcessState) Exit {
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return Exit{Code: -1, Signal: status.Signal().String(), CoreDump: status.CoreDump()}
	}
	return Exit{Code: state.ExitCode()}
}
