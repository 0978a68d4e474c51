package grammar

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// checker says whether a value is valid for a schema, straight from the
// definition of each keyword. What it doesn't know it does not look at.
type checker struct{ root any }

// text checks a JSON text; encoding/json says whether it is one.
func (c *checker) text(text string) error {
	if !json.Valid([]byte(text)) {
		return fmt.Errorf("%q is not JSON", text)
	}
	v, err := decode([]byte(text))
	if err != nil {
		return err
	}
	if !c.valid(c.root, v) {
		return fmt.Errorf("%s is not valid for %s", text, compact(c.root))
	}
	return nil
}

func (c *checker) valid(schema, v any) bool {
	d, ok := schema.(*dict)
	if !ok {
		return schema == true
	}
	if v == nil && d.values["nullable"] == true && !d.has("enum") {
		return true
	}
	if ref, ok := d.values["$ref"].(string); ok {
		target, err := (&schemaWriter{root: c.root}).resolve(ref, "#")
		if err != nil || !c.valid(target, v) {
			return false
		}
	}
	all := func(key string, want func(n int) bool) bool {
		list, ok := d.values[key].([]any)
		n := 0
		for _, s := range list {
			if c.valid(s, v) {
				n++
			}
		}
		return !ok || want(n)
	}
	if !all("allOf", func(n int) bool { return n == len(d.values["allOf"].([]any)) }) ||
		!all("anyOf", func(n int) bool { return n > 0 }) || !all("oneOf", func(n int) bool { return n == 1 }) {
		return false
	}
	if t, ok := d.values["type"]; ok {
		list, many := t.([]any)
		if !many {
			list = []any{t}
		}
		if d.values["nullable"] == true {
			list = append(slices.Clone(list), "null")
		}
		if !slices.ContainsFunc(list, func(t any) bool { return hasType(v, t.(string)) }) {
			return false
		}
	}
	if list, ok := d.values["enum"].([]any); ok && !slices.ContainsFunc(list, func(w any) bool { return same(v, w) }) {
		return false
	}
	if w, ok := d.values["const"]; ok && !same(v, w) {
		return false
	}
	switch v := v.(type) {
	case json.Number:
		return c.number(d, v)
	case string:
		return c.str(d, v)
	case []any:
		return c.array(d, v)
	case *dict:
		return c.object(d, v)
	}
	return true
}

func bound(d *dict, key string, fits func(n *big.Rat) bool) bool {
	n, ok := d.values[key].(json.Number)
	if !ok {
		return true
	}
	x, _ := new(big.Rat).SetString(string(n))
	return fits(x)
}

func (c *checker) number(d *dict, v json.Number) bool {
	x, _ := new(big.Rat).SetString(string(v))
	return bound(d, "minimum", func(n *big.Rat) bool {
		return x.Cmp(n) > 0 || x.Cmp(n) == 0 && d.values["exclusiveMinimum"] != true
	}) && bound(d, "maximum", func(n *big.Rat) bool {
		return x.Cmp(n) < 0 || x.Cmp(n) == 0 && d.values["exclusiveMaximum"] != true
	}) && bound(d, "exclusiveMinimum", func(n *big.Rat) bool { return x.Cmp(n) > 0 }) &&
		bound(d, "exclusiveMaximum", func(n *big.Rat) bool { return x.Cmp(n) < 0 })
}

func counted(d *dict, n int, least, most string) bool {
	x := new(big.Rat).SetInt64(int64(n))
	return bound(d, least, func(l *big.Rat) bool { return x.Cmp(l) >= 0 }) &&
		bound(d, most, func(l *big.Rat) bool { return x.Cmp(l) <= 0 })
}

func (c *checker) str(d *dict, v string) bool {
	if !counted(d, utf8.RuneCountInString(v), "minLength", "maxLength") {
		return false
	}
	if p, ok := d.values["pattern"].(string); ok {
		// The patterns of the cases mean nearly the same to regexp.
		p = strings.NewReplacer(`\u00e9`, "é", "^.$", "^[^\n\r\u2028\u2029]$", `\S`, "[^\\s\v\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]", `\s`, "[\\s\v\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]").Replace(p)
		if !regexp.MustCompile(p).MatchString(v) {
			return false
		}
	}
	layout := map[any]string{"date": time.DateOnly, "time": "15:04:05Z07:00", "date-time": time.RFC3339}[d.values["format"]]
	if layout != "" {
		if _, err := time.Parse(layout, v); err != nil {
			return false
		}
	}
	shape := map[any]string{
		"uuid":     "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
		"ipv4":     `^(\d+)\.(\d+)\.(\d+)\.(\d+)$`,
		"duration": `^P(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?)$`,
	}[d.values["format"]]
	parts := regexp.MustCompile(shape).FindStringSubmatch(v)
	if parts == nil || d.values["format"] == "duration" && (strings.HasSuffix(v, "T") || v == "P") {
		return false
	}
	if d.values["format"] == "ipv4" {
		for _, p := range parts[1:] {
			if n, err := strconv.Atoi(p); err != nil || n > 255 || strconv.Itoa(n) != p {
				return false
			}
		}
	}
	return true
}

func (c *checker) array(d *dict, v []any) bool {
	if !counted(d, len(v), "minItems", "maxItems") {
		return false
	}
	prefix, _ := d.values["prefixItems"].([]any)
	rest, has := d.values["items"]
	if list, old := rest.([]any); old {
		prefix = list
		rest, has = d.values["additionalItems"]
	}
	for i, x := range v {
		switch {
		case i < len(prefix):
			if !c.valid(prefix[i], x) {
				return false
			}
		case has && !c.valid(rest, x):
			return false
		}
	}
	return true
}

func (c *checker) object(d *dict, v *dict) bool {
	// A name may come twice in a text, so there may be fewer than minProperties.
	if !counted(d, len(v.keys), "", "maxProperties") {
		return false
	}
	required, _ := d.values["required"].([]any)
	for _, name := range required {
		if !v.has(name.(string)) {
			return false
		}
	}
	properties, _ := d.values["properties"].(*dict)
	for _, name := range v.keys {
		if properties != nil && properties.has(name) {
			if !c.valid(properties.values[name], v.values[name]) {
				return false
			}
			continue
		}
		for _, key := range []string{"additionalProperties", "unevaluatedProperties"} {
			if s, ok := d.values[key]; ok && !c.valid(s, v.values[name]) {
				return false
			}
		}
	}
	return true
}
