package conf

import (
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// aliasFile is a text of config.yaml and the places in it where aliases are.
// It edits the text and not the tree that the parser makes of it: printing the
// tree loses blank lines and moves comments. An edit may be wrong where the file
// is odd, so the caller reads the result.
type aliasFile struct {
	text    string
	newline string
	starts  []int // of the lines, in bytes
	root    []*ast.MappingValueNode
	flow    *token.Token // the brace of a file that is {…}
	section *ast.MappingValueNode
	entries []*ast.MappingValueNode
}

func newAliasFile(text string) *aliasFile {
	f := &aliasFile{text: text, newline: "\n", starts: []int{0}}
	for i, c := range []byte(text) {
		if c == '\n' {
			f.starts = append(f.starts, i+1)
		}
	}
	if strings.Contains(text, "\r\n") {
		f.newline = "\r\n"
	}
	// The parser counts \r\n as two lines in places. The \r stands at the end of
	// a line, so that without it all other places are the same.
	tree, err := parser.ParseBytes([]byte(strings.ReplaceAll(text, "\r\n", "\n")), 0)
	if err != nil || len(tree.Docs) == 0 {
		return f
	}
	f.root, f.flow = mapping(tree.Docs[0].Body)
	for _, e := range f.root {
		if name, _ := scalarText(e.Key); name == "aliases" {
			f.section = e
			f.entries, _ = mapping(e.Value)
		}
	}
	return f
}

// mapping are the entries of a mapping, and its brace if it is written with braces.
func mapping(node ast.Node) ([]*ast.MappingValueNode, *token.Token) {
	switch n := node.(type) {
	case *ast.MappingNode:
		if n.IsFlowStyle {
			return n.Values, n.Start
		}
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	}
	return nil, nil
}

// find is the index of the alias, or -1.
func (f *aliasFile) find(name string) int {
	for i, e := range f.entries {
		if key, _ := scalarText(e.Key); key == name {
			return i
		}
	}
	return -1
}

// set are texts with the alias in them, the nicest first. The value is YAML.
func (f *aliasFile) set(name, value string) []string {
	entry := name + ": " + value
	if i := f.find(name); i >= 0 {
		from, to := f.extent(f.entries[i].Value)
		return []string{f.splice(from, to, value)}
	}
	if f.section == nil {
		if f.flow != nil {
			return []string{f.intoBraces(f.flow, "aliases: {"+entry+"}", len(f.root))}
		}
		indent := ""
		if len(f.root) > 0 {
			indent = f.indent(f.root[0])
		}
		text := f.text
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += f.newline
		}
		return []string{text + indent + "aliases:" + f.newline + indent + "  " + entry + f.newline}
	}
	if _, brace := mapping(f.section.Value); brace != nil {
		return []string{f.intoBraces(brace, entry, len(f.entries))}
	}
	if len(f.entries) == 0 { // null, written or not
		from, to := f.extent(f.section.Value)
		return []string{
			f.insertLine(f.line(f.section.Key)+1, f.indent(f.section)+"  "+entry),
			f.splice(from, to, "{"+entry+"}"),
		}
	}
	line := f.indent(f.entries[0]) + entry
	return []string{
		f.insertLine(f.line(f.entries[len(f.entries)-1].Value)+1, line),
		f.insertLine(f.line(f.entries[0].Key), line), // the last value has several lines
	}
}

// remove are texts without the alias, the nicest first.
func (f *aliasFile) remove(name string) []string {
	i := f.find(name)
	if i < 0 {
		return nil
	}
	from, _ := f.extent(f.entries[i].Key)
	_, to := f.extent(f.entries[i].Value)
	if _, brace := mapping(f.section.Value); brace == nil {
		first, last := f.line(f.entries[i].Key), f.line(f.entries[i].Value)
		return []string{f.splice(f.lineStart(first), f.lineStart(last+1), "")}
	}
	switch {
	case i+1 < len(f.entries):
		to, _ = f.extent(f.entries[i+1].Key)
	case i > 0:
		_, from = f.extent(f.entries[i-1].Value)
	}
	return []string{f.splice(from, to, "")}
}

// intoBraces puts an entry first into {…}, which has so many already.
func (f *aliasFile) intoBraces(brace *token.Token, entry string, others int) string {
	if others > 0 {
		entry += ", "
	}
	at := f.offset(brace) + 1
	return f.splice(at, at, entry)
}

// insertLine puts a line before the line with that number.
func (f *aliasFile) insertLine(number int, line string) string {
	at := f.lineStart(number)
	if at == len(f.text) && f.text != "" && !strings.HasSuffix(f.text, "\n") {
		return f.text + f.newline + line
	}
	return f.splice(at, at, line+f.newline)
}

func (f *aliasFile) splice(from, to int, text string) string {
	return f.text[:from] + text + f.text[max(from, to):]
}

// line is the number of the line where a node begins, from 1.
func (f *aliasFile) line(node ast.Node) int { return node.GetToken().Position.Line }

func (f *aliasFile) lineStart(number int) int {
	if number-1 >= len(f.starts) {
		return len(f.text)
	}
	return f.starts[max(number-1, 0)]
}

// indent is the white space before an entry.
func (f *aliasFile) indent(e *ast.MappingValueNode) string {
	return strings.Repeat(" ", e.Key.GetToken().Position.Column-1)
}

// offset is where a token begins, in bytes. The parser counts columns in characters.
func (f *aliasFile) offset(t *token.Token) int {
	at := f.lineStart(t.Position.Line)
	for range t.Position.Column - 1 {
		_, size := utf8.DecodeRuneInString(f.text[at:])
		at += size
	}
	return at
}

// extent is where the text of a scalar begins and ends, in bytes. They are the
// same for a null that is not written.
func (f *aliasFile) extent(node ast.Node) (from, to int) {
	t := node.GetToken()
	from = f.offset(t)
	switch rest := f.text[from:]; {
	case strings.HasPrefix(rest, "'") || strings.HasPrefix(rest, `"`):
		quote := rest[0]
		for i := 1; i < len(rest); i++ {
			switch {
			case rest[i] == '\\' && quote == '"':
				i++
			case rest[i] == quote && quote == '\'' && strings.HasPrefix(rest[i+1:], "'"):
				i++
			case rest[i] == quote:
				return from, from + i + 1
			}
		}
	case strings.HasPrefix(rest, t.Value):
		return from, from + len(t.Value)
	}
	return from, from
}
