package jinja

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// filter is VALUE|NAME(ARGS); the value is the first argument.
func (r *run) filter(name string, c *Call) any {
	v := c.Args[0]
	switch name {
	case "tojson":
		return r.toJSON(c)
	case "safe", "string":
		return r.str(v)
	case "trim":
		return strings.Trim(r.str(v), c.text(1, "chars", whitespace))
	case "upper", "lower", "title", "capitalize", "replace":
		if name == "replace" {
			c.Args = slices.Clone(c.Args)
			c.Args = append(c.Args, c.named("old", "new", "count")...)
		}
		return r.textMethod(r.str(v), name)(&Call{Args: c.Args[1:], run: r})
	case "default", "d":
		_, missing := v.(undefined)
		if missing || truth(c.arg(2, "boolean", false)) && !truth(v) {
			return c.arg(1, "default_value", "")
		}
		return v
	case "escape", "e":
		return r.text(strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;").Replace(r.str(v)))
	case "format":
		return r.printf(r.str(v), append([]any{}, c.Args[1:]...))
	case "indent":
		return r.indent(c)
	case "wordcount":
		return int64(len(strings.Fields(r.str(v))))
	case "int", "float", "abs", "round":
		return r.numberFilter(name, c)
	}
	return r.listFilter(name, c)
}

// named are the named arguments with these names, in this order, as far as given.
func (c *Call) named(names ...string) []any {
	var all []any
	for _, name := range names {
		if v, ok := c.Named[name]; ok {
			all = append(all, v)
		}
	}
	return all
}

func (r *run) toJSON(c *Call) any {
	style := &jsonStyle{comma: ", ", colon: ": ", ascii: truth(c.arg(1, "ensure_ascii", false)), sorted: truth(c.arg(4, "sort_keys", false))}
	switch indent := c.arg(2, "indent", nil).(type) {
	case nil, undefined:
	case string:
		style.pretty, style.comma, style.indent = true, ",", indent
	case int64:
		style.pretty, style.comma = true, ","
		style.indent = r.repeat(" ", indent)
	}
	if pair, ok := c.arg(3, "separators", nil).([]any); ok && len(pair) == 2 {
		style.comma, style.colon = r.str(pair[0]), r.str(pair[1])
	}
	var b strings.Builder
	r.json(&b, c.Args[0], style, 0)
	return r.text(b.String())
}

func (r *run) indent(c *Call) any {
	pad, ok := c.arg(1, "width", int64(4)).(string)
	if !ok {
		pad = r.repeat(" ", c.number(1, "width", 4))
	}
	lines := strings.Split(r.str(c.Args[0]), "\n")
	r.spend(len(pad) * len(lines))
	blank := truth(c.arg(3, "blank", false))
	for i, line := range lines {
		if (i > 0 || truth(c.arg(2, "first", false))) && (line != "" || blank) {
			lines[i] = pad + line
		}
	}
	return r.text(strings.Join(lines, "\n"))
}

func (r *run) numberFilter(name string, c *Call) any {
	v := c.Args[0]
	f, whole, ok := numeric(v)
	if text, isText := v.(string); isText {
		text = strings.TrimSpace(text)
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			v, f, whole, ok = n, float64(n), true, true
		} else if x, err := strconv.ParseFloat(text, 64); err == nil {
			f, ok = x, true
		}
	}
	switch name {
	case "int":
		switch {
		case whole:
			return int64Of(v)
		case ok && math.Abs(f) < 1<<62:
			return int64(f)
		}
		return c.arg(1, "default", int64(0))
	case "float":
		if ok {
			return f
		}
		return c.arg(1, "default", 0.0)
	}
	if !ok {
		r.fail("cannot use %s as a number", kindOf(v))
	}
	if name == "abs" {
		if whole {
			return max(int64Of(v), -int64Of(v))
		}
		return math.Abs(f)
	}
	scale := math.Pow(10, float64(min(max(c.number(1, "precision", 0), -300), 300)))
	switch c.text(2, "method", "common") {
	case "ceil":
		return math.Ceil(f*scale) / scale
	case "floor":
		return math.Floor(f*scale) / scale
	}
	return math.RoundToEven(f*scale) / scale
}

