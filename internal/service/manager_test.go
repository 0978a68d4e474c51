//go:build unix

package service_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/service"
)

// systemctl stands in for the real one, which no machine of the tests is run
// by: it notes what it is told, and remembers what that comes to.
const systemctl = `#!/bin/sh
echo "systemctl $*" >>"$FAKE/calls"
case " $* " in
*" show --property=Version "*) test -z "$FAKE_DOWN" || { echo "Failed to connect to bus: No medium found" >&2; exit 1; }; echo Version=252 ;;
*" show rbee-hive.service "*)
	echo "ActiveState=$(cat "$FAKE/active" 2>/dev/null || echo inactive)"
	echo "UnitFileState=$(cat "$FAKE/enabled" 2>/dev/null || echo disabled)"
	test -e "$FAKE/active" && echo MainPID=4711 || echo MainPID=0
	echo "StatusText=2 workers, 1 busy" ;;
*" disable --now "*) rm -f "$FAKE/active" "$FAKE/enabled" ;;
*" enable --now "*) echo enabled >"$FAKE/enabled"; echo active >"$FAKE/active" ;;
*" enable "*) echo enabled >"$FAKE/enabled" ;;
*" restart "*) test -z "$FAKE_BROKEN" || { echo "Job for rbee-hive.service failed." >&2; exit 1; }; echo active >"$FAKE/active" ;;
*" reset-failed "*) exit 1 ;;
esac
`

// launchctl likewise.
const launchctl = `#!/bin/sh
echo "launchctl $*" >>"$FAKE/calls"
case "$1" in
print) test -e "$FAKE/active" || exit 113; printf 'gui/501/rbee-hive = {\n\tstate = running\n\tpid = 4711\n}\n' ;;
bootout) test -e "$FAKE/active" || exit 3; rm "$FAKE/active" ;;
bootstrap) test ! -e "$FAKE/active" || exit 37; echo >"$FAKE/active" ;;
esac
`

// machine is a machine with one service manager, or none.
type machine struct {
	t    *testing.T
	dir  string
	env  map[string]string
	user service.Spec
}

