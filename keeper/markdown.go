package keeper

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxHeld bounds, in bytes, the text that is held back while it is not known
// whether a mark has its counterpart. Longer text is shown with the mark.
const maxHeld = 400

// look is how text stands on a terminal; its bits add up.
type look uint8

const (
	bold look = 1 << iota
	faint
	italic
	code
)

// sequence is the escape sequence that begins a look, whatever was before.
func (l look) sequence() string {
	s := "\x1b[0"
	for i, number := range []string{"1", "2", "3", "36"} {
		if l&(1<<i) != 0 {
			s += ";" + number
		}
	}
	return s + "m"
}

// markdown styles the Markdown of an answer while it comes: headings, bold,
// italics, code, fences, lists, quotes and rules. What a mark means is often
// known only later, so a mark and what follows it is held back until it is
// known, at the latest until the end of the line. It reads letter by letter:
// in which pieces a text comes makes no difference.
//
// Control characters never reach the terminal, which a model could play with.
type markdown struct {
	out     func(string)
	part    []byte // the first bytes of a letter
	held    string // of the current line, what is not decided
	inLine  bool   // the beginning of the line, with the marks of its block, is done
	before  rune   // the letter before held
	block   look   // of the line
	fence   string // the mark that began the code we are in
	current look   // of the terminal
	column  bool   // something stands on the line
}

func newMarkdown(out func(string)) *markdown { return &markdown{out: out, before: ' '} }

// write takes the next piece of the text.
func (m *markdown) write(text string) {
	for _, r := range whole(&m.part, text) {
		switch r = visible(r); r {
		case '\n':
			m.endLine()
		case dropped:
		default:
			m.held += string(r)
			m.advance(false)
		}
	}
}

// end shows what was held back, and leaves the terminal as it was.
func (m *markdown) end() {
	if len(m.part) > 0 {
		m.part = nil
		m.held += string(utf8.RuneError)
	}
	m.advance(true)
	m.show("", 0)
	*m = markdown{out: m.out, before: ' ', column: m.column}
}

// whole adds text to the bytes that wait for the rest of their letter, and
// returns the letters that are complete.
func whole(part *[]byte, text string) []rune {
	b := append(*part, text...)
	var runes []rune
	for len(b) > 0 && utf8.FullRune(b) {
		r, size := utf8.DecodeRune(b)
		runes = append(runes, r)
		b = b[size:]
	}
	*part = append([]byte(nil), b...)
	return runes
}

// dropped stands for a letter that is left out.
const dropped rune = -1

// visible is a letter as a terminal may have it.
func visible(r rune) rune {
	if r == '\r' { // of line ends, as some write them
		return dropped
	}
	if unicode.IsControl(r) && r != '\t' && r != '\n' {
		return utf8.RuneError
	}
	return r
}

// withoutControls is text that a terminal takes for nothing but text.
func withoutControls(text string) string { return strings.Map(visible, text) }

// show writes text in a look.
func (m *markdown) show(text string, l look) {
	if l != m.current {
		m.current = l
		m.out(l.sequence())
	}
	if text != "" {
		m.out(text)
		m.column = true
	}
}

func (m *markdown) endLine() {
	m.advance(true)
	m.show("", 0)
	m.out("\n")
	m.held, m.inLine, m.before, m.block, m.column = "", false, ' ', 0, false
}

// advance decides what can be decided; at the end of a line that is all.
func (m *markdown) advance(last bool) {
	if m.fence != "" {
		m.inFence(last)
		return
	}
	for !m.inLine {
		if !m.begin(last) {
			return
		}
	}
	m.inline(last)
}

// inFence shows code as it is, and looks for the mark that ends it.
func (m *markdown) inFence(last bool) {
	if m.inLine {
		m.show(m.held, code)
		m.held = ""
		return
	}
	mark := strings.TrimSpace(m.held)
	run := len(mark) - len(strings.TrimLeft(mark, m.fence[:1]))
	switch {
	case run < len(mark): // something else stands on the line
	case last && run >= len(m.fence):
		m.show(m.held, faint)
		m.held, m.fence = "", ""
		return
	case !last:
		return
	}
	m.inLine = true
	m.show(m.held, code)
	m.held = ""
}

// begin reads the mark of a block at the beginning of a line. It says whether
// it is decided what the line begins with; then either inLine is set or more
// marks may follow.
func (m *markdown) begin(last bool) bool {
	if len(m.held) > maxHeld { // the mark of no block is as long
		m.inLine = true
		return true
	}
	indent := m.held[:len(m.held)-len(strings.TrimLeft(m.held, " \t"))]
	mark := m.held[len(indent):]
	if mark == "" {
		m.inLine = last
		return last
	}
	sign := mark[:1]
	run := len(mark) - len(strings.TrimLeft(mark, sign))
	text, open := mark[run:], !last && run == len(mark) // open: the run may go on
	switch sign {
	case ">":
		return m.quote(indent, mark, last)
	case "#":
		if open {
			return false
		}
		if run <= 6 && strings.HasPrefix(text, " ") {
			m.block = bold
			indent, mark = "", strings.TrimLeft(text, " ")
			if mark == "" && !last {
				return false
			}
		}
	case "`", "~":
		if done := m.openFence(sign, run, text, last); done {
			return false
		}
		if !last && (run == len(mark) || run >= 3 && !strings.Contains(text, "`")) {
			return false
		}
	case "-", "*", "_", "+":
		if open {
			return false
		}
		if run >= 3 && sign != "+" && strings.TrimSpace(text) == "" {
			if last {
				m.show(strings.Repeat("─", 20), faint)
				m.held, m.inLine = "", true
			}
			return last
		}
		if run == 1 && sign != "_" && strings.HasPrefix(text, " ") {
			m.show(indent+"•", m.block)
			indent, mark = "", text
		}
	}
	m.show(indent, m.block)
	m.held, m.inLine = mark, true
	return true
}

