package queen

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"rbee"
	"rbee/client"
	"rbee/internal/daemon"
	"rbee/internal/service"
	"rbee/internal/supervise"
)

const (
	// hiveRole is what the files of a hive are named for.
	hiveRole = "hive"
	// hiveStartTime bounds how long a hive may take until it listens.
	hiveStartTime = 20 * time.Second
	// hiveEndTime is what a hive may take to end its workers and itself.
	hiveEndTime = 10 * time.Second
	// killTime is what one that did not end so has for a signal.
	killTime = 5 * time.Second
	// lookEvery is how often a file and a pid are looked at.
	lookEvery = 25 * time.Millisecond
	// maxWords bounds what is read of the log of a hive that ended at once.
	maxWords = 1 << 20
)

// local is the hive of the queen's machine and state directory. She starts it
// where none runs: detached, so that it outlives a queen that is killed, or as a
// child that ends with her.
type local struct {
	q *Queen

	mu     sync.Mutex
	state  rbee.LocalHiveState
	reason string
	pid    int // of the one that she started, 0 for none

	logged int64 // length of the hive's log when it was started

	child    *supervise.Process // of an ephemeral queen
	spawner  *supervise.Spawner
	spawning sync.WaitGroup
	stop     context.CancelFunc
}

func newLocal(q *Queen) *local {
	l := &local{q: q, state: rbee.LocalHiveOff}
	if q.cfg.Settings.Queen.Hive == "on" {
		l.state = rbee.LocalHiveStarting // who asks before it has begun waits
	}
	return l
}

// run starts the hive, if that is wanted and none runs. A queen without one is of
// use, too, so nothing here is her failure.
func (l *local) run(ctx context.Context) {
	home := l.q.cfg.Settings.Home
	if err := l.q.letHiveJoin(); err != nil {
		l.q.log.WarnContext(ctx, "the hive of this machine gets no token of this queen", "err", err)
	}
	if l.q.cfg.Settings.Queen.Hive != "on" {
		return
	}
	if note, alive := daemon.ReadNote(home, hiveRole); alive && l.answers(ctx, note.URL) {
		l.set(rbee.LocalHiveRunning, 0, "")
		return
	}
	l.set(rbee.LocalHiveStarting, 0, "")
	pid, err := l.start()
	if err == nil {
		err = l.await(ctx, pid)
	}
	if err != nil {
		l.set(rbee.LocalHiveFailed, pid, rbee.AsError(err).Message)
		l.q.log.WarnContext(ctx, "the hive of this machine does not run", "err", err)
		return
	}
	l.set(rbee.LocalHiveRunning, pid, "")
	l.q.log.InfoContext(ctx, "the hive of this machine runs", "pid", pid)
}

func (l *local) set(state rbee.LocalHiveState, pid int, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.pid, l.reason = state, pid, reason
}

// start starts the program of a hive.
func (l *local) start() (pid int, err error) {
	program, err := daemon.Program("rbee-hive")
	if err != nil {
		return 0, err
	}
	home := l.q.cfg.Settings.Home
	log, err := os.OpenFile(daemon.LogFile(home, hiveRole), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, rbee.Errorf(rbee.CodeInvalidRequest, "cannot open the log of the hive: %w", err).Suggest("see 'rbee doctor'")
	}
	if info, err := log.Stat(); err == nil {
		l.logged = info.Size()
	}
	spec := supervise.Spec{Path: program, Args: []string{"daemon", "--by-queen"}, Env: l.q.hiveEnviron(), Dir: string(home)}
	if l.q.cfg.Ephemeral {
		return l.startChild(spec, log)
	}
	defer func() { _ = log.Close() }() // the hive has it, too
	spec.Stdout = log
	return supervise.Detach(spec)
}

// startChild starts a hive that ends with this process, whatever ends that.
func (l *local) startChild(spec supervise.Spec, log *os.File) (pid int, err error) {
	ledger, err := supervise.OpenLedger(l.q.cfg.Settings.Home.RunDir())
	if err != nil {
		return 0, errors.Join(err, log.Close())
	}
	l.spawner = supervise.NewSpawner(ledger, l.q.log)
	var living context.Context
	living, l.stop = context.WithCancel(context.Background()) // ended by end
	l.spawning.Go(func() { _ = l.spawner.Run(living) })       // it returns nothing but nil
	spec.Copy, spec.DeathSignal = log, syscall.SIGTERM        // so that it takes its workers along
	l.child, err = l.spawner.Start(spec)
	if err != nil {
		return 0, err
	}
	return l.child.PID(), nil
}

// await blocks until the hive answers, or has ended.
func (l *local) await(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hiveStartTime,
		rbee.Errorf(rbee.CodeConnectionTimeout, "the hive (pid %d) does not answer after %s", pid, hiveStartTime).Suggest("see 'rbee hive logs'"))
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if ended(pid) {
			return daemon.LastWords("the hive ended at once", "see its log", l.said())
		}
		note, alive := daemon.ReadNote(l.q.cfg.Settings.Home, hiveRole)
		if alive && note.PID == pid && l.answers(ctx, note.URL) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// said is what the hive wrote before it ended.
