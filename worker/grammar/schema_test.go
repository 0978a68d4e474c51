package grammar

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"rbee"
)

// schemaCases are modelled on what the test suite of JSON Schema looks at. The
// texts of yes are in the grammar, those of no are not.
var schemaCases = map[string]struct {
	schema  string
	yes, no []string
}{
	"anything":        {`{}`, []string{`1`, `"a"`, `null`, `[1, {"a":true}]`, `{}`, `-0.5e-3`}, []string{``, `a`, `01`, `[1,]`, `{"a"}`, `"\x"`, "\"\n\"", `"\ud800"`}},
	"true":            {`true`, []string{`{"a":[]}`, `"\ud83d\ude00"`}, []string{`tru`}},
	"string":          {`{"type":"string"}`, []string{`""`, `"aé😀"`, `"\"\\\/\b\f\n\r\t\u00e9"`}, []string{`1`, `"a`, `"a"b"`, `null`}},
	"integer":         {`{"type":"integer"}`, []string{`0`, `-7`, `1234567890123456`}, []string{`1.5`, `01`, `-`, `"1"`, `1e3`, `-0`}},
	"number":          {`{"type":"number"}`, []string{`0`, `-7`, `1.25`, `1e10`, `-0.1E-5`}, []string{`.5`, `1.`, `+1`, `NaN`}},
	"boolean":         {`{"type":"boolean"}`, []string{`true`, `false`}, []string{`0`, `"true"`}},
	"null":            {`{"type":"null"}`, []string{`null`}, []string{`""`, `0`}},
	"types":           {`{"type":["integer","null"]}`, []string{`1`, `null`}, []string{`1.5`, `"a"`}},
	"number, integer": {`{"type":["integer","number"]}`, []string{`1`, `1.5`}, []string{`"1"`}},
	"nullable":        {`{"type":"string","nullable":true}`, []string{`"a"`, `null`}, []string{`1`}},
	"enum":            {`{"enum":["red",6,null,{"a":[1,2]},"a\"b\\\n"]}`, []string{`"red"`, `6`, `null`, `{"a":[1,2]}`, `"a\"b\\\n"`}, []string{`"blue"`, `7`, `true`}},
	"enum of a type":  {`{"type":"string","enum":["a",1,null]}`, []string{`"a"`}, []string{`1`, `null`}},
	"nullable enum":   {`{"type":"string","nullable":true,"enum":["a",null]}`, []string{`"a"`, `null`}, []string{`1`}},
	"const":           {`{"const":"a"}`, []string{`"a"`}, []string{`"b"`}},
	"const and enum":  {`{"const":1,"enum":[1.0,2]}`, []string{`1.0`}, []string{`2`}},
	"unicode":         {`{"enum":["é😀\u2028\u007f"]}`, []string{"\"é😀\u2028\x7f\""}, []string{`"e"`}},

	"object": {`{"type":"object"}`, []string{`{}`, `{"a":1,"b":[]}`, "{\n  \"a\": 1\n}"}, []string{`[]`, `{"a":}`, `{"a":1,}`}},
	"properties": {
		`{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}},"required":["b","a"]}`,
		[]string{`{"b":"x","a":1}`, `{ "b": "x", "a": 1 }`},
		[]string{`{"a":1,"b":"x"}`, `{"b":"x"}`, `{"b":1,"a":1}`, `{"b":"x","a":1,"c":1}`, `{}`},
	},
	"optional properties": {
		`{"properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"}},"required":["b"]}`,
		[]string{`{"b":null}`, `{"a":null,"b":null}`, `{"b":null,"c":null}`, `{"a":null,"b":null,"c":null}`},
		[]string{`{}`, `{"a":null}`, `{"b":null,"a":null}`, `{,"b":null}`, `{"a":null "b":null}`, `{"b":null,}`},
	},
	"all optional": {
		`{"properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"}}}`,
		[]string{`{}`, `{"a":null}`, `{"b":null}`, `{"c":null}`, `{"a":null,"c":null}`, `{"a":null,"b":null,"c":null}`},
		[]string{`{"c":null,"a":null}`, `{"d":null}`},
	},
	"others": {
		`{"properties":{"a":{"type":"null"},"ab":{"type":"null"},"":{"type":"null"}},"required":["a"],"additionalProperties":{"type":"integer"}}`,
		[]string{`{"a":null}`, `{"a":null,"x":1}`, `{"a":null,"ab":null,"":null,"abc":1,"b":2,"é":3}`},
		[]string{`{"a":null,"a":1}`, `{"a":null,"ab":1}`, `{"a":null,"":1}`, `{"a":null,"x":"y"}`, `{"x":1}`, `{"a":null,"\u0061":1}`},
	},
	"others only":            {`{"type":"object","additionalProperties":{"type":"string"}}`, []string{`{}`, `{"a":"b","c":"d"}`}, []string{`{"a":1}`}},
	"no others":              {`{"type":"object","additionalProperties":false}`, []string{`{}`, `{ }`}, []string{`{"a":1}`}},
	"all others":             {`{"type":"object","properties":{"a":{"type":"null"}},"additionalProperties":true}`, []string{`{}`, `{"a":null,"b":[1]}`, `{"b":1}`}, []string{`{"a":1}`, `{"b":1,"a":null}`}},
	"required, not declared": {`{"type":"object","required":["x"]}`, []string{`{"x":1}`}, []string{`{}`, `{"y":1}`}},
	"forbidden property":     {`{"properties":{"a":false,"b":{"type":"null"}}}`, []string{`{}`, `{"b":null}`}, []string{`{"a":1}`}},
	"names to escape":        {`{"properties":{"a\"b\\\n[é]":{"type":"null"}},"required":["a\"b\\\n[é]"]}`, []string{`{"a\"b\\\n[é]":null}`}, []string{`{"a":null}`}},
	"one or more":            {`{"type":"object","additionalProperties":{"type":"null"},"minProperties":1,"maxProperties":2}`, []string{`{"a":null}`, `{"a":null,"b":null}`}, []string{`{}`, `{"a":null,"b":null,"c":null}`}},
	"harmless counts":        {`{"properties":{"a":{"type":"null"}},"required":["a"],"minProperties":1,"maxProperties":3}`, []string{`{"a":null}`}, []string{`{}`}},
	"unevaluated":            {`{"properties":{"a":{"type":"null"}},"unevaluatedProperties":false}`, []string{`{}`, `{"a":null}`}, []string{`{"b":1}`}},

	"array":        {`{"type":"array"}`, []string{`[]`, `[1, "a"]`}, []string{`{}`, `[,]`}},
	"items":        {`{"items":{"type":"integer"}}`, []string{`[]`, `[1]`, `[1,2, 3]`}, []string{`["a"]`, `[1,]`, `[1 2]`}},
	"two to three": {`{"type":"array","items":{"type":"null"},"minItems":2,"maxItems":3}`, []string{`[null,null]`, `[null,null,null]`}, []string{`[]`, `[null]`, `[null,null,null,null]`}},
	"at most one":  {`{"type":"array","items":{"type":"null"},"maxItems":1}`, []string{`[]`, `[null]`}, []string{`[null,null]`}},
	"exactly one":  {`{"type":"array","items":{"type":"null"},"minItems":1,"maxItems":1}`, []string{`[null]`}, []string{`[]`, `[null,null]`}},
	"no items":     {`{"type":"array","maxItems":0}`, []string{`[]`, `[ ]`}, []string{`[1]`}},
	"false items":  {`{"items":false}`, []string{`[]`}, []string{`[1]`}},
	"tuple":        {`{"prefixItems":[{"type":"integer"},{"type":"string"}],"items":false,"minItems":2}`, []string{`[1,"a"]`}, []string{`[]`, `[1]`, `["a",1]`, `[1,"a",2]`}},
	"open tuple":   {`{"prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"}}`, []string{`[]`, `[1]`, `[1,"a"]`, `[1,"a",null,null]`}, []string{`["a"]`, `[1,null]`}},
	"long tuple":   {`{"prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"},"minItems":3,"maxItems":4}`, []string{`[1,"a",null]`, `[1,"a",null,null]`}, []string{`[1,"a"]`, `[1,"a",null,null,null]`}},
	"cut tuple":    {`{"prefixItems":[{"type":"integer"},{"type":"string"}],"maxItems":1}`, []string{`[]`, `[1]`}, []string{`[1,"a"]`}},
	"old tuple":    {`{"items":[{"type":"integer"}],"additionalItems":{"type":"null"}}`, []string{`[]`, `[1]`, `[1,null]`}, []string{`[null]`, `[1,2]`}},
	"false prefix": {`{"prefixItems":[{"type":"null"},false,{"type":"null"}]}`, []string{`[]`, `[null]`}, []string{`[null,null]`}},
	"not unique":   {`{"type":"array","uniqueItems":false,"items":{"type":"null"}}`, []string{`[null,null]`}, []string{`[1]`}},

	"lengths":         {`{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"é😀x"`, `"\n\u00e9"`, `"\ud83d\ude00a"`}, []string{`""`, `"a"`, `"abcd"`}},
	"at least two":    {`{"minLength":2}`, []string{`"ab"`, `"abcdef"`}, []string{`"a"`, `1`}},
	"at most two":     {`{"type":"string","maxLength":2}`, []string{`""`, `"ab"`}, []string{`"abc"`}},
	"empty":           {`{"type":"string","maxLength":0}`, []string{`""`}, []string{`"a"`}},
	"pattern":         {`{"type":"string","pattern":"^[A-Z]{2}-\\d+$"}`, []string{`"AB-1"`, `"XY-123"`}, []string{`"ab-1"`, `"AB-"`, `"AB-1x"`, `"xAB-1"`}},
	"loose pattern":   {`{"type":"string","pattern":"b+"}`, []string{`"b"`, `"abbc"`, `"\nb"`}, []string{`""`, `"ac"`}},
	"choice pattern":  {`{"type":"string","pattern":"^a|b$"}`, []string{`"a"`, `"ax"`, `"b"`, `"xb"`}, []string{`"xa"`, `"bx"`}},
	"group pattern":   {`{"type":"string","pattern":"^(foo|(?:ba[rz])?)\\.$"}`, []string{`"foo."`, `"bar."`, `"."`}, []string{`"foobar."`, `"foo"`}},
	"escaped pattern": {`{"type":"string","pattern":"^[\\\"\\\\\\n\\x01]\\/\\u00e9\\s$"}`, []string{`"\"/é "`, `"\\/é\t"`, `"\u0001/é "`, `"\n/é\n"`}, []string{`"x/é "`}},
	"dot pattern":     {`{"type":"string","pattern":"^.$"}`, []string{`"a"`, `"\""`, `"\t"`, `"😀"`}, []string{`"\n"`, `""`, `"ab"`}},
	"negated pattern": {`{"type":"string","pattern":"^[^a-z]\\S$"}`, []string{`"A_"`, `"\n!"`, `"\u0002x"`}, []string{`"ax"`, `"A "`}},
	"word pattern":    {`{"type":"string","pattern":"^\\w{1,3}$","maxLength":3,"minLength":1}`, []string{`"a_1"`}, []string{`"é"`, `""`}},
	"empty pattern":   {`{"type":"string","pattern":""}`, []string{`""`, `"abc"`}, []string{`1`}},
	"only begin":      {`{"type":"string","pattern":"^"}`, []string{`""`, `"abc"`}, []string{`1`}},
	"only both":       {`{"type":"string","pattern":"^$"}`, []string{`""`}, []string{`"a"`}},
	"date":            {`{"type":"string","format":"date"}`, []string{`"2024-02-29"`, `"2000-02-29"`, `"1999-12-31"`, `"2023-04-30"`}, []string{`"2023-02-29"`, `"1900-02-29"`, `"2023-04-31"`, `"2023-13-01"`, `"2023-00-10"`, `"2023-01-00"`, `"2023-02-30"`}},
	"time":            {`{"type":"string","format":"time"}`, []string{`"23:59:59Z"`, `"00:00:00.123+05:30"`}, []string{`"24:00:00Z"`, `"12:60:00Z"`, `"12:00:00"`}},
	"date-time":       {`{"type":"string","format":"date-time"}`, []string{`"2024-02-29T12:00:00Z"`}, []string{`"2024-02-30T12:00:00Z"`, `"2024-02-29 12:00:00Z"`}},
	"duration":        {`{"type":"string","format":"duration"}`, []string{`"P1D"`, `"PT1H30M"`, `"P1Y2M3DT4H"`, `"P4W"`, `"PT36H"`}, []string{`"P"`, `"PT"`, `"P1H"`, `"P1YT"`, `"P2D1Y"`}},
	"uuid":            {`{"type":"string","format":"uuid"}`, []string{`"123e4567-e89b-12d3-a456-426614174000"`}, []string{`"123e4567e89b12d3a456426614174000"`}},
	"ipv4":            {`{"type":"string","format":"ipv4","maxLength":15}`, []string{`"127.0.0.1"`, `"255.255.255.255"`}, []string{`"256.0.0.1"`, `"1.2.3"`, `"01.2.3.4"`}},
	"other format":    {`{"type":"string","format":"color","minLength":1}`, []string{`"red"`}, []string{`""`}},

	"0 to 255":          {`{"type":"integer","minimum":0,"maximum":255}`, []string{`0`, `9`, `10`, `99`, `100`, `199`, `250`, `255`}, []string{`-1`, `256`, `00`, `1000`}},
	"-10 to 10":         {`{"type":"integer","minimum":-10,"maximum":10}`, []string{`-10`, `-9`, `-1`, `0`, `10`}, []string{`-11`, `11`, `-0`}},
	"more than 5":       {`{"type":"integer","exclusiveMinimum":5}`, []string{`6`, `10`, `1000000`}, []string{`5`, `0`, `-6`}},
	"less than -5":      {`{"type":"integer","exclusiveMaximum":-5}`, []string{`-6`, `-1000`}, []string{`-5`, `0`, `6`}},
	"2.5 to 4.5, whole": {`{"type":"integer","minimum":2.5,"maximum":4.5}`, []string{`3`, `4`}, []string{`2`, `5`}},
	"far":               {`{"type":"integer","minimum":1e20}`, []string{`100000000000000000000`, `999999999999999999999`}, []string{`99999999999999999999`}},
	"draft 4":           {`{"type":"integer","minimum":0,"exclusiveMinimum":true,"maximum":3,"exclusiveMaximum":false}`, []string{`1`, `3`}, []string{`0`, `4`}},
	"0 or more":         {`{"type":"number","minimum":0}`, []string{`0`, `0.5`, `12.75`, `0.0`}, []string{`-1`, `-0.1`}},
	"above 0":           {`{"type":"number","exclusiveMinimum":0}`, []string{`0.001`, `1`, `10.0`}, []string{`0`, `0.0`, `-1`}},
	"0 to 1":            {`{"type":"number","minimum":0,"maximum":1}`, []string{`0`, `0.5`, `0.999`, `1`}, []string{`1.1`, `2`, `-0.5`, `1.01`}},
	"-1.5 to 2.25":      {`{"type":"number","minimum":-1.5,"maximum":2.25}`, []string{`-1.5`, `-1.49`, `-0.001`, `0`, `2`, `2.2`, `2.25`, `2.249`}, []string{`-1.51`, `-2`, `2.26`, `2.3`, `2.251`, `3`}},
	"0.1 to 0.3, open":  {`{"type":"number","exclusiveMinimum":0.1,"exclusiveMaximum":0.3}`, []string{`0.2`, `0.11`, `0.101`, `0.1001`, `0.299`}, []string{`0.1`, `0.10`, `0.3`, `0`, `0.30`}},
	"just 5":            {`{"type":"number","minimum":5,"maximum":5}`, []string{`5`}, []string{`4`, `6`, `5.1`}},
	"multiple of 1":     {`{"type":"integer","multipleOf":1}`, []string{`3`}, []string{`1.5`}},

	"any of":            {`{"anyOf":[{"type":"string"},{"type":"integer"}]}`, []string{`"a"`, `1`}, []string{`1.5`, `null`}},
	"any of, nullable":  {`{"anyOf":[{"type":"string"}],"nullable":true}`, []string{`"a"`, `null`}, []string{`1`}},
	"any of, false":     {`{"anyOf":[{"type":"string"},false]}`, []string{`"a"`}, []string{`1`}},
	"one of":            {`{"oneOf":[{"const":1},{"const":"a"}]}`, []string{`"a"`, `1`}, []string{`2`}},
	"any of and beside": {`{"type":"object","properties":{"a":{"type":"null"}},"required":["a"],"anyOf":[{"properties":{"b":{"type":"integer"}},"required":["b"]},{"properties":{"c":{"type":"string"}},"required":["c"]}]}`, []string{`{"a":null,"b":1}`, `{"a":null,"c":"x"}`}, []string{`{"a":null}`, `{"b":1}`, `{"a":null,"b":"x"}`}},
	"all of":            {`{"allOf":[{"type":"object","properties":{"a":{"type":"null"}},"required":["a"]},{"properties":{"b":{"type":"null"}},"required":["b"]}]}`, []string{`{"a":null,"b":null}`}, []string{`{"a":null}`, `{"b":null}`}},
	"all of bounds":     {`{"type":"integer","allOf":[{"minimum":3},{"maximum":8},{"minimum":5}]}`, []string{`5`, `8`}, []string{`4`, `9`}},
	"all of types":      {`{"allOf":[{"type":["string","number"]},{"type":["integer","null"]}]}`, []string{`5`}, []string{`"a"`, `null`, `1.5`}},
	"all of enums":      {`{"allOf":[{"enum":[1,2,3]},{"enum":[2,3,4]}]}`, []string{`2`, `3`}, []string{`1`, `4`}},
	"all of any ofs":    {`{"allOf":[{"anyOf":[{"minimum":1},{"type":"null"}]},{"anyOf":[{"type":"integer","maximum":3},{"type":"null"}]}]}`, []string{`1`, `3`, `null`}, []string{`0`, `4`}},
	"all of one":        {`{"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"type":"null"}}}`, []string{`null`}, []string{`1`}},
	"same property":     {`{"allOf":[{"properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"a":{"minimum":3,"maximum":4}}}]}`, []string{`{"a":3}`}, []string{`{"a":2}`, `{"a":3.5}`}},
	"reference":         {`{"properties":{"a":{"$ref":"#/$defs/x~1y~0%20z"}},"required":["a"],"$defs":{"x/y~ z":{"type":"null"}}}`, []string{`{"a":null}`}, []string{`{"a":1}`}},
	"reference, beside": {`{"properties":{"a":{"$ref":"#/definitions/n","description":"d"},"b":{"$ref":"#/definitions/n","maximum":3}},"required":["a","b"],"definitions":{"n":{"type":"integer","minimum":1}}}`, []string{`{"a":9,"b":3}`}, []string{`{"a":0,"b":3}`, `{"a":9,"b":4}`}},
	"reference chain":   {`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"type":"null"}}}`, []string{`null`}, []string{`1`}},
	"to a property":     {`{"properties":{"a":{"type":"null"},"b":{"$ref":"#/properties/a"}},"required":["b"]}`, []string{`{"a":null,"b":null}`}, []string{`{"b":1}`}},
	"into a list":       {`{"anyOf":[{"type":"null"},{"items":{"$ref":"#/anyOf/0"}}]}`, []string{`null`, `[null]`}, []string{`[1]`}},
	"list of lists":     {`{"type":"array","items":{"$ref":"#"}}`, []string{`[]`, `[[],[[]]]`}, []string{`[1]`}},
	"tree":              {`{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value"]}}}`, []string{`{"value":1}`, `{"value":1,"children":[{"value":2},{"value":3,"children":[]}]}`}, []string{`{"children":[]}`, `{"value":1,"children":[1]}`}},
	"linked list":       {`{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["next"]}`, []string{`{"next":null}`, `{"next":{"next":null}}`}, []string{`{}`, `{"next":1}`}},
	"annotations":       {`{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"t","description":"d","default":1,"examples":[1],"x-mine":{},"strict":true,"type":"null"}`, []string{`null`}, []string{`1`}},
	"if alone":          {`{"if":{"type":"null"},"type":"null"}`, []string{`null`}, []string{`1`}},
}

