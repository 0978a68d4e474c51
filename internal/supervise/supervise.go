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
//     kills what a crash of all of the above left behind (see SweepStrays);
//   - where the system gave this program a control group of its own, a child
//     that wants it lives in one below, which is killed as a whole, whatever
//     left the process group (see cells).
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

	// Copy is sent the lines of the log, and how the process ended. It may be
	// slow and it may fail: then lines are missing there and nowhere else. Start
	// takes it over and closes it, also where it starts nothing. May be nil.
	Copy io.WriteCloser

	// Contain puts the child into a control group of its own, where this program
	// may make one. Linux only.
	Contain bool
	// MemoryBytes is the most main memory that all contained children of this
	// program may take together, by the word of the last start; 0 sets no bound.
	MemoryBytes int64

	// OOMScore is how much rather than others the kernel kills the child when
	// memory runs out, 0 to 1000; 0 leaves it as it is. Linux only.
	OOMScore int
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

// OOM says whether a process was ended because memory ran out.
type OOM int

// What is known of it.
const (
	NotOOM    OOM = iota
	LikelyOOM     // the kernel ended processes for memory at that time, and nobody here sent the signal
	KilledOOM     // the kernel counts it
)

// Exit says how a process ended.
type Exit struct {
	Code     int    // exit status; -1 if a signal ended it
	Signal   string // name of the signal that ended it, such as "killed"
	CoreDump bool   // it left a core file
	OOM      OOM    // whether the kernel ended it because memory ran out
}

// Success says whether the process ended by itself with status 0.
func (e Exit) Success() bool { return e.Code == 0 }

// String is "exit status 1", "signal: killed", "signal: killed (out of memory)"
// or "signal: aborted (core dumped)".
func (e Exit) String() string {
	switch {
	case e.Signal == "":
		return fmt.Sprintf("exit status %d", e.Code)
	case e.OOM == KilledOOM:
		return "signal: " + e.Signal + " (out of memory)"
	case e.OOM == LikelyOOM:
		return "signal: " + e.Signal + " (probably out of memory)"
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
	cell *cell  // nil for a child that is not contained
	ooms uint64 // processes that the kernel had ended for memory when this one began

	mu     sync.Mutex
	reaped bool // the pid may name another process from now on
	killed bool // by us

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
	p.killed = p.killed || sig == os.Kill
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
		p.killed = true
		p.own.kill(p)
		p.cell.kill()
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

// copyLog sends the lines of the log, and the end, to a copy that nobody waits for.
func (p *Process) copyLog(to io.WriteCloser) {
	for line := range p.log.Follow(context.Background()) {
		_, _ = io.WriteString(to, line+"\n") // a full disk costs the copy and nothing else
	}
	_, _ = fmt.Fprintf(to, "[ended: %s]\n", p.Exit())
	_ = to.Close()
}
