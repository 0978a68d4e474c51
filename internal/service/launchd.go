package service

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"rbee"
)

// launchd is the service manager of macOS.
type launchd struct {
	tool, domain, file string
}

func findLaunchd(tool string, system bool, in Surroundings) (*Manager, error) {
	if system {
		return nil, rbee.Errorf(rbee.CodeInvalidRequest, "cannot install the hive for the whole machine: launchd would run it as root").
			Suggest("install it as yourself, without sudo")
	}
	home, err := in.home()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(home, "Library", "LaunchAgents", Name+".plist")
	return &Manager{dialect: launchd{tool, "gui/" + strconv.Itoa(in.UID), file}, scope: scope(system), file: file}, nil
}

func (launchd) name() string                   { return "launchd" }
func (launchd) text(spec Spec) (string, error) { return LaunchdAgent(spec) }

func (l launchd) start(changed bool) []Step {
	out := Step{Run: []string{l.tool, "bootout", l.domain + "/" + Name}, mayFail: true}   // it may not be loaded
	load := Step{Run: []string{l.tool, "bootstrap", l.domain, l.file}, mayFail: !changed} // it may be loaded
	steps := []Step{{Run: []string{l.tool, "enable", l.domain + "/" + Name}}, load}
	if changed {
		steps = append([]Step{out}, steps...)
	}
	return append(steps, Step{Run: []string{l.tool, "kickstart", l.domain + "/" + Name}})
}

func (l launchd) stop() []Step {
	return []Step{{Run: []string{l.tool, "bootout", l.domain + "/" + Name}, mayFail: true}}
}

func (launchd) after() []Step { return nil }

func (l launchd) look(ctx context.Context, state *State) error {
	text, err := run(ctx, l.tool, "print", l.domain+"/"+Name)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil //nolint:nilerr // it is not loaded
	}
	state.Enabled = true
	for line := range strings.Lines(text) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), " = "); name {
		case "state":
			state.Running = value == "running"
		case "pid":
			state.PID = number(value)
		}
	}
	return nil
}

func (launchd) logs() string { return "rbee hive logs" }