func TestSchemasMatchWhatTheySay(t *testing.T) {
	for name, c := range schemaCases {
		t.Run(name, func(t *testing.T) {
			g, text := mustSchema(t, c.schema)
			check := &checker{root: decoded(t, c.schema)}
			for _, yes := range c.yes {
				if !matches(g, yes) {
					t.Errorf("%s is not matched by\n%s", yes, strings.TrimSuffix(text, library))
				}
				if err := check.text(yes); err != nil {
					t.Errorf("the case is wrong: %v", err)
				}
			}
			for _, no := range c.no {
				if matches(g, no) {
					t.Errorf("%s is matched by\n%s", no, strings.TrimSuffix(text, library))
				}
			}
		})
	}
}

func TestRandomTextsOfSchemasAreValid(t *testing.T) {
	for name, c := range schemaCases {
		t.Run(name, func(t *testing.T) {
			g, text := mustSchema(t, c.schema)
			check := &checker{root: decoded(t, c.schema)}
			w := newWalker(g, 1)
			for i := range 60 {
				made := w.text(i * 3)
				if err := check.text(made); err != nil {
					t.Fatalf("%v in\n%s", err, strings.TrimSuffix(text, library))
				}
			}
		})
	}
}

func mustSchema(t testing.TB, schema string) (*Grammar, string) {
	t.Helper()
	text, err := FromSchema(json.RawMessage(schema))
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, text), text
}

