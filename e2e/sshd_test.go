//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// farSide is another machine, as far as ssh can tell: a real sshd on loopback
// whose users live in a directory of the test. It is reached as the host "bee".
type farSide struct {
	*colony // its processes and its state directory

	here *colony // from where ssh comes
	user string  // home directory of the user there
	dir  string  // of all that is needed to get there
	bin  string  // before all other directories of its PATH
	port int
	sshd *exec.Cmd
}

// newFarSide starts an sshd, and makes a colony whose rbee reaches it. env is
// what programs over there get, beside what they need.
func newFarSide(t *testing.T, env ...string) *farSide {
	t.Helper()
	short, err := os.MkdirTemp("", "e2e-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	there := newColony(t)
	f := &farSide{colony: there, here: newColony(t), dir: t.TempDir()}
	f.here.tmp = short
	f.here.env = append(f.here.env, "TMPDIR="+short)
	f.user = filepath.Join(f.dir, "a home")
	f.bin = filepath.Join(f.dir, "bin")
	there.home = filepath.Join(f.user, ".rbee")
	for _, dir := range []string{f.user, f.bin, filepath.Join(f.dir, "ssh")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"host", "mine", "other"} {
		f.must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(f.dir, key))
	}
	f.write("authorized", f.read("mine.pub"))
	f.enter(f.user, env...)
	f.listen()
	f.reach()
	return f
}

func (f *farSide) must(program string, args ...string) {
	f.t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v\n%s(install openssh-server, as tools/system.sh does)", program, err, out)
	}
}

func (f *farSide) read(name string) string { return readText(f.t, filepath.Join(f.dir, name)) }

func (f *farSide) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o700); err != nil {
		f.t.Fatal(err)
	}
}

// enter says how a command begins over there: what it is, is noted.
func (f *farSide) enter(home string, env ...string) {
	quoted := func(s string) string { return "'" + s + "'" }
	lines := []string{"#!/bin/sh", "unset $(env | sed -n 's/^\\(RBEE_[A-Z_]*\\)=.*/\\1/p')"}
	for _, kv := range append([]string{
		"HOME=" + home, "RBEE_HOME=" + f.home, "RBEE_HIVE_ADDR=127.0.0.1:0", "RBEE_WORKER_THREADS=1",
		"PATH=" + f.bin + ":/usr/local/bin:/usr/bin:/bin", "TMPDIR=" + f.tmp,
		"GORACE=log_path=" + filepath.Join(f.notes, "race"),
	}, env...) {
		name, value, _ := strings.Cut(kv, "=")
		lines = append(lines, "export "+name+"="+quoted(value))
	}
	lines = append(lines, "cd "+quoted(home)+" || exit 1",
		`printf '%s\n' "$SSH_ORIGINAL_COMMAND" >>`+quoted(filepath.Join(f.dir, "commands")),
		"echo 'a profile that greets'", `exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"`, "")
	f.write("enter", strings.Join(lines, "\n"))
}

// listen starts the sshd on a free port.
func (f *farSide) listen() {
	program, err := exec.LookPath("sshd")
	if err != nil {
		program = "/usr/sbin/sshd" // no directory of a user's PATH
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			f.t.Fatal(err)
		}
	}
	for range 5 { // the port may be taken by somebody else in between
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			f.t.Fatal(err)
		}
		f.port = free.Addr().(*net.TCPAddr).Port
		_ = free.Close()
		f.write("sshd_config", fmt.Sprintf(`ListenAddress 127.0.0.1
Port %d
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/authorized
ForceCommand %[2]s/enter
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
`, f.port, f.dir))
		f.must(program, "-t", "-f", filepath.Join(f.dir, "sshd_config"))
		if f.serve(program) {
			return
		}
	}
	f.t.Fatal("sshd does not start:\n" + f.read("sshd.log"))
}

// serve runs sshd until the test ends, and says whether it came to listen.
func (f *farSide) serve(program string) bool {
	log, err := os.Create(filepath.Join(f.dir, "sshd.log"))
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(program, "-D", "-e", "-f", filepath.Join(f.dir, "sshd_config"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = cmd.Wait()
		_ = log.Close()
		close(done)
	})
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if f.t.Failed() {
			f.t.Logf("sshd:\n%.4000s\ncommands:\n%.8000s", f.read("sshd.log"), readIfThere(filepath.Join(f.dir, "commands")))
		}
	})
	up := false
	eventually(f.t, "sshd listens", func() bool {
		select {
		case <-done:
			return true
		default:
		}
		up = strings.Contains(f.read("sshd.log"), "Server listening")
		return up
	})
	f.sshd = cmd
	return up
}

func readIfThere(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// reach gives the colony here an ssh that knows the way: hosts that are right,
// and some that are not.
func (f *farSide) reach() {
	t := f.t
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().(*net.TCPAddr).Port
	_ = closed.Close()
	host := strings.Join(strings.Fields(f.read("host.pub"))[:2], " ")
	other := strings.Join(strings.Fields(f.read("other.pub"))[:2], " ")
	f.write("known", fmt.Sprintf("[127.0.0.1]:%d %s\n", f.port, host))
	f.write("unknown", "")
	f.write("changed", fmt.Sprintf("[127.0.0.1]:%d %s\n", f.port, other))
	entry := func(name, port, key, known string) string {
		return fmt.Sprintf("Host %s\n  HostName 127.0.0.1\n  Port %s\n  User %s\n  IdentityFile %s/%s\n  UserKnownHostsFile %s/%s\n",
			name, port, me.Username, f.dir, key, f.dir, known)
	}
	right := fmt.Sprint(f.port)
	f.write("ssh_config", entry("bee", right, "mine", "known")+entry("stranger", right, "mine", "unknown")+
		entry("changed", right, "mine", "changed")+entry("locked", right, "other", "known")+entry("closed", fmt.Sprint(nobody), "mine", "known")+
		"Host *\n  IdentitiesOnly yes\n  IdentityAgent none\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  RemoteCommand echo surprise\n")
	f.write("ssh/ssh", "#!/bin/sh\nexec "+ssh+" -F '"+f.dir+"/ssh_config' \"$@\"\n")
	f.here.env = append(f.here.env, "PATH="+filepath.Join(f.dir, "ssh")+":"+os.Getenv("PATH"))
}

// tool puts a program before those of the machine over there.
func (f *farSide) tool(name, script string) {
	f.t.Helper()
	f.write("bin/"+name, "#!/bin/sh\n"+script+"\n")
}

// programs are the files in the directory of the programs over there.
func (f *farSide) programs() []string {
	entries, _ := os.ReadDir(filepath.Join(f.user, ".local", "bin"))
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
