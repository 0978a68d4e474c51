package conf_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rbee"
	"rbee/internal/conf"
)

const mine = "hf:ORG/REPO:Q4_K_M"

// aliasHome is a state directory whose config.yaml holds text, and how to read it.
func aliasHome(t *testing.T, text string) (conf.Home, func() string) {
	t.Helper()
	home := conf.Home(t.TempDir())
	if text != "" {
		write(t, home.ConfigFile(), text, 0o600)
	}
	return home, func() string {
		t.Helper()
		b, err := os.ReadFile(home.ConfigFile())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

func TestSetAliasChangesTheAliasAndNothingElse(t *testing.T) {
	cases := []struct{ name, before, after string }{
		{"no file", "", "aliases:\n  mine: " + mine + "\n"},
		{"only comments", "# mine\n\n# yours\n", "# mine\n\n# yours\naliases:\n  mine: " + mine + "\n"},
		{"only a document mark", "---\n", "---\naliases:\n  mine: " + mine + "\n"},
		{"no aliases", "hive:\n  addr: 127.0.0.1:1 # here\n", "hive:\n  addr: 127.0.0.1:1 # here\naliases:\n  mine: " + mine + "\n"},
		{"no line break at the end", "log:\n  level: info", "log:\n  level: info\naliases:\n  mine: " + mine + "\n"},
		{"all indented", "  log:\n    level: info\n", "  log:\n    level: info\n  aliases:\n    mine: " + mine + "\n"},
		{"empty section", "aliases:\n# log\nlog:\n  level: info\n", "aliases:\n  mine: " + mine + "\n# log\nlog:\n  level: info\n"},
		{"empty section at the end", "log: {}\naliases:", "log: {}\naliases:\n  mine: " + mine},
		{"empty section with a comment", "aliases: # none yet\nlog: {}\n", "aliases: # none yet\n  mine: " + mine + "\nlog: {}\n"},
		{"written null", "aliases: ~ # none\n", "aliases: {mine: " + mine + "} # none\n"},
		{"empty braces", "aliases: {} # none\n", "aliases: {mine: " + mine + "} # none\n"},
		{"braces", "aliases: {a: hf:a/b}\n", "aliases: {mine: " + mine + ", a: hf:a/b}\n"},
		{"braces over lines", "aliases: {\n  a: hf:a/b, # a\n  c: hf:c/d\n}\n", "aliases: {mine: " + mine + ", \n  a: hf:a/b, # a\n  c: hf:c/d\n}\n"},
		{"all in braces", "{log: {level: info}}\n", "{aliases: {mine: " + mine + "}, log: {level: info}}\n"},
		{"nothing in braces", "{}\n", "{aliases: {mine: " + mine + "}}\n"},
		{
			"among others", "# head\naliases:\n  # first\n  a: hf:a/b # x\n\n  # last\n  c: 'hf:c/d'   # y\n\n# log\nlog:\n  level: info\n",
			"# head\naliases:\n  # first\n  a: hf:a/b # x\n\n  # last\n  c: 'hf:c/d'   # y\n  mine: " + mine + "\n\n# log\nlog:\n  level: info\n",
		},
		{"other indentation", "aliases:\n      a: hf:a/b\n", "aliases:\n      a: hf:a/b\n      mine: " + mine + "\n"},
		{"last value on lines of its own", "aliases:\n  a: |-\n    hf:a/b\n", "aliases:\n  mine: " + mine + "\n  a: |-\n    hf:a/b\n"},
		{"replaced", "aliases:\n  mine: hf:a/b # mine\n  c: hf:c/d\n", "aliases:\n  mine: " + mine + " # mine\n  c: hf:c/d\n"},
		{"replaced in quotes", "aliases:\n  \"mine\": \"hf:a/b\" # mine\n", "aliases:\n  \"mine\": " + mine + " # mine\n"},
		{"replaced in braces", "aliases: {a: hf:a/b, mine: 'hf:a/b', c: hf:c/d}\n", "aliases: {a: hf:a/b, mine: " + mine + ", c: hf:c/d}\n"},
		{"replaced after letters of two bytes", "aliases: {a: file:/é/ü.gguf, mine: hf:a/b}\n", "aliases: {a: file:/é/ü.gguf, mine: " + mine + "}\n"},
		{"the same again", "aliases:\n  mine: " + mine + "\n", "aliases:\n  mine: " + mine + "\n"},
		{"lines of DOS", "# c\r\nlog:\r\n  level: info # x\r\naliases:\r\n  a: hf:a/b # y\r\n", "# c\r\nlog:\r\n  level: info # x\r\naliases:\r\n  a: hf:a/b # y\r\n  mine: " + mine + "\r\n"},
		{"lines of DOS, replaced", "log:\r\n  level: info # x\r\naliases:\r\n  mine: 'hf:a/b' # y\r\n  c: hf:c/d\r\n", "log:\r\n  level: info # x\r\naliases:\r\n  mine: " + mine + " # y\r\n  c: hf:c/d\r\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			home, read := aliasHome(t, c.before)
			if err := conf.SetAlias(home, "mine", "ORG/REPO:Q4_K_M"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.after, read()); diff != "" {
				t.Error(diff)
			}
			info, err := os.Stat(home.ConfigFile())
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestRemoveAliasTakesItsLineAndNothingElse(t *testing.T) {
	cases := []struct{ name, before, after string }{
		{"the only one", "aliases:\n  mine: hf:a/b # x\nlog: {}\n", "aliases:\nlog: {}\n"},
		{"the first", "aliases:\n  # c\n  mine: hf:a/b\n  c: hf:c/d\n", "aliases:\n  # c\n  c: hf:c/d\n"},
		{"the last, with no line break", "aliases:\n  c: hf:c/d\n  mine: hf:a/b", "aliases:\n  c: hf:c/d\n"},
		{"the only one in braces", "aliases: { mine: hf:a/b }\n", "aliases: {  }\n"},
		{"the first in braces", "aliases: {mine: 'hf:a/b', c: hf:c/d}\n", "aliases: {c: hf:c/d}\n"},
		{"the last in braces", "aliases: {c: hf:c/d, mine: \"hf:a/b\"}\n", "aliases: {c: hf:c/d}\n"},
		{"lines of DOS", "log: {}\r\naliases:\r\n  mine: hf:a/b # x\r\n  c: hf:c/d\r\n", "log: {}\r\naliases:\r\n  c: hf:c/d\r\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			home, read := aliasHome(t, c.before)
			if err := conf.RemoveAlias(home, "mine"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.after, read()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAnAliasGoesAndComesBackInTheReferenceFile(t *testing.T) {
	home, read := aliasHome(t, conf.Reference())
	if err := conf.SetAlias(home, "mine", mine); err != nil {
		t.Fatal(err)
	}
	c, err := conf.Load(conf.Options{Home: string(home), Environ: []string{"HOME=/h"}})
	if err != nil || c.Aliases["mine"] != mine {
		t.Errorf("the alias is %q, %v", c.Aliases["mine"], err)
	}
	if err := conf.RemoveAlias(home, "mine"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(conf.Reference(), read()); diff != "" {
		t.Error(diff)
	}
}

func TestAReferenceWithSpacesIsQuoted(t *testing.T) {
	home, read := aliasHome(t, "aliases: {a: hf:a/b}\n")
	if err := conf.SetAlias(home, "mine", "file:/my models/ä: b.gguf"); err != nil {
		t.Fatal(err)
	}
	if want := "aliases: {mine: \"file:/my models/ä: b.gguf\", a: hf:a/b}\n"; read() != want {
		t.Errorf("got %q, want %q", read(), want)
	}
}

func TestABuiltInAliasCanBeOverriddenAndNotRemoved(t *testing.T) {
	home, _ := aliasHome(t, "")
	refused := func() {
		t.Helper()
		err := conf.RemoveAlias(home, "qwen")
		if e := rbee.AsError(err); err == nil || e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Message, "built in") || e.Suggestion() == "" {
			t.Errorf("got %v", err)
		}
	}
	refused()
	if err := conf.SetAlias(home, "qwen", mine); err != nil {
		t.Fatal(err)
	}
	if err := conf.RemoveAlias(home, "qwen"); err != nil {
		t.Fatal(err)
	}
	refused()
}

func TestFaultsOfAliases(t *testing.T) {
	cases := []struct {
		name, text, says string
		change           func(conf.Home) error
	}{
		{"bad name", "", "a name has", func(h conf.Home) error { return conf.SetAlias(h, "a b", mine) }},
		{"name of a flag", "", "a name has", func(h conf.Home) error { return conf.SetAlias(h, "-a", mine) }},
		{"bad reference", "", "cannot read the model reference", func(h conf.Home) error { return conf.SetAlias(h, "mine", "../x") }},
		{"unknown name", "aliases: {a: hf:a/b}\n", "does not have it", func(h conf.Home) error { return conf.RemoveAlias(h, "mine") }},
		{"faulty file", "hives: {}\n", "is not a setting", func(h conf.Home) error { return conf.SetAlias(h, "mine", mine) }},
		{"value over lines", "aliases:\n  mine: |-\n    hf:a/b\n", "cannot change the aliases", func(h conf.Home) error { return conf.SetAlias(h, "mine", mine) }},
		{"end mark of a document", "log: {}\n...\n", "cannot change the aliases", func(h conf.Home) error { return conf.SetAlias(h, "mine", mine) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			home, read := aliasHome(t, c.text)
			err := c.change(home)
			if e := rbee.AsError(err); err == nil || e.Code != rbee.CodeInvalidRequest || !strings.Contains(e.Message, c.says) || e.Suggestion() == "" {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if c.text != "" && read() != c.text {
				t.Errorf("the file changed to %q", read())
			}
		})
	}
}

func TestALinkedFileStaysALink(t *testing.T) {
	home, read := aliasHome(t, "")
	target := filepath.Join(t.TempDir(), "rbee.yaml")
	write(t, target, "# linked\n", 0o600)
	if err := os.Symlink(target, home.ConfigFile()); err != nil {
		t.Fatal(err)
	}
	if err := conf.SetAlias(home, "mine", mine); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(home.ConfigFile())
	if err != nil || info.Mode()&fs.ModeSymlink == 0 || !strings.HasPrefix(read(), "# linked\naliases:") {
		t.Errorf("%v, %v: %q", info.Mode(), err, read())
	}
}

func TestAliasesThatAreSetAtOnceAreAllThere(t *testing.T) {
	home, _ := aliasHome(t, "")
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	var all sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		all.Go(func() { errs[i] = conf.SetAlias(home, name, mine) })
	}
	all.Wait()
	c, err := conf.Load(conf.Options{Home: string(home), Environ: []string{"HOME=/h"}})
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if c.Aliases[name] != mine {
			t.Errorf("%s is %q", name, c.Aliases[name])
		}
	}
}

// FuzzAliases checks that a change of a file that loads changes one alias or nothing.
func FuzzAliases(f *testing.F) {
	f.Add(conf.Reference())
	f.Add("aliases: {a: hf:a/b, # x\n mine: 'hf:c/d'}\r\nlog:\r\n  level: info\r\n")
	f.Add("? aliases\n: mine: hf:a/b\n")
	f.Add("aliases:\n  é: hf:a/b\n  mine: |\n    hf:a/b\n...\n")
	f.Add("{aliases: ,log: {}}")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		home := conf.Home(dir)
		if err := os.WriteFile(home.ConfigFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		options := conf.Options{Home: dir, Environ: []string{"HOME=/h"}}
		before, err := conf.Load(options)
		if err != nil {
			return
		}
		want := maps.Clone(before.Aliases)
		if err := conf.SetAlias(home, "mine", mine); err == nil {
			want["mine"] = mine
		}
		after, err := conf.Load(options)
		if err != nil {
			t.Fatalf("%q does not load any more: %v", text, err)
		}
		before.Aliases = want
		if diff := cmp.Diff(before, after, cmpopts.IgnoreUnexported(conf.Config{})); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
		if err := conf.RemoveAlias(home, "mine"); err == nil {
			delete(want, "mine")
		}
		after, err = conf.Load(options)
		if err != nil {
			t.Fatalf("%q does not load any more: %v", text, err)
		}
		if diff := cmp.Diff(before, after, cmpopts.IgnoreUnexported(conf.Config{})); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	})
}
