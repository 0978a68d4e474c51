package jinja

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// str is a value as a template prints it.
func (r *run) str(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case undefined:
		return ""
	}
	var b strings.Builder
	r.repr(&b, v)
	return r.text(b.String())
}

// repr is a value as Python writes it.
func (r *run) repr(b *strings.Builder, v any) {
	r.enter()
	defer r.leave()
	r.step(0)
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(formatFloat(v))
	case string:
		r.spend(len(v))
		b.WriteString(quote(v))
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			r.repr(b, item)
		}
		b.WriteByte(']')
	case *Dict:
		b.WriteByte('{')
		for i, key := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(quote(key) + ": ")
			r.repr(b, v.values[key])
		}
		b.WriteByte('}')
	case undefined:
		b.WriteString("Undefined")
	default:
		b.WriteString("<object>")
	}
	if b.Len() > maxValueBytes {
		r.fail("the template makes a value that is too large")
	}
}

func quote(s string) string {
	mark := "'"
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		mark = `"`
	}
	s = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`, mark, `\`+mark).Replace(s)
	return mark + s + mark
}

// formatFloat writes a number as Python does.
func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// json writes a value as Python's json.dumps(v, ensure_ascii=False) does.
func (r *run) json(b *strings.Builder, v any, o *jsonStyle, depth int) {
	r.enter()
	defer r.leave()
	r.step(0)
	if b.Len() > maxValueBytes {
		r.fail("the template makes a value that is too large")
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(formatFloat(v))
	case string:
		r.spend(len(v))
		o.string(b, v)
	case []any:
		r.jsonItems(b, '[', ']', len(v), o, depth, func(i int) { r.json(b, v[i], o, depth+1) })
	case *Dict:
		keys := v.keys
		if o.sorted {
			keys = slices.Sorted(slices.Values(keys))
		}
		r.jsonItems(b, '{', '}', len(keys), o, depth, func(i int) {
			o.string(b, keys[i])
			b.WriteString(o.colon)
			r.json(b, v.values[keys[i]], o, depth+1)
		})
	default:
		r.fail("cannot write %s as JSON", kindOf(v))
	}
}

type jsonStyle struct {
	comma, colon string
	indent       string // of one level; "" with pretty is lines without indent
	pretty       bool
	ascii        bool
	sorted       bool
}

func (r *run) jsonItems(b *strings.Builder, open, closing byte, n int, o *jsonStyle, depth int, item func(i int)) {
	b.WriteByte(open)
	for i := range n {
		if i > 0 {
			b.WriteString(o.comma)
		}
		r.newline(b, o, depth+1)
		item(i)
	}
	if n > 0 {
		r.newline(b, o, depth)
	}
	b.WriteByte(closing)
}

func (r *run) newline(b *strings.Builder, o *jsonStyle, depth int) {
	if o.pretty {
		r.spend(len(o.indent) * depth)
		b.WriteByte('\n')
		for range depth {
			b.WriteString(o.indent)
		}
	}
}

func (o *jsonStyle) string(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\b':
			b.WriteString(`\b`)
		case c == '\f':
			b.WriteString(`\f`)
		case c < 0x20 || o.ascii && c > 0x7e && c < 0x10000:
			fmt.Fprintf(b, `\u%04x`, c)
		case o.ascii && c >= 0x10000:
			c -= 0x10000
			fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+c>>10, 0xdc00+c&0x3ff)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
}
