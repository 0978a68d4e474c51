package jinja

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// globals are the functions that each template has.
func globals(r *run) map[string]any {
	return map[string]any{
		"range": Func(r.rangeOf),
		"dict": Func(func(c *Call) any {
			d := &Dict{}
			for _, name := range sortedNames(c.Named) {
				d.Set(name, c.Named[name])
			}
			return d
		}),
		"namespace": Func(func(c *Call) any {
			n := &namespace{vars: map[string]any{}}
			if d, ok := c.arg(0, "", nil).(*Dict); ok {
				for _, key := range d.keys {
					n.vars[key] = d.values[key]
				}
			}
			for name, v := range c.Named {
				n.vars[name] = v
			}
			return n
		}),
		"raise_exception": Func(func(c *Call) any {
			panic(failure{&Error{Message: "the template refuses: " + shorten(r.str(c.arg(0, "message", "no reason given")))}})
		}),
		"strftime_now": Func(func(c *Call) any { return r.text(strftime(r.now(), c.text(0, "format", "%Y-%m-%d"))) }),
		"joiner": Func(func(c *Call) any {
			between, used := c.text(0, "sep", ", "), false
			return Func(func(*Call) any {
				if !used {
					used = true
					return ""
				}
				return between
			})
		}),
	}
}

func sortedNames(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// shorten keeps an error message of a template from filling the log.
func shorten(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " …"
}

func (r *run) rangeOf(c *Call) any {
	from, to, step := int64(0), c.number(0, "stop", 0), c.number(2, "step", 1)
	if len(c.Args) > 1 {
		from, to = to, c.number(1, "stop", 0)
	}
	if step == 0 {
		c.Fail("the step of a range is 0")
	}
	// A float is exact enough to see what is too many.
	if n := (float64(to) - float64(from)) / float64(step); n > maxValueBytes/16 {
		c.Fail("a range has too many numbers")
	}
	out := r.list(0)
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		out = append(out, i)
	}
	r.spend(16 * len(out))
	r.steps += len(out) >> 4
	return out
}

// strftime writes a time as Python does, for the directives that dates have.
func strftime(t time.Time, format string) string {
	layouts := map[byte]string{
		'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'B': "January", 'b': "Jan",
		'A': "Monday", 'a': "Mon", 'p': "PM", 'I': "03", 'Z': "MST", 'z': "-0700", 'y': "06", 'j': "002",
		'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'e': "_2",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch layout, ok := layouts[format[i]]; {
		case ok:
			b.WriteString(t.Format(layout))
		case format[i] == '%':
			b.WriteByte('%')
		case format[i] == '-' && i+1 < len(format): // without the leading zero
			i++
			b.WriteString(strings.TrimLeft(t.Format(layouts[format[i]]), "0"))
		default:
			b.WriteString(format[i-1 : i+1])
		}
	}
	return b.String()
}

func (r *run) dictMethod(d *Dict, name string) Func {
	switch name {
	case "items":
		return func(*Call) any { return r.pairs(d, d.keys) }
	case "keys":
		return func(*Call) any { return r.items(d) }
	case "values":
		return func(*Call) any {
			all := r.list(len(d.keys))
			for _, key := range d.keys {
				all = append(all, d.values[key])
			}
			return all
		}
	case "get":
		return func(c *Call) any {
			if v, ok := d.Get(r.str(c.arg(0, "key", nil))); ok {
				return v
			}
			return c.arg(1, "default", nil)
		}
	case "copy":
		return func(*Call) any { return d }
	}
	return nil
}

func (r *run) listMethod(list []any, name string) Func {
	switch name {
	case "count":
		return func(c *Call) any {
			n := int64(0)
			for _, v := range list {
				if r.equal(v, c.arg(0, "value", nil)) {
					n++
				}
			}
			return n
		}
	case "index":
		return func(c *Call) any {
			i := slices.IndexFunc(list, func(v any) bool { return r.equal(v, c.arg(0, "value", nil)) })
			if i < 0 {
				c.Fail("the list does not have what is looked for")
			}
			return int64(i)
		}
	case "append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse":
		return func(c *Call) any {
			c.Fail("a template may not change a list (%s)", name)
			return nil
		}
	}
	return nil
}

// textMethod is a method of Python's str, or nil.
func (r *run) textMethod(s, name string) Func {
	switch name {
	case "upper":
		return func(*Call) any { return r.text(strings.ToUpper(s)) }
	case "lower":
		return func(*Call) any { return r.text(strings.ToLower(s)) }
	case "title", "capitalize":
		return func(*Call) any { return r.text(capitalize(s, name == "title")) }
	case "strip":
		return func(c *Call) any { return strings.Trim(s, c.chars()) }
	case "lstrip":
		return func(c *Call) any { return strings.TrimLeft(s, c.chars()) }
	case "rstrip":
		return func(c *Call) any { return strings.TrimRight(s, c.chars()) }
	case "removeprefix":
		return func(c *Call) any { return strings.TrimPrefix(s, c.text(0, "prefix", "")) }
	case "removesuffix":
		return func(c *Call) any { return strings.TrimSuffix(s, c.text(0, "suffix", "")) }
	case "startswith":
		return func(c *Call) any { return c.oneOf(func(part string) bool { return strings.HasPrefix(s, part) }) }
	case "endswith":
		return func(c *Call) any { return c.oneOf(func(part string) bool { return strings.HasSuffix(s, part) }) }
	case "split", "rsplit":
		return func(c *Call) any { return r.split(s, c, name == "rsplit") }
	case "splitlines":
		return func(*Call) any {
			if s == "" {
				return []any{}
			}
			return r.texts(strings.Split(strings.TrimSuffix(s, "\n"), "\n"))
		}
	case "join":
		return func(c *Call) any { return r.join(r.items(c.arg(0, "iterable", nil)), s) }
	case "replace":
		return func(c *Call) any {
			old, with := c.text(0, "old", ""), c.text(1, "new", "")
			n := strings.Count(s, old)
			if most := c.number(2, "count", -1); most >= 0 {
				n = min(n, int(min(most, maxValueBytes)))
			}
			r.spend(len(s) + n*max(0, len(with)-len(old)))
			return strings.Replace(s, old, with, n)
		}
	case "find", "rfind", "index", "count":
		return func(c *Call) any { return r.find(s, name, c) }
	}
	if test := textTest(name); test != nil {
		return func(*Call) any { return s != "" && strings.IndexFunc(s, func(c rune) bool { return !test(c) }) < 0 }
	}
	if name == "isupper" || name == "islower" {
		return func(*Call) any { return r.test(strings.TrimPrefix(name, "is"), s, nil) }
	}
	return nil
}

