package conf

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"rbee"
)

// reader takes one config.yaml over into a Config. It walks the parsed file
// instead of decoding it in one go: so each fault has its place and all are
// found, a section without entries keeps its defaults, and what is reported
// does not depend on the order of a map.
type reader struct {
	file   string
	config *Config
	faults []fault
}

// readFile takes over the text of the file and checks it.
func (c *Config) readFile(file string, text []byte) error {
	r := &reader{file: file, config: c}
	// The parser's own mode 0 refuses keys that come twice.
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return refuseAll([]fault{r.syntax(err)})
	}
	before := *c
	c.cloneMaps()
	for i, doc := range tree.Docs {
		switch {
		case i > 0:
			r.faults = append(r.faults, fault{problem: "must be one document", suggestion: "remove the line ---", origin: r.origin(doc.Start)})
		case doc.Body != nil:
			r.section("", reflect.ValueOf(c).Elem(), doc.Body)
		}
	}
	if len(r.faults) == 0 {
		c.oneKeyOnly(before)
		r.faults = c.check()
	}
	return refuseAll(r.faults)
}

// syntax is the fault of a text that is no YAML.
func (r *reader) syntax(err error) fault {
	f := fault{
		origin:     r.origin(nil),
		problem:    "is not valid YAML",
		suggestion: "indent with spaces, and write each setting as 'name: value'; the reference file shows all of them",
	}
	var ye yaml.Error
	if errors.As(err, &ye) {
		f.problem = "is not valid YAML: " + ye.GetMessage()
		f.origin = r.origin(ye.GetToken())
	}
	return f
}

func (r *reader) fault(node ast.Node, key, problem, suggestion string) {
	r.faults = append(r.faults, fault{key: key, problem: problem, suggestion: suggestion, origin: r.origin(node.GetToken())})
}

func (r *reader) origin(t *token.Token) Origin {
	o := Origin{File: r.file}
	if t != nil && t.Position != nil {
		o.Line, o.Column = t.Position.Line, t.Position.Column
	}
	return o
}

// section takes over the entries of a mapping into a struct.
func (r *reader) section(path string, dst reflect.Value, node ast.Node) {
	for _, e := range r.entries(path, node) {
		name, _ := scalarText(e.Key)
		key := join(path, name)
		field, ok := fieldOf(dst, name)
		if !ok {
			r.fault(e.Key, key, "is not a setting", suggestKey(path, name))
			continue
		}
		r.value(key, field, e)
	}
}

// entries are the entries of a mapping; none for an empty section.
func (r *reader) entries(path string, node ast.Node) []*ast.MappingValueNode {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	case *ast.NullNode, *ast.CommentGroupNode:
		return nil
	}
	problem := "must be a list of settings, each 'name: value'"
	if path == "" {
		problem = "the file " + problem
	}
	r.fault(node, path, problem, "the reference file shows all settings")
	return nil
}

// value takes over one entry: a section, a map of names, or one setting.
func (r *reader) value(key string, dst reflect.Value, e *ast.MappingValueNode) {
	switch dst.Kind() {
	case reflect.Struct:
		r.section(key, dst, e.Value)
		return
	case reflect.Map:
		r.names(key, dst, e.Value)
		return
	}
	if e.Value.Type() == ast.NullType {
		r.fault(e.Key, key, "has no value", "give it one, or remove the line")
		return
	}
	if problem, suggestion := decode(dst, e.Value); problem != "" {
		r.fault(e.Value, key, problem, suggestion)
		return
	}
	if p, ok := dst.Addr().Interface().(*Path); ok {
		*p = p.expand(r.config.user)
	}
	r.config.origins[key] = r.origin(e.Key.GetToken())
}

// names takes over the entries of nodes, external or aliases. Those of the defaults stay
// unless the file has the same name.
func (r *reader) names(path string, dst reflect.Value, node ast.Node) {
	for _, e := range r.entries(path, node) {
		name, ok := scalarText(e.Key)
		if !ok {
			r.fault(e.Key, path, "must have names that are plain words", "write 'name: value'")
			continue
		}
		r.config.origins[join(path, name)] = r.origin(e.Key.GetToken())
		v := reflect.New(dst.Type().Elem()).Elem()
		r.value(join(path, name), v, e)
		dst.SetMapIndex(reflect.ValueOf(name), v)
	}
}

// decode reads one scalar. It returns what is wrong, or "".
func decode(dst reflect.Value, node ast.Node) (problem, suggestion string) {
	problem, suggestion = expected(dst)
	text, ok := scalarText(node)
	if !ok {
		return problem, suggestion
	}
	_, whole := node.(*ast.IntegerNode)
	_, fraction := node.(*ast.FloatNode)
	switch {
	case dst.Kind() == reflect.Int && !whole:
		return problem, suggestion // the library would round 1.5 down
	case dst.Kind() == reflect.Float64 && !whole && !fraction:
		return problem, suggestion // the library would read a quoted number
	case dst.Kind() == reflect.String:
		// As it is written: a key of digits is a text too, whatever YAML makes of it.
		dst.SetString(text)
		return "", ""
	}
	if err := yaml.NodeToValue(node, dst.Addr().Interface(), yaml.Strict()); err != nil {
		return problem, suggestion
	}
	return "", ""
}

// scalarText is the text of a plain value.
func scalarText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// fieldOf is the field of a struct that has the yaml name.
func fieldOf(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if yamlName(v.Type().Field(i)) == name && name != "" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// yamlName is the name of a field in the file, "" for one that is not there.
func yamlName(f reflect.StructField) string {
	if name := f.Tag.Get("yaml"); name != "-" {
		return name
	}
	return ""
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// Origin is where a setting was made. The zero value is the defaults.
type Origin struct {
	File         string // with Line and Column, both from 1
	Line, Column int
	Variable     string // a name in the environment
	Flag         bool
}

// String is FILE:LINE:COLUMN, the name of the variable, "flag" or "default".
func (o Origin) String() string {
	switch {
	case o.File != "" && o.Line > 0:
		return fmt.Sprintf("%s:%d:%d", o.File, o.Line, o.Column)
	case o.File != "":
		return o.File
	case o.Variable != "":
		return o.Variable
	case o.Flag:
		return "flag"
	}
	return "default"
}

// fault is one thing wrong with the settings.
type fault struct {
	key        string
	problem    string // never holds the value, which may be a secret
	suggestion string
	origin     Origin
}

// refuseAll makes one error of the faults: the first in full, the others in the details.
func refuseAll(faults []fault) error {
	if len(faults) == 0 {
		return nil
	}
	first := faults[0]
	subject := strings.TrimSpace(first.key + " " + first.problem)
	if first.key == "" && strings.HasPrefix(first.problem, "is not") {
		subject = "the file " + first.problem
	}
	e := rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the settings: %s: %s", first.origin, subject)
	if n := len(faults) - 1; n > 0 {
		e = rbee.Errorf(rbee.CodeInvalidRequest, "%s (and %d more)", e.Message, n)
	}
	if first.origin.File != "" {
		e = e.With("file", first.origin.File).With("line", first.origin.Line).With("column", first.origin.Column)
	}
	list := make([]rbee.Fault, len(faults))
	for i, f := range faults {
		list[i] = rbee.Fault{Field: f.key, Problem: fmt.Sprintf("%s (%s)", f.problem, f.origin)}
	}
	suggestion := first.suggestion
	if suggestion == "" || len(faults) > 1 {
		suggestion = strings.TrimPrefix(suggestion+"; 'rbee config check' lists all faults", "; ")
	}
	return e.With("key", first.key).With("faults", list).Suggest("%s", suggestion)
}
