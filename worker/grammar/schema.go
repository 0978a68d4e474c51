package grammar

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"rbee"
)

// Bounds of a schema.
const (
	maxSchemaText = 1 << 20 // bytes
	maxSchemas    = 20_000  // visited, also again after a merge
	maxEnum       = 5_000   // values of one enum
)

// library are the rules that grammars of JSON share. White space is that of JSON
// on one line or indented, a space where one is usual, or a new line with ten
// steps of indentation at most; deeper values are not indented further. It is
// bounded, and so are the digits of numbers, since a model may not know when to
// end them. Half of a surrogate pair is no character of a string.
const library = `ws ::= | " " | "\n" (" "{0,20} | "\t"{0,10})
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (member ("," ws member)* ws)? "}"
member ::= string ":" " "? value
array ::= "[" ws (value ("," ws value)* ws)? "]"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2} | [dD] [89abAB] hex{2} "\\u" [dD] [c-fC-F] hex{2}))
hex ::= [0-9a-fA-F]
integer ::= "0" | "-"? [1-9] [0-9]{0,15}
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?
`

// JSON is the grammar, in GBNF, of any JSON object.
func JSON() string { return "root ::= object\n" + library }

// FromSchema makes a grammar, in GBNF, of JSON texts that a JSON schema (2020-12,
// and what older drafts and OpenAPI call differently) allows. What the grammar
// has is valid, with these exceptions: of oneOf several may fit, and formats
// other than those of dates, times, durations, UUIDs and IPv4 addresses are not
// looked at, nor keywords that are not of JSON Schema. Not all that is valid is
// in the grammar: properties come in the order of the schema; others only where
// additionalProperties allows them in so many words, or no property is named;
// numbers and spaces have a bounded length.
//
// INVALID_REQUEST names the keyword and the place, as a JSON pointer, of what is
// wrong or can't be said in a grammar.
func FromSchema(schema json.RawMessage) (string, error) {
	if len(schema) > maxSchemaText {
		return "", schemaFault("it has %d bytes, more than %d", len(schema), maxSchemaText)
	}
	root, err := decode(schema)
	if err != nil {
		return "", schemaFault("it is not JSON: %v", err)
	}
	w := &schemaWriter{root: root, names: map[string]string{}, places: map[string]string{}, references: map[string]string{}}
	body, err := w.schema(root, "#", 0)
	if errors.Is(err, errNothing) {
		return "", schemaFault("nothing is valid for it")
	}
	if err != nil {
		return "", err
	}
	text := "root ::= " + body + "\n" + w.rules.String() + library
	if _, err := Parse(text); err != nil {
		e := rbee.AsError(err)
		if name, ok := e.Details["rule"].(string); ok {
			place := w.places[name]
			if place == "" {
				place = "#"
			}
			return "", schemaFault("%s refers to itself without an end", place)
		}
		return "", schemaFault("it is too large: %s", strings.TrimPrefix(e.Message, "cannot use the grammar: "))
	}
	return text, nil
}

func schemaFault(format string, args ...any) *rbee.Error {
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot use the JSON schema: "+format, args...)
}

// errNothing says that no value is valid for a schema.
var errNothing = errors.New("nothing is valid")

// schemaWriter writes rules. What writes a schema gives a symbol of GBNF, or
// errNothing if no value is valid for it.
type schemaWriter struct {
	root       any
	rules      strings.Builder
	names      map[string]string // of rules, by their text
	places     map[string]string // of what rules are for, by their name
	references map[string]string // rules, by the reference to what they are for
	visited    int
}

// rule is the name of a rule for a text that is more than one symbol.
func (w *schemaWriter) rule(text string) string {
	if name, ok := w.names[text]; ok {
		return name
	}
	name := "r" + strconv.Itoa(len(w.names)+1)
	w.names[text] = name
	fmt.Fprintf(&w.rules, "%s ::= %s\n", name, text)
	return name
}

func (w *schemaWriter) schema(v any, place string, depth int) (string, error) {
	if w.visited++; w.visited > maxSchemas {
		return "", schemaFault("it has more than %d schemas, where those that it refers to count again when they are merged", maxSchemas)
	}
	if depth > maxNesting {
		return "", schemaFault("%s is nested too deep, or refers to itself in allOf or anyOf", place)
	}
	switch v := v.(type) {
	case bool:
		if v {
			return "value", nil
		}
		return "", errNothing
	case *dict:
		return w.dict(v, place, depth)
	}
	return "", schemaFault("%s must be an object, true or false", place)
}

func (w *schemaWriter) dict(d *dict, place string, depth int) (string, error) {
	if err := check(d, place); err != nil {
		return "", err
	}
	if ref, ok := d.values["$ref"].(string); ok && !asserts(d.clone("$ref")) {
		return w.reference(ref, place, depth)
	}
	if d.has("$ref") || d.has("allOf") {
		merged, at, err := w.merged(d, place, depth)
		if err != nil {
			return "", err
		}
		return w.schema(merged, at, depth+1)
	}
	for _, key := range []string{"anyOf", "oneOf"} {
		if d.has(key) {
			return w.any(d, key, place, depth)
		}
	}
	if d.has("enum") || d.has("const") {
		return w.enum(d, place)
	}
	types, err := typesOf(d, place)
	if err != nil {
		return "", err
	}
	var out []string
	for _, t := range types {
		text, err := w.typed(d, t, place, depth)
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return "", err
		}
		out = append(out, text)
	}
	return w.choice(out)
}

