// Package supervise owns operating-system processes: one Process is one child
// from its fork to the moment nothing of it is left. It makes the death of
// children certain, whatever is killed and in whatever order:
//
//   - a child leads its own process group, and the group is killed when its
//     leader ends;
//   - a child reads a pipe from its parent on stdin and ends when that closes
//     (see WatchParent);
//   - on Linux the kernel signals a child whose parent dies. It does so when
//     the *thread* that forked ends, so all children are forked from one
//     locked thread that lives as long as they do (see Spawner);
//   - a ledger on disk names every child, so that the next program to start
//     kills what a crash of all of the above left behind (see SweepStrays).
//
// The package knows nothing of roles, models or HTTP, and it never restarts
// anything: that is the decision of the owner of the process.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// DeathPipeEnv is 1 in the environment of a child whose stdin is a death pipe.
const DeathPipeEnv = "RBEE_DEATH_PIPE"

// ErrSpawnerEnded is returned by Start when the Spawner runs no more.
var ErrSpawnerEnded = errors.New("the program is shutting down")

// drainTime is how long output that is still in the pipe may take to arrive
// after the whole group has ended. Only a process that left the group can hold
// the pipe open longer.
const drainTime = 500 * time.Millisecond

// Spec says what to start.
type Spec struct {
	Path string   // program, looked up in PATH if it has no separator
	Args []string // arguments after the program's name
	Env  []string // environment; nil means this program's own
	Dir  string   // working directory; "" means this program's own

	// Stdout receives the child's standard output, which then stays out of the
	// log. It must not block. Nil sends standard output to the log, where
	// standard error always goes.
	Stdout io.Writer

	// DeathSignal is what the kernel sends the child when the parent dies;
	// zero means SIGKILL. Linux only.
	DeathSignal syscall.Signal

	LogLines int // lines the log keeps; zero means DefaultLogLines
}

func (s *Spec) command() *exec.Cmd {
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Dir = s.Dir
	cmd.Env = s.Env
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	return cmd
}

// Exit says how a process ended.
type Exit struct {
	Code     int    // exit status; -1 if a signal ended it
	Signal   string // name of the signal that ended it, such as "killed"
	CoreDump bool   // it left a core file
}

// Success says whether the process ended by itself with status 0.
func (e Exit) Success() bool { return e.Code == 0 }

// String is "exit status 1", "signal: killed" or "signal: aborted (core dumped)".
func (e Exit) String() string {
	switch {
	case e.Signal == "":
		return fmt.Sprintf("exit status %d", e.Code)
	case e.CoreDump:
		return "signal: " + e.Signal + " (core dumped)"
	default:
		return "signal: " + e.Signal
	}
}

// Process is a child that was started. All methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	log  *Ring
	pipe *os.File // write end of the death pipe
	own  group

	mu     sync.Mutex
	reaped bool // the pid may name another process from now on

	exit Exit
	done chan struct{} // closed by life
}

// PID is the process id, which is also the id of its group on Unix.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is what the process wrote.
func (p *Process) Log() *Ring { return p.log }

// Done is closed when the process, its group and its output have ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit blocks until Done is closed and says how the process ended.
func (p *Process) Exit() Exit {
	<-p.done
	return p.exit
}

// Signal sends sig to the process alone, not to its group. A process that has
// ended is os.ErrProcessDone.
func (p *Process) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return p.cmd.Process.Signal(sig)
}

// Stop asks the group to end, kills it after grace or when ctx is done, and
// blocks until Done. Stopping a process that has ended returns its Exit at once.
func (p *Process) Stop(ctx context.Context, grace time.Duration) Exit {
	p.askGroup()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.exit
	case <-timer.C:
	case <-ctx.Done():
	}
	p.killGroup()
	<-p.done
	return p.exit
}

func (p *Process) askGroup() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.own.ask(p)
	}
}

func (p *Process) killGroup() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.own.kill(p)
	}
}

// collect takes the exit status of the leader. The caller holds p.mu.
func (p *Process) collect(err error) {
	p.reaped = true
	if p.cmd.ProcessState == nil {
		p.exit = Exit{Code: -1, Signal: "unknown: " + err.Error()}
		return
	}
	p.exit = exitOf(p.cmd.ProcessState)
}
