package service_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee/internal/service"
)

var update = flag.Bool("update", false, "write the files of packaging anew")

// packaging is what distributions take: the services as 'rbee hive install'
// writes them on a usual machine.
const packaging = "../../packaging"

var (
	forSystem = service.Spec{Program: "/usr/local/bin/rbee-hive", Home: service.SystemHome, System: true, Groups: []string{"render", "video"}}
	forUser   = service.Spec{Program: "/usr/local/bin/rbee-hive", Home: "/home/bee/.rbee"}
)

func TestThePackagingIsWhatInstallWrites(t *testing.T) {
	for file, text := range map[string]func() (string, error){
		"systemd/rbee-hive.service":      func() (string, error) { return service.SystemdUnit(forSystem) },
		"systemd/user/rbee-hive.service": func() (string, error) { return service.SystemdUnit(forUser) },
		"launchd/rbee-hive.plist":        func() (string, error) { return service.LaunchdAgent(forUser) },
	} {
		t.Run(file, func(t *testing.T) {
			got, err := text()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(packaging, file)
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the file differs; write it anew with -update:\n%s", diff)
			}
		})
	}
}

func TestPathsAreWrittenAsTheManagerReadsThem(t *testing.T) {
	odd := service.Spec{Program: "/opt/a bee/100%/rbee-hive", Home: "/home/b & b/<rbee>", KeyFile: "/etc/r bee/key%"}
	unit, err := service.SystemdUnit(odd)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`ExecStart="/opt/a bee/100%%/rbee-hive" daemon`,
		`Environment="RBEE_HOME=/home/b & b/<rbee>"`,
		`EnvironmentFile=-/home/b & b/<rbee>/hive.env`,
		`LoadCredential=rbee-hive-key:/etc/r bee/key%%`,
	} {
		if !slices.Contains(strings.Split(unit, "\n"), line) {
			t.Errorf("the unit has no line %s\n%s", line, unit)
		}
	}
	agent, err := service.LaunchdAgent(odd)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for d := xml.NewDecoder(strings.NewReader(agent)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the property list is no XML: %v", err)
		}
		if text, ok := token.(xml.CharData); ok {
			words = append(words, string(text))
		}
	}
	for _, want := range []string{odd.Program, odd.Home, odd.KeyFile, odd.Home + "/logs/hive.log"} {
		if !slices.Contains(words, want) {
			t.Errorf("the property list does not hold %s", want)
		}
	}
}

func TestPathsThatAUnitCannotHoldAreRefused(t *testing.T) {
	for _, path := range []string{"/a\nExecStartPre=/bin/evil", `/a"b`, "/a'b", `/a\b`, "/a/$HOME", "rbee-hive", "./rbee-hive"} {
		for name, spec := range map[string]service.Spec{
			"program": {Program: path, Home: "/h"}, "home": {Program: "/p", Home: path}, "key": {Program: "/p", Home: "/h", KeyFile: path},
		} {
			if text, err := service.SystemdUnit(spec); err == nil {
				t.Errorf("%s %q made a unit:\n%s", name, path, text)
			}
		}
	}
}

func TestDeviceGroupsAreThoseOfTheMachine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "group")
	if err := os.WriteFile(path, []byte("root:x:0:\nvideo:x:44:bee\nrenderers:x:9:\nvideo:x:44:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := service.DeviceGroups(path); !slices.Equal(got, []string{"video"}) {
		t.Errorf("groups = %v", got)
	}
	if got := service.DeviceGroups(path + "none"); got != nil {
		t.Errorf("groups of no file = %v", got)
	}
}

func TestAProgramThatOthersCannotReachIsNoServiceOfTheSystem(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "rbee-hive")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := service.Reachable(program); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error is %v", err)
	}
	if err := service.Reachable("/bin/sh"); err != nil {
		t.Errorf("a program for everybody: %v", err)
	}
}
