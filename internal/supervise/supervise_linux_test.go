package supervise_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rbee/internal/supervise"
)

// The test binary is the child, too: with this variable set it plays a part
// instead of running the tests.
const partEnv = "SUPERVISE_TEST_PART"

// barEnv, when set, takes a way to start processes from a child that plays.
const barEnv = "SUPERVISE_TEST_BAR"

func TestMain(m *testing.M) {
	if part := os.Getenv(partEnv); part != "" {
		os.Exit(play(part))
	}
	goleak.VerifyTestMain(m)
}

// play is what a child of the tests does.
func play(part string) int {
	name, arg, _ := strings.Cut(part, " ")
	switch name {
	case "exit":
		code, _ := strconv.Atoi(arg)
		return code
	case "watch": // ends when its parent does
		ctx, stop := supervise.WatchParent(context.Background())
		fmt.Println("watching")
		<-ctx.Done()
		fmt.Println(context.Cause(ctx))
		stop()
		return 0
	case "unwatch": // ends the watch while the parent lives
		ctx, stop := supervise.WatchParent(context.Background())
		stop()
		fmt.Println(context.Cause(ctx))
		return 0
	case "obey": // ends on SIGTERM
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		fmt.Println("ready")
		<-ctx.Done()
		return 3
	case "deaf":
		ignore := make(chan os.Signal, 1)
		signal.Notify(ignore, syscall.SIGTERM)
		fmt.Println("ready")
		hang(ignore)
	case "family": // has a child in its own group that ignores SIGTERM, and ends by itself if told to
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), partEnv+"=deaf")
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			return 1
		}
		_, _ = bufio.NewReader(out).ReadString('\n')
		fmt.Println(cmd.Process.Pid)
		if arg == "leave" {
			return 0
		}
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGUSR1) // a program that waits for nothing is a deadlock
		hang(ended)
	case "parent": // starts a child of its own with the Spawner and waits for its end
		return playParent(arg)
	case "print":
		n, _ := strconv.Atoi(arg)
		for i := range n {
			fmt.Println("line", i)
		}
		fmt.Fprint(os.Stderr, "no end")
	case "flood":
		n, _ := strconv.Atoi(arg)
		_, _ = io.CopyN(os.Stdout, endless{}, int64(n))
	case "glutton": // joins a control group and takes more memory than that has
		if err := os.WriteFile(arg, []byte("0"), 0o600); err != nil {
			fmt.Println(err)
			return 1
		}
		for all := [][]byte{}; ; all = append(all, []byte(strings.Repeat("x", 1<<20))) {
			if len(all) > 1<<10 {
				return 1
			}
		}
	case "runaway": // has a child that left for a session of its own
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), partEnv+"=deaf")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return 1
		}
		fmt.Println(cmd.Process.Pid)
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGUSR1)
		hang(ended)
	case "contain": // joins a control group that it is given, and contains a child
		return playContain(arg)
	case "environ":
		fmt.Println(supervise.DeathPipeEnv + "=" + os.Getenv(supervise.DeathPipeEnv))
	}
	return 0
}

