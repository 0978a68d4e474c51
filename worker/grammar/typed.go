package grammar

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

func (w *schemaWriter) number(d *dict, whole bool, place string) (string, error) {
	if v, ok := d.values["multipleOf"]; ok && !(whole && same(v, json.Number("1"))) {
		return "", schemaFault("multipleOf at %s is not supported", place)
	}
	var l limits
	for _, b := range []struct {
		key       string
		narrow    func(*big.Rat, bool)
		exclusive string // in draft 4 a boolean beside the bound
		open      bool
	}{
		{"minimum", l.above, "exclusiveMinimum", false},
		{"maximum", l.below, "exclusiveMaximum", false},
		{"exclusiveMinimum", l.above, "", true},
		{"exclusiveMaximum", l.below, "", true},
	} {
		v, ok := d.values[b.key]
		if _, flag := v.(bool); !ok || flag && b.open {
			continue
		}
		n, ok := v.(json.Number)
		if !ok {
			return "", schemaFault("%s at %s must be a number", b.key, place)
		}
		x, ok := exact(n)
		if !ok || fraction(x) > freeDigits {
			return "", schemaFault("%s at %s has too many digits", b.key, place)
		}
		b.narrow(x, b.open || d.values[b.exclusive] == true)
	}
	switch {
	case l.none() && whole:
		return "integer", nil
	case l.none():
		return "number", nil
	case l.empty():
		return "", errNothing
	}
	alternatives := l.number(whole)
	if len(alternatives) == 0 {
		return "", errNothing
	}
	return w.rule(strings.Join(alternatives, " | ")), nil
}

// text is a form of strings, from quote to quote, and the lengths it can have.
type text struct {
	gbnf              string
	shortest, longest int // -1 is without end
}

// formats are the formats that are looked at, as RFC 3339 and RFC 4122 have
// them, without leap seconds.
var formats = map[string]text{
	"date":      {date, 10, 10},
	"time":      {clock, 9, 24},
	"date-time": {date + ` "T" ` + clock, 20, 35},
	"duration":  {`"P" (` + days + ` | "T" ` + hours + ` | [0-9]{1,4} "W")`, 3, -1},
	"uuid":      {`hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}`, 36, 36},
	"ipv4":      {"(" + octet + `) ("." (` + octet + `)){3}`, 7, 15},
}

const (
	// A day after the 28th needs a month that has it, February 29 a leap year.
	date = `([0-9]{4} "-" (("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])` +
		` | ("0" [13-9] | "1" [0-2]) "-" ("29" | "30") | ("0" [13578] | "1" [02]) "-31")` +
		` | ([0-9]{2} ("0" [48] | [2468] [048] | [13579] [26]) | ([02468] [048] | [13579] [26]) "00") "-02-29")`
	clock = `([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])`
	hours = `([0-9]{1,4} "H" ([0-9]{1,4} "M" ([0-9]{1,4} "S")?)? | [0-9]{1,4} "M" ([0-9]{1,4} "S")? | [0-9]{1,4} "S")`
	days  = `([0-9]{1,4} "Y" ([0-9]{1,4} "M" ([0-9]{1,4} "D")?)? | [0-9]{1,4} "M" ([0-9]{1,4} "D")? | [0-9]{1,4} "D") ("T" ` + hours + `)?`
	octet = `"25" [0-5] | "2" [0-4] [0-9] | "1" [0-9]{2} | [1-9]? [0-9]`
)

func (w *schemaWriter) str(d *dict, place string) (string, error) {
	low, err := count(d, "minLength", place, 0)
	if err != nil {
		return "", err
	}
	high, err := count(d, "maxLength", place, -1)
	if err != nil {
		return "", err
	}
	if high >= 0 && high < low {
		return "", errNothing
	}
	form, found := text{}, ""
	if v, ok := d.values["format"].(string); ok {
		if f, known := formats[v]; known {
			form, found = f, "format"
		}
	} else if d.has("format") {
		return "", schemaFault("format at %s must be a text", place)
	}
	if v, ok := d.values["pattern"].(string); ok {
		if found != "" {
			return "", schemaFault("pattern at %s can't stand beside format", place)
		}
		found = "pattern"
		if form.gbnf, form.shortest, form.longest, err = pattern(v); err != nil {
			return "", schemaFault("pattern at %s: %v", place, err)
		}
	} else if d.has("pattern") {
		return "", schemaFault("pattern at %s must be a text", place)
	}
	switch {
	case found != "":
		if form.shortest < low || high >= 0 && (form.longest < 0 || form.longest > high) {
			return "", schemaFault("minLength and maxLength at %s can't stand beside %s, which allows other lengths", place, found)
		}
		return w.rule(`"\"" (` + form.gbnf + `) "\""`), nil
	case low == 0 && high < 0:
		return "string", nil
	case high < 0:
		return w.rule(fmt.Sprintf(`"\"" char{%d,} "\""`, low)), nil
	}
	return w.rule(fmt.Sprintf(`"\"" char{%d,%d} "\""`, low, high)), nil
}