func (l *local) said() []string {
	if l.child != nil {
		<-l.child.Done()
		return l.child.Log().Lines()
	}
	f, err := os.Open(daemon.LogFile(l.q.cfg.Settings.Home, hiveRole))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // it was read
	b, err := io.ReadAll(io.NewSectionReader(f, l.logged, maxWords))
	if err != nil {
		return nil
	}
	return strings.Split(string(b), "\n")
}

// ended says whether no process has the pid.
func ended(pid int) bool {
	_, err := supervise.StartTime(pid)
	return errors.Is(err, supervise.ErrNoProcess)
}

func (l *local) answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c := client.New(url)
	defer c.Close()
	_, err := c.Health(ctx)
	return err == nil
}

// status tells of the hive.
func (l *local) status() rbee.LocalHiveStatus {
	l.mu.Lock()
	s := rbee.LocalHiveStatus{State: l.state, Reason: l.reason}
	l.mu.Unlock()
	note, alive := daemon.ReadNote(l.q.cfg.Settings.Home, hiveRole)
	switch {
	case alive && s.State != rbee.LocalHiveStarting:
		s.State, s.Reason, s.URL, s.PID = rbee.LocalHiveRunning, "", note.URL, note.PID
		if about, ok := l.q.told(note); ok {
			s.ID = about.ID
		}
	case s.State == rbee.LocalHiveRunning:
		s.State, s.Reason = rbee.LocalHiveFailed, "it has ended"
	}
	return s
}

// told is what the hive of a note told on the bus.
func (q *Queen) told(note daemon.Note) (rbee.HiveAbout, bool) {
	return q.registry.About(func(a *rbee.HiveAbout) bool { return a.Machine == q.machine && a.URL == note.URL })
}

// end ends the hive that this queen, or an earlier one of this state directory,
// started. It blocks until it is gone, or cannot be ended.
func (l *local) end() {
	ctx, cancel := context.WithTimeout(context.Background(), hiveEndTime+killTime)
	defer cancel()
	if l.spawner != nil {
		defer l.spawning.Wait()
		defer l.stop()
	}
	note, alive := daemon.ReadNote(l.q.cfg.Settings.Home, hiveRole)
	l.mu.Lock()
	pid := l.pid
	l.mu.Unlock()
	if pid == 0 && alive {
		// What does not answer may have ended long ago, and another process have its pid.
		if about, ok := l.q.told(note); ok && about.ByQueen && l.answers(ctx, note.URL) {
			pid = note.PID
		}
	}
	if pid == 0 || ended(pid) {
		return
	}
	clean := alive && note.PID == pid && l.shutdown(ctx, note)
	switch {
	case l.child != nil:
		exit := l.child.Stop(ctx, hiveEndTime)
		clean = clean && exit.Success()
	case !clean:
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Signal(syscall.SIGTERM) // it may just have ended
		}
		l.awaitEnd(ctx, pid)
	}
	l.q.metrics.shutdowns.WithLabelValues(strconv.FormatBool(clean)).Inc()
	if !clean {
		l.q.log.Warn("the hive that this queen started did not end in order", "pid", pid)
	}
}

// shutdown has the hive end, and says whether it did.
func (l *local) shutdown(ctx context.Context, note daemon.Note) bool {
	ctx, cancel := context.WithTimeout(ctx, hiveEndTime)
	defer cancel()
	key, err := l.q.cfg.Settings.Hive.ReadKey()
	if err != nil {
		return false
	}
	c := client.New(note.URL, client.Key(key.Reveal()))
	defer c.Close()
	if _, err := c.Shutdown(ctx); err != nil {
		l.q.log.WarnContext(ctx, "cannot tell the hive to end", "err", err)
		return false
	}
	return l.awaitEnd(ctx, note.PID)
}

// awaitEnd blocks until a process has ended, or ctx has, and says which.
func (l *local) awaitEnd(ctx context.Context, pid int) bool {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !ended(pid) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// hiveEnviron is what a hive of hers is started with: it joins the bus of another
// as she does, where that takes no token.
func (q *Queen) hiveEnviron() []string {
	environ := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "RBEE_QUEEN_") || name == "RBEE_HOME" || service.Own(name)
	})
	environ = append(environ, "RBEE_HOME="+string(q.cfg.Settings.Home))
	hive := q.cfg.Settings.Hive
	if join := q.cfg.Settings.Queen.Join.Reveal(); strings.Contains(join, "://") && hive.Join == "" && hive.JoinFile == "" {
		environ = append(environ, "RBEE_HIVE_JOIN="+join)
	}
	return environ
}
