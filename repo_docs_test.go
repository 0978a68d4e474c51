package rbee_test

import (
	"bytes"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"rbee"
)

func TestTheReadmeIsShortAndBeginsWithTheTwoCommands(t *testing.T) {
	text := read(t, "README.md")
	if n := bytes.Count(text, []byte("\n")); n > maxReadme {
		t.Errorf("README.md has %d lines, at most %d are allowed", n, maxReadme)
	}
	begin := strings.Join(strings.SplitN(string(text), "\n", 21)[:20], "\n")
	for _, command := range []string{"make demo", "make test"} {
		if !strings.Contains(begin, command) {
			t.Errorf("the first 20 lines of README.md do not show %q", command)
		}
	}
}

func TestTheArchitectureNamesEachPackage(t *testing.T) {
	text := read(t, "ARCHITECTURE.md")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z0-9_./-]+)`").FindAllSubmatch(text, -1) {
		named[strings.TrimSuffix(string(m[1]), "/")] = true
	}
	there := map[string]bool{}
	for _, s := range sources(t) {
		if there[s.dir] {
			continue
		}
		there[s.dir] = true
		if !named[s.dir] && s.dir != "." {
			t.Errorf("ARCHITECTURE.md does not name `%s`", s.dir)
		}
	}
	for name := range named {
		part, _, inside := strings.Cut(name, "/")
		if _, err := os.Stat(part); err != nil || !inside || strings.Contains(name, ".") {
			continue // not a path of the repository
		}
		if _, err := os.Stat(name); err != nil {
			t.Errorf("ARCHITECTURE.md names `%s`, which is not there", name)
		}
	}
}

func TestLinksBetweenDocumentsHold(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, m := range link.FindAllSubmatch(read(t, name), -1) {
			if _, err := os.Stat(path.Join(path.Dir(name), string(m[1]))); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestTheChangelogTellsOfThisVersion(t *testing.T) {
	if !bytes.Contains(read(t, "CHANGELOG.md"), []byte("\n## "+rbee.Version)) {
		t.Errorf("CHANGELOG.md has no section %q", "## "+rbee.Version)
	}
}

func TestTheModuleBuildsWithAnyGoOfItsVersion(t *testing.T) {
	text := read(t, "go.mod")
	if !bytes.Contains(text, []byte("\ngo 1.26.0\n")) {
		t.Error("go.mod does not say go 1.26.0")
	}
	if found := regexp.MustCompile(`(?m)^(toolchain|replace|exclude)\b.*`).Find(text); found != nil {
		t.Errorf("go.mod has the line %q", found)
	}
}
