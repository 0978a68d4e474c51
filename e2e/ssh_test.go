//go:build linux

package e2e

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rbee"
	"rbee/client"
)

// allPrograms are those that a machine with a hive needs.
var allPrograms = []string{"llm-worker-rbee", "rbee", "rbee-hive"}

// install has the hive of the far side installed.
func (f *farSide) install(args ...string) *running {
	f.t.Helper()
	return f.here.run("rbee", append([]string{"hive", "install", "bee", "--scope", "user"}, args...)...)
}

// on runs a command for the hive of the far side.
func (f *farSide) on(command string, args ...string) *running {
	f.t.Helper()
	return f.here.run("rbee", append([]string{"hive", command, "bee", "--scope", "user"}, args...)...)
}

func (r *running) mustSay(stream string, want ...string) {
	r.t.Helper()
	for _, w := range want {
		if !strings.Contains(stream, w) {
			r.t.Errorf("%v does not say %q:\n%.4000s", r.cmd.Args[1:], w, stream)
		}
	}
}

func TestRemoteHiveFromInstallToUninstall(t *testing.T) {
	t.Parallel()
	f := newFarSide(t)
	r := f.install()
	r.mustExit("exit status 0")
	r.mustSay(r.stderr(), "[Phase 1]", "linux/", "✓ rbee-hive", "Copied from this machine", "in the background", "belongs to no colony")
	r.mustSay(r.stdout(), "The hive on bee runs (pid ")
	if have := f.programs(); !slices.Equal(have, allPrograms) {
		t.Errorf("programs there: %v", have)
	}
	hive := f.find("the hive there", isHive)
	calls := f.hive()
	if calls == nil {
		t.Fatal("the hive there does not answer")
	}
	f.spawn(calls, rbee.SpawnRequest{ModelRef: "builtin:bee-tiny"})

	r = f.install("--json")
	r.mustExit("exit status 0")
	var done struct {
		Event, Engine, Service, Home string
		PID                          int
		Copied                       []string
	}
	if err := json.Unmarshal([]byte(lastLine(r.stdout())), &done); err != nil {
		t.Fatal(err)
	}
	if done.Event != "done" || done.Copied == nil || len(done.Copied) > 0 || done.Engine != "present" || done.PID != hive.pid ||
		done.Service != "background" || done.Home != f.home {
		t.Errorf("the second time: %+v", done)
	}

	r = f.on("status")
	r.mustExit("exit status 0")
	r.mustSay(r.stdout(), "The hive runs at http://127.0.0.1:", "1 worker")
	f.followLogs()
	f.on("stop").mustExit("exit status 0")
	f.on("stop").mustExit("exit status 0")
	if runs(hive.pid) {
		t.Error("'rbee hive stop HOST' returned before the hive had ended")
	}
	r = f.on("status", "--json")
	r.mustExit("exit status 1")
	r.mustSay(r.stdout(), `"running":false`)
	r = f.on("start")
	r.mustExit("exit status 0")
	r.mustSay(r.stdout(), "http://127.0.0.1:")
	r = f.on("logs")
	r.mustExit("exit status 0")
	r.mustSay(r.stdout(), "the hive listens")

	f.on("uninstall").mustExit("exit status 0")
	if left := f.procs(); len(left) > 0 || len(f.programs()) > 0 {
		t.Errorf("left: %v, %v", left, f.programs())
	}
	if _, err := os.Stat(filepath.Join(f.home, "models.db")); err != nil {
		t.Errorf("the models are gone, too: %v", err)
	}
	r = f.on("uninstall")
	r.mustExit("exit status 0")
	r = f.on("status")
	r.mustExit("exit status 1")
	r.mustSay(r.stderr(), "Error: there is no hive on bee", "Suggestion: install one with 'rbee hive install bee'")
	f.install().mustExit("exit status 0")
	f.on("uninstall", "--models").mustExit("exit status 0")
	if left, _ := filepath.Glob(filepath.Join(f.home, "models*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// followLogs checks that a log is followed, and that nothing over there is when
// the follower is gone.
func (f *farSide) followLogs() {
	f.t.Helper()
	follower := f.here.start("rbee", "hive", "logs", "bee", "--scope", "user", "-f")
	eventually(f.t, "the log comes", func() bool { return strings.Contains(follower.stdout(), "the hive listens") })
	isLogs := func(p proc) bool { return slices.Contains(p.argv, "logs") && filepath.Base(p.argv[0]) == "rbee" }
	f.find("the follower there", isLogs)
	kill(f.t, follower.pid(), syscall.SIGKILL)
	eventually(f.t, "the follower there is gone", func() bool { return !slices.ContainsFunc(f.procs(), isLogs) })
	f.sweep()
}

// sweep removes the directory of a control socket, which SIGKILL leaves.
func (f *farSide) sweep() {
	f.t.Helper()
	left, _ := filepath.Glob(filepath.Join(f.here.tmp, "rbee-ssh-*"))
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			f.t.Error(err)
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestRemoteInstallThatIsKilledLeavesTheOldOneAndNoRubbish(t *testing.T) {
	t.Parallel()
	f := newFarSide(t)
	f.shareEngine()
	f.install().mustExit("exit status 0")
	old := f.find("the hive there", isHive)

	// Other programs, and a far side that takes some of the first and waits.
	fresh := t.TempDir()
	for _, name := range allPrograms {
		extend(t, filepath.Join(programs.dir, name), filepath.Join(fresh, name))
	}
	arrived, gate := filepath.Join(f.dir, "arrived"), filepath.Join(f.dir, "gate")
	f.tool("cat", `head -c 1000000; : >'`+arrived+`'; while [ ! -e '`+gate+`' ]; do sleep 0.05; done; exec /bin/cat`)
	keeper := f.here.start("rbee", "hive", "install", "bee", "--scope", "user", "--from", fresh)
	eventually(t, "a part has arrived", func() bool { _, err := os.Stat(arrived); return err == nil })
	if have := f.programs(); len(have) != len(allPrograms)+1 {
		t.Errorf("on the way: %v", have)
	}
	kill(t, keeper.pid(), syscall.SIGKILL)
	keeper.wait()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the part is gone", func() bool { return slices.Equal(f.programs(), allPrograms) })
	if !runs(old.pid) {
		t.Error("the old hive does not run any more")
	}
	f.sweep()
	for _, name := range allPrograms {
		if same(t, filepath.Join(f.user, ".local", "bin", name), filepath.Join(fresh, name)) {
			t.Errorf("%s is the new one", name)
		}
	}

	if err := os.Remove(filepath.Join(f.bin, "cat")); err != nil {
		t.Fatal(err)
	}
	r := f.install("--from", fresh)
	r.mustExit("exit status 0")
	for _, name := range allPrograms {
		if !same(t, filepath.Join(f.user, ".local", "bin", name), filepath.Join(fresh, name)) {
			t.Errorf("%s is not the new one", name)
		}
	}
	if now := f.find("the hive there", isHive); now.pid == old.pid {
		t.Error("the old hive runs on with new programs")
	}
	f.on("uninstall").mustExit("exit status 0")
}

// shareEngine has the far side use the engine of this machine.
func (f *farSide) shareEngine() {
	for _, kv := range f.here.env {
		if strings.HasPrefix(kv, "RBEE_ENGINE_DIR=") {
			f.enter(f.user, kv)
		}
	}
}

// extend copies a program and makes it another.
func extend(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, append(text, "another"...), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, a, b string) bool { return readText(t, a) == readText(t, b) }

func TestRemoteInstallSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	f := newFarSide(t)
	f.shareEngine()
	fails := func(host string, want ...string) {
		t.Helper()
		r := f.here.run("rbee", "hive", "install", host, "--scope", "user")
		r.mustExit("exit status 1")
		r.mustSay(r.stderr(), append(want, "Error: ", "Suggestion: ")...)
	}
	fails("stranger", "its host key is not known", "connect once with 'ssh stranger'")
	fails("changed", "its host key is another than before")
	fails("locked", "it takes none of your keys", "ssh-copy-id locked")
	fails("closed", "nothing listens for ssh there")
	fails("host.invalid", "there is no host of this name")
	fails("a;b", "cannot use")
	fails("bee'", "cannot use")
	r := f.here.run("rbee", "hive", "status", "--", "-oProxyCommand=touch owned")
	r.mustExit("exit status 1")
	r.mustSay(r.stderr(), "cannot use")

	f.tool("uname", `case $1 in -s) echo SunOS;; *) echo sparc;; esac`)
	fails("bee", "it is SunOS sparc", "Linux and macOS")
	f.tool("uname", `case $1 in -s) echo Darwin;; *) echo arm64;; esac`)
	fails("bee", "it is darwin/arm64, and the programs here are for linux/", "--from DIR")
	if err := os.Remove(filepath.Join(f.bin, "uname")); err != nil {
		t.Fatal(err)
	}
	f.tool("cat", `case $(readlink /proc/$$/fd/1) in *.part-*) echo "cat: write error: No space left on device" >&2; exit 1;; esac; exec /bin/cat`)
	fails("bee", "its disk is full")
	if have := f.programs(); len(have) > 0 {
		t.Errorf("left: %v", have)
	}
	if err := os.Remove(filepath.Join(f.bin, "cat")); err != nil {
		t.Fatal(err)
	}
	f.enter("/sys")
	fails("bee", "cannot copy rbee-hive to /sys/.local/bin on bee")
	f.enter(f.user)
	f.tool("id", `case $1 in -u) echo 1000;; *) echo somebody;; esac`)
	f.tool("sudo", `echo "sudo: a password is required" >&2; exit 1`)
	r = f.here.run("rbee", "hive", "install", "bee", "--scope", "system")
	r.mustExit("exit status 1")
	r.mustSay(r.stderr(), "cannot become root on bee: sudo wants a password there", "root@bee")
	f.tool("sudo", `echo "sh: 1: sudo: not found" >&2; exit 127`)
	r = f.here.run("rbee", "hive", "install", "bee", "--scope", "system")
	r.mustExit("exit status 1")
	r.mustSay(r.stderr(), "it has no sudo")

	r = f.here.run("rbee", "hive", "install", "bee", "--dry-run")
	r.mustExit("exit status 2")
	r = f.here.run("rbee", "hive", "install", "--join", "-")
	r.mustExit("exit status 2")
	r = f.install("--join", "what")
	r.mustExit("exit status 2")
}

// queen starts a queen who starts no hive.
func (c *colony) queen() (*running, *client.Client) {
	c.t.Helper()
	c.env = append(c.env, "RBEE_QUEEN_ADDR=127.0.0.1:0", "RBEE_QUEEN_BUS_ADDR=127.0.0.1:0", "RBEE_QUEEN_NAMES=127.0.0.1", "RBEE_QUEEN_HIVE=off")
	r := c.start("queen-rbee", "daemon")
	var calls *client.Client
	eventually(c.t, "the queen answers", func() bool {
		url := hiveURL(filepath.Join(c.home, "run", "queen.json"))
		if url == "" {
			return false
		}
		calls = c.caller(url)
		_, err := calls.Health(c.t.Context())
		return err == nil
	})
	return r, calls
}

func TestRemoteHiveGetsItsTokenWhereNobodySeesIt(t *testing.T) {
	t.Parallel()
	f := newFarSide(t)
	f.shareEngine()
	elsewhere := newColony(t) // the queen is not where ssh comes from
	daemon, queen := elsewhere.queen()
	made, err := queen.NewToken(t.Context(), rbee.TokenRequest{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	r := f.installWith(made.Token)
	r.mustExit("exit status 0")
	r.mustSay(r.stderr(), "It is in the colony")
	path := filepath.Join(f.home, "join")
	if text := readText(t, path); text != made.Token+"\n" {
		t.Errorf("the far side was told %q", text)
	}
	for at, want := range map[string]os.FileMode{path: 0o600, f.home: 0o700} {
		if info, err := os.Stat(at); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", at, info.Mode(), err)
		}
	}
	for name, text := range map[string]string{"the commands": f.read("commands"), "sshd's log": f.read("sshd.log"), "the output": r.stdout() + r.stderr()} {
		if strings.Contains(text, made.Token) {
			t.Errorf("%s shows the token:\n%s", name, text)
		}
	}

	other, err := queen.NewToken(t.Context(), rbee.TokenRequest{Name: "of no use"})
	if err != nil {
		t.Fatal(err)
	}
	if err := queen.RevokeToken(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
	r = f.installWith(other.Token)
	r.mustExit("exit status 1")
	r.mustSay(r.stderr(), "the hive on bee runs, but is not in the colony", "revoked")

	f.on("uninstall").mustExit("exit status 0")
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the token is left: %v", err)
	}
	kill(t, daemon.pid(), syscall.SIGTERM)
	daemon.mustExit("exit status 0")
}

// installWith has the hive of the far side installed with a token on standard input.
func (f *farSide) installWith(token string) *running {
	f.t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := io.WriteString(out, token+"\n"); err != nil {
		f.t.Fatal(err)
	}
	_ = out.Close()
	r := f.here.startWith(in, "rbee", "hive", "install", "bee", "--scope", "user", "--join", "-")
	_ = in.Close()
	r.wait()
	return r
}

// fakeSystemd is a systemctl that starts what the unit of the hive says, without
// a systemd.
const fakeSystemd = `[ "$1" = --user ] && shift
unit=$HOME/.config/systemd/user/rbee-hive.service
log=$HOME/journal
alive() {
	pid=$(cat "$HOME/pid" 2>/dev/null) || return 1
	case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in '' | Z*) return 1 ;; esac
}
start() {
	alive && return
	program=$(sed -n 's/^ExecStart="\{0,1\}\(.*[^"]\)"\{0,1\} daemon$/\1/p' "$unit")
	setsid "$program" daemon </dev/null >>"$log" 2>&1 &
	echo $! >"$HOME/pid"
	while [ ! -e "$RBEE_HOME/run/hive.json" ]; do sleep 0.05; done
}
stop() { alive && kill "$pid" && while alive; do sleep 0.05; done; }
case "$*" in
*Version) echo Version=252 ;;
show*) if alive; then echo "ActiveState=active
MainPID=$pid"; else echo "ActiveState=inactive
MainPID=0"; fi ;;
restart*) stop; start ;;
enable*--now*) start ;;
disable*) stop || : ;;
esac`

func TestRemoteHiveIsAServiceWhereThatCanBe(t *testing.T) {
	t.Parallel()
	f := newFarSide(t)
	f.shareEngine()
	f.tool("systemctl", fakeSystemd)
	f.tool("journalctl", `echo "journal: $*"; cat "$HOME/journal"`)
	f.tool("loginctl", `echo "Could not enable linger: Access denied" >&2; exit 1`)
	r := f.install()
	r.mustExit("exit status 0")
	r.mustSay(r.stderr(), "It is a service (systemd, user)", "Warning: ", "Could not enable linger: Access denied", "loginctl enable-linger")
	first := f.find("the hive there", isHive)

	f.tool("loginctl", `echo "$*" >>"$HOME/linger"`)
	r = f.install()
	r.mustExit("exit status 0")
	if strings.Contains(r.stderr(), "Warning") || !strings.Contains(readIfThere(filepath.Join(f.user, "linger")), "enable-linger") {
		t.Errorf("the service ends with the connection:\n%s", r.stderr())
	}
	if again := f.find("the hive there", isHive); again.pid != first.pid {
		t.Error("a hive that is as it should be was started anew")
	}
	r = f.on("logs")
	r.mustExit("exit status 0")
	r.mustSay(r.stdout(), "--user-unit=rbee-hive", "the hive listens")
	f.on("stop").mustExit("exit status 0")
	f.on("status").mustExit("exit status 1")
	r = f.on("start")
	r.mustExit("exit status 0")
	r.mustSay(r.stdout(), "http://127.0.0.1:")
	second := f.find("the hive there", isHive)

	fresh := t.TempDir()
	for _, name := range allPrograms {
		extend(t, filepath.Join(programs.dir, name), filepath.Join(fresh, name))
	}
	f.install("--from", fresh).mustExit("exit status 0")
	if third := f.find("the hive there", isHive); third.pid == second.pid {
		t.Error("the old hive runs on with new programs")
	}
	f.on("uninstall").mustExit("exit status 0")
	if _, err := os.Stat(filepath.Join(f.user, ".config", "systemd", "user", "rbee-hive.service")); !os.IsNotExist(err) {
		t.Errorf("the unit is left: %v", err)
	}
}

func TestRemoteHiveJoinsTheQueenOfThisMachine(t *testing.T) {
	t.Parallel()
	f := newFarSide(t)
	f.shareEngine()
	daemon, queen := f.here.queen()

	r := f.install()
	r.mustExit("exit status 0")
	hives, err := queen.Hives(t.Context())
	if err != nil || len(hives) != 1 || hives[0].Presence != rbee.HivePresent {
		t.Fatalf("the colony: %+v, %v", hives, err)
	}
	if id := strings.TrimSpace(readText(t, filepath.Join(f.home, "hive-id"))); id != string(hives[0].ID) {
		t.Errorf("the queen knows %s, and the hive is %s", hives[0].ID, id)
	}
	r.mustSay(r.stdout(), string(hives[0].ID), "present")
	token := strings.TrimSpace(readText(t, filepath.Join(f.home, "join")))
	for name, text := range map[string]string{"the commands": f.read("commands"), "the output": r.stdout() + r.stderr()} {
		if strings.Contains(text, token) {
			t.Errorf("%s shows the token", name)
		}
	}

	mine := func() (found []rbee.JoinToken) {
		t.Helper()
		tokens, err := queen.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(tokens, func(token rbee.JoinToken) bool { return token.Name != "bee" })
	}
	f.install().mustExit("exit status 0")
	if made := mine(); len(made) != 1 || !made[0].RevokedAt.IsZero() {
		t.Errorf("tokens after the second time: %+v", made)
	}
	if again := strings.TrimSpace(readText(t, filepath.Join(f.home, "join"))); again != token {
		t.Error("a hive that is in the colony got another token")
	}

	f.on("uninstall").mustExit("exit status 0")
	if made := mine(); len(made) != 1 || made[0].RevokedAt.IsZero() {
		t.Errorf("tokens at the end: %+v", made)
	}
	kill(t, daemon.pid(), syscall.SIGTERM)
	daemon.mustExit("exit status 0")
}
