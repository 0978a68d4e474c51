package grammar

import (
	"slices"
	"strings"
	"unicode/utf8"

	"rbee"
)

type kind uint8

const (
	isSet    kind = iota // one character of a set
	isCall               // what a rule says
	isSeries             // all parts, one after the other
	isChoice             // one of the parts
	isRepeat             // the part from low to high times; high -1 is without end
)

// expr is what a rule says, as it was written.
type expr struct {
	kind      kind
	set       charset
	rule      int
	parts     []*expr
	low, high int
}

// definition is one rule.
type definition struct {
	name string
	pos  int // of its first use
	body *expr
}

// parser reads GBNF. Its methods expect what they are named for at pos, and
// leave pos and spaces behind it.
type parser struct {
	text    string
	pos     int
	nesting int
	rules   []definition
	number  map[string]int
}

// parse reads the rules of a text; the first is root.
func parse(text string) ([]definition, error) {
	if len(text) > maxText {
		return nil, fault("it has %d bytes, more than %d", len(text), maxText)
	}
	if !utf8.ValidString(text) {
		return nil, fault("it is not UTF-8")
	}
	p := &parser{text: text, number: map[string]int{}}
	if _, err := p.ruleNamed("root"); err != nil {
		return nil, err
	}
	p.space(true)
	for p.pos < len(text) {
		if err := p.definition(); err != nil {
			return nil, err
		}
	}
	for _, r := range p.rules {
		switch {
		case r.body != nil:
		case r.name == "root":
			return nil, fault("it has no rule root, with which a text begins")
		default:
			p.pos = r.pos
			return nil, p.fault("there is no rule %s", r.name)
		}
	}
	return p.rules, nil
}

func (p *parser) line() int { return 1 + strings.Count(p.text[:min(p.pos, len(p.text))], "\n") }

func (p *parser) fault(format string, args ...any) *rbee.Error {
	return fault("line %d: "+format, append([]any{p.line()}, args...)...)
}

// at is the byte at pos, 0 at the end.
func (p *parser) at() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

// space goes over blanks and comments, and over line ends if asked.
func (p *parser) space(lines bool) {
	for {
		switch p.at() {
		case ' ', '\t':
			p.pos++
		case '\r', '\n':
			if !lines {
				return
			}
			p.pos++
		case '#':
			for p.at() != '\n' && p.pos < len(p.text) {
				p.pos++
			}
		default:
			return
		}
	}
}