func (r *run) listFilter(name string, c *Call) any {
	v := c.Args[0]
	switch name {
	case "length", "count":
		if d, ok := v.(*Dict); ok {
			return int64(len(d.keys))
		}
		return int64(len(r.items(v)))
	case "list":
		return append(r.list(0), r.items(v)...)
	case "first", "last":
		items := r.items(v)
		if len(items) == 0 {
			return undefined{"the " + name + " of nothing"}
		}
		if name == "first" {
			return items[0]
		}
		return items[len(items)-1]
	case "join":
		return r.join(r.values(c, r.items(v), "attribute", 2), c.text(1, "d", ""))
	case "reverse":
		items := slices.Clone(r.items(v))
		r.spend(16 * len(items))
		slices.Reverse(items)
		if _, ok := v.(string); ok {
			return r.join(items, "")
		}
		return items
	case "items", "dictsort":
		d, ok := v.(*Dict)
		if !ok {
			if _, missing := v.(undefined); missing {
				return []any{}
			}
			r.fail("cannot take the items of %s", kindOf(v))
		}
		keys := d.keys
		if name == "dictsort" {
			keys = slices.Sorted(slices.Values(keys))
		}
		return r.pairs(d, keys)
	case "sort", "unique", "min", "max", "sum":
		return r.ordered(name, c)
	case "map", "select", "reject", "selectattr", "rejectattr":
		return r.chosen(name, c)
	case "batch":
		return r.batch(c)
	}
	r.fail("there is no filter %q", name)
	return nil
}

func (r *run) pairs(d *Dict, keys []string) []any {
	all := r.list(3 * len(keys))
	for _, key := range keys {
		all = append(all, []any{key, d.values[key]})
	}
	return all
}

func (r *run) join(items []any, between string) string {
	size := 0
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = r.str(item)
		size += len(texts[i]) + len(between)
	}
	r.spend(size)
	r.steps += len(items)
	return strings.Join(texts, between)
}

// values are the items, or of each the attribute that the call names.
func (r *run) values(c *Call, items []any, name string, at int) []any {
	path, ok := c.arg(at, name, nil).(string)
	if !ok {
		return items
	}
	out := r.list(len(items))
	for _, item := range items {
		out = append(out, r.path(item, path))
	}
	return out
}

// path is an attribute of an attribute, as in "function.name".
func (r *run) path(v any, path string) any {
	for part := range strings.SplitSeq(path, ".") {
		r.step(0)
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			v = r.item(v, n)
		} else {
			v = r.item(v, part)
		}
	}
	return v
}

func (r *run) ordered(name string, c *Call) any {
	items := r.items(c.Args[0])
	if name == "sum" {
		sum := c.arg(2, "start", int64(0))
		for _, v := range r.values(c, items, "attribute", 1) {
			sum = r.binary("+", sum, v)
		}
		return sum
	}
	attribute := c.arg(-1, "attribute", nil)
	key := func(v any) any {
		if path, ok := attribute.(string); ok {
			v = r.path(v, path)
		}
		if s, ok := v.(string); ok && !truth(c.arg(-1, "case_sensitive", false)) {
			return strings.ToLower(s)
		}
		return v
	}
	out := slices.Clone(items)
	r.spend(16 * len(out))
	switch name {
	case "unique":
		var seen []any
		return slices.DeleteFunc(out, func(v any) bool {
			k := key(v)
			if slices.ContainsFunc(seen, func(s any) bool { return r.equal(s, k) }) {
				return true
			}
			seen = append(seen, k)
			return false
		})
	case "sort":
		slices.SortStableFunc(out, func(a, b any) int { return r.order(key(a), key(b)) })
		if truth(c.arg(1, "reverse", false)) {
			slices.Reverse(out)
		}
		return out
	}
	if len(out) == 0 {
		return undefined{"the " + name + " of nothing"}
	}
	if name == "min" {
		return slices.MinFunc(out, func(a, b any) int { return r.order(key(a), key(b)) })
	}
	return slices.MaxFunc(out, func(a, b any) int { return r.order(key(a), key(b)) })
}