// quote shows the mark of a quoted line; another mark may follow.
func (m *markdown) quote(indent, mark string, last bool) bool {
	if len(mark) == 1 && !last {
		return false
	}
	m.show(indent+"│ ", faint)
	m.held = strings.TrimPrefix(mark[1:], " ")
	return m.held != "" || last
}

// openFence begins a block of code if the whole line is the mark of one.
func (m *markdown) openFence(sign string, run int, info string, last bool) bool {
	if !last || run < 3 || sign == "`" && strings.Contains(info, "`") {
		return false
	}
	m.fence = strings.Repeat(sign, run)
	m.show(m.held, faint)
	m.held = ""
	return true
}

// inline shows as much of the held text as is decided.
func (m *markdown) inline(last bool) {
	for m.held != "" {
		rest := m.spans(m.held, m.block, last || len(m.held) > maxHeld)
		if rest == m.held {
			return
		}
		m.held = rest
	}
}

// spans shows text up to a mark that is not decided, and returns the rest.
func (m *markdown) spans(text string, l look, last bool) string {
	for text != "" {
		at := strings.IndexAny(text, "`*_\\")
		if at < 0 {
			m.plain(text, l)
			return ""
		}
		m.plain(text[:at], l)
		text = text[at:]
		taken, decided := m.mark(text, l, last)
		if !decided {
			return text
		}
		text = text[taken:]
	}
	return ""
}

func (m *markdown) plain(text string, l look) {
	if text == "" {
		return
	}
	m.show(text, l)
	m.before, _ = utf8.DecodeLastRuneInString(text)
}

// mark shows what the mark at the beginning of text stands for, and says how
// much of the text that was.
func (m *markdown) mark(text string, l look, last bool) (taken int, decided bool) {
	sign := text[:1]
	run := len(text) - len(strings.TrimLeft(text, sign))
	if run == len(text) && !last {
		return 0, false
	}
	if sign == `\` {
		return m.escape(text, l, last)
	}
	var inner, closing int // where the text inside begins, and where it ends
	found := false
	switch next, _ := utf8.DecodeRuneInString(text[run:]); {
	case sign == "`":
		inner = run
		closing, found = closer(text, sign, run, last)
	case run > 3 || run == len(text) || unicode.IsSpace(next), sign == "_" && isWord(m.before):
		m.plain(text[:run], l)
		return run, true
	default:
		inner = run
		closing, found = closer(text, sign, run, last)
	}
	switch {
	case !found && !last:
		return 0, false
	case !found:
		m.plain(text[:run], l)
		return run, true
	case sign == "`":
		m.plain(unpadded(text[inner:closing]), l|code)
	default:
		m.spans(text[inner:closing], l|emphasis(run), true)
	}
	m.before = rune(sign[0])
	return closing + run, true
}

// emphasis is what a run of marks means.
func emphasis(run int) look { return [...]look{0, italic, bold, bold | italic}[run] }

// escape shows a letter that a backslash takes the meaning from.
func (m *markdown) escape(text string, l look, last bool) (taken int, decided bool) {
	if len(text) == 1 && !last {
		return 0, false
	}
	if len(text) > 1 && text[1] < utf8.RuneSelf && unicode.In(rune(text[1]), unicode.P, unicode.S) {
		m.plain(text[1:2], l)
		return 2, true
	}
	m.plain(text[:1], l)
	return 1, true
}

// closer finds the run of signs that is the counterpart of the one that text
// begins with. A run at the very end may go on unless it is the last.
func closer(text, sign string, run int, last bool) (at int, found bool) {
	for i := run; i < len(text); {
		switch {
		case text[i] == '\\' && sign != "`":
			i += 2
		case text[i] == '`' && sign != "`":
			i += skipCode(text[i:])
		case text[i] == sign[0]:
			n := len(text[i:]) - len(strings.TrimLeft(text[i:], sign))
			if i+n == len(text) && !last {
				return 0, false
			}
			if n == run && (sign == "`" || closes(text, sign, i, n)) {
				return i, true
			}
			i += n
		default:
			i++
		}
	}
	return 0, false
}

// closes says whether a run of * or _ can end an emphasis.
func closes(text, sign string, at, run int) bool {
	before, _ := utf8.DecodeLastRuneInString(text[:at])
	after, _ := utf8.DecodeRuneInString(text[at+run:])
	return !unicode.IsSpace(before) && (sign != "_" || at+run == len(text) || !isWord(after))
}

// skipCode is the length of the code that text begins with, or of its mark.
func skipCode(text string) int {
	run := len(text) - len(strings.TrimLeft(text, "`"))
	if at, found := closer(text, "`", run, true); found {
		return at + run
	}
	return run
}

// unpadded is code without the space that keeps a backquote in it apart.
func unpadded(text string) string {
	if len(text) > 2 && text[0] == ' ' && text[len(text)-1] == ' ' {
		return text[1 : len(text)-1]
	}
	return text
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