// choice is one of several symbols.
func (w *schemaWriter) choice(symbols []string) (string, error) {
	switch len(symbols) {
	case 0:
		return "", errNothing
	case 1:
		return symbols[0], nil
	}
	return w.rule(strings.Join(symbols, " | ")), nil
}

// reference is the rule of what a reference points to. It is there before it is
// written, so that it may refer to itself.
func (w *schemaWriter) reference(ref, place string, depth int) (string, error) {
	if name, ok := w.references[ref]; ok {
		return name, nil
	}
	target, err := w.resolve(ref, place)
	if err != nil {
		return "", err
	}
	name := "s" + strconv.Itoa(len(w.references)+1)
	w.references[ref] = name
	w.places[name] = ref
	body, err := w.schema(target, ref, depth+1)
	if errors.Is(err, errNothing) {
		// Others may have taken the name already.
		return "", schemaFault("nothing is valid for %s", ref)
	}
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&w.rules, "%s ::= %s\n", name, body)
	return name, nil
}

// resolve finds what a reference points to.
func (w *schemaWriter) resolve(ref, place string) (any, error) {
	if ref != "#" && !strings.HasPrefix(ref, "#/") {
		return nil, schemaFault("$ref at %s must point into the schema, such as #/$defs/name", place)
	}
	v := w.root
	for _, part := range strings.Split(ref, "/")[1:] {
		part = unescapePointer(part)
		switch at := v.(type) {
		case *dict:
			next, ok := at.values[part]
			if !ok {
				return nil, schemaFault("$ref at %s points to nothing", place)
			}
			v = next
		case []any:
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 || n >= len(at) {
				return nil, schemaFault("$ref at %s points to nothing", place)
			}
			v = at[n]
		default:
			return nil, schemaFault("$ref at %s points to nothing", place)
		}
	}
	return v, nil
}

func unescapePointer(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(b.String())
}

func pointer(place string, parts ...string) string {
	for _, p := range parts {
		place += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(p)
	}
	return place
}

// any writes anyOf or oneOf. What stands beside it holds for each alternative.
func (w *schemaWriter) any(d *dict, key, place string, depth int) (string, error) {
	list, ok := d.values[key].([]any)
	if !ok || len(list) == 0 {
		return "", schemaFault("%s at %s must be a list of schemas", key, place)
	}
	base := d.clone(key, "nullable")
	var out []string
	for i, alternative := range list {
		at := pointer(place, key, strconv.Itoa(i))
		if asserts(base) {
			alternative = mergeList(base, alternative)
		}
		text, err := w.schema(alternative, at, depth+1)
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return "", err
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	if nullable, _ := d.values["nullable"].(bool); nullable && !slices.Contains(out, `"null"`) {
		out = append(out, `"null"`)
	}
	return w.choice(out)
}

// enum writes the values of enum and const that have one of the types.
func (w *schemaWriter) enum(d *dict, place string) (string, error) {
	values := []any{d.values["const"]}
	if d.has("enum") {
		list, ok := d.values["enum"].([]any)
		if !ok {
			return "", schemaFault("enum at %s must be a list", place)
		}
		if len(list) > maxEnum {
			return "", schemaFault("enum at %s has %d values, more than %d", place, len(list), maxEnum)
		}
		if d.has("const") {
			list = slices.DeleteFunc(slices.Clone(list), func(v any) bool { return !same(v, d.values["const"]) })
		}
		values = list
	}
	for _, key := range d.keys {
		if !slices.Contains([]string{"enum", "const", "type", "nullable"}, key) && asserts(d.clone("enum", "const").only(key)) {
			return "", schemaFault("%s at %s can't stand beside enum or const", key, place)
		}
	}
	types := allTypes
	if d.has("type") {
		var err error
		if types, err = typesOf(d.clone("enum", "const"), place); err != nil {
			return "", err
		}
	}
	var out []string
	for _, v := range values {
		if slices.ContainsFunc(types, func(t string) bool { return hasType(v, t) }) {
			out = append(out, literal(compact(v)))
		}
	}
	return w.choice(out)
}

func (d *dict) only(key string) *dict {
	c := newDict()
	c.set(key, d.values[key])
	return c
}

var allTypes = []string{"object", "array", "string", "number", "boolean", "null"}

func hasType(v any, t string) bool {
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case []any:
		return t == "array"
	case *dict:
		return t == "object"
	case json.Number:
		x, ok := exact(v)
		return t == "number" || t == "integer" && ok && x.IsInt()
	}
	return false
}

