package jinja

import "math"

// expr is a part of a template that has a value.
type expr interface {
	eval(r *run, s *scope) any
}

type (
	literalExpr struct{ value any }
	bodyExpr    struct{}
	nameExpr    struct {
		line int
		name string
	}
	listExpr struct {
		line  int
		items []expr
	}
	dictExpr struct {
		line         int
		keys, values []expr
	}
	attrExpr struct {
		line int
		of   expr
		name string
	}
	itemExpr struct {
		line    int
		of, key expr
	}
	sliceExpr struct {
		line  int
		of    expr
		parts [3]expr
	}
	callExpr struct {
		line  int
		fn    expr
		args  []expr
		named []parameter
	}
	filterExpr struct {
		line  int
		value expr
		name  string
		args  []expr
		named []parameter
	}
	testExpr struct {
		line    int
		value   expr
		negated bool
		name    string
		args    []expr
	}
	unaryExpr struct {
		line int
		op   string
		of   expr
	}
	binaryExpr struct {
		line        int
		op          string
		left, right expr
	}
	boolExpr struct {
		line        int
		or          bool
		left, right expr
	}
	operand struct {
		op    string
		value expr
	}
	compareExpr struct {
		line  int
		first expr
		rest  []operand
	}
	condExpr struct {
		line                   int
		value, cond, otherwise expr
	}
)

func (l *literalExpr) eval(r *run, _ *scope) any {
	r.step(0)
	return l.value
}

func (*bodyExpr) eval(r *run, s *scope) any {
	r.step(0)
	return s.get(bodyName)
}

func (n *nameExpr) eval(r *run, s *scope) any {
	r.step(n.line)
	return s.get(n.name)
}

func (l *listExpr) eval(r *run, s *scope) any {
	r.step(l.line)
	return r.evalAll(l.items, s)
}

func (r *run) evalAll(list []expr, s *scope) []any {
	if len(list) == 0 {
		return []any{}
	}
	r.enter()
	defer r.leave()
	all := r.list(len(list))
	for _, e := range list {
		all = append(all, e.eval(r, s))
	}
	return all
}

func (r *run) evalNamed(list []parameter, s *scope) map[string]any {
	if len(list) == 0 {
		return nil
	}
	r.enter()
	defer r.leave()
	all := make(map[string]any, len(list))
	for _, p := range list {
		all[p.name] = p.value.eval(r, s)
	}
	return all
}

func (d *dictExpr) eval(r *run, s *scope) any {
	r.step(d.line)
	r.enter()
	defer r.leave()
	r.spend(64 * len(d.keys))
	v := &Dict{}
	for i := range d.keys {
		v.Set(r.str(d.keys[i].eval(r, s)), d.values[i].eval(r, s))
	}
	return v
}

func (a *attrExpr) eval(r *run, s *scope) any {
	r.step(a.line)
	r.enter()
	defer r.leave()
	return r.attribute(a.of.eval(r, s), a.name)
}

func (i *itemExpr) eval(r *run, s *scope) any {
	r.step(i.line)
	r.enter()
	defer r.leave()
	return r.item(i.of.eval(r, s), i.key.eval(r, s))
}

func (e *sliceExpr) eval(r *run, s *scope) any {
	r.step(e.line)
	r.enter()
	defer r.leave()
	v := e.of.eval(r, s)
	var parts [3]any
	for i, p := range e.parts {
		if p != nil {
			parts[i] = p.eval(r, s)
		}
	}
	return r.slice(v, parts)
}

func (c *callExpr) eval(r *run, s *scope) any { return c.with(r, s, nil) }

// with calls with more named arguments than are written.
func (c *callExpr) with(r *run, s *scope, more map[string]any) any {
	r.step(c.line)
	r.enter()
	defer r.leave()
	fn, ok := c.fn.eval(r, s).(Func)
	if !ok {
		r.fail("%s is no function", describe(c.fn))
	}
	call := &Call{Args: r.evalAll(c.args, s), Named: r.evalNamed(c.named, s), run: r}
	for name, v := range more {
		if call.Named == nil {
			call.Named = map[string]any{}
		}
		call.Named[name] = v
	}
	return fn(call)
}

// describe names an expression for an error.
func describe(e expr) string {
	switch e := e.(type) {
	case *nameExpr:
		return e.name
	case *attrExpr:
		return "." + e.name
	}
	return "what is called"
}

func (f *filterExpr) eval(r *run, s *scope) any {
	r.step(f.line)
	r.enter()
	defer r.leave()
	c := &Call{Args: append([]any{f.value.eval(r, s)}, r.evalAll(f.args, s)...), Named: r.evalNamed(f.named, s), run: r}
	r.line = f.line
	return r.filter(f.name, c)
}