func (w *schemaWriter) array(d *dict, place string, depth int) (string, error) {
	low, err := count(d, "minItems", place, 0)
	if err != nil {
		return "", err
	}
	high, err := count(d, "maxItems", place, -1)
	if err != nil {
		return "", err
	}
	prefix, rest, err := items(d, place)
	if err != nil {
		return "", err
	}
	var first []string
	for i, v := range prefix {
		symbol, err := w.schema(v, pointer(place, "prefixItems", strconv.Itoa(i)), depth+1)
		if errors.Is(err, errNothing) { // the array ends before it
			rest = false
			break
		}
		if err != nil {
			return "", err
		}
		first = append(first, symbol)
	}
	item, err := w.schema(rest, pointer(place, "items"), depth+1)
	if errors.Is(err, errNothing) {
		item = ""
		if high < 0 || high > len(first) {
			high = len(first)
		}
	} else if err != nil {
		return "", err
	}
	if high >= 0 && high < low {
		return "", errNothing
	}
	if high >= 0 && len(first) > high {
		first = first[:high]
	}
	return w.rule(`"[" ws ` + w.list(first, item, low, high) + ` "]"`), nil
}

// items are the schemas of the first items and that of all others.
func items(d *dict, place string) (prefix []any, rest any, err error) {
	rest = true
	if v, ok := d.values["items"]; ok {
		rest = v
	}
	key := "prefixItems"
	if _, old := d.values["items"].([]any); old { // as before 2020-12
		key, rest = "items", true
		if v, ok := d.values["additionalItems"]; ok {
			rest = v
		}
	}
	if v, ok := d.values[key]; ok {
		if prefix, ok = v.([]any); !ok {
			return nil, nil, schemaFault("%s at %s must be a list of schemas", key, place)
		}
	}
	return prefix, rest, nil
}

// list writes from low to high items with commas between them, first those of
// a fixed place; high -1 is without end.
func (w *schemaWriter) list(first []string, item string, low, high int) string {
	tail := ""
	if item != "" && (high < 0 || high > len(first)) {
		lowest, most := max(0, low-len(first)), ""
		if high >= 0 {
			most = strconv.Itoa(high - len(first))
		}
		if len(first) == 0 {
			// The first has no comma before it.
			if most != "" {
				most = strconv.Itoa(high - 1)
			}
			tail = fmt.Sprintf(`%s ("," ws %s){%d,%s} ws`, item, item, max(0, lowest-1), most)
			if low == 0 {
				tail = "(" + tail + ")?"
			}
			return tail
		}
		tail = fmt.Sprintf(`("," ws %s){%d,%s}`, item, lowest, most)
	}
	if len(first) == 0 {
		return ""
	}
	for i := len(first) - 1; i >= 0; i-- {
		text := first[i]
		if i > 0 {
			text = `"," ws ` + text
		}
		if tail != "" {
			text += " " + tail
		}
		tail = text
		if i == 0 {
			tail += " ws"
		}
		if i >= low {
			tail = "(" + tail + ")?"
		}
		if i > 0 {
			tail = w.rule(tail)
		}
	}
	return tail
}

func (w *schemaWriter) object(d *dict, place string, depth int) (string, error) {
	properties := newDict()
	if d.has("properties") {
		p, ok := d.values["properties"].(*dict)
		if !ok {
			return "", schemaFault("properties at %s must be an object", place)
		}
		properties = p.clone()
	}
	required, err := requiredOf(d, place)
	if err != nil {
		return "", err
	}
	extra, err := extras(d, len(properties.keys)+len(required) > 0, place)
	if err != nil {
		return "", err
	}
	undeclared := extra
	if !d.has("additionalProperties") && !d.has("unevaluatedProperties") {
		undeclared = true
	}
	for _, name := range slices.Sorted(maps.Keys(required)) {
		if !properties.has(name) {
			properties.set(name, undeclared)
		}
	}
	var members []member
	for _, name := range properties.keys {
		symbol, err := w.schema(properties.values[name], pointer(place, "properties", name), depth+1)
		if errors.Is(err, errNothing) {
			if required[name] {
				return "", errNothing
			}
			continue
		}
		if err != nil {
			return "", err
		}
		members = append(members, member{literal(quote(name)+":") + ` " "? ` + symbol, required[name]})
	}
	other, err := w.extra(extra, properties.keys, place, depth)
	if err != nil {
		return "", err
	}
	low, high, err := w.counted(d, members, other, place)
	if err != nil {
		return "", err
	}
	if len(members) == 0 {
		if other == "member" && low == 0 && high < 0 {
			return "object", nil
		}
		if other == "" {
			high = 0
		}
		return w.rule(`"{" ws ` + w.list(nil, zeroEmpty(other, high), low, high) + ` "}"`), nil
	}
	return w.rule(`"{" ws ` + w.members(members, other) + ` "}"`), nil
}

func zeroEmpty(symbol string, high int) string {
	if high == 0 {
		return ""
	}
	return symbol
}

