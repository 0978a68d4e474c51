package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
)

// The values of a template are nil, bool, int64, float64, string, []any, *Dict,
// Func and the types below. Lists and dicts are never changed once they are
// made, so they cannot hold themselves; a namespace can, and is never printed.

// Dict is a mapping that keeps the order in which it was written.
type Dict struct {
	keys   []string
	values map[string]any
}

// Set gives a key its value.
func (d *Dict) Set(key string, v any) {
	if d.values == nil {
		d.values = map[string]any{}
	}
	if _, there := d.values[key]; !there {
		d.keys = append(d.keys, key)
	}
	d.values[key] = v
}

// Get is the value of a key, and whether it is there.
func (d *Dict) Get(key string) (any, bool) {
	v, ok := d.values[key]
	return v, ok
}

// Func is a function that a template may call.
type Func func(c *Call) any

// Call is one call of a Func.
type Call struct {
	Args  []any
	Named map[string]any
	run   *run
}

// Fail ends the rendering with a message.
func (c *Call) Fail(format string, args ...any) { c.run.fail(format, args...) }

// arg is the argument at a place, or with a name, or the default.
func (c *Call) arg(i int, name string, missing any) any {
	if i >= 0 && i < len(c.Args) {
		return c.Args[i]
	}
	if v, ok := c.Named[name]; ok {
		return v
	}
	return missing
}

func (c *Call) text(i int, name, missing string) string {
	if s, ok := c.arg(i, name, missing).(string); ok {
		return s
	}
	c.Fail("the argument %q must be a text", name)
	return ""
}

func (c *Call) number(i int, name string, missing int64) int64 {
	switch n := c.arg(i, name, missing).(type) {
	case int64:
		return n
	case bool:
		return int64Of(n)
	}
	c.Fail("the argument %q must be a whole number", name)
	return 0
}

// undefined is what a name without a value stands for.
type undefined struct{ name string }

// namespace is what namespace() makes: variables that inner scopes may set.
type namespace struct{ vars map[string]any }

// loop is the variable of that name in a loop.
type loop struct {
	items []any
	at    int
	last  []any // what changed() saw
}

// Value turns JSON into a value of a template.
func Value(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decode(d)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

func decode(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n, nil
		}
		return t.Float64()
	case json.Delim:
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := decode(d)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err = d.Token()
			return list, err
		}
		dict := &Dict{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decode(d)
			if err != nil {
				return nil, err
			}
			dict.Set(key.(string), v)
		}
		_, err = d.Token()
		return dict, err
	}
	return t, nil // nil, bool, string
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "none"
	case bool:
		return "a boolean"
	case int64, float64:
		return "a number"
	case string:
		return "a text"
	case []any:
		return "a list"
	case *Dict:
		return "a mapping"
	case undefined:
		return v.name + ", which is not defined,"
	}
	return "an object"
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case *Dict:
		return len(v.keys) > 0
	}
	return true
}

// numeric is a number's value as a float, and whether it is a whole number.
func numeric(v any) (f float64, whole, ok bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true, true
	case float64:
		return v, false, true
	case bool:
		return float64(int64Of(v)), true, true
	}
	return 0, false, false
}

func int64Of(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case bool:
		if v {
			return 1
		}
	case float64:
		return int64(v)
	}
	return 0
}

// items are what a loop over the value goes through.
func (r *run) items(v any) []any {
	switch v := v.(type) {
	case []any:
		return v
	case undefined:
		return nil
	case string:
		all := r.list(len(v))
		for _, c := range v {
			all = append(all, string(c))
		}
		return all
	case *Dict:
		all := r.list(len(v.keys))
		for _, key := range v.keys {
			all = append(all, key)
		}
		return all
	}
	r.fail("cannot go through %s", kindOf(v))
	return nil
}

// attribute is VALUE.NAME.
func (r *run) attribute(v any, name string) any {
	switch v := v.(type) {
	case *Dict:
		if m := r.dictMethod(v, name); m != nil {
			return m
		}
		if got, ok := v.Get(name); ok {
			return got
		}
	case *namespace:
		if got, ok := v.vars[name]; ok {
			return got
		}
	case *loop:
		return r.loopAttribute(v, name)
	case string:
		if m := r.textMethod(v, name); m != nil {
			return m
		}
	case []any:
		if m := r.listMethod(v, name); m != nil {
			return m
		}
	case undefined:
		r.fail("%s is not defined", v.name)
	}
	return undefined{name}
}

func (r *run) loopAttribute(l *loop, name string) any {
	n := int64(len(l.items))
	at := int64(l.at)
	switch name {
	case "index":
		return at + 1
	case "index0":
		return at
	case "revindex":
		return n - at
	case "revindex0":
		return n - at - 1
	case "first":
		return at == 0
	case "last":
		return at == n-1
	case "length":
		return n
	case "previtem":
		if at > 0 {
			return l.items[at-1]
		}
	case "nextitem":
		if at < n-1 {
			return l.items[at+1]
		}
	case "cycle":
		return Func(func(c *Call) any {
			if len(c.Args) == 0 {
				c.Fail("cycle needs values")
			}
			return c.Args[l.at%len(c.Args)]
		})
	case "changed":
		return Func(func(c *Call) any {
			same := l.last != nil && r.equal(l.last, c.Args)
			l.last = c.Args
			return !same
		})
	}
	return undefined{"loop." + name}
}