func (t *testExpr) eval(r *run, s *scope) any {
	r.step(t.line)
	r.enter()
	defer r.leave()
	v := t.value.eval(r, s)
	return r.test(t.name, v, r.evalAll(t.args, s)) != t.negated
}

func (u *unaryExpr) eval(r *run, s *scope) any {
	r.step(u.line)
	r.enter()
	defer r.leave()
	v := u.of.eval(r, s)
	if u.op == "not" {
		return !truth(v)
	}
	switch n := v.(type) {
	case int64:
		if u.op == "-" {
			return -n
		}
		return n
	case float64:
		if u.op == "-" {
			return -n
		}
		return n
	}
	r.fail("%q of what is no number", u.op)
	return nil
}

func (b *binaryExpr) eval(r *run, s *scope) any {
	r.step(b.line)
	r.enter()
	defer r.leave()
	left, right := b.left.eval(r, s), b.right.eval(r, s)
	r.line = b.line
	return r.binary(b.op, left, right)
}

func (b *boolExpr) eval(r *run, s *scope) any {
	r.step(b.line)
	r.enter()
	defer r.leave()
	left := b.left.eval(r, s)
	if truth(left) == b.or {
		return left
	}
	return b.right.eval(r, s)
}

func (c *compareExpr) eval(r *run, s *scope) any {
	r.step(c.line)
	r.enter()
	defer r.leave()
	left := c.first.eval(r, s)
	for _, o := range c.rest {
		right := o.value.eval(r, s)
		if !r.compare(o.op, left, right) {
			return false
		}
		left = right
	}
	return true
}

func (c *condExpr) eval(r *run, s *scope) any {
	r.step(c.line)
	r.enter()
	defer r.leave()
	switch {
	case truth(c.cond.eval(r, s)):
		return c.value.eval(r, s)
	case c.otherwise == nil:
		return undefined{"the value of a condition without else"}
	}
	return c.otherwise.eval(r, s)
}

// binary computes LEFT OP RIGHT as Python does.
func (r *run) binary(op string, left, right any) any {
	if op == "~" {
		a, b := r.str(left), r.str(right)
		r.spend(len(a) + len(b))
		return a + b
	}
	if text, ok := left.(string); ok {
		switch op {
		case "+":
			if other, ok := right.(string); ok {
				r.spend(len(text) + len(other))
				return text + other
			}
		case "*":
			if n, ok := right.(int64); ok {
				return r.repeat(text, n)
			}
		case "%":
			return r.printf(text, right)
		}
	}
	if list, ok := left.([]any); ok && op == "+" {
		if other, ok := right.([]any); ok {
			return append(append(r.list(len(list)+len(other)), list...), other...)
		}
	}
	a, aInt, aOK := numeric(left)
	b, bInt, bOK := numeric(right)
	if !aOK || !bOK {
		r.fail("cannot compute %s %s %s", kindOf(left), op, kindOf(right))
	}
	if (op == "/" || op == "//" || op == "%") && b == 0 {
		r.fail("division by zero")
	}
	if aInt && bInt && op != "/" {
		if n, ok := integer(op, int64Of(left), int64Of(right)); ok {
			return n
		}
	}
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "/":
		return a / b
	case "//":
		return math.Floor(a / b)
	case "%":
		return a - b*math.Floor(a/b)
	default:
		return math.Pow(a, b)
	}
}

// integer computes with whole numbers; not ok if the result is none of 64 bits.
func integer(op string, a, b int64) (int64, bool) {
	switch op {
	case "+":
		n := a + b
		return n, (n > a) == (b > 0)
	case "-":
		n := a - b
		return n, (n < a) == (b > 0)
	case "*":
		if a == 0 || b == 0 {
			return 0, true
		}
		n := a * b
		return n, n/b == a && (a != -1 || b != math.MinInt64) && (b != -1 || a != math.MinInt64)
	case "//":
		n := a / b
		if a%b != 0 && (a < 0) != (b < 0) {
			n--
		}
		return n, true
	case "%":
		n := a % b
		if n != 0 && (n < 0) != (b < 0) {
			n += b
		}
		return n, true
	}
	if b < 0 || b > 64 {
		return 0, false
	}
	n := int64(1)
	for range b {
		next, ok := integer("*", n, a)
		if !ok {
			return 0, false
		}
		n = next
	}
	return n, true
}

// repeat is text n times.
func (r *run) repeat(text string, n int64) string {
	if n <= 0 || text == "" {
		return ""
	}
	if n > maxValueBytes {
		n = maxValueBytes + 1 // spend refuses it, and the product does not overflow
	}
	r.spend(min(len(text), maxValueBytes) * int(n))
	out := make([]byte, 0, len(text)*int(n))
	for range n {
		out = append(out, text...)
	}
	return string(out)
}
