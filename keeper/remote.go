package keeper

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"rbee"
)

const (
	// sshConnectTime bounds the way to a host where nobody is asked anything.
	sshConnectTime = time.Minute
	// settleTime is for Ctrl-C: it ends ssh too, maybe before we hear of it.
	settleTime = 250 * time.Millisecond
	// socketPath bounds the path of a Unix socket, less what ssh appends to it.
	socketPath = 80
	// wordsKept is how much of what ssh and the far side complain about is kept.
	wordsKept = 16 << 10
	// markLine begins each line that a script on the far side means for us: what
	// a profile of a shell prints there comes in between.
	markLine = "rbee:"
)

// sshHost is what may be handed to ssh as a host: its name, as the user's own
// configuration knows it, or an address, with a user or without.
var sshHost = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?)$`)

// checkHost refuses what ssh could take for something else than a host.
func checkHost(host string) error {
	if len(host) > 255 || !sshHost.MatchString(host) {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use %q as a host of ssh", host).
			Suggest("name it as in 'ssh HOST' or 'ssh USER@HOST'; a port goes into ~/.ssh/config")
	}
	return nil
}

// remote is a machine that is reached by the ssh of this one: with the user's
// own configuration, agent and known hosts. All commands share one connection
// where ssh can do that.
type remote struct {
	host    string
	ssh     string   // the program
	options []string // of each command
	ask     bool     // somebody can answer questions
	echo    io.Writer
	scratch string   // directory of the control socket, "" without one
	become  []string // before each command, to be root
	facts   map[string]string

	master  *exec.Cmd
	release io.Closer // standard input of the master: it ends when this does
	words   *words    // of the master
}

// dialRemote connects to a host and looks what machine it is. The caller
// closes the remote.
func (a *app) dialRemote(ctx context.Context, host string) (*remote, error) {
	if err := checkHost(host); err != nil {
		return nil, err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot reach %s: the program ssh is not in PATH", host).
			WithCause(err).Suggest("install OpenSSH's client (Debian: 'apt-get install openssh-client')")
	}
	r := &remote{host: host, ssh: program, ask: isTerminal(a.in), echo: a.out.stderr, facts: map[string]string{}}
	r.options = []string{
		"-T", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
		"-o", "BatchMode=" + yesNo(!r.ask), "-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none",
	}
	if err := r.shareConnection(); err != nil {
		return nil, err
	}
	if err := r.connect(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// shareConnection makes room for the socket over which commands share a connection.
func (r *remote) shareConnection() error {
	if runtime.GOOS == "windows" {
		return nil // its ssh cannot
	}
	dir, err := os.MkdirTemp("", "rbee-ssh-")
	if err == nil && len(dir) > socketPath {
		err = os.Remove(dir)
		if err == nil {
			dir, err = os.MkdirTemp("/tmp", "rbee-ssh-")
		}
	}
	if err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot make a temporary directory: %w", err).Suggest("see 'rbee doctor'")
	}
	r.scratch = dir
	return nil
}

// lookScript says what machine it runs on, and then stays as long as its input does.
const lookScript = `echo "rbee:os=$(uname -s)"; echo "rbee:arch=$(uname -m)"; echo "rbee:uid=$(id -u)"; ` +
	`echo "rbee:user=$(id -un)"; echo "rbee:home=$HOME"; echo rbee:end; exec cat >/dev/null`

// connect starts the connection. It blocks until the far side has answered.
func (r *remote) connect(ctx context.Context) error {
	if !r.ask {
		limited, cancel := context.WithTimeoutCause(ctx, sshConnectTime,
			rbee.Errorf(rbee.CodeConnectionTimeout, "cannot reach %s: it does not answer within %s", r.host, sshConnectTime).
				Suggest("try 'ssh %s'", r.host))
		defer cancel()
		ctx = limited
	}
	args := r.options
	if r.scratch != "" {
		args = append(args[:len(args):len(args)], "-M", "-S", r.socket())
	}
	r.words = &words{}
	// The master outlives this function, but no deadline of it.
	r.master = exec.CommandContext(context.WithoutCancel(ctx), r.ssh, append(args, "--", r.host, r.commandLine(lookScript))...) //nolint:contextcheck // see above
	r.master.Env, r.master.Stderr = r.environ(), r.words
	if r.ask {
		r.master.Stderr = io.MultiWriter(r.words, r.echo) // touch the key, and the like
	}
	in, err := r.master.StdinPipe()
	if err != nil {
		return err
	}
	out, err := r.master.StdoutPipe()
	if err != nil {
		return err
	}
	if err := r.master.Start(); err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot run ssh: %w", err).Suggest("try 'ssh %s'", r.host)
	}
	r.release = in
	stop := context.AfterFunc(ctx, func() { _ = r.master.Process.Kill() })
	ended := r.readFacts(out)
	stop()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !ended {
		_ = r.release.Close()
		err := r.master.Wait()
		r.master = nil
		return r.explain("cannot reach "+r.host, err, r.words.String())
	}
	return nil
}

// readFacts reads what lookScript says, and whether it came to its end.
func (r *remote) readFacts(out io.Reader) bool {
	lines := bufio.NewScanner(io.LimitReader(out, 1<<20))
	for lines.Scan() {
		text, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), markLine)
		if !ok {
			continue
		}
		if text == "end" {
			return true
		}
		name, value, _ := strings.Cut(text, "=")
		r.facts[name] = value
	}
	return false
}

func (r *remote) socket() string { return filepath.Join(r.scratch, "s") }

// close ends the connection and what runs over it.
func (r *remote) close() {
	if r.release != nil {
		_ = r.release.Close() // the far side ends, and then ssh does
	}
	if r.master != nil {
		timer := time.AfterFunc(2*time.Second, func() { _ = r.master.Process.Kill() })
		_ = r.master.Wait()
		timer.Stop()
	}
	if r.scratch != "" {
		_ = os.RemoveAll(r.scratch)
	}
}

// environ is that of this program, in English: messages are read. Keys are no
// business of another machine, even where ssh is told to send variables.
func (r *remote) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name != "LC_ALL" && name != "HF_TOKEN" && !strings.HasPrefix(name, "RBEE_") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}

// commandLine is a script with arguments, as a line for the shell of a user.
// That may be any: script has no quotes of the single kind, no backslashes and
// no line ends.
func (r *remote) commandLine(script string, args ...string) string {
	words := append(append([]string{}, r.become...), "sh", "-c", "export LC_ALL=C; "+script, "rbee")
	words = append(words, args...)
	for i, w := range words {
		words[i] = shellQuote(w)
	}
	return strings.Join(words, " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_/.,:@+-]+$`)