func decoded(t testing.TB, text string) any {
	t.Helper()
	v, err := decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhatASchemaCantSayIsNamed(t *testing.T) {
	for name, c := range map[string]struct{ schema, says string }{
		"no JSON":            {`{"type":`, "not JSON"},
		"more JSON":          {`{} {}`, "not JSON"},
		"a number":           {`7`, "# must be an object"},
		"nothing":            {`false`, "nothing is valid"},
		"no type":            {`{"type":"text"}`, "type at # must be one of"},
		"type of type":       {`{"properties":{"a":{"type":7}}}`, "type at #/properties/a must be"},
		"not":                {`{"not":{"type":"null"}}`, "not at # is not supported"},
		"if":                 {`{"if":{},"then":{"type":"null"}}`, "if at # is not supported"},
		"unique":             {`{"properties":{"a/b":{"type":"array","uniqueItems":true}}}`, "uniqueItems at #/properties/a~1b is not supported"},
		"contains":           {`{"items":{"contains":{}}}`, "contains at #/items is not supported"},
		"multiple":           {`{"type":"number","multipleOf":0.01}`, "multipleOf at # is not supported"},
		"pattern properties": {`{"patternProperties":{"^a":{}}}`, "patternProperties at # is not supported"},
		"names":              {`{"propertyNames":{"minLength":3}}`, "propertyNames at # is not supported"},
		"min properties":     {`{"properties":{"a":{},"b":{}},"minProperties":1}`, "minProperties at #"},
		"max properties":     {`{"properties":{"a":{},"b":{}},"maxProperties":1}`, "maxProperties at #"},
		"negative length":    {`{"minLength":-1}`, "minLength at # must be a whole number"},
		"length of a text":   {`{"type":"string","maxLength":"3"}`, "maxLength at # must be a whole number"},
		"huge length":        {`{"type":"string","maxLength":1e12}`, "maxLength at # is too large"},
		"large length":       {`{"type":"string","maxLength":1000000}`, "too large"},
		"huge number":        {`{"type":"integer","minimum":1e999999999}`, "minimum at # has too many digits"},
		"long number":        {`{"type":"number","minimum":0.12345678901234567890}`, "minimum at # has too many digits"},
		"bound of a text":    {`{"type":"number","minimum":"3"}`, "minimum at # must be a number"},
		"impossible bounds":  {`{"type":"integer","minimum":3,"maximum":2}`, "nothing is valid"},
		"impossible whole":   {`{"type":"integer","minimum":3.1,"maximum":3.9}`, "nothing is valid"},
		"impossible lengths": {`{"type":"string","minLength":3,"maxLength":2}`, "nothing is valid"},
		"impossible items":   {`{"type":"array","items":false,"minItems":1}`, "nothing is valid"},
		"impossible member":  {`{"properties":{"a":false},"required":["a"]}`, "nothing is valid"},
		"impossible all of":  {`{"allOf":[{"type":"string"},{"type":"null"}]}`, "nothing is valid"},
		"missing member":     {`{"required":["a"],"additionalProperties":false}`, "nothing is valid"},
		"empty enum":         {`{"enum":[]}`, "nothing is valid"},
		"enum of no list":    {`{"enum":"a"}`, "enum at # must be a list"},
		"enum and more":      {`{"enum":[1],"minimum":0}`, "minimum at # can't stand beside enum"},
		"large enum":         {`{"enum":[` + strings.Repeat("1,", maxEnum) + `1]}`, "enum at # has 5001 values"},
		"any of no list":     {`{"anyOf":{}}`, "anyOf at # must be a list"},
		"any of nothing":     {`{"anyOf":[]}`, "anyOf at # must be a list"},
		"all of patterns":    {`{"allOf":[{"pattern":"a"},{"pattern":"b"}]}`, "pattern at # can't be merged"},
		"closed all of":      {`{"allOf":[{"properties":{"a":{}},"additionalProperties":false},{"properties":{"b":{}}}]}`, "additionalProperties at # forbids"},
		"remote":             {`{"$ref":"https://example.com/s.json"}`, "$ref at # must point into the schema"},
		"anchor":             {`{"properties":{"a":{"$ref":"#name"}}}`, "$ref at #/properties/a must point into"},
		"to nothing":         {`{"$ref":"#/$defs/a"}`, "$ref at # points to nothing"},
		"to a number":        {`{"$ref":"#/$defs/a","$defs":{"a":7}}`, "#/$defs/a must be an object"},
		"itself":             {`{"$ref":"#"}`, "refers to itself"},
		"itself, beside":     {`{"$ref":"#","type":"object"}`, "refers to itself"},
		"itself, any of":     {`{"anyOf":[{"$ref":"#"},{"type":"null"}]}`, "refers to itself"},
		"itself, all of":     {`{"allOf":[{"$ref":"#"},{"$ref":"#"}]}`, "refers to itself"},
		"no end":             {`{"properties":{"a":{"$ref":"#"}},"required":["a"]}`, "# refers to itself without an end"},
		"no end of two":      {`{"$ref":"#/$defs/a","$defs":{"a":{"prefixItems":[{"$ref":"#/$defs/b"}],"minItems":1},"b":{"prefixItems":[{"$ref":"#/$defs/a"}],"minItems":1}}}`, "refers to itself without an end"},
		"look-ahead":         {`{"pattern":"(?=a)b"}`, "pattern at #: it looks ahead"},
		"look-behind":        {`{"pattern":"(?<!a)b"}`, "pattern at #: it looks ahead"},
		"flags":              {`{"pattern":"(?i)b"}`, "pattern at #: it looks ahead"},
		"back reference":     {`{"pattern":"(a)\\1"}`, `pattern at #: \1 is not supported`},
		"word border":        {`{"pattern":"a\\b"}`, `pattern at #: \b is not supported`},
		"inner anchor":       {`{"pattern":"a(^b|c)"}`, "pattern at #: it has ^ or $"},
		"open pattern":       {`{"pattern":"(a"}`, "pattern at #: missing closing )"},
		"huge pattern":       {`{"pattern":"a{1000000}"}`, "pattern at #: invalid repeat count"},
		"pattern and length": {`{"pattern":"^a+$","maxLength":3}`, "minLength and maxLength at #"},
		"pattern and format": {`{"pattern":"a","format":"date"}`, "pattern at # can't stand beside format"},
		"deep":               {strings.Repeat(`{"items":`, 300) + `{}` + strings.Repeat(`}`, 300), "nested more than"},
		"large":              {`{"title":"` + strings.Repeat("a", maxSchemaText) + `"}`, "more than"},
		"many":               {`{"prefixItems":[` + strings.Repeat(`{},`, maxSchemas) + `{}]}`, "more than 20000 schemas"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := FromSchema(json.RawMessage(c.schema))
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("got %.300v, want INVALID_REQUEST that says %q\n%.300s", err, c.says, text)
			}
		})
	}
}

