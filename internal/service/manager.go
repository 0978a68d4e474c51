package service

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"rbee"
)

// Surroundings are what Find looks at. Root stands before the directories of
// the system, for tests; "" is the machine itself.
type Surroundings struct {
	Env  func(string) string
	UID  int
	Root string
}

// State is how the service is.
type State struct {
	Manager   string `json:"manager" doc:"systemd or launchd"`
	Scope     string `json:"scope" doc:"user or system"`
	File      string `json:"file" doc:"what describes the service"`
	Installed bool   `json:"installed"`
	Enabled   bool   `json:"enabled" doc:"it starts by itself"`
	Running   bool   `json:"running"`
	PID       int    `json:"pid,omitempty"`
	Status    string `json:"status,omitempty" doc:"what it says of itself"`
}

// Manager is the service manager of this machine.
type Manager struct {
	dialect
	scope string
	file  string
}

// dialect is how one kind of service manager is spoken to.
type dialect interface {
	name() string
	text(Spec) (string, error)
	// start are the commands after which the service runs as its file says,
	// which was changed or not.
	start(changed bool) []Step
	stop() []Step
	after() []Step // once the file is gone
	look(ctx context.Context, s *State) error
	logs() string // the command that shows what the service wrote
}

// Find finds the service manager: of the system, or of the user.
func Find(ctx context.Context, system bool, in Surroundings) (*Manager, error) {
	if tool, err := exec.LookPath("systemctl"); err == nil {
		return findSystemd(ctx, tool, system, in)
	}
	if tool, err := exec.LookPath("launchctl"); err == nil {
		return findLaunchd(tool, system, in)
	}
	return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot find the service manager of this machine: neither systemctl nor launchctl is in PATH").
		Suggest("start the hive with 'rbee hive start', or run 'rbee-hive daemon' under what starts services here")
}

func scope(system bool) string {
	if system {
		return "system"
	}
	return "user"
}

// home is the user's own directory.
func (in Surroundings) home() (string, error) {
	if home := in.Env("HOME"); filepath.IsAbs(home) {
		return home, nil
	}
	return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot find your home directory: HOME is not set").Suggest("set HOME")
}

// State asks how the service is.
func (m *Manager) State(ctx context.Context) (State, error) {
	s := State{Manager: m.name(), Scope: m.scope, File: m.file}
	_, err := os.Stat(m.file)
	s.Installed = err == nil
	return s, m.look(ctx, &s)
}

// Install says what to do so that the service is as spec says, runs, and
// starts by itself. Doing it twice changes nothing.
func (m *Manager) Install(spec Spec) ([]Step, error) {
	text, err := m.text(spec)
	if err != nil {
		return nil, err
	}
	now, err := os.ReadFile(m.file)
	if err == nil && string(now) == text {
		return m.start(false), nil
	}
	return append([]Step{{Write: m.file, Content: text}}, m.start(true)...), nil
}

// Uninstall says what to do so that the service is gone; nothing if it is.
func (m *Manager) Uninstall() []Step {
	if _, err := os.Stat(m.file); err != nil {
		return nil
	}
	return append(append(m.stop(), Step{Remove: m.file}), m.after()...)
}

// Logs is the command that shows what the service wrote.
func (m *Manager) Logs() string { return m.logs() }

// Reachable says why a service of the system could not run program, nil if it
// can: its user is another than the one who installs it.
func Reachable(program string) error {
	const others = 0o005 // read and enter
	for path := program; ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&others != others {
			return rbee.Errorf(rbee.CodeInvalidRequest, "cannot make a service of %s: other users cannot enter %s", program, path).
				Suggest("install the programs for everybody, such as into /usr/local/bin")
		}
		if path == filepath.Dir(path) {
			return nil
		}
	}
}