// shellQuote makes a word that a POSIX shell takes as it is.
func shellQuote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// scriptError is the end of a script on the far side that was no success.
type scriptError struct {
	code  int    // exit code of the script, -1 for one that a signal ended
	words string // what it complained about
}

func (f *scriptError) Error() string {
	if f.words != "" {
		return f.words
	}
	return "exit status " + strconv.Itoa(f.code)
}

// run runs a script with arguments and returns what it printed. in may be nil.
// A script that fails is a *scriptError; a connection that fails is an *rbee.Error.
func (r *remote) run(ctx context.Context, in io.Reader, script string, args ...string) (string, error) {
	var out bytes.Buffer
	err := r.stream(ctx, in, &out, nil, script, args...)
	return out.String(), err
}

// stream is run with the output as it comes. Without errOut complaints are kept
// for the error.
func (r *remote) stream(ctx context.Context, in io.Reader, out, errOut io.Writer, script string, args ...string) error {
	options := r.options
	if r.scratch != "" {
		options = append(options[:len(options):len(options)], "-S", r.socket(), "-o", "ControlMaster=no")
	}
	cmd := exec.CommandContext(ctx, r.ssh, append(options, "--", r.host, r.commandLine(script, args...))...)
	said := &words{}
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = r.environ(), in, out, said
	if errOut != nil {
		cmd.Stderr = io.MultiWriter(said, errOut)
	}
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() != 255: // 255 is ssh's own
		return &scriptError{exit.ExitCode(), said.String()}
	case errors.As(err, &exit):
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(settleTime):
		}
		return r.explain("lost the connection to "+r.host, err, said.String())
	}
	return fmt.Errorf("cannot run ssh: %w", err)
}

// words keeps the end of what a program complains about.
type words struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, b...)
	if more := len(w.text) - wordsKept; more > 0 {
		w.text = append(w.text[:0], w.text[more:]...)
	}
	return len(b), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(strings.ReplaceAll(string(w.text), "\r", ""))
}

// told are the lines NAME=VALUE that a script meant for us.
func told(output string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(output) {
		if text, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), markLine); ok {
			name, value, _ := strings.Cut(text, "=")
			found[name] = value
		}
	}
	return found
}
