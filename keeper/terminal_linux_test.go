package keeper_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rbee/internal/engines/enginestest"
)

// typist is somebody at a terminal.
type typist struct {
	t      *testing.T
	home   string
	env    []string
	master *os.File
	slave  *os.File

	mu   sync.Mutex
	seen strings.Builder // what the terminal got
	from int             // what of it await has looked at
}

// newTypist makes a terminal, and a state directory of its own.
func newTypist(t *testing.T, env ...string) *typist {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	p := &typist{t: t, home: filepath.Join(t.TempDir(), "home")}
	p.env = append(os.Environ(),
		"RBEE_HOME="+p.home, "RBEE_ENGINE_DIR="+enginestest.Dir(t), "RBEE_HIVE_ADDR=127.0.0.1:0", "RBEE_WORKER_THREADS=1",
		"RBEE_WORKER_PROGRAM="+filepath.Join(bin, "fakeworker"), "TERM=xterm", "NO_COLOR=",
		"PATH="+os.Getenv("PATH")+string(os.PathListSeparator)+bin)
	p.env = append(p.env, env...)
	p.master, p.slave = openTerminal(t)
	p.resize(100, 20)
	var reader sync.WaitGroup
	reader.Go(p.read)
	t.Cleanup(func() {
		for _, pid := range processesOf(p.home, "") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = p.slave.Close() // the reader ends with the last one who has it open
		reader.Wait()
		_ = p.master.Close()
	})
	return p
}

