package jinja

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// tuple reads an expression, or several with commas between them.
func (p *parser) tuple() expr { return p.tupleOf(p.expr) }

func (p *parser) tupleOf(one func() expr) expr {
	line := p.peek().line
	first := one()
	if !p.isOp(",") {
		return first
	}
	items := []expr{first}
	for p.takeOp(",") {
		if t := p.peek(); t.kind == tokenVarEnd || t.kind == tokenBlockEnd || p.isOp(")") || p.isOp("=") {
			break
		}
		items = append(items, one())
	}
	return &listExpr{line, items}
}

// expr reads a whole expression: VALUE if CONDITION else OTHER, or less.
func (p *parser) expr() expr {
	p.deeper()
	defer func() { p.depth-- }()
	e := p.or()
	for p.isName("if") {
		line := p.next().line
		c := &condExpr{line: line, value: e, cond: p.or()}
		if p.takeName("else") {
			c.otherwise = p.expr()
		}
		e = c
	}
	return e
}

func (p *parser) or() expr {
	e := p.and()
	for p.isName("or") {
		line := p.next().line
		e = &boolExpr{line, true, e, p.and()}
	}
	return e
}

func (p *parser) and() expr {
	e := p.not()
	for p.isName("and") {
		line := p.next().line
		e = &boolExpr{line, false, e, p.not()}
	}
	return e
}

func (p *parser) not() expr {
	if p.isName("not") {
		p.deeper()
		defer func() { p.depth-- }()
		line := p.next().line
		return &unaryExpr{line, "not", p.not()}
	}
	return p.compare()
}

var comparisons = []string{"==", "!=", "<", "<=", ">", ">="}

func (p *parser) compare() expr {
	line := p.peek().line
	first := p.sum()
	var rest []operand
	for {
		op := ""
		switch t := p.peek(); {
		case t.kind == tokenOp && slices.Contains(comparisons, t.text):
			op = t.text
			p.at++
		case p.takeName("in"):
			op = "in"
		case p.isName("not") && p.ahead(1).kind == tokenName && p.ahead(1).text == "in":
			op = "not in"
			p.at += 2
		}
		if op == "" {
			break
		}
		rest = append(rest, operand{op, p.sum()})
	}
	if rest == nil {
		return first
	}
	return &compareExpr{line, first, rest}
}

// binary reads operands of the next level with the operators between them.
func (p *parser) binary(next func() expr, ops ...string) expr {
	e := next()
	for {
		t := p.peek()
		if t.kind != tokenOp || !slices.Contains(ops, t.text) {
			return e
		}
		p.at++
		e = &binaryExpr{t.line, t.text, e, next()}
	}
}