func inName(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

func (p *parser) name() string {
	from := p.pos
	for inName(p.at()) {
		p.pos++
	}
	return p.text[from:p.pos]
}

func (p *parser) ruleNamed(name string) (int, error) {
	if n, ok := p.number[name]; ok {
		return n, nil
	}
	if len(p.rules) == maxRules {
		return 0, fault("it has more than %d rules", maxRules)
	}
	p.number[name] = len(p.rules)
	p.rules = append(p.rules, definition{name: name, pos: p.pos})
	return len(p.rules) - 1, nil
}

func (p *parser) definition() error {
	name := p.name()
	if name == "" {
		return p.fault("the name of a rule is missing")
	}
	n, err := p.ruleNamed(name)
	if err != nil {
		return err
	}
	if p.rules[n].body != nil {
		return p.fault("rule %s is there twice", name)
	}
	p.space(false)
	if !strings.HasPrefix(p.text[p.pos:], "::=") {
		return p.fault("::= is missing after %s", name)
	}
	p.pos += len("::=")
	p.space(true)
	body, err := p.choice(false)
	if err != nil {
		return err
	}
	p.rules[n].body = body
	if c := p.at(); p.pos < len(p.text) && c != '\n' && c != '\r' {
		return p.fault("unexpected %q in rule %s", p.text[p.pos:p.pos+p.width()], name)
	}
	p.space(true)
	return nil
}

// width is the length of the character at pos.
func (p *parser) width() int {
	_, n := utf8.DecodeRuneInString(p.text[p.pos:])
	return n
}

func (p *parser) choice(lines bool) (*expr, error) {
	var parts []*expr
	for {
		part, err := p.series(lines)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		if p.at() != '|' {
			break
		}
		p.pos++
		p.space(true)
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return &expr{kind: isChoice, parts: parts}, nil
}

func (p *parser) series(lines bool) (*expr, error) {
	series := &expr{kind: isSeries}
	for {
		part, err := p.symbol()
		if err != nil {
			return nil, err
		}
		if part == nil {
			return series, nil
		}
		p.space(lines)
		for n := 0; strings.IndexByte("*+?{", p.at()) >= 0 && p.pos < len(p.text); n++ {
			if n == maxNesting {
				return nil, p.fault("more than %d repetitions of one another", maxNesting)
			}
			if part, err = p.repetition(part); err != nil {
				return nil, err
			}
			p.space(lines)
		}
		series.parts = append(series.parts, part)
	}
}

// symbol reads what may be repeated; nil if there is nothing more in the series.
func (p *parser) symbol() (*expr, error) {
	c := p.at()
	switch {
	case p.pos == len(p.text):
		return nil, nil
	case c == '"':
		return p.literal()
	case c == '[':
		return p.class()
	case c == '.':
		p.pos++
		return &expr{kind: isSet, set: anyCharacter()}, nil
	case c == '(':
		return p.group()
	case inName(c):
		return p.reference()
	case c == '<' || c == '!':
		return nil, p.fault("tokens such as <name> are not supported in a grammar; write the text")
	}
	return nil, nil
}

func (p *parser) reference() (*expr, error) {
	name := p.name()
	n, err := p.ruleNamed(name)
	if err != nil {
		return nil, err
	}
	return &expr{kind: isCall, rule: n}, nil
}

func (p *parser) group() (*expr, error) {
	if p.nesting++; p.nesting > maxNesting {
		return nil, p.fault("more than %d parentheses inside one another", maxNesting)
	}
	p.pos++
	p.space(true)
	inner, err := p.choice(true)
	if err != nil {
		return nil, err
	}
	if p.at() != ')' {
		return nil, p.fault("a parenthesis is not closed")
	}
	p.pos++
	p.nesting--
	return inner, nil
}

func (p *parser) literal() (*expr, error) {
	p.pos++
	series := &expr{kind: isSeries}
	for p.at() != '"' {
		r, err := p.character("a text")
		if err != nil {
			return nil, err
		}
		if 0xd800 <= r && r <= 0xdfff {
			return nil, p.fault("a text has half a surrogate pair, which is no character")
		}
		series.parts = append(series.parts, &expr{kind: isSet, set: charset{{r, r}}})
	}
	p.pos++
	if len(series.parts) == 1 {
		return series.parts[0], nil
	}
	return series, nil
}

func (p *parser) class() (*expr, error) {
	p.pos++
	negated := p.at() == '^'
	if negated {
		p.pos++
	}
	var set charset
	for p.at() != ']' {
		low, err := p.character("a class")
		if err != nil {
			return nil, err
		}
		high := low
		if p.at() == '-' && p.pos+1 < len(p.text) && p.text[p.pos+1] != ']' {
			p.pos++
			if high, err = p.character("a class"); err != nil {
				return nil, err
			}
			if high < low {
				return nil, p.fault("a class has a range that ends before it begins")
			}
		}
		set = append(set, span{low, high})
	}
	p.pos++
	if len(set) == 0 {
		return nil, p.fault("a class is empty")
	}
	set = set.normal()
	if negated {
		set = set.complement()
	}
	return &expr{kind: isSet, set: set}, nil
}

// character reads one character of a text or class, which may be written as an escape.
func (p *parser) character(what string) (rune, error) {
	c := p.at()
	switch {
	case p.pos == len(p.text) || c == '\n':
		return 0, p.fault("%s is not closed", what)
	case c != '\\':
		r, n := utf8.DecodeRuneInString(p.text[p.pos:])
		p.pos += n
		return r, nil
	}
	p.pos++
	c = p.at()
	p.pos++
	switch c {
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case '\\', '"', '[', ']', '-', '^':
		return rune(c), nil
	case 'x':
		return p.hex(2)
	case 'u':
		return p.hex(4)
	case 'U':
		return p.hex(8)
	}
	return 0, p.fault("%s has a backslash before a character that has no meaning then", what)
}

func (p *parser) hex(digits int) (rune, error) {
	r := rune(0)
	for range digits {
		d := strings.IndexByte("0123456789abcdef", p.at()|0x20)
		if c := p.at(); d < 0 || c < '0' {
			return 0, p.fault("an escape needs %d hexadecimal digits", digits)
		}
		if r = r<<4 | rune(d); r > utf8.MaxRune {
			return 0, p.fault("an escape is beyond the last character, U+10FFFF")
		}
		p.pos++
	}
	return r, nil
}

func (p *parser) repetition(part *expr) (*expr, error) {
	c := p.at()
	p.pos++
	low, high := 0, -1
	switch c {
	case '+':
		low = 1
	case '?':
		high = 1
	case '{':
		var err error
		if low, high, err = p.times(); err != nil {
			return nil, err
		}
	}
	return &expr{kind: isRepeat, parts: []*expr{part}, low: low, high: high}, nil
}

// times reads m}, m,} or m,n}.
func (p *parser) times() (low, high int, err error) {
	if low, err = p.integer(); err != nil {
		return 0, 0, err
	}
	high = low
	if p.space(false); p.at() == ',' {
		p.pos++
		high = -1
		if p.space(false); p.at() != '}' {
			if high, err = p.integer(); err != nil {
				return 0, 0, err
			}
		}
		p.space(false)
	}
	if p.at() != '}' {
		return 0, 0, p.fault("a repetition is not closed")
	}
	p.pos++
	if high >= 0 && high < low {
		return 0, 0, p.fault("a repetition has a maximum below its minimum")
	}
	return low, high, nil
}

func (p *parser) integer() (int, error) {
	p.space(false)
	from, n := p.pos, 0
	for c := p.at(); '0' <= c && c <= '9'; c = p.at() {
		if n = n*10 + int(c-'0'); n > maxSteps {
			return 0, p.fault("a repetition of more than %d times", maxSteps)
		}
		p.pos++
	}
	if p.pos == from {
		return 0, p.fault("a number is missing in a repetition")
	}
	return n, nil
}

// span is a range of characters, both ends included.
type span struct{ low, high rune }

// charset is a set of characters.
type charset []span

func anyCharacter() charset { return charset{{0, utf8.MaxRune}} }

// normal is the set with its spans in order and apart.
func (s charset) normal() charset {
	s = slices.Clone(s)
	slices.SortFunc(s, func(a, b span) int { return int(a.low - b.low) })
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && x.low <= out[n-1].high+1 {
			out[n-1].high = max(out[n-1].high, x.high)
			continue
		}
		out = append(out, x)
	}
	return out
}

// complement are the characters outside of a normal set.
func (s charset) complement() charset {
	var out charset
	next := rune(0)
	for _, x := range s {
		if next < x.low {
			out = append(out, span{next, x.low - 1})
		}
		next = x.high + 1
	}
	if next <= utf8.MaxRune {
		out = append(out, span{next, utf8.MaxRune})
	}
	return out
}