// openTerminal makes a pair of a pseudo-terminal (pts(4)).
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (p *typist) read() {
	var b [4096]byte
	for {
		n, err := p.master.Read(b[:])
		p.mu.Lock()
		p.seen.Write(b[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *typist) resize(width, height uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		p.t.Fatal(err)
	}
}

// start runs rbee on the terminal, as a shell would: Ctrl-C reaches it.
func (p *typist) start(args ...string) *exec.Cmd {
	p.t.Helper()
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := &exec.Cmd{
		Path: self, Args: append([]string{"rbee"}, args...), Env: p.env, Dir: p.t.TempDir(),
		Stdin: p.slave, Stdout: p.slave, Stderr: p.slave,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return cmd
}

// run runs rbee to its end and returns what it wrote to standard output.
func (p *typist) run(args ...string) string {
	p.t.Helper()
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: self, Args: append([]string{"rbee"}, args...), Env: p.env}
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("rbee %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}

func (p *typist) key(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// await waits until something new on the terminal matches, and returns it.
func (p *typist) await(pattern string) string {
	p.t.Helper()
	wanted := regexp.MustCompile(pattern)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		p.mu.Lock()
		news := p.seen.String()[p.from:]
		at := wanted.FindStringIndex(news)
		if at != nil {
			p.from += at[1]
		}
		p.mu.Unlock()
		if at != nil {
			return news[at[0]:at[1]]
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the terminal shows no %s:\n%q", pattern, news)
		}
	}
}

// ended waits for the end of a command and returns its exit code.
func (p *typist) ended(cmd *exec.Cmd) int {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// echoes says whether the terminal is as a shell wants it.
func (p *typist) echoes() bool {
	p.t.Helper()
	state, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	const shell = unix.ECHO | unix.ICANON | unix.ISIG
	return state.Lflag&shell == shell
}

const prompt = `\x1b\[2m> \x1b\[m|> `

func TestCtrlCStopsTheAnswerAndNotTheChat(t *testing.T) {
	p := newTypist(t, "RBEE_FAKE_ENGINE=token=20ms,eos_at=100000")
	chat := p.start("chat", "--model", "builtin:bee-tiny", "--temperature", "0")
	p.await("/help lists the commands")
	p.await(prompt)
	p.key("Hello bees\r")
	p.await(`Hello bees\r\n(\S+ ){5}`)
	p.key("\x03")
	p.await("Stopped")
	p.await(prompt)

	// The answer so far is a part of the conversation, and the next one comes.
	p.key("/save talk.md\r")
	p.await("Saved in talk.md")
	p.await(prompt)
	p.key("And then?\r")
	p.await(`then\?\r\n(\S+ ){5}`)
	p.key("\x03")
	p.await("Stopped")
	p.await(prompt)
	talk, err := os.ReadFile(filepath.Join(chat.Dir, "talk.md"))
	if err != nil || !regexp.MustCompile(`(?s)## user\n\nHello bees\n\n## assistant\n\n(\S+ ?){4}`).Match(talk) {
		t.Errorf("the conversation was saved as %q, %v", talk, err)
	}

	// At the prompt it takes the line away, and says what ends the chat.
	p.key("nonsense\x03\x03")
	p.await(`Ctrl-D or /quit ends the chat\.`)
	p.key("\x04")
	if code := p.ended(chat); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !p.echoes() {
		t.Error("the terminal is left in raw mode")
	}
	if left := processesOf(p.home, ""); len(left) > 0 {
		t.Errorf("processes %d are left", left)
	}
}

func TestChatKnowsWhatWasTypedBefore(t *testing.T) {
	p := newTypist(t, "RBEE_FAKE_ENGINE=eos_at=5", "NO_COLOR=1")
	chat := p.start("chat", "--model", "builtin:bee-tiny")
	p.await(`> `)
	p.key("/set top-k 7\r")
	p.await(`> `)
	p.key("\x1b[A\x1b[D\x1b[D\x7f") // up; left, left; the letter before goes
	p.key("\x05\x7f9\r")            // the last letter becomes 9
	p.await(`there is no setting "top-"`)
	p.key("/st\t\r")
	p.await(`Nothing was answered so far\.`)
	p.await(`> `)
	p.key("\x1b[200~one\rtwo\rthree\x1b[201~\r") // a paste is one message
	p.await(`… two\r\n… three\r\n\x1b\[\?2004l\S+`)
	p.await(`> `)
	p.key("/stats\r")
	p.await(`so far       1 answer`)
	p.await(`> `)
	p.key("/quit\r")
	if code := p.ended(chat); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestTheEndOfTheTerminalEndsTheChat(t *testing.T) {
	p := newTypist(t, "RBEE_FAKE_ENGINE=eos_at=5")
	chat := p.start("chat", "--model", "builtin:bee-tiny")
	p.await(prompt)
	if err := chat.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if code := p.ended(chat); code != 130 || !p.echoes() {
		t.Errorf("exit code %d, the terminal echoes: %t", code, p.echoes())
	}
	if left := processesOf(p.home, ""); len(left) > 0 {
		t.Errorf("processes %d are left", left)
	}
}

func TestTopDrawsInPlaceAndLeavesTheScreenAsItWas(t *testing.T) {
	p := newTypist(t)
	p.run("hive", "start")
	id := p.run("workers", "spawn", "--model", "builtin:bee-tiny")
	for key, want := range map[string]int{"q": 0, "\x03": 130} {
		p.resize(100, 20)
		top := p.start("hive", "top")
		p.await(`\x1b\[\?1049h\x1b\[\?25l\x1b\[H`)
		p.await(`REQUESTS.*`)
		p.await(id + ` +builtin:bee-tiny +idle`)
		p.resize(40, 20)
		p.await(`ID +MODEL +STATE( +TOKENS/S)?\S*\x1b\[K\r\n`)
		p.run("workers", "pin", id)
		p.await(id + ` +…in:bee-tiny +idle, pinned`)
		p.run("workers", "unpin", id)
		p.key(key)
		if code := p.ended(top); code != want {
			t.Errorf("%q ends it with exit code %d, want %d", key, code, want)
		}
		p.await(`\x1b\[\?25h\x1b\[\?1049l$`)
		if !p.echoes() {
			t.Error("the terminal is left in raw mode")
		}
	}
	top := p.start("hive", "top")
	p.await(id)
	p.run("hive", "stop")
	p.await(`\x1b\[\?25h\x1b\[\?1049l`)
	p.await(`Error:.* the hive on 127\.0\.0\.1:\d+ (has ended|died)`)
	if code := p.ended(top); code != 1 {
		t.Errorf("exit code %d", code)
	}
}