// typesOf are the types that a schema names, or those that its keywords are
// for, or all.
func typesOf(d *dict, place string) ([]string, error) {
	var types []string
	switch t := d.values["type"].(type) {
	case string:
		types = []string{t}
	case []any:
		for _, x := range t {
			s, _ := x.(string)
			types = append(types, s)
		}
	default:
		if d.has("type") {
			return nil, schemaFault("type at %s must be a name or a list of names", place)
		}
		for _, t := range allTypes {
			if slices.ContainsFunc(d.keys, func(k string) bool { return keywords[k] == t }) {
				types = append(types, t)
			}
		}
		if types == nil {
			return []string{"any"}, nil
		}
	}
	for _, t := range types {
		if t != "integer" && !slices.Contains(allTypes, t) {
			return nil, schemaFault("type at %s must be one of %s and integer", place, strings.Join(allTypes, ", "))
		}
	}
	if slices.Contains(types, "number") {
		types = slices.DeleteFunc(types, func(t string) bool { return t == "integer" })
	}
	if nullable, _ := d.values["nullable"].(bool); nullable && !slices.Contains(types, "null") {
		types = append(types, "null")
	}
	return types, nil
}

func (w *schemaWriter) typed(d *dict, t, place string, depth int) (string, error) {
	switch t {
	case "any":
		return "value", nil
	case "null":
		return `"null"`, nil
	case "boolean":
		return w.rule(`"true" | "false"`), nil
	case "integer", "number":
		return w.number(d, t == "integer", place)
	case "string":
		return w.str(d, place)
	case "array":
		return w.array(d, place, depth)
	}
	return w.object(d, place, depth)
}

// keywords are those that change what is valid, with the type they are for; ""
// is none in particular.
var keywords = map[string]string{
	"type": "", "enum": "", "const": "", "$ref": "", "allOf": "", "anyOf": "", "oneOf": "", "nullable": "",
	"not": "", "if": "", "then": "", "else": "", "$dynamicRef": "", "$recursiveRef": "",
	"properties": "object", "required": "object", "additionalProperties": "object", "patternProperties": "object",
	"propertyNames": "object", "minProperties": "object", "maxProperties": "object", "dependentRequired": "object",
	"dependentSchemas": "object", "dependencies": "object", "unevaluatedProperties": "object",
	"items": "array", "prefixItems": "array", "additionalItems": "array", "minItems": "array", "maxItems": "array",
	"contains": "array", "minContains": "array", "maxContains": "array", "uniqueItems": "array", "unevaluatedItems": "array",
	"minLength": "string", "maxLength": "string", "pattern": "string", "format": "string",
	"minimum": "number", "maximum": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number", "multipleOf": "number",
}

// asserts says whether a schema has keywords that change what is valid.
func asserts(d *dict) bool {
	return slices.ContainsFunc(d.keys, func(k string) bool { _, ok := keywords[k]; return ok })
}

// refused are keywords that a grammar can't follow, with the values with which
// they change nothing.
var refused = map[string]func(v any) bool{
	"not": nil, "$dynamicRef": nil, "$recursiveRef": nil, "contains": nil,
	"patternProperties": isEmpty, "dependentRequired": isEmpty, "dependentSchemas": isEmpty, "dependencies": isEmpty,
	"propertyNames":    func(v any) bool { return v == true || isEmpty(v) },
	"unevaluatedItems": func(v any) bool { return v == true || isEmpty(v) },
	"uniqueItems":      func(v any) bool { return v == false },
}

func isEmpty(v any) bool {
	d, ok := v.(*dict)
	return ok && len(d.keys) == 0
}

// check refuses keywords that a grammar can't follow.
func check(d *dict, place string) error {
	for _, key := range slices.Sorted(maps.Keys(refused)) {
		if harmless := refused[key]; d.has(key) && (harmless == nil || !harmless(d.values[key])) {
			return schemaFault("%s at %s is not supported", key, place)
		}
	}
	if d.has("if") && (d.has("then") || d.has("else")) {
		return schemaFault("if at %s is not supported", place)
	}
	if d.has("$ref") {
		if _, ok := d.values["$ref"].(string); !ok {
			return schemaFault("$ref at %s must be a text", place)
		}
	}
	if d.has("nullable") {
		if _, ok := d.values["nullable"].(bool); !ok {
			return schemaFault("nullable at %s must be true or false", place)
		}
	}
	return nil
}

// count is the value of a keyword that counts something; none if it is not there.
func count(d *dict, key, place string, none int) (int, error) {
	if !d.has(key) {
		return none, nil
	}
	n, ok := d.values[key].(json.Number)
	if ok {
		if x, ok := exact(n); ok && x.IsInt() && x.Sign() >= 0 {
			if x.Num().IsInt64() && x.Num().Int64() <= math.MaxInt32 {
				return int(x.Num().Int64()), nil
			}
			return 0, schemaFault("%s at %s is too large", key, place)
		}
	}
	return 0, schemaFault("%s at %s must be a whole number, 0 or more", key, place)
}
