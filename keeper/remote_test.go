package keeper

import (
	"encoding/base64"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rbee"
)

func TestOnlyHostsReachSSH(t *testing.T) {
	for _, host := range []string{"bee", "bee@big-machine", "10.0.0.7", "bee.example.org", "fe80::1%eth0", "root@::1", "b"} {
		if err := checkHost(host); err != nil {
			t.Errorf("%q is refused: %v", host, err)
		}
	}
	for _, host := range []string{
		"", "-oProxyCommand=x", "-", "a b", "a;b", "$(x)", "`x`", "a'b", "a\nb", "-x@host", "user@-x", "a/b", "@host", "user@", "a|b", "é",
		strings.Repeat("a", 256),
	} {
		if err := checkHost(host); rbee.CodeOf(err) != rbee.CodeInvalidRequest || rbee.AsError(err).Suggestion() == "" {
			t.Errorf("%q: error %v", host, err)
		}
	}
}

// TestRemoteWordsArriveAsTheyAre has a real shell take command lines apart, as
// sshd does with the shell of a user.
func TestRemoteWordsArriveAsTheyAre(t *testing.T) {
	r := &remote{}
	for _, word := range []string{"plain", "", " ", "a b", "it's", `"x"`, `\`, "$HOME", "`id`", "*", "-n", "a;b", "~", "line\nend", "ü", "'", "a=b", "!x"} {
		out, err := exec.Command("sh", "-c", r.commandLine(`printf "<%s>" "$@"`, word, "last")).Output()
		if want := "<" + word + "><last>"; err != nil || string(out) != want {
			t.Errorf("%q arrives as %q, %v", word, out, err)
		}
	}
}

func TestRemoteScriptsSuitEveryShell(t *testing.T) {
	for _, script := range []string{
		lookScript, compareScript, receiveScript, switchScript, unpackScript, writeScript, lingerScript, passScript, forgetScript, emptyScript,
	} {
		if strings.ContainsAny(script, "'\\\n") {
			t.Errorf("some shell takes this apart in another way: %s", script)
		}
		if out, err := exec.Command("sh", "-n", "-c", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

func TestComplaintsOfSSHSayWhatToDo(t *testing.T) {
	r := &remote{host: "bee"}
	for said, want := range map[string]string{
		"ssh: Could not resolve hostname bee: Name or service not known":                                                     "there is no host of this name",
		"ssh: connect to host bee port 22: Connection refused":                                                               "nothing listens for ssh there",
		"ssh: connect to host bee port 22: Connection timed out":                                                             "it does not answer",
		"ssh: connect to host bee port 22: No route to host":                                                                 "there is no way to it",
		"bee@bee: Permission denied (publickey,password).":                                                                   "it takes none of your keys",
		"No ED25519 host key is known for bee and you have requested strict checking.\nHost key verification failed.":        "its host key is not known",
		"@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nIT IS POSSIBLE\nHost key verification failed.":                "another than before",
		"Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures":                                      "after too many keys",
		"kex_exchange_identification: Connection closed by remote host":                                                      "closed the connection at once",
		"'sh' is not recognized as an internal or external command,\noperable program or batch file.":                        "it has no POSIX shell",
		"client_loop: send disconnect: Broken pipe":                                                                          "the connection broke",
		"/home/u/.ssh/config line 3: Bad configuration option: usr\n/home/u/.ssh/config: terminating, 1 bad options":         "does not take its configuration",
		"Pseudo-terminal will not be allocated because stdin is not a terminal.\r\nsomething that nobody has ever heard of.": "something that nobody has ever heard of",
	} {
		e := rbee.AsError(r.explain("cannot reach bee", errors.New("exit status 255"), said))
		if !strings.HasPrefix(e.Message, "cannot reach bee: ") || !strings.Contains(e.Message, want) || !strings.Contains(e.Suggestion(), "bee") && want != "it has no POSIX shell" && e.Suggestion() != "run the command again" &&
			!strings.Contains(e.Suggestion(), "ssh") {
			t.Errorf("%q becomes %q, %q", said, e.Message, e.Suggestion())
		}
	}
}

func TestComplaintsOfTheFarSideSayWhatToDo(t *testing.T) {
	r := &remote{host: "bee"}
	for said, want := range map[string]struct {
		code rbee.Code
		text string
	}{
		"cat: write error: No space left on device":                                {rbee.CodeInsufficientDisk, "its disk is full"},
		"cat: write error: Disk quota exceeded":                                    {rbee.CodeInsufficientDisk, "quota"},
		"mkdir: cannot create directory '/usr/local/bin': Permission denied":       {rbee.CodeInvalidRequest, "may not do that"},
		"mkdir: cannot create directory '/x': Read-only file system":               {rbee.CodeInvalidRequest, "cannot be written to"},
		"sudo: a password is required":                                             {rbee.CodeInvalidRequest, "sudo wants a password"},
		"bash: line 1: sudo: command not found":                                    {rbee.CodeInvalidRequest, "it has no sudo"},
		"bee is not in the sudoers file.":                                          {rbee.CodeInvalidRequest, "may not use sudo"},
		"sh: 1: exec: /home/bee/.local/bin/rbee: Exec format error":                {rbee.CodeInvalidRequest, "not for its platform"},
		"mkdir: cannot create directory '/home/bee/.local': Not a directory":       {rbee.CodeInternalError, "Not a directory"},
		"first\nsh: 1: cannot create /opt/x: Permission denied\nand a last line\n": {rbee.CodeInvalidRequest, "(sh: 1: cannot create /opt/x: Permission denied)"},
	} {
		e := rbee.AsError(r.refuse("cannot copy", &scriptError{1, said}))
		if e.Code != want.code || !strings.Contains(e.Message, want.text) || e.Suggestion() == "" {
			t.Errorf("%q becomes %s %q, %q", said, e.Code, e.Message, e.Suggestion())
		}
	}
	other := rbee.Errorf(rbee.CodeConnectionTimeout, "lost")
	if err := r.refuse("cannot copy", other); !errors.Is(err, other) {
		t.Errorf("an error of the connection becomes %v", err)
	}
}

func TestPlatformsOfOtherMachines(t *testing.T) {
	for uname, want := range map[string]string{
		"Linux x86_64": "linux/amd64", "Linux aarch64": "linux/arm64", "Darwin arm64": "darwin/arm64",
		"FreeBSD amd64": "", "Linux riscv64": "", "Linux i686": "", "": "", "MINGW64_NT-10.0 x86_64": "",
	} {
		system, arch, _ := strings.Cut(uname, " ")
		r := &remote{host: "bee", facts: map[string]string{"os": system, "arch": arch}}
		got, err := r.platform()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", uname, got, err)
		}
	}
}

func TestProgramsForAnotherMachineAreLookedAt(t *testing.T) {
	for name, text := range map[string]string{"no program": "#!/bin/sh\n", "nothing": ""} {
		dir := t.TempDir()
		for _, program := range remotePrograms() {
			if err := os.WriteFile(filepath.Join(dir, program), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := localPrograms("bee", "linux/amd64", dir); rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), "no program of rbee") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := localPrograms("bee", "linux/amd64", t.TempDir()); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Errorf("an empty directory: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := program{name: "rbee", path: self}
	if err := p.open("plan9/mips"); err == nil || !strings.Contains(err.Error(), "not for plan9/mips") {
		t.Errorf("a program for another platform: %v", err)
	}
}

func TestWordsKeepTheEnd(t *testing.T) {
	w := &words{}
	for range 10 {
		if _, err := io.WriteString(w, strings.Repeat("x", wordsKept/2)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = io.WriteString(w, "the end\r\n")
	if s := w.String(); len(s) > wordsKept || lastLine(s) != "the end" {
		t.Errorf("%d bytes that end with %q", len(s), lastLine(s))
	}
}

func TestProfilesThatTalkChangeNothing(t *testing.T) {
	output := "Welcome!\nrbee:home=/a b\r\n{\"not\":\"ours\"\n{\"version\":\"1\"}\nrbee:x=y=z\nbye\n"
	if got := told(output); got["home"] != "/a b" || got["x"] != "y=z" || len(got) != 2 {
		t.Errorf("told %v", got)
	}
	if got := jsonLine(output, `"version"`); got != "{\"version\":\"1\"}\n" {
		t.Errorf("line %q", got)
	}
}

func TestTokensHaveNames(t *testing.T) {
	token := "rbee1." + base64.RawURLEncoding.EncodeToString([]byte(`{"id":"t-1","secret":"s"}`))
	for join, want := range map[string]string{token: "t-1", "nats://u:p@h:1": "", "rbee1.!": "", "rbee1.": "", "": ""} {
		if got := tokenID(join); got != want {
			t.Errorf("%q: %q", join, got)
		}
	}
}
