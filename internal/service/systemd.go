package service

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"rbee"
)

// systemd is the service manager of most of Linux.
type systemd struct {
	tool string
	user bool
}

func findSystemd(ctx context.Context, tool string, system bool, in Surroundings) (*Manager, error) {
	m := &Manager{dialect: systemd{tool, !system}, scope: scope(system)}
	if system {
		m.file = filepath.Join(in.Root, "/etc/systemd/system", Name+".service")
	} else {
		config := in.Env("XDG_CONFIG_HOME")
		if !filepath.IsAbs(config) {
			home, err := in.home()
			if err != nil {
				return nil, err
			}
			config = filepath.Join(home, ".config")
		}
		m.file = filepath.Join(config, "systemd", "user", Name+".service")
	}
	// The tool is there on machines that systemd does not run.
	if _, err := run(ctx, systemd{tool, !system}.command("show", "--property=Version")...); err != nil {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot reach systemd for this %s: %w", scope(system), err).
			Suggest("log in directly rather than with su or sudo, or start the hive with 'rbee hive start'")
	}
	return m, nil
}

func (s systemd) command(args ...string) []string {
	if s.user {
		return append([]string{s.tool, "--user"}, args...)
	}
	return append([]string{s.tool}, args...)
}

func (systemd) name() string                   { return "systemd" }
func (systemd) text(spec Spec) (string, error) { return SystemdUnit(spec) }

func (s systemd) start(changed bool) []Step {
	if !changed {
		return []Step{{Run: s.command("enable", "--now", Name+".service")}}
	}
	return []Step{
		{Run: s.command("daemon-reload")},
		{Run: s.command("enable", Name+".service")},
		{Run: s.command("restart", Name+".service")}, // which starts it as well
	}
}

func (s systemd) stop() []Step { return []Step{{Run: s.command("disable", "--now", Name+".service")}} }

func (s systemd) after() []Step {
	return []Step{{Run: s.command("daemon-reload")}, {Run: s.command("reset-failed", Name+".service"), mayFail: true}}
}

func (s systemd) look(ctx context.Context, state *State) error {
	text, err := run(ctx, s.command("show", Name+".service", "--property=ActiveState,UnitFileState,MainPID,StatusText")...)
	if err != nil {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot ask systemd for %s: %w", Name, err)
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "ActiveState":
			state.Running = value == "active"
		case "UnitFileState":
			state.Enabled = value == "enabled"
		case "MainPID":
			state.PID = number(value)
		case "StatusText":
			state.Status = value
		}
	}
	return nil
}

func (s systemd) logs() string {
	if s.user {
		return "journalctl --user -u " + Name
	}
	return "journalctl -u " + Name
}

// number is what a manager printed for one, 0 for anything else.
func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}
