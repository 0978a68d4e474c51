package service

import (
	"bytes"
	"embed"
	"encoding/xml"
	"os"
	"slices"
	"strings"
	"text/template"
	"unicode"

	"rbee"
)

// Name is the name of the service.
const Name = "rbee-hive"

// SystemHome is the state directory of a hive that belongs to the machine and
// not to one of its users.
const SystemHome = "/var/lib/rbee"

// Spec says what to run.
type Spec struct {
	Program string   // rbee-hive, an absolute path
	Home    string   // state directory, an absolute path; SystemHome for the service of the system
	KeyFile string   // file with the hive's key, an absolute path; "" leaves it to the settings
	System  bool     // for the machine and not for one user
	Groups  []string // groups beside its own that the service of the system is in, for the devices
}

//go:embed systemd.tmpl launchd.tmpl
var texts embed.FS

// render fills a template in.
func (s Spec) render(name string, escape template.FuncMap) (string, error) {
	for _, path := range []string{s.Program, s.Home, s.KeyFile} {
		// What a unit file gives a meaning of its own, in one place or another.
		if strings.ContainsAny(path, "\"'\\$") || strings.ContainsFunc(path, unicode.IsControl) || path != "" && path[0] != '/' {
			return "", rbee.Errorf(rbee.CodeInvalidRequest, "cannot make a service of the path %q", path).
				Suggest("use an absolute path without quotes, backslashes and dollar signs")
		}
	}
	t, err := template.New(name).Funcs(escape).ParseFS(texts, name)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return "", err
	}
	return out.String(), nil
}

// SystemdUnit is the unit file of the service.
func SystemdUnit(s Spec) (string, error) {
	return s.render("systemd.tmpl", template.FuncMap{
		"literal": func(text string) string { return strings.ReplaceAll(text, "%", "%%") },
		"word": func(text string) string {
			text = strings.ReplaceAll(text, "%", "%%")
			if strings.ContainsFunc(text, unicode.IsSpace) {
				return `"` + text + `"`
			}
			return text
		},
		"join": strings.Join,
	})
}

// LaunchdAgent is the property list of the service.
func LaunchdAgent(s Spec) (string, error) {
	return s.render("launchd.tmpl", template.FuncMap{"xml": func(text string) (string, error) {
		var out strings.Builder
		err := xml.EscapeText(&out, []byte(text))
		return out.String(), err
	}})
}

// DeviceGroups are the groups of a group file (as in group(5)) whose members
// may use graphics cards.
func DeviceGroups(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if name, _, _ := strings.Cut(line, ":"); name == "video" || name == "render" {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