func newMachine(t *testing.T, tool, script string) *machine {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if tool != "" {
		if err := os.WriteFile(filepath.Join(bin, tool), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"cat", "rm"} { // what the scripts need, and no real systemctl
		if err := os.Symlink(filepath.Join("/bin", name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Setenv("FAKE", dir)
	return &machine{
		t: t, dir: dir, env: map[string]string{"HOME": filepath.Join(dir, "home")},
		user: service.Spec{Program: "/opt/rbee/rbee-hive", Home: filepath.Join(dir, "home", ".rbee")},
	}
}

func (m *machine) find(system bool) *service.Manager {
	m.t.Helper()
	found, err := service.Find(m.t.Context(), system, m.surroundings())
	if err != nil {
		m.t.Fatal(err)
	}
	return found
}

func (m *machine) surroundings() service.Surroundings {
	return service.Surroundings{Env: func(name string) string { return m.env[name] }, UID: 501, Root: m.dir}
}

// install installs and returns the steps as lines.
func (m *machine) install(manager *service.Manager, spec service.Spec) []string {
	m.t.Helper()
	steps, err := manager.Install(spec)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.carryOut(steps)
}

func (m *machine) carryOut(steps []service.Step) []string {
	m.t.Helper()
	var lines []string
	for _, s := range steps {
		if err := s.Do(m.t.Context()); err != nil {
			m.t.Errorf("%s: %v", s, err)
		}
		lines = append(lines, strings.ReplaceAll(s.String(), m.dir, ""))
	}
	return lines
}

func (m *machine) state(manager *service.Manager) service.State {
	m.t.Helper()
	s, err := manager.State(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	s.File = strings.TrimPrefix(s.File, m.dir)
	return s
}

func (m *machine) want(got []string, want ...string) {
	m.t.Helper()
	if !slices.Equal(got, want) {
		m.t.Errorf("did\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestInstallAndUninstallWithSystemd(t *testing.T) {
	for scope, c := range map[string]struct {
		file, flag string
		system     bool
	}{
		"user":   {"/home/.config/systemd/user/rbee-hive.service", "--user ", false},
		"system": {"/etc/systemd/system/rbee-hive.service", "", true},
	} {
		t.Run(scope, func(t *testing.T) {
			m := newMachine(t, "systemctl", systemctl)
			systemd := m.find(c.system)
			spec := m.user
			spec.System = c.system
			none := service.State{Manager: "systemd", Scope: scope, File: c.file, Status: "2 workers, 1 busy"}
			if got := m.state(systemd); got != none {
				t.Errorf("state before: %+v", got)
			}
			if steps := systemd.Uninstall(); len(steps) != 0 {
				t.Errorf("uninstall of nothing: %v", steps)
			}
			call := "run /bin/systemctl " + c.flag
			m.want(m.install(systemd, spec), "write "+c.file, call+"daemon-reload", call+"enable rbee-hive.service", call+"restart rbee-hive.service")
			there := service.State{
				Manager: "systemd", Scope: scope, File: c.file, Installed: true, Enabled: true, Running: true, PID: 4711,
				Status: "2 workers, 1 busy",
			}
			if got := m.state(systemd); got != there {
				t.Errorf("state: %+v", got)
			}
			text, err := os.ReadFile(filepath.Join(m.dir, c.file))
			if want, _ := service.SystemdUnit(spec); err != nil || string(text) != want {
				t.Errorf("the unit is %q, %v", text, err)
			}
			m.want(m.install(systemd, spec), call+"enable --now rbee-hive.service")
			spec.KeyFile = "/etc/rbee/hive.key"
			if got := m.install(systemd, spec); len(got) != 4 || got[0] != "write "+c.file {
				t.Errorf("a change did %v", got)
			}
			m.want(m.carryOut(systemd.Uninstall()), call+"disable --now rbee-hive.service", "remove "+c.file,
				call+"daemon-reload", call+"reset-failed rbee-hive.service")
			if got := m.state(systemd); got != none {
				t.Errorf("state after: %+v", got)
			}
			left, _ := filepath.Glob(filepath.Dir(filepath.Join(m.dir, c.file)) + "/*")
			if len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestTheConfigurationDirectoryOfTheUserMayBeElsewhere(t *testing.T) {
	m := newMachine(t, "systemctl", systemctl)
	m.env["XDG_CONFIG_HOME"] = filepath.Join(m.dir, "cfg")
	m.install(m.find(false), m.user)
	if _, err := os.Stat(filepath.Join(m.dir, "cfg", "systemd", "user", "rbee-hive.service")); err != nil {
		t.Error(err)
	}
}

func TestAServiceThatDoesNotStartSaysWhy(t *testing.T) {
	m := newMachine(t, "systemctl", systemctl)
	t.Setenv("FAKE_BROKEN", "1")
	steps, err := m.find(false).Install(m.user)
	if err != nil {
		t.Fatal(err)
	}
	err = steps[len(steps)-1].Do(t.Context())
	if err == nil || !regexp.MustCompile(`^cannot run .*systemctl --user restart rbee-hive.service: Job for rbee-hive.service failed\.$`).MatchString(rbee.AsError(err).Message) {
		t.Errorf("error is %v", err)
	}
}

func TestInstallAndUninstallWithLaunchd(t *testing.T) {
	m := newMachine(t, "launchctl", launchctl)
	const file, domain = "/home/Library/LaunchAgents/rbee-hive.plist", "gui/501/rbee-hive"
	launchd := m.find(false)
	load := fmt.Sprintf("run /bin/launchctl bootstrap gui/501 %s", file)
	m.want(m.install(launchd, m.user), "write "+file, "run /bin/launchctl bootout "+domain,
		"run /bin/launchctl enable "+domain, load, "run /bin/launchctl kickstart "+domain)
	there := service.State{Manager: "launchd", Scope: "user", File: file, Installed: true, Enabled: true, Running: true, PID: 4711}
	if got := m.state(launchd); got != there {
		t.Errorf("state: %+v", got)
	}
	m.want(m.install(launchd, m.user), "run /bin/launchctl enable "+domain, load, "run /bin/launchctl kickstart "+domain)
	m.want(m.carryOut(launchd.Uninstall()), "run /bin/launchctl bootout "+domain, "remove "+file)
	if got := m.state(launchd); got != (service.State{Manager: "launchd", Scope: "user", File: file}) {
		t.Errorf("state after: %+v", got)
	}
}

func TestWithoutAManagerTheErrorSaysWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		tool, script string
		down, system bool
		says         string
	}{
		"none":                          {"", "", false, false, "neither systemctl nor launchctl is in PATH"},
		"systemd that does not run":     {"systemctl", systemctl, true, false, "cannot reach systemd for this user: Failed to connect to bus"},
		"launchd for the whole machine": {"launchctl", launchctl, false, true, "launchd would run it as root"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, c.tool, c.script)
			if c.down {
				t.Setenv("FAKE_DOWN", "1")
			}
			_, err := service.Find(t.Context(), c.system, m.surroundings())
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v", err)
			}
		})
	}
}
