package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Spawner starts processes. It forks all of them from one operating-system
// thread that lives as long as they do, because the kernel takes the end of the
// forking thread for the death of the parent.
type Spawner struct {
	ledger *Ledger
	log    *slog.Logger

	starts chan start
	ended  chan struct{} // closed by Run when it serves no more
	lives  sync.WaitGroup

	cells  *cells // of contained children, from the first of them on; nil where there can be none
	opened bool   // cells was tried
	ooms   oomWatch

	mu    sync.Mutex
	alive map[*Process]struct{}
}

type start struct {
	spec  Spec
	reply chan<- started
}

type started struct {
	process *Process
	err     error
}

// NewSpawner makes a Spawner that enters its children in ledger, which may be nil.
func NewSpawner(ledger *Ledger, log *slog.Logger) *Spawner {
	return &Spawner{
		ledger: ledger,
		log:    log,
		starts: make(chan start),
		ended:  make(chan struct{}),
		alive:  map[*Process]struct{}{},
	}
}

// Run serves Start until ctx is done, then kills the processes that are left
// and returns once all of them have ended. It may be called once.
func (s *Spawner) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.ooms.look()
	s.ooms.look()
	tick := time.NewTicker(oomWindow)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case req := <-s.starts:
			p, err := s.fork(req.spec)
			req.reply <- started{p, err}
		case <-tick.C:
			s.ooms.look()
		case <-ctx.Done():
		}
	}
	close(s.ended)
	s.mu.Lock()
	for p := range s.alive {
		p.killGroup()
	}
	s.mu.Unlock()
	s.lives.Wait()
	s.cells.close()
	return nil
}

// Start starts a process. It blocks until Run has forked it, or has ended.
func (s *Spawner) Start(spec Spec) (*Process, error) {
	reply := make(chan started, 1)
	var r started
	select {
	case s.starts <- start{spec, reply}:
		r = <-reply
	case <-s.ended:
		r.err = fmt.Errorf("cannot start %s: %w", spec.Path, ErrSpawnerEnded)
	}
	if r.err != nil && spec.Copy != nil {
		_ = spec.Copy.Close()
	}
	return r.process, r.err
}

// fork starts spec on the calling thread, which must be the locked one.
func (s *Spawner) fork(spec Spec) (*Process, error) {
	fail := func(err error) (*Process, error) {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Path, err)
	}
	var p pipes
	if err := p.open(spec.Stdout != nil); err != nil {
		return fail(err)
	}
	ooms := oomKills()
	cmd, cell, err := s.begin(&spec, &p)
	p.closeChildEnds()
	if err != nil {
		p.closeParentEnds()
		return fail(err)
	}
	own, err := group{}.adopt(cmd.Process)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		cell.remove()
		p.closeParentEnds()
		return fail(err)
	}
	process := &Process{
		cmd: cmd, log: NewRing(spec.LogLines), pipe: p.deathWrite, own: own, cell: cell, ooms: ooms, done: make(chan struct{}),
	}
	setOOMScore(process.PID(), spec.OOMScore)
	if err := s.ledger.add(process.PID(), cmd.Path); err != nil {
		s.log.Warn("cannot enter a process in the ledger; a crash of this program may leave it behind", "pid", process.PID(), "err", err)
	}
	s.mu.Lock()
	s.alive[process] = struct{}{}
	s.mu.Unlock()
	s.lives.Go(func() { s.life(process, p, spec.Stdout) })
	if spec.Copy != nil {
		s.lives.Go(func() { process.copyLog(spec.Copy) })
	}
	return process, nil
}

// begin starts a program, in a control group of its own if it wants one and
// there can be one.
func (s *Spawner) begin(spec *Spec, p *pipes) (*exec.Cmd, *cell, error) {
	if spec.Contain && !s.opened {
		s.opened = true
		s.cells = openCells(s.log)
	}
	var own *cell
	if spec.Contain {
		own = s.cells.make(spec.MemoryBytes)
	}
	cmd, err := spec.start(p, own)
	if err == nil || own == nil {
		return cmd, own, err
	}
	// A filter of system calls, such as that of our own systemd unit, may bar the
	// one that starts a process in a group. Then it is moved there.
	cmd, err = spec.start(p, nil)
	if err != nil {
		own.remove()
		return nil, nil, err
	}
	if err := own.take(cmd.Process.Pid); err != nil {
		s.log.Debug("cannot give a process a control group of its own", "path", spec.Path, "err", err)
		own.remove()
		own = nil
	}
	return cmd, own, nil
}

