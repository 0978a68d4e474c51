//go:build unix

package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rbee/internal/engines/enginestest"
	"rbee/internal/hub/hubtest"
	"rbee/keeper"
	"rbee/models"
)

// patience bounds what a script waits for; nothing is expected to take as long.
const patience = 20 * time.Second

// programsDir is the variable with the directory of the programs of all tests.
const programsDir = "RBEE_TEST_PROGRAMS"

// withPrograms runs the tests with a directory for the programs.
type withPrograms struct{ *testing.M }

func (m withPrograms) Run() int {
	dir, err := os.MkdirTemp("", "rbee-keeper-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	_ = os.Setenv(programsDir, dir) // the name is a good one
	return m.M.Run()
}

func TestMain(m *testing.M) {
	testscript.Main(withPrograms{m}, map[string]func(){"rbee": func() {
		ctx, stop := keeper.WithInterrupts(context.Background())
		code := keeper.Main(ctx, os.Args[1:], keeper.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
		stop()
		os.Exit(code)
	}})
}

// programs builds the queen, the hive and the workers, once for all tests.
var programs = sync.OnceValues(func() (string, error) {
	dir := os.Getenv(programsDir)
	for name, pkg := range map[string]string{
		"rbee-hive": "rbee/cmd/rbee-hive", "llm-worker-rbee": "rbee/cmd/llm-worker-rbee", "queen-rbee": "rbee/cmd/queen-rbee",
		"fakeworker": "rbee/worker/workertest/fakeworker",
	} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("cannot build %s: %w\n%s", pkg, err, out)
		}
	}
	return dir, nil
})

// TestScripts runs testdata/script/*.txtar: what people type and what they get,
// with real hives and workers. The scripts know these commands beside those of
// testscript:
//
//	code N CMD...            run CMD, which must exit with N
//	eventually REGEXP CMD... run CMD until its output matches
//	waitfor FILE REGEXP      wait until the file matches
//	capture VAR              set VAR to what the last command wrote to stdout
//	signal NAME WORD         send INT, TERM, KILL or STOP to the script's processes with WORD among their arguments
//	noproc                   wait until no process of the script is left
func TestScripts(t *testing.T) {
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	engineDir := enginestest.Dir(t)
	hub := scriptHub(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("RBEE_HOME", home)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("RBEE_ENGINE_DIR", engineDir)
			env.Setenv("HF_ENDPOINT", hub.URL)
			env.Setenv("RBEE_HIVE_ADDR", "127.0.0.1:0")
			env.Setenv("RBEE_QUEEN_ADDR", "127.0.0.1:0")
			env.Setenv("RBEE_QUEEN_BUS_ADDR", "127.0.0.1:0")
			env.Setenv("RBEE_WORKER_THREADS", "1")
			env.Setenv("FAKEWORKER", filepath.Join(bin, "fakeworker"))
			env.Setenv("PATH", env.Getenv("PATH")+string(os.PathListSeparator)+bin)
			env.Defer(func() {
				for _, pid := range processesOf(home, "") {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": cmdCode, "eventually": cmdEventually, "waitfor": cmdWaitFor,
			"capture": cmdCapture, "signal": cmdSignal, "noproc": cmdNoProc,
		},
	})
}

// scriptHub is the hub of the scripts, with repositories that are named for how they are.
func scriptHub(t *testing.T) *hubtest.Server {
	hub := hubtest.New()
	t.Cleanup(hub.Close)
	put := func(name string, access hubtest.Access, files ...hubtest.File) {
		hub.Put(hubtest.Repo{Name: name, Access: access, Files: append(files, hubtest.File{Path: "README.md", Content: hubtest.Bytes([]byte("# Bee\n")), Plain: true})})
	}
	tiny := hubtest.Bytes(models.BeeTiny())
	put("bee/tiny-GGUF", hubtest.Public,
		hubtest.File{Path: "bee-tiny.Q8_0.gguf", Content: tiny},
		hubtest.File{Path: "bee-tiny.F16.gguf", Content: hubtest.GGUF(1, 3<<20)})
	put("bee/gated-GGUF", hubtest.Gated, hubtest.File{Path: "gated.Q8_0.gguf", Content: hubtest.GGUF(4, 1<<20)})
	put("bee/down-GGUF", hubtest.Public, hubtest.File{Path: "down.Q8_0.gguf", Content: hubtest.GGUF(2, 1<<20)})
	hub.Fault("bee/down-GGUF", "down.Q8_0.gguf", hubtest.Fault{Kind: hubtest.Status, Status: 503})
	put("bee/slow-GGUF", hubtest.Public, hubtest.File{Path: "slow.Q8_0.gguf", Content: hubtest.GGUF(3, 24<<20)})
	hub.Fault("bee/slow-GGUF", "slow.Q8_0.gguf", hubtest.Fault{Kind: hubtest.Throttle, Bytes: 2 << 20})
	return hub
}

func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N CMD...")
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

// poll runs check until it holds.
func poll(ts *testscript.TestScript, what string, check func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !check(); <-tick.C {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain until %s", what)
		}
	}
}

func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP CMD...")
	}
	pattern := regexp.MustCompile(args[0])
	poll(ts, "the output matches "+args[0], func() bool {
		err := ts.Exec(args[1], args[2:]...)
		return err == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE REGEXP")
	}
	pattern := regexp.MustCompile(args[1])
	poll(ts, args[0]+" matches "+args[1], func() bool {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && pattern.Match(b)
	})
}

func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: capture VAR")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP}
	if neg || len(args) != 2 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal INT|TERM|KILL|STOP WORD")
	}
	pids := processesOf(ts.Getenv("RBEE_HOME"), args[1])
	if len(pids) == 0 {
		ts.Fatalf("no process has %s among its arguments", args[1])
	}
	for _, pid := range pids {
		ts.Check(syscall.Kill(pid, signals[args[0]]))
	}
}

func cmdNoProc(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: noproc")
	}
	home := ts.Getenv("RBEE_HOME")
	poll(ts, "no process is left", func() bool { return len(processesOf(home, "")) == 0 })
}

// processesOf finds the live programs of rbee with this state directory, and
// word among their arguments.
func processesOf(home, word string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if !strings.Contains("\x00"+string(environ), "\x00RBEE_HOME="+home+"\x00") {
			continue // a process that has ended, a zombie included, has no environment
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		switch filepath.Base(args[0]) {
		case "rbee", "rbee-hive", "queen-rbee", "llm-worker-rbee", "fakeworker":
		default:
			continue
		}
		for _, arg := range args {
			if word == "" || arg == word {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
