package grammar

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
)

// mergeList is a schema that is valid where all of the others are.
func mergeList(schemas ...any) *dict {
	d := newDict()
	d.set("allOf", schemas)
	return d
}

// merged is one schema for what is written beside allOf and $ref and in them.
func (w *schemaWriter) merged(d *dict, place string, depth int) (any, string, error) {
	var out any = d.clone("$ref", "allOf")
	var parts []any
	var places []string
	if ref, ok := d.values["$ref"].(string); ok {
		target, err := w.resolve(ref, place)
		if err != nil {
			return nil, "", err
		}
		parts, places = append(parts, target), append(places, ref)
	}
	if d.has("allOf") {
		list, ok := d.values["allOf"].([]any)
		if !ok || len(list) == 0 {
			return nil, "", schemaFault("allOf at %s must be a list of schemas", place)
		}
		for i, part := range list {
			parts, places = append(parts, part), append(places, pointer(place, "allOf", strconv.Itoa(i)))
		}
	}
	if len(parts) == 1 && !asserts(out.(*dict)) {
		return parts[0], places[0], nil // nothing to merge; a reference stays one
	}
	for i, part := range parts {
		if w.visited++; w.visited > maxSchemas || depth > maxNesting {
			return nil, "", schemaFault("%s merges too much, or refers to itself", place)
		}
		if p, ok := part.(*dict); ok && (p.has("$ref") || p.has("allOf")) {
			if err := check(p, places[i]); err != nil {
				return nil, "", err
			}
			flat, _, err := w.merged(p, places[i], depth+1)
			if err != nil {
				return nil, "", err
			}
			if f, ok := flat.(*dict); ok && (f.has("$ref") || f.has("allOf")) {
				// A reference to a reference, or the only part of allOf.
				if flat, err = w.flat(f, places[i], depth+1); err != nil {
					return nil, "", err
				}
			}
			part = flat
		}
		w.visited += effort(part) + effort(out)
		var err error
		if out, err = merge(out, part, place); err != nil {
			return nil, "", err
		}
	}
	return out, place, nil
}

// effort is about what a merge costs, beside what the schema itself does.
func effort(v any) int {
	d, ok := v.(*dict)
	if !ok {
		return 0
	}
	n := len(d.keys)
	for _, v := range d.values {
		switch v := v.(type) {
		case *dict:
			n += len(v.keys)
		case []any:
			n += len(v)
		}
	}
	return n / 16
}

// flat follows references until what they point to is none.
func (w *schemaWriter) flat(d *dict, place string, depth int) (any, error) {
	for depth <= maxNesting {
		flat, _, err := w.merged(d, place, depth)
		if err != nil {
			return nil, err
		}
		next, ok := flat.(*dict)
		if !ok || !next.has("$ref") && !next.has("allOf") {
			return flat, nil
		}
		d = next
		depth++
	}
	return nil, schemaFault("%s refers to itself", place)
}

// merge is the schema for what is valid for both.
func merge(a, b any, place string) (any, error) {
	if a == false || b == false {
		return false, nil
	}
	if b == true {
		return a, nil
	}
	if a == true {
		return b, nil
	}
	x, okX := a.(*dict)
	y, okY := b.(*dict)
	if !okX || !okY {
		return nil, schemaFault("%s must be made of objects, true and false", place)
	}
	if err := mergeable(x, y, place); err != nil {
		return nil, err
	}
	if err := mergeable(y, x, place); err != nil {
		return nil, err
	}
	out := x.clone()
	for _, key := range y.keys {
		if _, matters := keywords[key]; !out.has(key) {
			out.set(key, y.values[key])
			continue
		} else if !matters || same(x.values[key], y.values[key]) {
			continue
		}
		v, err := mergeKeyword(key, x.values[key], y.values[key], place)
		if errors.Is(err, errNothing) {
			return false, nil
		}
		if err != nil {
			return nil, err
		}
		out.set(key, v)
	}
	return out, nil
}