// start forks and runs the program, in a control group unless own is nil.
func (s *Spec) start(p *pipes, own *cell) (*exec.Cmd, error) {
	cmd := s.command()
	cmd.Env = append(cmd.Env, DeathPipeEnv+"=1")
	p.attach(cmd)
	group{}.lead(cmd, s.DeathSignal)
	defer own.join(cmd)()
	return cmd, cmd.Start()
}

// life sees one process to its end: it copies the output, collects the leader,
// takes it out of the ledger and closes done.
func (s *Spawner) life(process *Process, p pipes, stdout io.Writer) {
	var copies sync.WaitGroup
	copies.Go(func() { drain(process.log, p.errRead) })
	if p.outRead != nil {
		copies.Go(func() { drain(stdout, p.outRead) })
	}
	process.reap()
	process.own.close()
	process.exit.OOM = s.ooms.judge(process)
	process.cell.kill()
	process.cell.remove()
	late := time.Now().Add(drainTime)
	_ = p.errRead.SetReadDeadline(late)
	if p.outRead != nil {
		_ = p.outRead.SetReadDeadline(late)
	}
	copies.Wait()
	p.closeParentEnds()
	process.log.Close()
	if err := s.ledger.remove(process.PID()); err != nil {
		s.log.Warn("cannot take a process out of the ledger", "pid", process.PID(), "err", err)
	}
	s.mu.Lock()
	delete(s.alive, process)
	s.mu.Unlock()
	close(process.done)
}

// drain copies until the end of src. A writer that fails must not stop the
// child, so the rest is thrown away.
func drain(dst io.Writer, src io.Reader) {
	if _, err := io.Copy(dst, src); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		_, _ = io.Copy(io.Discard, src)
	}
}

// pipes are the ends of a child's standard streams. All of them are closed on
// exec, so that no sibling holds the write end of another's death pipe.
type pipes struct {
	deathRead, deathWrite *os.File
	errRead, errWrite     *os.File
	outRead, outWrite     *os.File // nil if standard output goes to the log
}

func (p *pipes) open(separateOut bool) error {
	var errs [3]error
	p.deathRead, p.deathWrite, errs[0] = os.Pipe()
	p.errRead, p.errWrite, errs[1] = os.Pipe()
	if separateOut {
		p.outRead, p.outWrite, errs[2] = os.Pipe()
	}
	err := errors.Join(errs[:]...)
	if err != nil {
		p.closeChildEnds()
		p.closeParentEnds()
	}
	return err
}

func (p *pipes) attach(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.deathRead, p.errWrite, p.errWrite
	if p.outWrite != nil {
		cmd.Stdout = p.outWrite
	}
}

func (p *pipes) closeChildEnds()  { closeAll(p.deathRead, p.errWrite, p.outWrite) }
func (p *pipes) closeParentEnds() { closeAll(p.deathWrite, p.errRead, p.outRead) }

// closeAll closes files; closing one that is closed or nil is harmless.
func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Detach starts a process that outlives this program: it has a session of its
// own, no death pipe and no ledger entry. Its output goes to Spec.Stdout, which
// must be nil (nowhere) or an *os.File, and its pid is returned.
func Detach(spec Spec) (int, error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("cannot start %s: %w", spec.Path, err) }
	if _, isFile := spec.Stdout.(*os.File); spec.Stdout != nil && !isFile {
		return fail(errors.New("the output of a detached process must go to a file"))
	}
	cmd := spec.command()
	env := cmd.Env
	cmd.Env = make([]string, 0, len(env))
	for _, kv := range env {
		if !strings.HasPrefix(kv, DeathPipeEnv+"=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stdout
	ownSession(cmd)
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	pid := cmd.Process.Pid
	return pid, cmd.Process.Release()
}