// chosen are the filters that apply an attribute, a filter or a test to each item.
func (r *run) chosen(name string, c *Call) any {
	items, rest := r.items(c.Args[0]), c.Args[1:]
	out := r.list(0)
	if name == "map" {
		path, byAttribute := c.Named["attribute"].(string)
		if !byAttribute && len(rest) == 0 {
			r.fail("map needs a filter or an attribute")
		}
		for _, item := range items {
			var v any
			if byAttribute {
				if v = r.path(item, path); v == any(undefined{path}) {
					if d, ok := c.Named["default"]; ok {
						v = d
					}
				}
			} else {
				v = r.filter(r.str(rest[0]), &Call{Args: append([]any{item}, rest[1:]...), Named: c.Named, run: r})
			}
			out = append(out, v)
		}
		r.spend(16 * len(out))
		return out
	}
	path := ""
	if name == "selectattr" || name == "rejectattr" {
		if len(rest) == 0 {
			r.fail("%s needs an attribute", name)
		}
		path, rest = r.str(rest[0]), rest[1:]
	}
	keep := name == "select" || name == "selectattr"
	for _, item := range items {
		v := item
		if path != "" {
			v = r.path(item, path)
		}
		ok := truth(v)
		if len(rest) > 0 {
			ok = r.test(r.str(rest[0]), v, rest[1:])
		}
		r.step(0)
		if ok == keep {
			out = append(out, item)
		}
	}
	r.spend(16 * len(out))
	return out
}

func (r *run) batch(c *Call) any {
	items, n := r.items(c.Args[0]), c.number(1, "linecount", 1)
	if n < 1 {
		r.fail("a batch has at least one item")
	}
	out := r.list(len(items))
	for part := range slices.Chunk(items, int(min(n, math.MaxInt32))) {
		out = append(out, slices.Clone(part))
	}
	return out
}

// test is VALUE is NAME(ARGS).
func (r *run) test(name string, v any, args []any) bool {
	_, isUndefined := v.(undefined)
	arg := func() any {
		if len(args) == 0 {
			r.fail("the test %q needs a value", name)
		}
		return args[0]
	}
	switch name {
	case "defined":
		return !isUndefined
	case "undefined":
		return isUndefined
	case "none":
		return v == nil
	case "boolean", "true", "false":
		b, ok := v.(bool)
		return ok && (name == "boolean" || b == (name == "true"))
	case "integer":
		_, ok := v.(int64)
		return ok
	case "float":
		_, ok := v.(float64)
		return ok
	case "number":
		_, _, ok := numeric(v)
		return ok
	case "string":
		_, ok := v.(string)
		return ok
	case "mapping":
		_, ok := v.(*Dict)
		return ok
	case "iterable", "sequence":
		switch v.(type) {
		case []any, string, *Dict, undefined:
			return true
		}
		return false
	case "callable":
		_, ok := v.(Func)
		return ok
	case "in":
		return r.contains(arg(), v)
	case "sameas":
		return kindOf(v) == kindOf(arg()) && r.equal(v, arg())
	case "odd", "even", "divisibleby":
		n, ok := v.(int64)
		by := int64(2)
		if name == "divisibleby" {
			by = int64Of(arg())
		}
		if !ok || by == 0 {
			r.fail("the test %q needs whole numbers", name)
		}
		return (n%by != 0) == (name == "odd")
	case "upper", "lower":
		s := r.str(v)
		return strings.IndexFunc(s, unicode.IsLetter) >= 0 && (name == "upper" && s == strings.ToUpper(s) || name == "lower" && s == strings.ToLower(s))
	}
	op, ok := map[string]string{
		"eq": "==", "equalto": "==", "==": "==", "ne": "!=", "!=": "!=", "gt": ">", "greaterthan": ">", ">": ">",
		"ge": ">=", ">=": ">=", "lt": "<", "lessthan": "<", "<": "<", "le": "<=", "<=": "<=",
	}[name]
	if !ok {
		r.fail("there is no test %q", name)
	}
	return r.compare(op, v, arg())
}
