package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rbee"
	"rbee/internal/service"
)

// remoteTime bounds one command on the far side, and a hive that starts or
// stops there.
const remoteTime = serviceTime + stopTime

// remoteHive is the hive of another machine, through the rbee that is there.
type remoteHive struct {
	*remote
	system  bool           // of the machine and not of the user
	dir     string         // of the programs
	home    string         // its state directory, "" for the one that rbee there takes by itself
	service *service.State // nil where no service manager can be asked
	why     string         // that is so
}

// reachHive connects to a machine for its hive. The caller closes it.
func (a *app) reachHive(ctx context.Context, cmd *cobra.Command, host, scope string) (*remoteHive, error) {
	if scope != "" && scope != "user" && scope != "system" {
		return nil, usagef(cmd, "--scope must be user or system")
	}
	r, err := a.dialRemote(ctx, host)
	if err != nil {
		return nil, err
	}
	h := &remoteHive{remote: r}
	root := r.facts["uid"] == "0"
	h.system = scope == "system" || scope == "" && root
	h.dir = path.Join(r.facts["home"], ".local", "bin")
	if h.system {
		h.dir = "/usr/local/bin"
		if !root {
			r.become = []string{"sudo", "-n"}
			if _, err := r.run(ctx, nil, ":"); err != nil {
				r.close()
				return nil, r.refuse("cannot become root on "+host, err)
			}
		}
	}
	return h, nil
}

// installed says whether the far side has an rbee, and looks how it runs the hive.
func (h *remoteHive) installed(ctx context.Context) (bool, error) {
	out, err := h.run(ctx, nil, `if [ -x "$1" ]; then echo rbee:there=yes; fi`, h.rbeePath())
	if err != nil {
		return false, h.refuse("cannot look for rbee on "+h.host, err)
	}
	if told(out)["there"] == "" {
		return false, nil
	}
	return true, h.askManager(ctx)
}

func (h *remoteHive) rbeePath() string { return path.Join(h.dir, "rbee") }

// mustHave is the error of a command for a machine without rbee.
func (h *remoteHive) mustHave(ctx context.Context) error {
	there, err := h.installed(ctx)
	if err == nil && !there {
		return rbee.Errorf(rbee.CodeHiveNotFound, "there is no hive on %s: %s has no rbee", h.host, h.dir).
			Suggest("install one with 'rbee hive install %s'; one that is elsewhere is seen with 'ssh %s'", h.host, h.host)
	}
	return err
}

// askManager asks the service manager of the far side for the hive. There may
// be none that serves somebody who came over ssh.
func (h *remoteHive) askManager(ctx context.Context) error {
	var state service.State
	err := h.ask(ctx, &state, "hive", "service", "--scope", h.scope())
	var e *rbee.Error
	switch {
	case err == nil:
		h.service = &state
		if h.system {
			h.home = service.SystemHome
		}
		return nil
	case errors.As(err, &e) && e.Code == rbee.CodeInvalidRequest:
		h.service, h.why = nil, e.Message
		return nil
	}
	return err
}

func (h *remoteHive) scope() string {
	if h.system {
		return "system"
	}
	return "user"
}

// words are the command line of rbee on the far side.
func (h *remoteHive) words(args ...string) []string {
	var line []string
	if h.home != "" {
		line = []string{"env", "RBEE_HOME=" + h.home}
	}
	return append(append(line, h.rbeePath()), args...)
}

// ask runs rbee on the far side and decodes the last object it prints. An error
// that it tells comes back as it is.
func (h *remoteHive) ask(ctx context.Context, into any, args ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, remoteTime, rbee.Errorf(rbee.CodeConnectionTimeout,
		"'rbee %s' on %s does not end within %s", strings.Join(args, " "), h.host, remoteTime).Suggest("see 'rbee hive logs %s'", h.host))
	defer cancel()
	out, err := h.run(ctx, nil, `exec "$@"`, h.words(append(args, "--json")...)...)
	return h.decode(out, err, into)
}

// decode reads what rbee on the far side printed with --json.
func (h *remoteHive) decode(out string, err error, into any) error {
	var failure struct {
		Event string      `json:"event"`
		Error *rbee.Error `json:"error"`
	}
	last := jsonLine(out, "")
	switch {
	case last == "" && err != nil:
		return h.refuse("cannot run "+h.rbeePath()+" on "+h.host, err)
	case json.Unmarshal([]byte(last), &failure) == nil && failure.Event == "error" && failure.Error != nil:
		e := *failure.Error
		e.Message = "on " + h.host + ": " + e.Message
		if remedy := e.Suggestion(); remedy != "" {
			return e.Suggest("on %s: %s", h.host, remedy)
		}
		return &e
	}
	if wrong := json.Unmarshal([]byte(last), into); wrong != nil {
		return rbee.Errorf(rbee.CodeInternalError, "cannot understand what rbee says on %s", h.host).
			WithCause(errors.Join(err, wrong)).Suggest("is it of another version? see 'rbee hive install %s'", h.host)
	}
	return nil // a hive that does not run is no success there, and an answer here
}

