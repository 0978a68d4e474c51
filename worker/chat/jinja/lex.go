package jinja

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenText
	tokenVar      // {{
	tokenVarEnd   // }}
	tokenBlock    // {%
	tokenBlockEnd // %}
	tokenName
	tokenString
	tokenNumber
	tokenOp
)

type token struct {
	kind tokenKind
	text string // of a string its value
	line int
}

const whitespace = " \t\n\v\f\r"

// lexer cuts a template into texts and tags, as Jinja does with trim_blocks and
// lstrip_blocks: the newline after a block is not text, nor is what stands
// between the beginning of a line and a block.
type lexer struct {
	src    string
	pos    int
	line   int
	tokens []token

	trim      bool // drop all whitespace at the beginning of the next text
	lineBegin bool // the next text begins a line
}

func lex(src string) []token {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	l := &lexer{src: src, line: 1, lineBegin: true}
	for l.pos < len(l.src) {
		l.next()
	}
	l.add(tokenEnd, "the end of the template")
	l.add(tokenEnd, "the end of the template")
	return l.tokens
}

func (l *lexer) add(kind tokenKind, text string) {
	l.tokens = append(l.tokens, token{kind, text, l.line})
}

func (l *lexer) skip(n int) {
	l.line += strings.Count(l.src[l.pos:l.pos+n], "\n")
	l.pos += n
}

// next takes the text up to the next tag, and the tag.
func (l *lexer) next() {
	rest := l.src[l.pos:]
	at := 0
	for {
		i := strings.IndexByte(rest[at:], '{')
		if i < 0 {
			l.textUpTo(len(rest), "")
			return
		}
		at += i
		if at+1 < len(rest) && strings.IndexByte("{%#", rest[at+1]) >= 0 {
			break
		}
		at++
	}
	open := rest[at : at+2]
	sign := ""
	if at+2 < len(rest) && (rest[at+2] == '-' || rest[at+2] == '+') {
		sign = rest[at+2 : at+3]
	}
	l.textUpTo(at, open+sign)
	l.skip(len(open) + len(sign))
	switch open {
	case "{#":
		end := strings.Index(l.src[l.pos:], "#}")
		if end < 0 {
			fail(l.line, "a comment has no end")
		}
		closing := ""
		if end > 0 {
			closing = l.src[l.pos+end-1 : l.pos+end]
		}
		l.skip(end + 2)
		l.afterBlock(closing)
	case "{{":
		l.add(tokenVar, open)
		l.expression("}}")
	default:
		if l.raw() {
			return
		}
		l.add(tokenBlock, open)
		l.expression("%}")
	}
}

// textUpTo adds the text before a tag, without what the tags around it take away.
func (l *lexer) textUpTo(n int, tag string) {
	text := l.src[l.pos : l.pos+n]
	begin := l.lineBegin
	if l.trim {
		text = strings.TrimLeft(text, whitespace)
		begin = false
	}
	switch {
	case strings.HasSuffix(tag, "-"):
		text = strings.TrimRight(text, whitespace)
	case tag == "{%" || tag == "{#":
		lastLine := strings.LastIndexByte(text, '\n') + 1
		if (lastLine > 0 || begin) && strings.Trim(text[lastLine:], whitespace) == "" {
			text = text[:lastLine]
		}
	}
	if text != "" {
		l.add(tokenText, text)
	}
	l.skip(n)
	l.trim, l.lineBegin = false, false
}

// afterBlock drops the newline after a block or comment that ended with the sign.
func (l *lexer) afterBlock(sign string) {
	switch {
	case sign == "-":
		l.trim = true
	case sign != "+" && strings.HasPrefix(l.src[l.pos:], "\n"):
		l.skip(1)
		l.lineBegin = true
	}
}

// raw takes a raw block whole, if one begins here, behind its {%.
func (l *lexer) raw() bool {
	head := func(word string) (sign string, n int, ok bool) {
		rest := l.src[l.pos:]
		s := strings.TrimLeft(rest, whitespace)
		if !strings.HasPrefix(s, word) {
			return "", 0, false
		}
		s = strings.TrimLeft(s[len(word):], whitespace)
		if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
			sign, s = s[:1], s[1:]
		}
		if !strings.HasPrefix(s, "%}") {
			return "", 0, false
		}
		return sign, len(rest) - len(s) + 2, true
	}
	sign, n, ok := head("raw")
	if !ok {
		return false
	}
	l.skip(n)
	l.afterBlock(sign)
	for i := l.pos; ; i += 2 {
		j := strings.Index(l.src[i:], "{%")
		if j < 0 {
			fail(l.line, "a raw block has no end")
		}
		i += j
		tag := "{%"
		if i+2 < len(l.src) && (l.src[i+2] == '-' || l.src[i+2] == '+') {
			tag = l.src[i : i+3]
		}
		here, line := l.pos, l.line
		l.pos = i + len(tag)
		sign, n, ok = head("endraw")
		l.pos, l.line = here, line
		if ok {
			l.textUpTo(i-l.pos, tag)
			l.skip(len(tag) + n)
			l.afterBlock(sign)
			return true
		}
	}
}