func (p *parser) sum() expr     { return p.binary(p.concat, "+", "-") }
func (p *parser) concat() expr  { return p.binary(p.product, "~") }
func (p *parser) product() expr { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() expr   { return p.binary(p.unary, "**") }

func (p *parser) unary() expr { return p.signed(true) }

func (p *parser) signed(withFilters bool) expr {
	var e expr
	t := p.peek()
	if t.kind == tokenOp && (t.text == "-" || t.text == "+") {
		p.deeper()
		defer func() { p.depth-- }()
		p.at++
		e = &unaryExpr{t.line, t.text, p.signed(false)}
	} else {
		e = p.postfix(p.primary())
	}
	if !withFilters {
		return e
	}
	for {
		switch {
		case p.isOp("|"):
			e = p.filters(e)
		case p.isName("is"):
			e = p.test(e)
		case p.isOp("("):
			e = p.postfix(e)
		default:
			return e
		}
	}
}

func (p *parser) primary() expr {
	t := p.next()
	switch t.kind {
	case tokenName:
		switch t.text {
		case "true", "True":
			return &literalExpr{true}
		case "false", "False":
			return &literalExpr{false}
		case "none", "None":
			return &literalExpr{nil}
		}
		return &nameExpr{t.line, t.text}
	case tokenString:
		text := t.text
		for p.peek().kind == tokenString { // strings that stand together are one
			text += p.next().text
		}
		return &literalExpr{text}
	case tokenNumber:
		return &literalExpr{number(t)}
	case tokenOp:
		switch t.text {
		case "(":
			if p.takeOp(")") {
				return &listExpr{t.line, nil}
			}
			e := p.tuple()
			p.wantOp(")")
			return e
		case "[":
			return &listExpr{t.line, p.items("]")}
		case "{":
			return p.dictLiteral(t.line)
		}
	}
	fail(t.line, "%q where a value should be", t.text)
	return nil
}

func number(t token) any {
	if !strings.ContainsAny(t.text, ".eE") {
		n, ok := new(big.Int).SetString(t.text, 10)
		if !ok || !n.IsInt64() {
			fail(t.line, "a number is too large")
		}
		return n.Int64()
	}
	f, err := strconv.ParseFloat(t.text, 64)
	if err != nil {
		fail(t.line, "a number is too large")
	}
	return f
}

// items reads expressions up to the closing operator.
func (p *parser) items(closing string) []expr {
	var all []expr
	for !p.takeOp(closing) {
		if len(all) > 0 {
			p.wantOp(",")
			if p.takeOp(closing) {
				break
			}
		}
		all = append(all, p.expr())
	}
	return all
}

func (p *parser) dictLiteral(line int) expr {
	d := &dictExpr{line: line}
	for !p.takeOp("}") {
		if len(d.keys) > 0 {
			p.wantOp(",")
			if p.takeOp("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expr())
		p.wantOp(":")
		d.values = append(d.values, p.expr())
	}
	return d
}

func (p *parser) postfix(e expr) expr {
	for {
		t := p.peek()
		switch {
		case p.takeOp("."):
			name := p.next()
			if name.kind != tokenName && name.kind != tokenNumber {
				fail(name.line, "%q where a name should be", name.text)
			}
			if name.kind == tokenNumber {
				e = &itemExpr{t.line, e, &literalExpr{number(name)}}
			} else {
				e = &attrExpr{t.line, e, name.text}
			}
		case p.takeOp("["):
			e = p.subscript(t.line, e)
		case p.isOp("("):
			c := &callExpr{line: t.line, fn: e}
			c.args, c.named = p.arguments()
			e = c
		default:
			return e
		}
	}
}

func (p *parser) subscript(line int, e expr) expr {
	var parts [3]expr
	n, colons := 0, 0
	for !p.takeOp("]") {
		if p.takeOp(":") {
			if colons++; colons > 2 {
				p.fail("a slice has too many parts")
			}
			n = colons
			continue
		}
		if parts[n] != nil {
			p.fail("%q where \"]\" should be", p.peek().text)
		}
		parts[n] = p.expr()
	}
	switch {
	case colons > 0:
		return &sliceExpr{line, e, parts}
	case parts[0] == nil:
		p.fail("a subscript is empty")
	}
	return &itemExpr{line, e, parts[0]}
}

// arguments reads (A, B, name=C).
func (p *parser) arguments() (args []expr, named []parameter) {
	first := true
	for p.wantOp("("); !p.takeOp(")"); first = false {
		if !first {
			p.wantOp(",")
			if p.takeOp(")") {
				break
			}
		}
		if p.isOp("*") || p.isOp("**") {
			p.fail("arguments from a list are not supported")
		}
		if p.peek().kind == tokenName && p.ahead(1).kind == tokenOp && p.ahead(1).text == "=" {
			name := p.next().text
			p.at++
			named = append(named, parameter{name, p.expr()})
			continue
		}
		args = append(args, p.expr())
	}
	return args, named
}

// filters reads NAME, NAME(ARGS), and more of them behind bars. The value may
// be nil where a body comes before the filters.
func (p *parser) filters(e expr) expr {
	if e == nil {
		e = &bodyExpr{}
		p.takeOp("|")
	} else {
		p.wantOp("|")
	}
	for {
		f := &filterExpr{line: p.peek().line, value: e, name: p.wantName()}
		if p.isOp("(") {
			f.args, f.named = p.arguments()
		}
		e = f
		if !p.takeOp("|") {
			return e
		}
	}
}

func (p *parser) test(e expr) expr {
	p.at++
	t := &testExpr{line: p.peek().line, value: e, negated: p.takeName("not")}
	t.name = p.wantName()
	switch next := p.peek(); {
	case p.isOp("("):
		t.args, _ = p.arguments()
	case next.kind == tokenString, next.kind == tokenNumber, p.isOp("["), p.isOp("{"),
		next.kind == tokenName && !slices.Contains([]string{"else", "or", "and", "is", "if", "in", "not", "recursive"}, next.text):
		t.args = []expr{p.postfix(p.primary())}
	}
	return t
}
