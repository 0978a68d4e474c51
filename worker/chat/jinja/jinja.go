// Package jinja renders the chat templates of models: the part of Jinja2 that
// they use, with the settings under which the models were trained (trim_blocks,
// lstrip_blocks, loop controls, Python's JSON).
//
// A template comes out of a model file and is hostile until it has ended: time,
// memory, depth and output of a rendering are counted and bounded, and nothing
// of it reaches the outside. It must not read files, the environment or the
// network, and values are never changed by a template, so that none holds itself.
package jinja

import (
	"context"
	"fmt"
	"time"
)

// Limits of a template and of one rendering.
const (
	maxSourceBytes = 1 << 20
	maxParseDepth  = 100
	maxDepth       = 400      // nodes of the template within nodes, through macros
	maxSteps       = 3 << 20  // nodes that are evaluated
	maxValueBytes  = 32 << 20 // one string or list
	maxTotalBytes  = 512 << 20
	stepsPerCheck  = 1 << 10 // of the context
)

// Error is what is wrong with a template, or with what it was given.
type Error struct {
	Line    int // of the template, 0 if unknown
	Message string
}

// Error says what and where.
func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("line %d: %s", e.Line, e.Message)
	}
	return e.Message
}

// Template is a template that was read. It may be rendered by many goroutines.
type Template struct{ body []stmt }

// Parse reads a template. The error is an *Error.
func Parse(source string) (t *Template, err error) {
	defer recoverError(&err)
	if len(source) > maxSourceBytes {
		fail(0, "the template has more than %d bytes", maxSourceBytes)
	}
	p := &parser{tokens: lex(source)}
	body := p.body()
	if p.peek().kind != tokenEnd {
		p.fail("%q ends nothing", p.ahead(1).text)
	}
	return &Template{body: body}, nil
}

// Render gives the text of the template for the variables: values of JSON as
// Value makes them, and Func. It stops at the limits of the package and when
// ctx ends. The error is an *Error, or ctx's cause.
func (t *Template) Render(ctx context.Context, vars map[string]any) (text string, err error) {
	defer recoverError(&err)
	r := &run{ctx: ctx, now: time.Now}
	root := &scope{vars: map[string]any{}, parent: &scope{vars: globals(r)}}
	for name, v := range vars {
		root.vars[name] = v
	}
	var out output
	if end := r.exec(t.body, root, &out); end != flowNext {
		fail(0, "break and continue belong into a loop")
	}
	return string(out.text), nil
}

// failure carries an error up from where it arose; nothing else panics on purpose.
type failure struct{ err error }

func fail(line int, format string, args ...any) {
	panic(failure{&Error{Line: line, Message: fmt.Sprintf(format, args...)}})
}

func recoverError(err *error) {
	switch p := recover().(type) {
	case nil:
	case failure:
		*err = p.err
	default:
		panic(p)
	}
}

// run is one rendering: what it has used up.
type run struct {
	ctx   context.Context
	now   func() time.Time
	steps int
	bytes int
	depth int
	line  int
}

func (r *run) fail(format string, args ...any) { fail(r.line, format, args...) }

// step counts one node.
func (r *run) step(line int) {
	if line > 0 {
		r.line = line
	}
	r.steps++
	if r.steps%stepsPerCheck == 0 && r.ctx.Err() != nil {
		panic(failure{context.Cause(r.ctx)})
	}
	if r.steps > maxSteps {
		r.fail("the template takes too long")
	}
}

// spend counts memory: a value of so many bytes is about to be made.
func (r *run) spend(n int) {
	if n < 0 || n > maxValueBytes {
		r.fail("the template makes a value that is too large")
	}
	r.bytes += n
	if r.bytes > maxTotalBytes {
		r.fail("the template takes too much memory")
	}
}

// text is a string that a template made, counted. Copying it takes time too.
func (r *run) text(s string) string {
	r.spend(len(s))
	r.steps += len(s) >> 10
	return s
}

func (r *run) list(n int) []any {
	r.spend(16 * n)
	r.steps += n >> 4
	return make([]any, 0, n)
}

func (r *run) enter() {
	if r.depth++; r.depth > maxDepth {
		r.fail("the template is nested too deeply")
	}
}

func (r *run) leave() { r.depth-- }

// output is text that is being written.
type output struct{ text []byte }

func (o *output) write(r *run, s string) {
	if len(o.text)+len(s) > maxValueBytes {
		r.fail("the text of the template is too long")
	}
	r.spend(len(s))
	o.text = append(o.text, s...)
}

// scope is the names that can be seen at one place.
type scope struct {
	vars   map[string]any
	parent *scope
}

func (s *scope) child() *scope { return &scope{parent: s} }

func (s *scope) set(name string, v any) {
	if s.vars == nil {
		s.vars = map[string]any{}
	}
	s.vars[name] = v
}

func (s *scope) get(name string) any {
	for ; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	return undefined{name}
}
