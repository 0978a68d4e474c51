package grammar

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What \s means in ECMA-262, for the inside of a class of regexp/syntax.
const spaces = `\t\n\x0B\f\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}`

// pattern writes in GBNF the inside of a JSON string, from quote to quote, that
// an ECMA-262 pattern finds something in. It also gives the least and the
// greatest number of characters; -1 is without end.
func pattern(text string) (gbnf string, shortest, longest int, err error) {
	translated, err := translate(text)
	if err != nil {
		return "", 0, 0, err
	}
	re, err := syntax.Parse(translated, syntax.Perl)
	if err != nil {
		var e *syntax.Error
		if errors.As(err, &e) {
			return "", 0, 0, fmt.Errorf("%s", e.Code)
		}
		return "", 0, 0, err
	}
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	alternatives := []*syntax.Regexp{re}
	if re.Op == syntax.OpAlternate {
		alternatives = re.Sub
	}
	var out []string
	shortest = -1
	for _, a := range alternatives {
		parts := []*syntax.Regexp{a}
		if a.Op == syntax.OpConcat {
			parts = a.Sub
		}
		begin, end := charStar, charStar
		for len(parts) > 0 && parts[0].Op == syntax.OpBeginText {
			parts, begin = parts[1:], ""
		}
		for len(parts) > 0 && parts[len(parts)-1].Op == syntax.OpEndText {
			parts, end = parts[:len(parts)-1], ""
		}
		w := &patternWriter{}
		middle := w.series(parts)
		if w.err != nil {
			return "", 0, 0, w.err
		}
		low, high := 0, 0
		for _, p := range parts {
			l, h := lengths(p)
			low, high = plus(low, l), plus(high, h)
		}
		if begin != "" || end != "" {
			high = -1
		}
		if shortest < 0 || low < shortest {
			shortest = low
		}
		if high < 0 || longest < 0 {
			longest = -1
		} else {
			longest = max(longest, high)
		}
		out = append(out, strings.TrimSpace(begin+" "+middle+" "+end))
	}
	return "(" + strings.Join(out, " | ") + ")", max(shortest, 0), longest, nil
}

// charStar is any inside of a JSON string.
const charStar = "char*"

func plus(a, b int) int {
	if a < 0 || b < 0 {
		return -1
	}
	return min(a+b, 1<<30)
}

// lengths is how many characters an expression has at least and at most.
func lengths(re *syntax.Regexp) (shortest, longest int) {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune), len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, 1
	case syntax.OpCapture:
		return lengths(re.Sub[0])
	case syntax.OpConcat:
		for _, s := range re.Sub {
			l, h := lengths(s)
			shortest, longest = plus(shortest, l), plus(longest, h)
		}
		return shortest, longest
	case syntax.OpAlternate:
		shortest = 1 << 30
		for _, s := range re.Sub {
			l, h := lengths(s)
			shortest = min(shortest, l)
			if h < 0 || longest < 0 {
				longest = -1
			} else {
				longest = max(longest, h)
			}
		}
		return shortest, longest
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		l, h := lengths(re.Sub[0])
		low, high := times(re)
		shortest = min(l*low, 1<<30)
		switch {
		case h == 0 || high == 0:
			return shortest, 0
		case h < 0 || high < 0:
			return shortest, -1
		}
		return shortest, min(h*high, 1<<30)
	}
	return 0, 0
}

// times is how often an expression is repeated; -1 is without end.
func times(re *syntax.Regexp) (low, high int) {
	switch re.Op {
	case syntax.OpStar:
		return 0, -1
	case syntax.OpPlus:
		return 1, -1
	case syntax.OpQuest:
		return 0, 1
	}
	return re.Min, re.Max
}

// patternWriter writes expressions; the first that it can't becomes err.
type patternWriter struct{ err error }

func (w *patternWriter) series(parts []*syntax.Regexp) string {
	out := make([]string, len(parts))
	for i, p := range parts {
		out[i] = w.write(p)
	}
	return strings.Join(out, " ")
}

func (w *patternWriter) write(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpEmptyMatch:
		return `""`
	case syntax.OpLiteral:
		var b strings.Builder
		for _, r := range re.Rune {
			b.WriteString(escaped(r))
		}
		return literal(b.String())
	case syntax.OpCharClass:
		var set charset
		for i := 0; i+1 < len(re.Rune); i += 2 {
			set = append(set, span{re.Rune[i], re.Rune[i+1]})
		}
		return w.class(set)
	case syntax.OpAnyChar:
		return w.class(anyCharacter())
	case syntax.OpCapture:
		return "(" + w.write(re.Sub[0]) + ")"
	case syntax.OpConcat:
		return "(" + w.series(re.Sub) + ")"
	case syntax.OpAlternate:
		out := make([]string, len(re.Sub))
		for i, s := range re.Sub {
			out[i] = w.write(s)
		}
		return "(" + strings.Join(out, " | ") + ")"
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		low, high := times(re)
		inner := "(" + w.write(re.Sub[0]) + ")"
		if high < 0 {
			return fmt.Sprintf("%s{%d,}", inner, low)
		}
		return fmt.Sprintf("%s{%d,%d}", inner, low, high)
	case syntax.OpBeginText, syntax.OpEndText:
		w.err = errors.New("it has ^ or $ elsewhere than at its ends")
	default:
		w.err = fmt.Errorf("%s is not supported", re)
	}
	return ""
}

