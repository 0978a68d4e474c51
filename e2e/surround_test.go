//go:build linux

package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rbee"
	"rbee/client"
)

// What can happen around a hive: to its terminal, its output, its disk, its
// logs, and with the service manager.

var tiny = rbee.SpawnRequest{ModelRef: "builtin:bee-tiny", KeepAlive: "forever"}

// startCmd starts a program that the test made up itself.
func (c *colony) startCmd(cmd *exec.Cmd) *running {
	c.t.Helper()
	cmd.Env, cmd.Dir = c.env, c.work
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	r := &running{t: c.t, cmd: cmd, out: os.DevNull, err: os.DevNull, done: make(chan struct{})}
	if f, ok := cmd.Stderr.(*os.File); ok && filepath.IsAbs(f.Name()) {
		r.err = f.Name()
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = cmd.Wait()
		close(r.done)
	})
	c.started = append(c.started, r)
	return r
}

// daemonOf waits until the hive of a program answers.
func (c *colony) daemonOf(r *running) *client.Client {
	c.t.Helper()
	var calls *client.Client
	eventually(c.t, "the hive answers", func() bool {
		if !runs(r.pid()) {
			c.t.Fatalf("the hive ended: %s\n%s", r.wait(), r.stderr())
		}
		calls = c.hive()
		return calls != nil
	})
	return calls
}

func (c *colony) hiveCommand() *exec.Cmd {
	return exec.Command(filepath.Join(programs.dir, "rbee-hive"), "daemon", "--addr", "127.0.0.1:0")
}

// plainFake makes the fake engine the workers' own, with nothing in between.
func (c *colony) plainFake(script string) {
	c.env = append(c.env, "RBEE_WORKER_PROGRAM="+programs.fake, "RBEE_FAKE_ENGINE="+script)
}

func (c *colony) noteFile(name string) *os.File {
	c.t.Helper()
	f, err := os.Create(filepath.Join(c.notes, name))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = f.Close() })
	return f
}

// works lets a worker live from start to end.
func (c *colony) works(calls *client.Client) {
	c.t.Helper()
	w := c.spawn(calls, tiny)
	_, wait := c.streams(c.caller(w.URL), 1, 20)
	if err := errors.Join(wait()...); err != nil {
		c.t.Errorf("stream: %v", err)
	}
	if err := calls.StopWorker(c.t.Context(), w.ID); err != nil {
		c.t.Errorf("stop: %v", err)
	}
}

func TestAHiveOutlivesTheReadersOfItsOutput(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.plainFake("")
	cmd := c.hiveCommand()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.noteFile("hive") // nothing: its notes go to readers
	cmd.Stdout, cmd.Stderr = write, write
	hive := c.startCmd(cmd)
	_ = write.Close()
	calls := c.daemonOf(hive)
	_ = read.Close()
	c.works(calls) // which the hive tells nobody now
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
}

func TestAClosedTerminalEndsAHiveInOrder(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.fake("token=10ms,eos_at=100000")
	hive, calls := c.daemon()
	w := c.spawn(calls, tiny)
	arrived, wait := c.streams(c.caller(w.URL), 2, 5000)
	eventually(t, "tokens arrive", func() bool { return arrived() > 5 })
	kill(t, hive.pid(), syscall.SIGHUP)
	hive.mustExit("exit status 0")
	wait()
	if runs(w.PID) {
		t.Error("the hive ended before its worker")
	}
	if !strings.Contains(c.log(), "the terminal was closed") {
		t.Errorf("the hive does not say why it ended:\n%s", c.log())
	}
}

