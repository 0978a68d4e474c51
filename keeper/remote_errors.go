package keeper

import (
	"errors"
	"strings"

	"rbee"
)

// complaint is a failure of ssh or of a command of the far side, known by its words.
type complaint struct {
	words  string // part of what was said, in lower case
	code   rbee.Code
	cause  string
	remedy string // HOST stands for the host
}

// The complaints of OpenSSH, the more special before the more general.
var connectionComplaints = []complaint{
	{"could not resolve hostname", rbee.CodeConnectionTimeout, "there is no host of this name", "check the name, or give it a HostName in ~/.ssh/config"},
	{
		"remote host identification has changed", rbee.CodeInvalidRequest, "its host key is another than before",
		"if the machine was set up anew, forget the old key with 'ssh-keygen -R HOST'; if not, somebody else may be answering",
	},
	{
		"host key verification failed", rbee.CodeInvalidRequest, "its host key is not known",
		"connect once with 'ssh HOST', compare the key, and accept it",
	},
	{
		"permission denied (", rbee.CodeInvalidRequest, "it takes none of your keys",
		"let it know your key with 'ssh-copy-id HOST', or load the right one with 'ssh-add'; 'ssh HOST' must work by itself",
	},
	{
		"too many authentication failures", rbee.CodeInvalidRequest, "it refused after too many keys",
		"name the right one as IdentityFile, with IdentitiesOnly yes, in ~/.ssh/config",
	},
	{"connection refused", rbee.CodeConnectionTimeout, "nothing listens for ssh there", "start the ssh server there (Debian: 'apt-get install openssh-server'), or set its Port in ~/.ssh/config"},
	{"timed out", rbee.CodeConnectionTimeout, "it does not answer", "check that it is switched on, and reached with 'ssh HOST'"},
	{"no route to host", rbee.CodeConnectionTimeout, "there is no way to it", "check the network, or set a ProxyJump in ~/.ssh/config"},
	{"network is unreachable", rbee.CodeConnectionTimeout, "there is no way to it", "check the network, or set a ProxyJump in ~/.ssh/config"},
	{"bad configuration option", rbee.CodeInvalidRequest, "ssh does not take its configuration", "mend what 'ssh HOST' complains about"},
	{"bad owner or permissions", rbee.CodeInvalidRequest, "ssh does not take its configuration", "mend what 'ssh HOST' complains about"},
	{"kex_exchange_identification", rbee.CodeConnectionTimeout, "it closed the connection at once", "see what 'ssh -v HOST' says, and the log of its ssh server"},
	{"broken pipe", rbee.CodeConnectionTimeout, "the connection broke", "run the command again"},
	{"connection closed", rbee.CodeConnectionTimeout, "the connection broke", "run the command again"},
	{"connection reset", rbee.CodeConnectionTimeout, "the connection broke", "run the command again"},
}

// The complaints of commands of the far side.
var remoteComplaints = []complaint{
	{"no space left on device", rbee.CodeInsufficientDisk, "its disk is full", "free some space there: 'ssh HOST df -h'"},
	{"quota exceeded", rbee.CodeInsufficientDisk, "the quota of its disk is used up", "free some space there"},
	{"read-only file system", rbee.CodeInvalidRequest, "its file system cannot be written to", "mount it for writing, or install for the machine with --scope system"},
	{
		"sudo: a password is required", rbee.CodeInvalidRequest, "sudo wants a password there",
		"connect as root (root@HOST), let the user run sudo without a password, or install for the user alone with --scope user",
	},
	{
		"sudo: a terminal is required", rbee.CodeInvalidRequest, "sudo wants a password there",
		"connect as root (root@HOST), let the user run sudo without a password, or install for the user alone with --scope user",
	},
	{"is not in the sudoers file", rbee.CodeInvalidRequest, "the user may not use sudo there", "connect as root (root@HOST), or install for the user alone with --scope user"},
	{"sudo: not found", rbee.CodeInvalidRequest, "it has no sudo", "connect as root (root@HOST), or install for the user alone with --scope user"},
	{"sudo: command not found", rbee.CodeInvalidRequest, "it has no sudo", "connect as root (root@HOST), or install for the user alone with --scope user"},
	{"unknown command: sudo", rbee.CodeInvalidRequest, "it has no sudo", "connect as root (root@HOST), or install for the user alone with --scope user"},
	{"sh: not found", rbee.CodeInvalidRequest, "it has no POSIX shell", "rbee runs on Linux and macOS"},
	{"is not recognized as", rbee.CodeInvalidRequest, "it has no POSIX shell", "rbee runs on Linux and macOS"},
	{"permission denied", rbee.CodeInvalidRequest, "the user may not do that there", "check who owns the directory there, or connect as another user"},
	{"operation not permitted", rbee.CodeInvalidRequest, "the user may not do that there", "check who owns the directory there, or connect as another user"},
	{"exec format error", rbee.CodeInvalidRequest, "the program is not for its platform", "name programs for it with --from DIR"},
}

// explain makes an error of what ssh complained about.
func (r *remote) explain(what string, err error, said string) error {
	if c := findComplaint(connectionComplaints, said); c != nil {
		return r.told(what, *c, said)
	}
	if c := findComplaint(remoteComplaints, said); c != nil {
		return r.told(what, *c, said)
	}
	if said == "" && err != nil {
		said = err.Error()
	}
	if said == "" {
		said = "it ended without a word"
	}
	return rbee.Errorf(rbee.CodeConnectionTimeout, "%s: %s", what, lastLine(said)).Suggest("see what 'ssh %s' says", r.host)
}

// refuse makes an error of a script that failed.
func (r *remote) refuse(what string, err error) error {
	var f *scriptError
	if !errors.As(err, &f) {
		return err
	}
	if c := findComplaint(remoteComplaints, f.words); c != nil {
		return r.told(what, *c, f.words)
	}
	return rbee.Errorf(rbee.CodeInternalError, "%s: %s", what, lastLine(f.Error())).Suggest("look at it with 'ssh %s'", r.host)
}

// told is a complaint in our words, with the words of the program after them.
func (r *remote) told(what string, c complaint, said string) error {
	line := lastLine(said)
	for text := range strings.Lines(said) {
		if strings.Contains(strings.ToLower(text), c.words) {
			line = strings.TrimSpace(text)
			break
		}
	}
	return rbee.Errorf(c.code, "%s: %s (%s)", what, c.cause, strings.Trim(line, "@ .")).
		Suggest("%s", strings.ReplaceAll(c.remedy, "HOST", r.host))
}

func findComplaint(list []complaint, said string) *complaint {
	said = strings.ToLower(said)
	for i := range list {
		if strings.Contains(said, list[i].words) {
			return &list[i]
		}
	}
	return nil
}

// lastLine is the last line of a text that says something.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}
