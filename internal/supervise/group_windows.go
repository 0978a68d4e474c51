package supervise

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// group is a job object: it holds a child and all its descendants, and the
// kernel ends them when the last handle to it closes, also when this program
// is killed. That makes it group and death signal in one.
type group struct{ job windows.Handle }

// lead makes cmd the root of a new console group, so that a Ctrl-C of this
// program's console does not reach it.
func (group) lead(cmd *exec.Cmd, _ syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// adopt puts a running child into a job object of its own.
func (group) adopt(child *os.Process) (group, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return group{}, fmt.Errorf("cannot make a job object: %w", err)
	}
	info := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE},
	}
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info))) //nolint:gosec // the call takes a pointer
	if err == nil {
		err = assign(job, child.Pid)
	}
	if err != nil {
		_ = windows.CloseHandle(job)
		return group{}, fmt.Errorf("cannot put process %d into a job object: %w", child.Pid, err)
	}
	return group{job: job}, nil
}

func assign(job windows.Handle, pid int) error {
	process, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(pid))
	if err != nil {
		return err
	}
	defer func() { _ = windows.CloseHandle(process) }()
	return windows.AssignProcessToJobObject(job, process)
}

// ask closes the death pipe: Windows has no signal that asks a process to end.
func (group) ask(p *Process) { _ = p.pipe.Close() }

func (g group) kill(*Process) { _ = windows.TerminateJobObject(g.job, 1) }
func (g group) close()        { _ = windows.CloseHandle(g.job) }

// killStray kills a process that this program did not start.
func killStray(pid int) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = process.Release() }()
	return process.Kill()
}

// ownSession detaches cmd from the console and the group of this program.
func ownSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.DETACHED_PROCESS}
}

func exitOf(state *os.ProcessState) Exit { return Exit{Code: state.ExitCode()} }