func requiredOf(d *dict, place string) (map[string]bool, error) {
	required := map[string]bool{}
	list, ok := d.values["required"].([]any)
	if flag, old := d.values["required"].(bool); old && !flag { // of a draft that had it in the property
		return required, nil
	}
	if d.has("required") && !ok {
		return nil, schemaFault("required at %s must be a list of names", place)
	}
	for _, v := range list {
		name, ok := v.(string)
		if !ok {
			return nil, schemaFault("required at %s must be a list of names", place)
		}
		required[name] = true
	}
	return required, nil
}

// extras is the schema of properties that are not named. Where nothing is said
// of them there are none beside named ones: a model would not know when to end.
func extras(d *dict, named bool, place string) (any, error) {
	if v, ok := d.values["unevaluatedProperties"]; ok && !d.has("additionalProperties") {
		return v, nil
	} else if ok && v != true && !isEmpty(v) && d.values["additionalProperties"] != false {
		return nil, schemaFault("unevaluatedProperties at %s can't stand beside additionalProperties", place)
	}
	if v, ok := d.values["additionalProperties"]; ok {
		return v, nil
	}
	return !named, nil
}

// extra writes one property that is not named; "" if there is none.
func (w *schemaWriter) extra(schema any, named []string, place string, depth int) (string, error) {
	symbol, err := w.schema(schema, pointer(place, "additionalProperties"), depth+1)
	switch {
	case errors.Is(err, errNothing):
		return "", nil
	case err != nil:
		return "", err
	case len(named) == 0 && symbol == "value":
		return "member", nil
	case len(named) == 0:
		return w.rule(`string ":" " "? ` + symbol), nil
	}
	return w.rule(w.otherName(named) + ` ":" " "? ` + symbol), nil
}

// counted checks minProperties and maxProperties, which can be followed only
// where they change nothing, or no property is named.
func (w *schemaWriter) counted(d *dict, members []member, other, place string) (low, high int, err error) {
	if low, err = count(d, "minProperties", place, 0); err != nil {
		return 0, 0, err
	}
	if high, err = count(d, "maxProperties", place, -1); err != nil {
		return 0, 0, err
	}
	least := 0
	for _, m := range members {
		if m.required {
			least++
		}
	}
	switch {
	case high >= 0 && (high < low || high < least), other == "" && low > len(members):
		return 0, 0, errNothing
	case low > least && (len(members) > 0 || low > 1):
		return 0, 0, schemaFault("minProperties at %s is not supported, but for the number of required properties", place)
	case high >= 0 && len(members) > 0 && (other != "" || high < len(members)):
		return 0, 0, schemaFault("maxProperties at %s is not supported beside properties", place)
	}
	return low, high, nil
}

// member is one property of an object, with its name.
type member struct {
	gbnf     string
	required bool
}

// members writes the properties in their order, with commas between those that
// are there, and then any number of others.
func (w *schemaWriter) members(list []member, other string) string {
	// behind follows a property, ahead stands where there was none yet.
	behind, ahead := "", ""
	if other != "" {
		behind = w.rule(`("," ws ` + other + `)*`)
		ahead = w.rule("(" + other + " " + behind + " ws)?")
	}
	for i := len(list) - 1; i >= 0; i-- {
		m := list[i]
		here := strings.TrimSpace(m.gbnf + " " + behind)
		switch {
		case m.required:
			ahead = here + " ws"
			behind = `"," ws ` + here
		case ahead == "":
			ahead = "(" + here + " ws)?"
			behind = `("," ws ` + m.gbnf + `)? ` + behind
		default:
			ahead = here + " ws | " + ahead
			behind = `("," ws ` + m.gbnf + `)? ` + behind
		}
		behind = w.rule(strings.TrimSpace(behind))
		ahead = w.rule(ahead)
	}
	return ahead
}

// otherName writes a string of JSON, without escapes, that is none of the names.
func (w *schemaWriter) otherName(names []string) string {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		return strings.ContainsFunc(n, func(r rune) bool { return len(escaped(r)) > 1 && r < 0x80 })
	})
	slices.Sort(names)
	return w.rule(`"\"" ` + w.notOneOf(slices.Compact(names)) + ` "\""`)
}

// notOneOf writes a text that is none of the names, which are sorted.
func (w *schemaWriter) notOneOf(names []string) string {
	taken := charset{{0, 0x1f}, {'"', '"'}, {'\\', '\\'}}
	var out []string
	ends := len(names) > 0 && names[0] == ""
	if ends {
		names = names[1:]
	}
	for from := 0; from < len(names); {
		first := []rune(names[from])[0]
		var rest []string
		for ; from < len(names) && strings.HasPrefix(names[from], string(first)); from++ {
			rest = append(rest, strings.TrimPrefix(names[from], string(first)))
		}
		taken = append(taken, span{first, first})
		out = append(out, literal(string(first))+" "+w.notOneOf(rest))
	}
	out = append(out, classText(taken.normal().complement())+` [^"\\\x00-\x1f]*`)
	if !ends {
		out = append(out, `""`)
	}
	return w.rule(strings.Join(out, " | "))
}