func textTest(name string) func(rune) bool {
	switch name {
	case "isdigit", "isnumeric", "isdecimal":
		return unicode.IsDigit
	case "isalpha":
		return unicode.IsLetter
	case "isalnum":
		return func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) }
	case "isspace":
		return unicode.IsSpace
	}
	return nil
}

// chars are what strip takes away.
func (c *Call) chars() string {
	if c.arg(0, "chars", nil) == nil {
		return whitespace
	}
	return c.text(0, "chars", "")
}

func (c *Call) oneOf(is func(string) bool) bool {
	if list, ok := c.arg(0, "prefix", nil).([]any); ok {
		return slices.ContainsFunc(list, func(v any) bool {
			s, ok := v.(string)
			return ok && is(s)
		})
	}
	return is(c.text(0, "prefix", ""))
}

func (r *run) texts(parts []string) []any {
	all := r.list(len(parts))
	for _, p := range parts {
		all = append(all, p)
	}
	return all
}

func (r *run) split(s string, c *Call, fromRight bool) any {
	most := int(min(c.number(1, "maxsplit", -1), maxValueBytes))
	if c.arg(0, "sep", nil) == nil {
		fields := strings.Fields(s)
		if most >= 0 && len(fields) > most+1 {
			c.Fail("split on white space takes no count here")
		}
		return r.texts(fields)
	}
	sep := c.text(0, "sep", "")
	if sep == "" {
		c.Fail("cannot split at nothing")
	}
	r.spend(16 * (strings.Count(s, sep) + 1))
	if !fromRight || most < 0 {
		if most >= 0 {
			most++
		}
		return r.texts(strings.SplitN(s, sep, most))
	}
	parts := strings.Split(s, sep)
	if n := len(parts) - most; n > 1 {
		parts = append([]string{strings.Join(parts[:n], sep)}, parts[n:]...)
	}
	return r.texts(parts)
}

func (r *run) find(s, name string, c *Call) any {
	part := c.text(0, "sub", "")
	r.steps += len(s) >> 10
	if name == "count" {
		return int64(strings.Count(s, part))
	}
	i := strings.Index(s, part)
	if name == "rfind" {
		i = strings.LastIndex(s, part)
	}
	if i < 0 {
		if name == "index" {
			c.Fail("the text does not have what is looked for")
		}
		return int64(-1)
	}
	return int64(utf8.RuneCountInString(s[:i]))
}

func capitalize(s string, words bool) string {
	inWord := false
	return strings.Map(func(c rune) rune {
		begins := !inWord
		inWord = !words || unicode.IsLetter(c)
		if begins {
			return unicode.ToUpper(c)
		}
		return unicode.ToLower(c)
	}, s)
}

// printf is Python's TEXT % VALUES for the verbs that templates use.
func (r *run) printf(format string, values any) string {
	list, ok := values.([]any)
	if !ok {
		list = []any{values}
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		j := i + 1
		for j < len(format) && j < i+8 && strings.IndexByte("0123456789.+- ", format[j]) >= 0 {
			j++
		}
		if j == len(format) {
			r.fail("a format ends with %%")
		}
		flags := format[i+1 : j]
		i = j
		if format[j] == '%' {
			b.WriteByte('%')
			continue
		}
		if len(list) == 0 {
			r.fail("a format has more verbs than values")
		}
		v := list[0]
		list = list[1:]
		f, _, numberOK := numeric(v)
		r.spend(1 << 10)
		switch verb := format[j]; {
		case verb == 's':
			fmt.Fprintf(&b, "%"+small(flags)+"s", r.str(v))
		case verb == 'r':
			r.repr(&b, v)
		case strings.IndexByte("dixX", verb) >= 0 && numberOK:
			fmt.Fprintf(&b, "%"+small(flags)+string(strings.Replace(string(verb), "i", "d", 1)), int64(f))
		case strings.IndexByte("feEgG", verb) >= 0 && numberOK:
			fmt.Fprintf(&b, "%"+small(flags)+string(verb), f)
		default:
			r.fail("a format has a verb that does not fit its value")
		}
	}
	return r.text(b.String())
}

// small refuses widths that are there to fill memory.
func small(flags string) string {
	digits := 0
	for _, c := range flags {
		if c >= '0' && c <= '9' {
			if digits++; digits > 3 {
				fail(0, "a format is too wide")
			}
		} else {
			digits = 0
		}
	}
	return flags
}