// operators, the longer before their beginnings.
var operators = []string{
	"**", "//", "==", "!=", "<=", ">=",
	"+", "-", "*", "/", "%", "~", "|", ".", ",", ":", "(", ")", "[", "]", "{", "}", "=", "<", ">",
}

// expression cuts what is inside a tag, up to its end.
func (l *lexer) expression(end string) {
	begun := l.line
	var open []byte
	for {
		rest := l.src[l.pos:]
		trimmed := strings.TrimLeft(rest, whitespace)
		l.skip(len(rest) - len(trimmed))
		if trimmed == "" {
			fail(begun, "a tag has no end")
		}
		if len(open) == 0 && l.tagEnd(trimmed, end) {
			return
		}
		switch c := trimmed[0]; {
		case c == '"' || c == '\'':
			l.quoted(trimmed)
			continue
		case c >= '0' && c <= '9':
			l.number(trimmed)
			continue
		}
		if n := nameLength(trimmed); n > 0 {
			l.add(tokenName, trimmed[:n])
			l.skip(n)
			continue
		}
		op := l.operator(trimmed)
		switch op {
		case "(", "[", "{":
			if open = append(open, op[0]); len(open) > maxParseDepth {
				fail(l.line, "the template is nested too deeply")
			}
		case ")", "]", "}":
			if len(open) == 0 || strings.IndexByte("([{", open[len(open)-1]) != strings.Index(")]}", op) {
				fail(l.line, "%q closes nothing", op)
			}
			open = open[:len(open)-1]
		}
		l.add(tokenOp, op)
		l.skip(len(op))
	}
}

func (l *lexer) tagEnd(rest, end string) bool {
	sign := ""
	if rest[0] == '-' || rest[0] == '+' && end == "%}" {
		sign, rest = rest[:1], rest[1:]
	}
	if !strings.HasPrefix(rest, end) {
		return false
	}
	kind := tokenVarEnd
	if end == "%}" {
		kind = tokenBlockEnd
	}
	l.add(kind, end)
	l.skip(len(sign) + len(end))
	if kind == tokenBlockEnd {
		l.afterBlock(sign)
	} else {
		l.trim = sign == "-"
	}
	return true
}

func (l *lexer) operator(rest string) string {
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			return op
		}
	}
	c, _ := utf8.DecodeRuneInString(rest)
	fail(l.line, "%q means nothing here", c)
	return ""
}

func nameLength(s string) int {
	n := 0
	for i, c := range s {
		if c != '_' && !unicode.IsLetter(c) && (i == 0 || !unicode.IsDigit(c)) {
			break
		}
		n = i + utf8.RuneLen(c)
	}
	return n
}

func (l *lexer) number(rest string) {
	n := 0
	for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '_') {
		n++
	}
	if n+1 < len(rest) && rest[n] == '.' && rest[n+1] >= '0' && rest[n+1] <= '9' {
		for n++; n < len(rest) && rest[n] >= '0' && rest[n] <= '9'; n++ {
		}
	}
	if n+1 < len(rest) && (rest[n] == 'e' || rest[n] == 'E') {
		e := n + 1
		if rest[e] == '+' || rest[e] == '-' {
			e++
		}
		digits := e
		for e < len(rest) && rest[e] >= '0' && rest[e] <= '9' {
			e++
		}
		if e > digits {
			n = e
		}
	}
	l.add(tokenNumber, strings.ReplaceAll(rest[:n], "_", ""))
	l.skip(n)
}

// quoted takes a string with the escapes of Python.
func (l *lexer) quoted(rest string) {
	quote := rest[0]
	var text strings.Builder
	for i := 1; i < len(rest); i++ {
		c := rest[i]
		switch {
		case c == quote:
			l.add(tokenString, text.String())
			l.skip(i + 1)
			return
		case c != '\\' || i+1 == len(rest):
			text.WriteByte(c)
			continue
		}
		i++
		switch c := rest[i]; c {
		case 'n', 't', 'r', 'f', 'v', 'b', 'a':
			text.WriteByte("\n\t\r\f\v\b\a"[strings.IndexByte("ntrfvba", c)])
		case '\\', '"', '\'':
			text.WriteByte(c)
		case '\n':
		case 'x', 'u', 'U':
			n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
			if i+n >= len(rest) {
				fail(l.line, "an escape in a string is cut")
			}
			code, err := strconv.ParseUint(rest[i+1:i+1+n], 16, 32)
			if err != nil {
				fail(l.line, "an escape in a string has no number")
			}
			text.WriteRune(rune(code))
			i += n
		default:
			text.WriteByte('\\')
			text.WriteByte(c)
		}
	}
	fail(l.line, "a string has no end")
}
