package fake

import (
	"strings"

	"rbee/worker/engine"
)

// The vocabulary: two special tokens, all bytes, words, then the tokens for
// filling a gap.
const (
	tokenBegin  engine.Token = 0
	tokenEnd    engine.Token = 1
	firstByte   engine.Token = 2
	firstWord   engine.Token = firstByte + 256
	beginText                = "<s>"
	endText                  = "</s>"
	maxWordSize              = 16
)

// words begin with a space, as those of most models do.
var words = strings.Split(" the| bee| flies| to| a| flower| and| hums| softly| in| warm| light|"+
	" over| green| hills| with| golden| honey|,|.| Blüten", "|")

// gaps are the texts of the tokens for filling a gap.
var gaps = [...]string{"<fim_prefix>", "<fim_suffix>", "<fim_middle>"}

var fim = engine.FIM{
	OK: true, Prefix: firstGap(), Suffix: firstGap() + 1, Middle: firstGap() + 2,
}

// bee is a word of four bytes that the vocabulary has no token for, so that
// one character is spread over several tokens.
const bee = "🐝"

// The tables are made once and not changed.
var (
	wordTokens = makeWordTokens()
	byteTable  = makeByteTable()
)

func makeWordTokens() map[string]engine.Token {
	m := map[string]engine.Token{beginText: tokenBegin, endText: tokenEnd}
	for i, w := range words {
		m[w] = firstWord + engine.Token(i)
	}
	for i, g := range gaps {
		m[g] = firstGap() + engine.Token(i)
	}
	return m
}

func makeByteTable() [][]byte {
	table := [][]byte{[]byte(beginText), []byte(endText)}
	for b := range 256 {
		table = append(table, []byte{byte(b)})
	}
	for _, w := range words {
		table = append(table, []byte(w))
	}
	for _, g := range gaps {
		table = append(table, []byte(g))
	}
	return table
}

func firstGap() engine.Token { return firstWord + engine.Token(len(words)) }

func vocabulary() int { return len(byteTable) }

func bytesOf(t engine.Token) []byte {
	if t < 0 || int(t) >= len(byteTable) {
		return nil
	}
	return byteTable[t]
}

// tokenize takes the longest word at each place, else a byte.
func tokenize(text string, addSpecial bool) []engine.Token {
	var out []engine.Token
	if addSpecial {
		out = append(out, tokenBegin)
	}
	for len(text) > 0 {
		n := min(len(text), maxWordSize)
		token, found := engine.Token(0), false
		for ; n > 0 && !found; n-- {
			if token, found = wordTokens[text[:n]]; found {
				break
			}
		}
		if !found {
			n, token = 1, firstByte+engine.Token(text[0])
		}
		out = append(out, token)
		text = text[n:]
	}
	return out
}