// item is VALUE[KEY].
func (r *run) item(v, key any) any {
	if text, ok := v.(string); ok {
		v = r.items(text)
	}
	switch v := v.(type) {
	case []any:
		i, ok := key.(int64)
		if !ok {
			break
		}
		if i < 0 {
			i += int64(len(v))
		}
		if i >= 0 && i < int64(len(v)) {
			return v[i]
		}
		return undefined{"an item of a list"}
	case *Dict:
		name := r.str(key)
		if got, ok := v.Get(name); ok {
			return got
		}
		return r.attribute(v, name)
	}
	if name, ok := key.(string); ok {
		return r.attribute(v, name)
	}
	if u, ok := v.(undefined); ok {
		r.fail("%s is not defined", u.name)
	}
	return undefined{"an item"}
}

// slice is VALUE[a:b:c].
func (r *run) slice(v any, parts [3]any) any {
	_, isText := v.(string)
	items := r.items(v)
	part := func(i int, missing int) int {
		switch p := parts[i].(type) {
		case nil:
			return missing
		case int64:
			return int(max(min(p, math.MaxInt32), math.MinInt32))
		}
		r.fail("a slice needs whole numbers")
		return 0
	}
	n := len(items)
	step := part(2, 1)
	if step == 0 {
		r.fail("the step of a slice is 0")
	}
	low, high := 0, n
	if step < 0 {
		low, high = -1, n-1
	}
	bound := func(i, missing int) int {
		p := part(i, missing)
		if parts[i] != nil && p < 0 {
			p += n
		}
		return min(max(p, low), high)
	}
	var from, to int
	if step > 0 {
		from, to = bound(0, 0), bound(1, n)
	} else {
		from, to = bound(0, n-1), bound(1, -1)
	}
	out := r.list(0)
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		out = append(out, items[i])
	}
	r.spend(16 * len(out))
	if !isText {
		return out
	}
	var b strings.Builder
	for _, c := range out {
		b.WriteString(c.(string))
	}
	return r.text(b.String())
}

// equal compares as Python does.
func (r *run) equal(a, b any) bool {
	r.enter()
	defer r.leave()
	r.step(0)
	if x, _, ok := numeric(a); ok {
		y, _, ok := numeric(b)
		return ok && x == y
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		other, ok := b.(string)
		r.steps += len(a) >> 10
		return ok && a == other
	case undefined:
		_, ok := b.(undefined)
		return ok
	case []any:
		other, ok := b.([]any)
		return ok && slices.EqualFunc(a, other, r.equal)
	case *Dict:
		other, ok := b.(*Dict)
		if !ok || len(a.keys) != len(other.keys) {
			return false
		}
		for _, key := range a.keys {
			if v, ok := other.Get(key); !ok || !r.equal(a.values[key], v) {
				return false
			}
		}
		return true
	case *namespace:
		other, ok := b.(*namespace)
		return ok && a == other
	}
	return false
}

// order is negative, 0 or positive; it fails where Python would.
func (r *run) order(a, b any) int {
	r.enter()
	defer r.leave()
	r.step(0)
	x, _, aOK := numeric(a)
	y, _, bOK := numeric(b)
	if aOK && bOK {
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	if s, ok := a.(string); ok {
		if t, ok := b.(string); ok {
			r.steps += len(s) >> 10
			return strings.Compare(s, t)
		}
	}
	if s, ok := a.([]any); ok {
		if t, ok := b.([]any); ok {
			return slices.CompareFunc(s, t, r.order)
		}
	}
	r.fail("cannot compare %s with %s", kindOf(a), kindOf(b))
	return 0
}

func (r *run) compare(op string, a, b any) bool {
	switch op {
	case "==":
		return r.equal(a, b)
	case "!=":
		return !r.equal(a, b)
	case "in":
		return r.contains(b, a)
	case "not in":
		return !r.contains(b, a)
	case "<":
		return r.order(a, b) < 0
	case "<=":
		return r.order(a, b) <= 0
	case ">":
		return r.order(a, b) > 0
	}
	return r.order(a, b) >= 0
}

func (r *run) contains(in, v any) bool {
	switch in := in.(type) {
	case string:
		part, ok := v.(string)
		if !ok {
			r.fail("cannot look for %s in a text", kindOf(v))
		}
		r.steps += len(in) >> 10
		return strings.Contains(in, part)
	case []any:
		return slices.ContainsFunc(in, func(item any) bool { return r.equal(item, v) })
	case *Dict:
		_, ok := in.Get(r.str(v))
		return ok
	case *namespace:
		_, ok := in.vars[r.str(v)]
		return ok
	case undefined:
		return false
	}
	r.fail("cannot look into %s", kindOf(in))
	return false
}