// class writes the characters of a set as JSON writes them in a string, each
// in the shortest way.
func (w *patternWriter) class(set charset) string {
	var out []string
	var plain charset
	for _, x := range set.normal() {
		for _, part := range []span{{' ', '!'}, {'#', '['}, {']', utf8.MaxRune}} {
			if low, high := max(x.low, part.low), min(x.high, part.high); low <= high {
				plain = append(plain, span{low, high})
			}
		}
	}
	if len(plain) > 0 {
		out = append(out, classText(plain))
	}
	var short charset
	var long [2]charset
	for r := rune(0); r <= '\\'; r++ {
		if !set.has(r) || r >= ' ' && r != '"' && r != '\\' {
			continue
		}
		if e := escaped(r); len(e) == 2 {
			short = append(short, span{rune(e[1]), rune(e[1])})
		} else {
			digit := rune(e[5])
			long[r>>4] = append(long[r>>4], span{digit, digit})
		}
	}
	if len(short) > 0 {
		out = append(out, literal(`\`)+" "+classText(short))
	}
	for i, digits := range long {
		if len(digits) > 0 {
			out = append(out, literal(`\u00`+strconv.Itoa(i))+" "+classText(digits))
		}
	}
	if len(out) == 0 {
		w.err = errors.New("it has a class without characters")
	}
	return "(" + strings.Join(out, " | ") + ")"
}

func (s charset) has(r rune) bool {
	for _, x := range s {
		if x.low <= r && r <= x.high {
			return true
		}
	}
	return false
}

// translate makes of an ECMA-262 pattern one of regexp/syntax that means the
// same, and refuses what only one of them has.
func translate(text string) (string, error) {
	var b strings.Builder
	inClass := false
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		rest := text[i+n:]
		i += n
		switch {
		case r == '\\':
			taken, out, err := translateEscape(rest, inClass)
			if err != nil {
				return "", err
			}
			b.WriteString(out)
			i += taken
		case inClass:
			inClass = r != ']'
			if r == '[' {
				b.WriteByte('\\')
			}
			b.WriteRune(r)
		case r == '[':
			inClass = true
			b.WriteByte('[')
			if strings.HasPrefix(rest, "^") {
				b.WriteByte('^')
				i++
			}
			if strings.HasPrefix(text[i:], "]") {
				return "", errors.New("it has an empty class")
			}
		case r == '.':
			b.WriteString(`[^\n\r\x{2028}\x{2029}]`)
		case r == '(' && strings.HasPrefix(rest, "?"):
			named := len(rest) > 2 && rest[1] == '<' && rest[2] != '=' && rest[2] != '!'
			if !named && !strings.HasPrefix(rest, "?:") {
				return "", errors.New("it looks ahead or behind, or has flags")
			}
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String(), nil
}

// translateEscape translates what follows a backslash and says how long it is.
func translateEscape(rest string, inClass bool) (taken int, out string, err error) {
	if rest == "" {
		return 0, "", errors.New("it ends with a backslash")
	}
	r, n := utf8.DecodeRuneInString(rest)
	switch {
	case strings.ContainsRune("dDwWtnrvf", r):
		return n, `\` + string(r), nil
	case r == 's' && inClass:
		return n, spaces, nil
	case r == 's':
		return n, "[" + spaces + "]", nil
	case r == 'S' && !inClass:
		return n, "[^" + spaces + "]", nil
	case r == 'b' && inClass:
		return n, `\x08`, nil
	case r == '0' && (len(rest) == 1 || rest[1] < '0' || rest[1] > '9'):
		return n, `\x00`, nil
	case r == 'x' && len(rest) >= 3:
		return hexEscape(rest[1:3], 3)
	case r == 'u' && strings.HasPrefix(rest, "u{") && strings.Contains(rest, "}"):
		end := strings.IndexByte(rest, '}')
		return hexEscape(rest[2:end], end+1)
	case r == 'u' && len(rest) >= 5:
		return hexEscape(rest[1:5], 5)
	case (r == 'p' || r == 'P') && strings.HasPrefix(rest[1:], "{") && strings.Contains(rest, "}"):
		end := strings.IndexByte(rest, '}')
		return end + 1, `\` + rest[:end+1], nil
	case r < utf8.RuneSelf && !unicode.IsLetter(r) && !unicode.IsDigit(r):
		return n, fmt.Sprintf(`\x%02x`, r), nil
	}
	return 0, "", fmt.Errorf(`\%c is not supported`, r)
}

func hexEscape(digits string, taken int) (int, string, error) {
	r, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || r > utf8.MaxRune || 0xd800 <= r && r <= 0xdfff {
		return 0, "", errors.New("it has an escape that is no character")
	}
	return taken, fmt.Sprintf(`\x{%x}`, r), nil
}
