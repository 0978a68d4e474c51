package conf

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/gofrs/flock"

	"rbee"
	"rbee/internal/durable"
)

// SetAlias gives a model a short name in config.yaml, or gives the name to
// another model. The rest of the file stays as it is; a missing file is made.
// The reference is anything that rbee.ParseModelRef takes.
func SetAlias(home Home, name, ref string) error {
	if !nameOK(name) {
		return rbee.Errorf(rbee.CodeInvalidRequest, "cannot set the alias: a name has 1 to 64 letters, digits, '.', '_' or '-', and begins with none of '.' and '-'").
			Suggest("choose another name, such as mymodel")
	}
	model, err := rbee.ParseModelRef(ref)
	if err != nil {
		return err
	}
	return changeAliases(home, func(c *Config, f *aliasFile) []string {
		c.Aliases[name] = model.String()
		return f.set(name, scalar(model.String()))
	})
}

// RemoveAlias takes a short name out of config.yaml. Where the name is built
// in as well, it then stands for the built-in model.
func RemoveAlias(home Home, name string) error {
	builtin, isBuiltin := Defaults().Aliases[name]
	missing := error(rbee.Errorf(rbee.CodeInvalidRequest, "cannot remove the alias %q: %s does not have it", name, home.ConfigFile()).
		Suggest("see 'rbee models alias'"))
	if isBuiltin {
		missing = rbee.Errorf(rbee.CodeInvalidRequest, "cannot remove the alias %s: it is built in", name).
			Suggest("give the name to another model with 'rbee models alias %s REF'", name)
	}
	found := false
	err := changeAliases(home, func(c *Config, f *aliasFile) []string {
		delete(c.Aliases, name)
		if isBuiltin {
			c.Aliases[name] = builtin
		}
		found = f.find(name) >= 0
		return f.remove(name)
	})
	if !found && errors.Is(err, errUnchanged) {
		return missing
	}
	return err
}

// errUnchanged says that an edit has nothing to offer.
var errUnchanged = errors.New("the settings cannot be changed in place")

// changeAliases edits config.yaml. The function changes the settings as they
// shall be then, and returns texts that may say so; the first that does is
// written. What the settings are is read back from the text, so that an edit
// that a file is too odd for changes nothing.
func changeAliases(home Home, edit func(*Config, *aliasFile) []string) error {
	if err := home.Create(); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(home.RunDir(), "config.lock"))
	if err := lock.Lock(); err != nil {
		return cannotChange(home, err)
	}
	defer func() { _ = lock.Unlock() }() // the end of the process unlocks as well
	file, err := filepath.EvalSymlinks(home.ConfigFile())
	if errors.Is(err, fs.ErrNotExist) {
		file, err = home.ConfigFile(), nil
	}
	if err != nil {
		return cannotChange(home, bare(err))
	}
	text, err := readPrivate(file, maxFileBytes, othersMask)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	want, err := settingsIn(home, text)
	if err != nil {
		return err
	}
	want.cloneMaps()
	for _, candidate := range edit(&want, newAliasFile(string(text))) {
		have, err := settingsIn(home, []byte(candidate))
		have.origins = want.origins
		if err != nil || !reflect.DeepEqual(have, want) || len(candidate) > maxFileBytes {
			continue
		}
		if err := durable.Write(file, ".config-*.yaml", []byte(candidate)); err != nil {
			return cannotChange(home, bare(err))
		}
		return nil
	}
	return cannotChange(home, errUnchanged)
}

// settingsIn are the settings that a text of config.yaml makes.
func settingsIn(home Home, text []byte) (Config, error) {
	c := Defaults()
	c.Home = home
	c.user, _ = userHome(toMap(os.Environ()))
	err := c.readFile(home.ConfigFile(), text)
	return c, err
}

func cannotChange(home Home, err error) error {
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot change the aliases in %s: %w", home.ConfigFile(), err).
		With("file", home.ConfigFile()).
		Suggest("edit the file: aliases has lines such as '  name: hf:ORG/REPO:Q4_K_M'")
}

// scalar is a text as a value of YAML, in quotes if it needs some.
func scalar(s string) string {
	for _, c := range s {
		if !isPlain(c) {
			b, err := json.Marshal(s) // a text in JSON is one in YAML
			if err == nil {
				return string(b)
			}
		}
	}
	return s
}

func isPlain(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == ':' || c == '/' || c == '.' || c == '_' || c == '-' || c == '+' || c == '@'
}