func TestAHiveUnderNohupStaysWhenTheTerminalIsClosed(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.plainFake("")
	cmd := c.hiveCommand()
	cmd.Args = append([]string{"sh", "-c", `trap "" HUP; exec "$@"`, "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	cmd.Stderr = c.noteFile("nohup")
	hive := c.startCmd(cmd)
	calls := c.daemonOf(hive)
	kill(t, hive.pid(), syscall.SIGHUP)
	c.works(calls)
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
}

// smallDisk mounts a file system of a few megabytes, which root may.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skip("no permission to mount a small disk:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// at moves the state directory of a colony to another disk.
func (c *colony) at(dir string) {
	c.home = filepath.Join(dir, "home")
	c.env = append(c.env, "RBEE_HOME="+c.home)
}

// fill writes until the disk is full, and returns what makes room again.
func fill(t *testing.T, dir string) (room func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		_ = f.Close()
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

func TestAHiveOnAFullDiskServesOnAndSaysSo(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "size=24m,mode=700")
	c := newColony(t)
	c.at(disk)
	c.plainFake("")
	cmd := c.hiveCommand()
	cmd.Stderr = c.noteFile("hive")
	hive := c.startCmd(cmd)
	calls := c.daemonOf(hive)
	c.works(calls)
	room := fill(t, disk)
	for range 3 {
		c.works(calls)
	}
	if said := hive.stderr(); !strings.Contains(said, "no space left on device") {
		t.Errorf("the hive does not say that the disk is full:\n%s", said)
	}
	c.env = append(c.env, "RBEE_HOME="+filepath.Join(disk, "another"))
	c.refuses("full")
	c.env = c.env[:len(c.env)-1]
	room()
	c.works(calls)
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
}

// refuses wants a hive not to start, with an error that says why.
func (c *colony) refuses(why string) {
	c.t.Helper()
	r := c.run("rbee-hive", "daemon", "--addr", "127.0.0.1:0")
	r.mustExit("exit status 1")
	if said := r.stderr(); !strings.Contains(said, "Error: ") || !strings.Contains(said, why) || !strings.Contains(said, "Suggestion: ") {
		c.t.Errorf("the hive does not say %q and what to do:\n%s", why, said)
	}
}

func TestAHiveDoesNotStartOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "size=24m,mode=700")
	c := newColony(t)
	c.at(disk)
	if err := os.Mkdir(c.home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	c.refuses("read-only file system")
}

// bound starts cmd without the power of root to ignore permissions. It cannot
// be taken from this process: the thread that has lost it is given up.
func (c *colony) bound(cmd *exec.Cmd) *running {
	c.t.Helper()
	var r *running
	var err error
	var start sync.WaitGroup
	start.Go(func() {
		runtime.LockOSThread() // and never unlocked
		for _, power := range []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH} {
			if os.Geteuid() == 0 {
				err = errors.Join(err, unix.Prctl(unix.PR_CAPBSET_DROP, power, 0, 0, 0))
			}
		}
		if err == nil {
			r = c.startCmd(cmd)
		}
	})
	start.Wait()
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

func TestAHiveThatLostItsPermissionsServesOnAndSaysSo(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.plainFake("")
	cmd := c.hiveCommand()
	cmd.Stderr = c.noteFile("hive")
	hive := c.bound(cmd)
	calls := c.daemonOf(hive)
	c.works(calls)
	dirs := []string{c.home, filepath.Join(c.home, "run"), filepath.Join(c.home, "logs"), filepath.Join(c.home, "logs", "workers"), filepath.Join(c.home, "models")}
	permit := func(mode os.FileMode) {
		for _, dir := range dirs {
			if err := os.Chmod(dir, mode); err != nil {
				t.Error(err)
			}
		}
	}
	permit(0o500)
	t.Cleanup(func() { permit(0o700) })
	for range 3 {
		c.works(calls)
	}
	if said := hive.stderr(); !strings.Contains(said, "permission denied") {
		t.Errorf("the hive does not say that it lost its permissions:\n%s", said)
	}
	permit(0o700)
	c.works(calls)
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
}

func TestWhatAWorkerWroteIsOnDiskHoweverItEnds(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.plainFake("token=10ms,eos_at=100000")
	cmd := c.hiveCommand()
	cmd.Stderr = c.noteFile("hive")
	hive := c.startCmd(cmd)
	calls := c.daemonOf(hive)
	logOf := func(w rbee.Worker) string {
		return filepath.Join(c.home, "logs", "workers", "builtin_bee-tiny-"+string(w.ID)+".log")
	}
	first, second := c.spawn(calls, tiny), c.spawn(calls, tiny)
	kill(t, first.PID, syscall.SIGKILL)
	c.awaitState(calls, first.ID, rbee.WorkerFailed)
	eventually(t, "the end is in the log", func() bool {
		return strings.HasSuffix(readText(t, logOf(first)), "\n[ended: signal: killed]\n")
	})
	reader, err := calls.WorkerLogs(t.Context(), first.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	ring, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	if text := readText(t, logOf(first)); len(ring) == 0 || text != string(ring)+"[ended: signal: killed]\n" {
		t.Errorf("on disk: %q\nfrom the hive: %q", text, ring)
	}
	if info, err := os.Stat(logOf(first)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
	kill(t, hive.pid(), syscall.SIGKILL)
	hive.mustExit("signal: killed")
	if text := readText(t, logOf(second)); !strings.Contains(text, string(second.ID)) {
		t.Errorf("the log of the other worker: %q", text)
	}
	eventually(t, "the worker is gone", func() bool { return !runs(second.PID) })
	private := c.run("rbee", story...)
	private.mustExit("exit status 0")
	if logs, _ := filepath.Glob(filepath.Join(c.home, "logs", "workers", "*")); len(logs) != 2 {
		t.Errorf("a private hive left its own beside %v", logs)
	}
}

func TestTheHivesOwnLogBeginsAnewWhenItIsFull(t *testing.T) {
	t.Parallel()
	c := newColony(t)
	c.env = append(c.env, "RBEE_HIVE_ADDR=127.0.0.1:0")
	log := filepath.Join(c.home, "logs", "hive.log")
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		t.Fatal(err)
	}
	old := strings.Repeat("a line of an earlier hive\n", 16<<20/26+1)
	if err := os.WriteFile(log, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("rbee", "hive", "start").mustExit("exit status 0")
	if text := readText(t, log+".1"); text != old {
		t.Errorf("the full log has %d bytes, not %d", len(text), len(old))
	}
	if text := readText(t, log); !strings.Contains(text, "the hive listens") || strings.Contains(text, "earlier") {
		t.Errorf("the log: %.200q", text)
	}
	c.run("rbee", "hive", "stop").mustExit("exit status 0")
}

// told reads what the hive tells a service manager until it tells want.
func told(t *testing.T, conn *net.UnixConn, want string) []string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for b := make([]byte, 4096); ; {
		n, err := conn.Read(b)
		if err != nil {
			t.Fatalf("the hive does not tell %q: %v, but %q", want, err, lines)
		}
		lines = append(lines, string(b[:n]))
		if slices.Contains(strings.Split(string(b[:n]), "\n"), want) {
			return lines
		}
	}
}

func TestTheServiceManagerIsToldHowTheHiveIs(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*running, *client.Client){
		"stopped by the manager": func(hive *running, _ *client.Client) { kill(t, hive.pid(), syscall.SIGTERM) },
		"told to shut down":      func(_ *running, calls *client.Client) { _, _ = calls.Shutdown(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "notify")
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			c := newColony(t)
			c.fake("")
			c.env = append(c.env, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=600000")
			hive := c.start("rbee-hive", "daemon", "--addr", "127.0.0.1:0")
			told(t, conn, "READY=1")
			calls := c.hive() // without waiting: it said that it is ready
			if calls == nil {
				t.Fatal("the hive said that it is ready, and does not answer")
			}
			told(t, conn, "STATUS=0 workers, 0 busy")
			w := c.spawn(calls, tiny)
			told(t, conn, "STATUS=1 worker, 0 busy")
			told(t, conn, "WATCHDOG=1")
			for _, variable := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC"} {
				if got := environ(t, w.PID, variable); got != "" {
					t.Errorf("the worker has %s=%s", variable, got)
				}
			}
			end(hive, calls)
			after := told(t, conn, "STOPPING=1")
			if slices.Contains(after, "READY=1") {
				t.Errorf("told twice that it is ready: %q", after)
			}
			hive.mustExit("exit status 0")
		})
	}
}

// A hive that hangs must not feed the watchdog.
func TestTheWatchdogOfAHiveThatStandsStillIsNotFed(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := newColony(t)
	c.fake("")
	c.env = append(c.env, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=300000")
	hive, _ := c.daemon()
	told(t, conn, "WATCHDOG=1")
	kill(t, hive.pid(), syscall.SIGSTOP)
	quiet := 0
	for b := make([]byte, 4096); quiet < 3; { // what was on its way may still come
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(b); err != nil {
			quiet++
		}
	}
	kill(t, hive.pid(), syscall.SIGCONT)
	told(t, conn, "WATCHDOG=1")
	kill(t, hive.pid(), syscall.SIGTERM)
	hive.mustExit("exit status 0")
}
