package jinja

import "strings"

// parser reads tokens by recursive descent, with the precedences of Jinja.
type parser struct {
	tokens []token
	at     int
	depth  int
}

func (p *parser) peek() token { return p.tokens[p.at] }

// ahead is the token n places on, or the end.
func (p *parser) ahead(n int) token { return p.tokens[min(p.at+n, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != tokenEnd {
		p.at++
	}
	return t
}

func (p *parser) fail(format string, args ...any) { fail(p.peek().line, format, args...) }

func (p *parser) isOp(op string) bool {
	t := p.peek()
	return t.kind == tokenOp && t.text == op
}

func (p *parser) isName(name string) bool {
	t := p.peek()
	return t.kind == tokenName && t.text == name
}

func (p *parser) takeOp(op string) bool {
	if p.isOp(op) {
		p.at++
		return true
	}
	return false
}

func (p *parser) takeName(name string) bool {
	if p.isName(name) {
		p.at++
		return true
	}
	return false
}

func (p *parser) wantOp(op string) {
	if !p.takeOp(op) {
		p.fail("%q where %q should be", p.peek().text, op)
	}
}

func (p *parser) wantName() string {
	t := p.next()
	if t.kind != tokenName {
		fail(t.line, "%q where a name should be", t.text)
	}
	return t.text
}

func (p *parser) wantBlockEnd() {
	if t := p.next(); t.kind != tokenBlockEnd {
		fail(t.line, "%q where the end of the tag should be", t.text)
	}
}

func (p *parser) deeper() {
	if p.depth++; p.depth > maxParseDepth {
		p.fail("the template is nested too deeply")
	}
}

// body reads up to a block that is none of its own, or to the end.
func (p *parser) body() []stmt {
	p.deeper()
	defer func() { p.depth-- }()
	var all []stmt
	for {
		t := p.peek()
		switch t.kind {
		case tokenText:
			p.at++
			all = append(all, &textStmt{t.text})
		case tokenVar:
			p.at++
			e := p.tuple()
			if end := p.next(); end.kind != tokenVarEnd {
				fail(end.line, "%q where the end of the expression should be", end.text)
			}
			all = append(all, &printStmt{t.line, e})
		case tokenBlock:
			word := p.ahead(1)
			if word.kind != tokenName {
				fail(word.line, "a block begins with %q", word.text)
			}
			if word.text == "else" || word.text == "elif" || strings.HasPrefix(word.text, "end") {
				return all
			}
			p.at += 2
			all = append(all, p.block(word))
		default:
			return all
		}
	}
}

// end takes the block that must come, such as endif.
func (p *parser) end(word string) {
	if p.peek().kind != tokenBlock || p.ahead(1).text != word {
		p.fail("%q is missing", word)
	}
	p.at += 2
	p.wantBlockEnd()
}

// takeBlock takes a block with the word, and leaves the rest of its tag.
func (p *parser) takeBlock(word string) bool {
	if p.peek().kind == tokenBlock && p.ahead(1).text == word {
		p.at += 2
		return true
	}
	return false
}

func (p *parser) block(word token) stmt {
	switch word.text {
	case "if":
		return p.ifBlock(word.line)
	case "for":
		return p.forBlock(word.line)
	case "set":
		return p.setBlock(word.line)
	case "macro":
		return p.macroBlock(word.line)
	case "call":
		return p.callBlock(word.line)
	case "filter":
		s := &filterStmt{line: word.line, filters: p.filters(nil)}
		p.wantBlockEnd()
		s.body = p.body()
		p.end("endfilter")
		return s
	case "with":
		return p.withBlock(word.line)
	case "break", "continue":
		p.wantBlockEnd()
		if word.text == "break" {
			return jumpStmt{flowBreak}
		}
		return jumpStmt{flowContinue}
	case "do":
		s := &doStmt{word.line, p.tuple()}
		p.wantBlockEnd()
		return s
	case "generation": // marks the text of the assistant for training
		p.wantBlockEnd()
		s := &scopeStmt{body: p.body()}
		p.end("endgeneration")
		return s
	}
	fail(word.line, "the block %q is not one of chat templates", word.text)
	return nil
}

func (p *parser) ifBlock(line int) stmt {
	s := &ifStmt{line: line}
	for {
		cond := p.expr()
		p.wantBlockEnd()
		s.branches = append(s.branches, branch{cond, p.body()})
		if !p.takeBlock("elif") {
			break
		}
	}
	if p.takeBlock("else") {
		p.wantBlockEnd()
		s.branches = append(s.branches, branch{nil, p.body()})
	}
	p.end("endif")
	return s
}

func (p *parser) targets() []string {
	paren := p.takeOp("(")
	names := []string{p.wantName()}
	for p.takeOp(",") {
		names = append(names, p.wantName())
	}
	if paren {
		p.wantOp(")")
	}
	return names
}

func (p *parser) forBlock(line int) stmt {
	s := &forStmt{line: line, names: p.targets()}
	if !p.takeName("in") {
		p.fail("%q where \"in\" should be", p.peek().text)
	}
	s.list = p.tupleOf(p.or)
	if p.takeName("if") {
		s.cond = p.expr()
	}
	if p.isName("recursive") {
		p.fail("recursive loops are not supported")
	}
	p.wantBlockEnd()
	s.body = p.body()
	if p.takeBlock("else") {
		p.wantBlockEnd()
		s.otherwise = p.body()
	}
	p.end("endfor")
	return s
}

func (p *parser) setBlock(line int) stmt {
	s := &setStmt{line: line}
	name := p.wantName()
	if p.takeOp(".") {
		s.space, name = name, p.wantName()
	}
	s.names = []string{name}
	for s.space == "" && p.takeOp(",") {
		s.names = append(s.names, p.wantName())
	}
	if p.takeOp("=") {
		s.value = p.tuple()
		p.wantBlockEnd()
		return s
	}
	if p.isOp("|") {
		s.filters = p.filters(nil)
	}
	p.wantBlockEnd()
	s.body = p.body()
	p.end("endset")
	return s
}

func (p *parser) parameters() []parameter {
	var all []parameter
	for p.wantOp("("); !p.takeOp(")"); {
		if len(all) > 0 {
			p.wantOp(",")
			if p.takeOp(")") {
				break
			}
		}
		par := parameter{name: p.wantName()}
		if p.takeOp("=") {
			par.value = p.expr()
		}
		all = append(all, par)
	}
	return all
}

func (p *parser) macroBlock(line int) stmt {
	s := &macroStmt{line: line, name: p.wantName()}
	s.parameters = p.parameters()
	p.wantBlockEnd()
	s.body = p.body()
	p.end("endmacro")
	return s
}

func (p *parser) callBlock(line int) stmt {
	s := &callStmt{line: line}
	if p.isOp("(") {
		s.parameters = p.parameters()
	}
	call, ok := p.expr().(*callExpr)
	if !ok {
		p.fail("a call block calls nothing")
	}
	s.call = call
	p.wantBlockEnd()
	s.body = p.body()
	p.end("endcall")
	return s
}

func (p *parser) withBlock(line int) stmt {
	s := &scopeStmt{line: line}
	for p.peek().kind != tokenBlockEnd {
		if len(s.names) > 0 {
			p.wantOp(",")
		}
		s.names = append(s.names, p.wantName())
		p.wantOp("=")
		s.values = append(s.values, p.expr())
	}
	p.wantBlockEnd()
	s.body = p.body()
	p.end("endwith")
	return s
}