// status asks how the hive of the far side is.
func (h *remoteHive) status(ctx context.Context) (hiveStatus, error) {
	var s hiveStatus
	err := h.ask(ctx, &s, "hive", "status")
	return s, err
}

// up has the hive run: as a service where that can be, in the background
// elsewhere. One that runs otherwise, or runs programs that are not there any
// more, is stopped first.
func (h *remoteHive) up(ctx context.Context, restart bool) error {
	now, err := h.status(ctx)
	if err != nil {
		return err
	}
	if now.Running && (restart || h.service != nil && !h.service.Running) {
		if err := h.ask(ctx, &hiveStatus{}, "hive", "stop"); err != nil {
			return err
		}
	}
	if h.service == nil {
		return h.ask(ctx, &hiveStatus{}, "hive", "start")
	}
	if err := h.ask(ctx, h.service, "hive", "install", "--scope", h.scope()); err != nil || h.service.Running {
		return err
	}
	return rbee.Errorf(rbee.CodeInternalError, "the hive on %s is a service, but does not run", h.host).
		Suggest("see 'rbee hive logs %s'", h.host)
}

// lingerScript keeps the services of a user running when nobody is logged in.
const lingerScript = `if command -v loginctl >/dev/null; then loginctl enable-linger </dev/null; fi`

// linger lets a user's service outlive this connection. It says why it cannot.
func (h *remoteHive) linger(ctx context.Context) error {
	if h.service == nil || h.system || h.service.Manager != "systemd" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := h.run(ctx, nil, lingerScript)
	return err
}

// writeScript replaces a file that only its owner may read with its standard
// input. Who owns the directory owns the file: a service may run as another user.
const writeScript = `d="$1"; f="$d/.$2.part-$$"; clean() { rm -f "$f"; }; trap clean EXIT; umask 077; mkdir -p "$d" && cat >"$f" && ` +
	`if [ "$(id -u)" = 0 ]; then ls -Lldn "$d" | { read -r mode links owner rest; chown "$owner" "$f"; }; fi && mv -f "$f" "$d/$2"`

// write puts a secret into a file of the state directory. It goes over standard
// input: arguments can be seen by others.
func (h *remoteHive) write(ctx context.Context, name, secret string) error {
	home, err := h.stateDir(ctx)
	if err != nil {
		return err
	}
	if _, err := h.run(ctx, strings.NewReader(secret+"\n"), writeScript, home, name); err != nil {
		return h.refuse("cannot write "+path.Join(home, name)+" on "+h.host, err)
	}
	return nil
}

// read reads a small file of the state directory, "" for none.
func (h *remoteHive) read(ctx context.Context, name string) (string, error) {
	home, err := h.stateDir(ctx)
	if err != nil {
		return "", err
	}
	out, err := h.run(ctx, nil, `if [ -f "$1" ]; then printf rbee:text=; head -c 16384 "$1"; echo; fi`, path.Join(home, name))
	if err != nil {
		return "", h.refuse("cannot read "+path.Join(home, name)+" on "+h.host, err)
	}
	return strings.TrimSpace(told(out)["text"]), nil
}

// stateDir is the state directory of the hive.
func (h *remoteHive) stateDir(ctx context.Context) (string, error) {
	if h.home != "" {
		return h.home, nil
	}
	s, err := h.status(ctx)
	if err == nil {
		h.home = s.Home
	}
	return h.home, err
}

// pass runs rbee on the far side, or another command, with its output as ours,
// and returns its exit code. The command ends when this one does.
func (h *remoteHive) pass(ctx context.Context, out, errOut io.Writer, command ...string) (int, error) {
	hold, release, err := os.Pipe() // a file: nobody waits for the end of it
	if err != nil {
		return 0, err
	}
	defer func() { _, _ = hold.Close(), release.Close() }()
	err = h.stream(ctx, hold, out, errOut, passScript, command...)
	var f *scriptError
	if errors.As(err, &f) {
		return f.code, nil
	}
	return 0, err
}

// passScript runs a command until that has ended, or its own input has: nothing
// else tells it that the other end of the connection is gone.
const passScript = `exec 3<&0; "$@" </dev/null 3<&- & p=$!; { cat <&3; kill $p; } >/dev/null 2>&1 & k=$!; ` +
	`exec 3<&-; wait $p; s=$?; kill $k 2>/dev/null; exit $s`