func hang(signals <-chan os.Signal) {
	for {
		<-signals
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func playParent(arg string) int {
	runDir, part, _ := strings.Cut(arg, " ")
	ledger, err := supervise.OpenLedger(runDir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	s := supervise.NewSpawner(ledger, slog.New(slog.DiscardHandler))
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(context.Background()) })
	p, err := s.Start(testSpec(part))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for line := range p.Log().Follow(context.Background()) {
		fmt.Println(p.PID(), line)
	}
	return 0
}

func playContain(arg string) int {
	unit, part, _ := strings.Cut(arg, " ")
	if err := os.WriteFile(unit+"/cgroup.procs", []byte("0"), 0o600); err != nil {
		fmt.Println(err)
		return 1
	}
	if os.Getenv(barEnv) != "" {
		if err := barClone3(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	s := supervise.NewSpawner(nil, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(ctx) })
	spec := testSpec(part)
	spec.Contain = true
	p, err := s.Start(spec)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for line := range p.Log().Follow(ctx) {
		fmt.Println(p.PID(), line)
	}
	end()
	run.Wait()
	return 0
}

func testSpec(part string) supervise.Spec {
	return supervise.Spec{Path: os.Args[0], Env: append(os.Environ(), partEnv+"="+part)}
}

// spawner runs a Spawner for the length of the test.
func spawner(t *testing.T, ledger *supervise.Ledger) *supervise.Spawner {
	t.Helper()
	s := supervise.NewSpawner(ledger, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	return s
}

func begin(t *testing.T, s *supervise.Spawner, part string) *supervise.Process {
	t.Helper()
	p, err := s.Start(testSpec(part))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// nextLine returns the first line that p writes.
func nextLine(t *testing.T, p *supervise.Process) string {
	t.Helper()
	for line := range p.Log().Follow(t.Context()) {
		return line
	}
	t.Fatalf("the child ended without a line: %s", p.Exit())
	return ""
}

// eventually polls until ok holds; a minute means never.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not true: %s", what)
		}
	}
}

func gone(pid int) func() bool {
	return func() bool {
		_, err := supervise.StartTime(pid)
		return errors.Is(err, supervise.ErrNoProcess)
	}
}

func TestExitSaysHowTheProcessEnded(t *testing.T) {
	s := spawner(t, nil)
	for part, want := range map[string]string{"exit 0": "exit status 0", "exit 7": "exit status 7"} {
		p := begin(t, s, part)
		if got := p.Exit(); got.String() != want || got.Success() != (want == "exit status 0") {
			t.Errorf("%s: exit = %+v, want %s", part, got, want)
		}
	}
	p := begin(t, s, "deaf")
	nextLine(t, p)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := p.Exit().String(); got != "signal: killed" {
		t.Errorf("killed child: exit = %s", got)
	}
	q, err := s.Start(supervise.Spec{Path: "sh", Args: []string{"-c", "kill -USR1 $$"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := q.Exit(); got.Signal != "user defined signal 1" || got.Code != -1 || got.Success() {
		t.Errorf("child ended by a signal of its own: exit = %+v", got)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end = %v, want os.ErrProcessDone", err)
	}
}

func TestExitPrintsACoreDump(t *testing.T) {
	if got := (supervise.Exit{Code: -1, Signal: "aborted", CoreDump: true}).String(); got != "signal: aborted (core dumped)" {
		t.Error(got)
	}
}

func TestStopAsksBeforeItKills(t *testing.T) {
	s := spawner(t, nil)
	p := begin(t, s, "obey")
	nextLine(t, p)
	if got := p.Stop(t.Context(), time.Hour); got.Code != 3 {
		t.Errorf("exit = %s, want the child's own 3", got)
	}
	if got := p.Stop(t.Context(), time.Hour); got.Code != 3 {
		t.Errorf("second stop = %s", got)
	}
}

func TestStopKillsAChildThatIgnoresTerm(t *testing.T) {
	s := spawner(t, nil)
	p := begin(t, s, "deaf")
	nextLine(t, p)
	if got := p.Stop(t.Context(), time.Millisecond); got.Signal != "killed" {
		t.Errorf("exit = %s, want signal: killed", got)
	}
	q := begin(t, s, "deaf")
	nextLine(t, q)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := q.Stop(ctx, time.Hour); got.Signal != "killed" {
		t.Errorf("exit under a context that is done = %s, want signal: killed", got)
	}
}

func TestGrandchildrenDieWithTheGroup(t *testing.T) {
	for name, end := range map[string]func(*supervise.Process){
		"stop":             func(p *supervise.Process) { p.Stop(t.Context(), time.Millisecond) },
		"leader is killed": func(p *supervise.Process) { _ = p.Signal(syscall.SIGKILL) },
		"leader leaves":    func(*supervise.Process) {},
	} {
		t.Run(name, func(t *testing.T) {
			part := "family"
			if name == "leader leaves" {
				part = "family leave"
			}
			p := begin(t, spawner(t, nil), part)
			grandchild, err := strconv.Atoi(nextLine(t, p))
			if err != nil {
				t.Fatal(err)
			}
			end(p)
			<-p.Done()
			eventually(t, "the grandchild is gone", gone(grandchild))
		})
	}
}

func TestRunKillsWhatIsLeftAndStartFailsAfterwards(t *testing.T) {
	s := supervise.NewSpawner(nil, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var run sync.WaitGroup
	run.Go(func() { ended <- s.Run(ctx) })
	p := begin(t, s, "deaf")
	nextLine(t, p)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("Run returned before its child had ended")
	}
	if _, err := s.Start(testSpec("exit 0")); !errors.Is(err, supervise.ErrSpawnerEnded) {
		t.Errorf("start after the end = %v", err)
	}
	run.Wait()
}

func TestStartOfNoProgramFailsAndLeavesNothing(t *testing.T) {
	s := spawner(t, nil)
	before := openFiles(t)
	_, err := s.Start(supervise.Spec{Path: "/no/such/program"})
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "cannot start /no/such/program: ") {
		t.Errorf("err = %v", err)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d open files before, %d after", before, after)
	}
}

func TestChildEndsWhenItsParentIsKilled(t *testing.T) {
	for name, part := range map[string]string{
		"death pipe":   "watch",
		"death signal": "deaf", // does not look at its stdin
	} {
		t.Run(name, func(t *testing.T) {
			runDir := t.TempDir()
			parent := begin(t, spawner(t, nil), "parent "+runDir+" "+part)
			pidText, _, _ := strings.Cut(nextLine(t, parent), " ")
			pid, err := strconv.Atoi(pidText)
			if err != nil {
				t.Fatal(err)
			}
			// To the parent alone: its child is in a group of its own.
			if err := parent.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the child is gone", gone(pid))
		})
	}
}

func TestWatchParentSaysWhy(t *testing.T) {
	// The death pipe alone: the child of a plain command has no death signal.
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), partEnv+"=watch", supervise.DeathPipeEnv+"=1")
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(pipe, "ignored\n")
	_ = pipe.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "watching\n" + supervise.ErrParentGone.Error() + "\n"; out.String() != want {
		t.Errorf("output = %q, want %q", out.String(), want)
	}
}

func TestWatchParentCanBeEnded(t *testing.T) {
	p := begin(t, spawner(t, nil), "unwatch")
	if got := nextLine(t, p); got != context.Canceled.Error() {
		t.Errorf("cause = %q", got)
	}
	if got := p.Exit(); !got.Success() {
		t.Error(got)
	}
}

func TestWatchParentLeavesStdinAloneWithoutADeathPipe(t *testing.T) {
	t.Setenv(supervise.DeathPipeEnv, "")
	ctx, stop := supervise.WatchParent(t.Context())
	if err := ctx.Err(); err != nil {
		t.Error(err)
	}
	stop()
	if err := ctx.Err(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOutputGoesToTheLog(t *testing.T) {
	p := begin(t, spawner(t, nil), "print 3")
	p.Exit()
	if got := strings.Join(p.Log().Lines(), "|"); got != "line 0|line 1|line 2|no end" {
		t.Errorf("log = %q", got)
	}
}

func TestStdoutCanBeTakenApart(t *testing.T) {
	var out strings.Builder
	spec := testSpec("print 2")
	spec.Stdout = &out
	p, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Exit()
	if out.String() != "line 0\nline 1\n" {
		t.Errorf("stdout = %q", out.String())
	}
	if got := strings.Join(p.Log().Lines(), "|"); got != "no end" {
		t.Errorf("log = %q", got)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAWriterThatFailsDoesNotStopTheChild(t *testing.T) {
	spec := testSpec("flood 1000000") // more than a pipe holds
	spec.Stdout = brokenWriter{}
	p, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Exit(); !got.Success() {
		t.Error(got)
	}
}

func TestOutputWithoutLineEndsIsBounded(t *testing.T) {
	spec := testSpec("flood 1000000")
	spec.LogLines = 3
	p, err := spawner(t, nil).Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Exit()
	lines := p.Log().Lines()
	if len(lines) != 3 || len(lines[0]) != supervise.MaxLineBytes {
		t.Errorf("%d lines, the first of %d bytes", len(lines), len(lines[0]))
	}
}

func TestDetachedProcessHasASessionAndNoDeathPipe(t *testing.T) {
	t.Setenv(supervise.DeathPipeEnv, "1") // as in a private hive
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	spec := testSpec("environ")
	spec.Stdout = out
	pid, err := supervise.Detach(spec)
	if err != nil {
		t.Fatal(err)
	}
	// Released by Detach, so it is this test that collects it.
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Fatalf("wait: %v, status %v", err, status)
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != supervise.DeathPipeEnv+"=\n" {
		t.Errorf("output = %q", text)
	}
	spec.Stdout = io.Discard
	if _, err := supervise.Detach(spec); err == nil {
		t.Error("a writer that ends with this program was accepted")
	}
}