// mergeable refuses two schemas of which one forbids, or restricts, properties
// that only the other names.
func mergeable(x, y *dict, place string) error {
	for _, key := range []string{"additionalProperties", "unevaluatedProperties"} {
		if v, ok := x.values[key]; !ok || v == true || isEmpty(v) {
			continue
		}
		theirs, _ := y.values["properties"].(*dict)
		ours, _ := x.values["properties"].(*dict)
		if theirs == nil {
			continue
		}
		for _, name := range theirs.keys {
			if ours == nil || !ours.has(name) {
				return schemaFault("%s at %s forbids what another part of allOf names", key, place)
			}
		}
	}
	return nil
}

func mergeKeyword(key string, a, b any, place string) (any, error) {
	switch key {
	case "type":
		return mergeTypes(a, b)
	case "enum":
		x, okX := a.([]any)
		y, okY := b.([]any)
		if !okX || !okY {
			return nil, schemaFault("enum at %s must be a list", place)
		}
		if len(x)*len(y) > maxEnum*100 {
			return nil, schemaFault("enum at %s is too large to be merged", place)
		}
		both := slices.DeleteFunc(slices.Clone(x), func(v any) bool {
			return !slices.ContainsFunc(y, func(w any) bool { return same(v, w) })
		})
		if len(both) == 0 {
			return nil, errNothing
		}
		return both, nil
	case "const":
		return nil, errNothing
	case "nullable":
		return a == true && b == true, nil
	case "required":
		x, okX := a.([]any)
		y, okY := b.([]any)
		if !okX || !okY {
			return nil, schemaFault("required at %s must be a list of names", place)
		}
		return append(slices.Clone(x), y...), nil
	case "properties":
		return mergeProperties(a, b, place)
	case "items", "additionalProperties":
		return mergeList(a, b), nil
	case "anyOf":
		return product(key, a, b, place)
	case "minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties":
		return mergeBound(key, a, b, 1, place)
	case "maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties":
		return mergeBound(key, a, b, -1, place)
	}
	return nil, schemaFault("%s at %s can't be merged with another in allOf", key, place)
}

func mergeTypes(a, b any) (any, error) {
	list := func(v any) []any {
		if l, ok := v.([]any); ok {
			return l
		}
		return []any{v}
	}
	var both []any
	for _, x := range list(a) {
		for _, y := range list(b) {
			switch {
			case x == y || x == "integer" && y == "number":
				both = append(both, x)
			case x == "number" && y == "integer":
				both = append(both, y)
			}
		}
	}
	if both == nil {
		return nil, errNothing
	}
	return both, nil
}

func mergeProperties(a, b any, place string) (any, error) {
	x, okX := a.(*dict)
	y, okY := b.(*dict)
	if !okX || !okY {
		return nil, schemaFault("properties at %s must be an object", place)
	}
	both := x.clone()
	for _, name := range y.keys {
		v := y.values[name]
		if both.has(name) && !same(v, both.values[name]) {
			v = mergeList(both.values[name], v)
		}
		both.set(name, v)
	}
	return both, nil
}

// maxProduct is how many alternatives two lists of alternatives may make.
const maxProduct = 100

func product(key string, a, b any, place string) (any, error) {
	x, okX := a.([]any)
	y, okY := b.([]any)
	if !okX || !okY || len(x)*len(y) > maxProduct {
		return nil, schemaFault("%s at %s can't be merged with another in allOf", key, place)
	}
	var out []any
	for _, v := range x {
		for _, w := range y {
			out = append(out, mergeList(v, w))
		}
	}
	return out, nil
}

// mergeBound is the greater of two numbers, the smaller for the sign -1.
func mergeBound(key string, a, b any, sign int, place string) (any, error) {
	x, okX := a.(json.Number)
	y, okY := b.(json.Number)
	if okX && okY {
		p, okX := exact(x)
		q, okY := exact(y)
		if okX && okY {
			if p.Cmp(q)*sign >= 0 {
				return x, nil
			}
			return y, nil
		}
	}
	return nil, schemaFault("%s at %s must be a number that is not very large or long", key, place)
}
