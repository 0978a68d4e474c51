package jinja

// flow says how a statement ended.
type flow int

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

// stmt is a part of a template that writes or sets something.
type stmt interface {
	exec(r *run, s *scope, out *output) flow
}

type (
	textStmt  struct{ text string }
	printStmt struct {
		line  int
		value expr
	}
	doStmt struct {
		line  int
		value expr
	}
	branch struct {
		cond expr // nil for else
		body []stmt
	}
	ifStmt struct {
		line     int
		branches []branch
	}
	forStmt struct {
		line            int
		names           []string
		list, cond      expr
		body, otherwise []stmt
	}
	setStmt struct {
		line    int
		space   string // the namespace whose attribute is set, or ""
		names   []string
		value   expr // nil if a body is the value
		body    []stmt
		filters expr // of the body, or nil
	}
	parameter struct {
		name  string
		value expr // default or given value, or nil
	}
	macroStmt struct {
		line       int
		name       string
		parameters []parameter
		body       []stmt
	}
	callStmt struct {
		line       int
		parameters []parameter
		call       *callExpr
		body       []stmt
	}
	filterStmt struct {
		line    int
		filters expr
		body    []stmt
	}
	scopeStmt struct {
		line   int
		names  []string
		values []expr
		body   []stmt
	}
	jumpStmt struct{ to flow }
)

func (r *run) exec(body []stmt, s *scope, out *output) flow {
	r.enter()
	defer r.leave()
	for _, st := range body {
		if end := st.exec(r, s, out); end != flowNext {
			return end
		}
	}
	return flowNext
}

// capture runs a body and returns its text.
func (r *run) capture(body []stmt, s *scope) string {
	var out output
	if r.exec(body, s, &out) != flowNext {
		r.fail("break and continue belong into a loop")
	}
	return string(out.text)
}

func (t *textStmt) exec(r *run, _ *scope, out *output) flow {
	r.step(0)
	out.write(r, t.text)
	return flowNext
}

func (p *printStmt) exec(r *run, s *scope, out *output) flow {
	r.step(p.line)
	out.write(r, r.str(p.value.eval(r, s)))
	return flowNext
}

func (d *doStmt) exec(r *run, s *scope, _ *output) flow {
	r.step(d.line)
	d.value.eval(r, s)
	return flowNext
}

func (i *ifStmt) exec(r *run, s *scope, out *output) flow {
	r.step(i.line)
	for _, b := range i.branches {
		if b.cond == nil || truth(b.cond.eval(r, s)) {
			return r.exec(b.body, s, out)
		}
	}
	return flowNext
}

func (f *forStmt) exec(r *run, s *scope, out *output) flow {
	r.step(f.line)
	items := r.items(f.list.eval(r, s))
	if f.cond != nil {
		kept := r.list(0)
		for _, item := range items {
			inner := s.child()
			r.bind(inner, f.names, item)
			if truth(f.cond.eval(r, inner)) {
				kept = append(kept, item)
			}
		}
		items = kept
	}
	if len(items) == 0 {
		return r.exec(f.otherwise, s, out)
	}
	loop := &loop{items: items}
	for i, item := range items {
		r.step(f.line)
		loop.at = i
		inner := s.child()
		inner.set("loop", loop)
		r.bind(inner, f.names, item)
		if r.exec(f.body, inner, out) == flowBreak {
			break
		}
	}
	return flowNext
}

// bind gives the names the value, or its parts.
func (r *run) bind(s *scope, names []string, v any) {
	if len(names) == 1 {
		s.set(names[0], v)
		return
	}
	parts := r.items(v)
	if len(parts) != len(names) {
		r.fail("%d values for %d names", len(parts), len(names))
	}
	for i, name := range names {
		s.set(name, parts[i])
	}
}

func (st *setStmt) exec(r *run, s *scope, _ *output) flow {
	r.step(st.line)
	var v any
	switch {
	case st.value != nil:
		v = st.value.eval(r, s)
	case st.filters != nil:
		v = r.filtered(st.filters, r.capture(st.body, s.child()), s)
	default:
		v = r.capture(st.body, s.child())
	}
	if st.space == "" {
		r.bind(s, st.names, v)
		return flowNext
	}
	space, ok := s.get(st.space).(*namespace)
	if !ok {
		r.fail("%s is no namespace", st.space)
	}
	space.vars[st.names[0]] = v
	return flowNext
}

// filtered applies filters to the text of a body.
func (r *run) filtered(filters expr, text string, s *scope) any {
	inner := s.child()
	inner.set(bodyName, text)
	return filters.eval(r, inner)
}

// bodyName is no name that a template can write.
const bodyName = "{body}"

func (m *macroStmt) exec(r *run, s *scope, _ *output) flow {
	r.step(m.line)
	s.set(m.name, r.macro(m.name, m.parameters, m.body, s))
	return flowNext
}

// macro makes a function of a body.
func (r *run) macro(name string, parameters []parameter, body []stmt, defined *scope) Func {
	return func(c *Call) any {
		r.enter()
		defer r.leave()
		inner := defined.child()
		if len(c.Args) > len(parameters) {
			r.fail("%s takes %d arguments", name, len(parameters))
		}
		for i, p := range parameters {
			v, given := c.Named[p.name]
			switch {
			case i < len(c.Args):
				v = c.Args[i]
			case given:
			case p.value != nil:
				v = p.value.eval(r, inner)
			default:
				v = undefined{p.name}
			}
			inner.set(p.name, v)
		}
		if caller, ok := c.Named["caller"]; ok {
			inner.set("caller", caller)
		}
		return r.capture(body, inner)
	}
}

func (c *callStmt) exec(r *run, s *scope, out *output) flow {
	r.step(c.line)
	caller := r.macro("caller", c.parameters, c.body, s)
	out.write(r, r.str(c.call.with(r, s, map[string]any{"caller": caller})))
	return flowNext
}

func (f *filterStmt) exec(r *run, s *scope, out *output) flow {
	r.step(f.line)
	out.write(r, r.str(r.filtered(f.filters, r.capture(f.body, s.child()), s)))
	return flowNext
}

func (st *scopeStmt) exec(r *run, s *scope, out *output) flow {
	r.step(st.line)
	inner := s.child()
	for i, name := range st.names {
		inner.set(name, st.values[i].eval(r, s))
	}
	return r.exec(st.body, inner, out)
}

func (j jumpStmt) exec(r *run, _ *scope, _ *output) flow {
	r.step(0)
	return j.to
}