func TestAnyObjectIsJSON(t *testing.T) {
	g := mustParse(t, JSON())
	w := newWalker(g, 5)
	for i := range 200 {
		text := w.text(i)
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
	}
	for _, v := range []any{
		map[string]any{},
		map[string]any{"a": []any{1, 2.5, "x\n\"\\", nil, true, map[string]any{"é": -1e-9}}},
	} {
		for _, indent := range []string{"", "  ", "\t"} {
			text, err := json.MarshalIndent(v, "", indent)
			if err != nil {
				t.Fatal(err)
			}
			if !matches(g, string(text)) {
				t.Errorf("%s is not matched", text)
			}
		}
	}
	for _, text := range []string{`[]`, `1`, ` {}`, `{} `, `{"a":1`, `{"a":1}}`, `{'a':1}`} {
		if matches(g, text) {
			t.Errorf("%s is matched", text)
		}
	}
}

func TestWhiteSpaceIsThatOfIndentation(t *testing.T) {
	schema, err := FromSchema(json.RawMessage(`{"properties":{"a":{"type":"array"}},"required":["a"]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"any JSON": JSON(), "a schema": schema} {
		g := mustParse(t, text)
		for _, yes := range []string{
			`{"a":[1,2]}`, `{"a": [1, 2]}`, `{ "a": [ 1, 2 ] }`, "{\n\"a\": [\n]\n}",
			"{\n" + strings.Repeat(" ", 20) + `"a": []}`, "{\n" + strings.Repeat("\t", 10) + `"a": []}`,
		} {
			if !matches(g, yes) {
				t.Errorf("%s does not allow %q", name, yes)
			}
		}
		for _, no := range []string{
			`{  "a":[]}`, `{"a":  []}`, "{\"a\":\n[]}", "{\n\n\"a\":[]}", "{\r\n\"a\":[]}", `{"a" :[]}`, `{"a":[1 ,2]}`,
			"{\n" + strings.Repeat(" ", 21) + `"a": []}`, "{\n \t\"a\": []}",
		} {
			if matches(g, no) {
				t.Errorf("%s allows %q", name, no)
			}
		}
	}
}
