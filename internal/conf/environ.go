package conf

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// variableOf is the name of a setting in the environment.
func variableOf(key string) string {
	return "RBEE_" + strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToUpper(key))
}

// readEnviron takes over the variables and checks the result. A variable that
// is empty counts as not set, as it does for most programs.
func (c *Config) readEnviron(environ map[string]string) error {
	before := *c
	c.cloneMaps()
	var faults []fault
	faults = append(faults, c.pairs(environ, "aliases", func(name, ref string) { c.Aliases[name] = ref })...)
	for section, nodes := range c.nodes() {
		faults = append(faults, c.pairs(environ, section, func(name, url string) {
			n := nodes[name]
			n.URL = url
			nodes[name] = n
			c.origins[join(join(section, name), "url")] = Origin{Variable: variableOf(section)}
		})...)
	}
	faults = append(faults, parseSection(c, environ, "hive", &c.Hive)...)
	faults = append(faults, parseSection(c, environ, "worker", &c.Worker)...)
	faults = append(faults, parseSection(c, environ, "queen", &c.Queen)...)
	faults = append(faults, parseSection(c, environ, "engine", &c.Engine)...)
	faults = append(faults, parseSection(c, environ, "models", &c.Models)...)
	faults = append(faults, parseSection(c, environ, "download", &c.Download)...)
	faults = append(faults, parseSection(c, environ, "log", &c.Log)...)
	for section, nodes := range c.nodes() {
		for _, name := range slices.Sorted(maps.Keys(nodes)) {
			n := nodes[name]
			faults = append(faults, parseSection(c, environ, join(section, name), &n)...)
			nodes[name] = n
		}
	}
	if len(faults) == 0 {
		c.oneKeyOnly(before)
		c.absolute()
		faults = c.check()
	}
	return refuseAll(faults)
}

// parseSection reads the variables of one struct. One section at a time, since
// the library's errors name the field but not the struct around it.
func parseSection[T any](c *Config, environ map[string]string, key string, dst *T) []fault {
	prefix := variableOf(key) + "_"
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		if variable := prefix + t.Field(i).Tag.Get("env"); environ[variable] != "" {
			c.origins[join(key, yamlName(t.Field(i)))] = Origin{Variable: variable}
		}
	}
	err := env.ParseWithOptions(dst, env.Options{Environment: environ, Prefix: prefix})
	if err == nil {
		return nil
	}
	var all env.AggregateError
	if !errors.As(err, &all) {
		all.Errors = []error{err}
	}
	var faults []fault
	for _, err := range all.Errors {
		f := fault{key: key, problem: "cannot be read", origin: Origin{Variable: prefix + "*"}}
		var pe env.ParseError
		if errors.As(err, &pe) {
			field, _ := t.FieldByName(pe.Name)
			f.key = join(key, yamlName(field))
			f.origin = Origin{Variable: prefix + field.Tag.Get("env")}
			f.problem, f.suggestion = expected(reflect.New(field.Type).Elem())
		}
		faults = append(faults, f)
	}
	return faults
}

// pairs reads a variable such as RBEE_ALIASES=name=value,name=value.
func (c *Config) pairs(environ map[string]string, key string, set func(name, value string)) []fault {
	variable := variableOf(key)
	if environ[variable] == "" {
		return nil
	}
	for pair := range strings.SplitSeq(environ[variable], ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok {
			return []fault{{
				key: key, problem: "must be pairs of name=value with commas between them",
				suggestion: fmt.Sprintf("for example %s=name=value", variable), origin: Origin{Variable: variable},
			}}
		}
		c.origins[join(key, name)] = Origin{Variable: variable}
		set(name, value)
	}
	return nil
}

// override lets flags change the settings and checks the result.
func (c *Config) override(flags func(*Config)) error {
	before := *c
	c.cloneMaps()
	flags(c)
	old := map[string]reflect.Value{}
	before.eachLeaf(func(key string, v reflect.Value) { old[key] = v })
	c.eachLeaf(func(key string, v reflect.Value) {
		if v.Interface() != old[key].Interface() {
			c.origins[key] = Origin{Flag: true}
		}
	})
	c.oneKeyOnly(before)
	c.absolute()
	return refuseAll(c.check())
}

// eachLeaf visits the settings that are not entries of a map; the values can be set.
func (c *Config) eachLeaf(visit func(key string, v reflect.Value)) {
	all := reflect.ValueOf(c).Elem()
	for i := range all.NumField() {
		section := yamlName(all.Type().Field(i))
		if section == "" || all.Field(i).Kind() != reflect.Struct {
			continue
		}
		for j := range all.Field(i).NumField() {
			visit(join(section, yamlName(all.Field(i).Type().Field(j))), all.Field(i).Field(j))
		}
	}
}

// absolute makes the paths of variables and flags absolute; those of the file
// have been checked already.
func (c *Config) absolute() {
	c.eachLeaf(func(_ string, v reflect.Value) {
		if p, ok := v.Addr().Interface().(*Path); ok {
			*p = p.absolute(c.user)
		}
	})
	for _, nodes := range c.nodes() {
		for name, n := range nodes {
			n.KeyFile = n.KeyFile.absolute(c.user)
			nodes[name] = n
		}
	}
}

// oneKeyOnly drops the key of a lower layer when a higher one named a key
// file, and the other way round: who sets one of them means that one. Both in
// the same layer stay, and the check refuses them.
func (c *Config) oneKeyOnly(before Config) {
	choose(&c.Hive.Key, &c.Hive.KeyFile, before.Hive.Key, before.Hive.KeyFile)
	choose(&c.Hive.Join, &c.Hive.JoinFile, before.Hive.Join, before.Hive.JoinFile)
	choose(&c.Queen.Key, &c.Queen.KeyFile, before.Queen.Key, before.Queen.KeyFile)
	old := maps.Collect(before.nodes())
	for section, nodes := range c.nodes() {
		for name, n := range nodes {
			choose(&n.Key, &n.KeyFile, old[section][name].Key, old[section][name].KeyFile)
			nodes[name] = n
		}
	}
}

// nodes yields the sections that hold nodes.
func (c *Config) nodes() iter.Seq2[string, map[string]Node] {
	return func(yield func(string, map[string]Node) bool) {
		_ = yield("nodes", c.Nodes) && yield("external", c.External)
	}
}

func choose(key *Secret, file *Path, oldKey Secret, oldFile Path) {
	switch newKey, newFile := *key != oldKey, *file != oldFile; {
	case newKey && !newFile && *key != "":
		*file = ""
	case newFile && !newKey && *file != "":
		*key = ""
	}
}

// cloneMaps keeps a later layer from writing into the maps of an earlier state.
func (c *Config) cloneMaps() {
	c.Nodes, c.External = maps.Clone(c.Nodes), maps.Clone(c.External)
	c.Aliases, c.origins = maps.Clone(c.Aliases), maps.Clone(c.origins)
}

// expand puts the user's home for a leading "~/".
func (p Path) expand(user string) Path {
	if rest, ok := strings.CutPrefix(string(p), "~/"); ok && user != "" {
		return Path(filepath.Join(user, rest))
	}
	return p
}

func (p Path) absolute(user string) Path {
	p = p.expand(user)
	if p == "" {
		return ""
	}
	abs, err := filepath.Abs(string(p))
	if err != nil {
		return p // the check refuses it
	}
	return Path(abs)
}
