package grammar

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"rbee"
)

// fewPieces has each byte, and pieces that join and split what grammars have.
func fewPieces() *Vocabulary {
	pieces := [][]byte{nil, nil}
	for b := range 256 {
		pieces = append(pieces, []byte{byte(b)})
	}
	for _, s := range []string{`{"`, `":`, `","`, `"}`, "a", "ab", "abc", "  ", "\n\n", "12", "é", "éa", "\xa9\xc3", "}]", `"a":1`, "true", "rue}", strings.Repeat("a", 40)} {
		pieces = append(pieces, []byte(s))
	}
	return NewVocabulary(func(t int32) []byte { return pieces[t] }, func(t int32) bool { return t == 0 }, len(pieces))
}

// agree follows choices, and panics if the mask and Allows differ, or if a mask
// leaves nothing though the text did not end: then a model could not go on.
func agree(t *testing.T, m *Matcher, choices []byte) {
	t.Helper()
	for _, c := range choices[:min(len(choices), 20)] {
		options := allowed(m)
		if len(options) == 0 {
			t.Fatal("nothing may come next")
		}
		token := options[int(c)*len(options)/256]
		if m.Accept(token); token == 0 {
			if left := allowed(m); left != nil {
				t.Fatalf("%v may come after the end", left)
			}
			return
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"root ::= \"a\" | [b-d]* x{2,3}\nx ::= (\"é\" .)+ # c\n", `root ::= "\x41\u00e9\U0001F600" [^\]\\]?`,
		"root ::= a\na ::= a \"x\"", "root ::= root", "root ::= (((", JSON(), "root ::= \"a\"{0,9999}{0,9999}", "root ::= \"\"{0,9999}{0,999}",
	} {
		f.Add(s)
	}
	v := fewPieces()
	f.Fuzz(func(t *testing.T, text string) {
		g, err := Parse(text)
		if err != nil {
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest {
				t.Fatal(err)
			}
			return
		}
		m := g.StartWith(v)
		m.Mask(make([]float32, v.size()))
		if len(m.state.places) == 0 && !m.state.ends {
			t.Fatal("it has a beginning and no way on")
		}
	})
}

func FuzzMatcher(f *testing.F) {
	f.Add(JSON(), []byte("abcdefgh"))
	f.Add(`root ::= "a" root "b" | ""`, []byte{0, 100, 200, 255})
	f.Add("root ::= x | y\nx ::= [a-é]+ \"b\"?\ny ::= .{3} x", []byte{9, 99, 199, 5, 77, 31})
	v := fewPieces()
	f.Fuzz(func(t *testing.T, text string, choices []byte) {
		g, err := Parse(text)
		if err != nil || len(g.program.steps) > 3000 {
			return
		}
		agree(t, g.StartWith(v), choices)
	})
}

func FuzzFromSchema(f *testing.F) {
	for _, c := range schemaCases {
		f.Add(c.schema)
	}
	f.Fuzz(func(t *testing.T, schema string) {
		text, err := FromSchema(json.RawMessage(schema))
		if err != nil {
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest {
				t.Fatal(err)
			}
			return
		}
		g, err := Parse(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(g.program.steps) > 3000 {
			return
		}
		w := newWalker(g, 3)
		if least := w.left[0]; least > 5000 || least == math.MaxInt32 {
			return
		}
		check := &checker{root: decoded(t, schema)}
		for i := range 5 {
			made := w.text(10 * i)
			if !json.Valid([]byte(made)) {
				t.Fatalf("%q is not JSON", made)
			}
			// What several of oneOf allow, and patterns that regexp reads otherwise, the checker judges differently.
			if strings.Contains(schema, "oneOf") || strings.Contains(schema, "pattern") || strings.Contains(schema, `\u`) {
				continue
			}
			if err := check.text(made); err != nil {
				t.Fatalf("%v in\n%s", err, strings.TrimSuffix(text, library))
			}
		}
	})
}
