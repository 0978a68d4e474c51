package grammar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"
)

// dict is a JSON object that keeps the order of its members. Other values of
// JSON are as encoding/json has them, with json.Number.
type dict struct {
	keys   []string
	values map[string]any
}

func newDict() *dict { return &dict{values: map[string]any{}} }

func (d *dict) set(key string, v any) {
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = v
}

func (d *dict) has(key string) bool {
	_, ok := d.values[key]
	return ok
}

// clone is a copy of the object, without some members.
func (d *dict) clone(without ...string) *dict {
	c := newDict()
	for _, k := range d.keys {
		if !slices.Contains(without, k) {
			c.set(k, d.values[k])
		}
	}
	return c
}

// decode reads one JSON value.
func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the value")
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	delimiter, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("it is nested more than %d deep", maxNesting)
	}
	if delimiter == '[' {
		list := []any{}
		for d.More() {
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	}
	object := newDict()
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		object.set(key.(string), v)
	}
	_, err = d.Token()
	return object, err
}

// compact writes a value without spaces, strings with as few escapes as JSON allows.
func compact(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return quote(v)
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = compact(x)
		}
		return "[" + strings.Join(parts, ",") + "]"
	case *dict:
		parts := make([]string, len(v.keys))
		for i, k := range v.keys {
			parts[i] = quote(k) + ":" + compact(v.values[k])
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	return fmt.Sprint(v) // true, false, a number as it was written
}

// quote writes a string of JSON.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		b.WriteString(escaped(r))
	}
	b.WriteByte('"')
	return b.String()
}

// escaped writes a character of a JSON string.
func escaped(r rune) string {
	if i := strings.IndexRune("\"\\\b\f\n\r\t", r); i >= 0 {
		return `\` + `"\bfnrt`[i:i+1]
	}
	if r < ' ' {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return string(r)
}

// same says whether two values are equal as JSON values are.
func same(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, okX := exact(a)
		y, okY := exact(b)
		return a == b || okX && okY && x.Cmp(y) == 0
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	case *dict:
		b, ok := b.(*dict)
		return ok && len(a.keys) == len(b.keys) && !slices.ContainsFunc(a.keys, func(k string) bool {
			return !b.has(k) || !same(a.values[k], b.values[k])
		})
	}
	switch b.(type) {
	case []any, *dict:
		return false
	}
	return a == b
}

// maxDigits is how long a number in a schema may be, written out.
const maxDigits = 40

// exact is the value of a number; it fails for one that is very large or long.
func exact(n json.Number) (*big.Rat, bool) {
	if len(n) > maxDigits {
		return nil, false
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(string(n)), "e"); ok && len(strings.TrimLeft(exponent, "+-0")) > 1 {
		if e := strings.TrimLeft(exponent, "+-0"); len(e) > 2 || e > "30" {
			return nil, false
		}
	}
	return new(big.Rat).SetString(string(n))
}

// literal writes a text in GBNF.
func literal(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		b.WriteString(inGBNF(r))
	}
	b.WriteByte('"')
	return b.String()
}

// inGBNF writes a character of a text or class.
func inGBNF(r rune) string {
	switch {
	case r == '"' || r == '\\' || r == '[' || r == ']':
		return `\` + string(r)
	case r < ' ' || r == '^' || r == '-' || r == 0x7f:
		return fmt.Sprintf(`\x%02x`, r)
	case 0xd800 <= r && r <= 0xdfff || r == utf8.RuneError || r == 0xfeff:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return string(r)
}

// classText writes a set of characters as a class.
func classText(s charset) string {
	var b strings.Builder
	b.WriteByte('[')
	for _, x := range s {
		b.WriteString(inGBNF(x.low))
		if x.high > x.low {
			b.WriteString("-" + inGBNF(x.high))
		}
	}
	b.WriteByte(']')
	return b.String()
}
