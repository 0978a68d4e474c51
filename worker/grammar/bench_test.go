package grammar

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// largeVocabulary is shaped like those of models with 128,000 tokens: all
// bytes, then parts of words with and without a space, numbers, runs of spaces
// and signs, and other scripts.
func largeVocabulary() (pieces [][]byte) {
	r := rand.New(rand.NewPCG(1, 9))
	seen := map[string]bool{}
	add := func(s string) {
		if !seen[s] {
			seen[s] = true
			pieces = append(pieces, []byte(s))
		}
	}
	pieces = append(pieces, []byte("</s>"))
	for b := range 256 {
		add(string([]byte{byte(b)}))
	}
	for n := range 1000 {
		add(fmt.Sprint(n))
	}
	for n := 1; n < 80; n++ {
		add(strings.Repeat(" ", n))
		add("\n" + strings.Repeat(" ", n))
		add(strings.Repeat("\n", n))
		add(strings.Repeat("-", n))
	}
	const letters, signs = "eeeeetttaaaooiinnsshhrrddllcumwfgypbvkjxqz", `"{}[]():;,.\/<>=+-*&%$#@!?'_|~`
	for len(pieces) < 128_000 {
		var b strings.Builder
		kind := r.IntN(20)
		if kind < 11 {
			b.WriteByte(' ')
		}
		switch kind {
		case 0, 11, 12:
			for range 1 + r.IntN(4) {
				b.WriteByte(signs[r.IntN(len(signs))])
			}
		case 13, 14:
			for range 1 + r.IntN(3) {
				b.WriteRune(0x4e00 + rune(r.IntN(5000)))
			}
		default:
			for range 2 + r.IntN(8) {
				b.WriteByte(letters[r.IntN(len(letters))])
			}
		}
		if kind == 15 {
			add(strings.ToUpper(b.String()))
		}
		add(b.String())
	}
	return pieces[:128_000]
}

func vocabularyOf(pieces [][]byte) *Vocabulary {
	return NewVocabulary(func(t int32) []byte { return pieces[t] }, func(t int32) bool { return t == 0 }, len(pieces))
}

func BenchmarkVocabulary(b *testing.B) {
	pieces := largeVocabulary()
	b.ReportAllocs()
	for b.Loop() {
		vocabularyOf(pieces)
	}
}

const personSchema = `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},
	"tags":{"type":"array","items":{"enum":["a","b","c"]}},"address":{"type":"object","properties":{"street":{"type":"string"},"zip":{"type":"string","pattern":"^\\d{5}$"}},"required":["street"]}},
	"required":["name","age"],"additionalProperties":false}`

func BenchmarkFromSchema(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		text, err := FromSchema(json.RawMessage(personSchema))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMatcher measures, with 128,000 tokens and in places where little and
// where much may come next: a mask for the first time and again, and a token.
func BenchmarkMatcher(b *testing.B) {
	v := vocabularyOf(largeVocabulary())
	text, err := FromSchema(json.RawMessage(personSchema))
	if err != nil {
		b.Fatal(err)
	}
	for _, place := range []struct{ name, grammar, text string }{
		{"begin", JSON(), ``},
		{"structure", JSON(), `{"a":`},
		{"string", JSON(), `{"a":"b`},
		{"nested string", JSON(), `{"a":[[{"b":"c`},
		{"schema string", text, `{"name":"b`},
		{"schema key", text, `{"name":"b",`},
	} {
		g := mustParse(b, place.grammar)
		at := func() *Matcher {
			m := (&Grammar{program: g.program, automata: map[*Vocabulary]*automaton{}}).StartWith(v)
			m.state = m.automaton.walk(m.state, []byte(place.text))
			return m
		}
		logits := make([]float32, v.size())
		b.Run(place.name+"/first mask", func(b *testing.B) {
			for b.Loop() {
				at().Mask(logits)
			}
		})
		m := at()
		m.Mask(logits)
		b.Run(place.name+"/mask again", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Mask(logits)
			}
		})
		b.Run(place.name+"/token", func(b *testing.B) {
			b.ReportAllocs()
			state := m.state
			token := int32(-1)
			for t := range int32(v.size()) {
				if m.Allows(t) && len(v.piece(t)) > len(v.piece(max(token, 0))) {
					token = t
				}
			}
			for b.Loop() {
				m.state = state
				m.Allows(token)
				m.Accept(token)
			}
		})
	}
}
