// Package prefix says what the prompt of a request begins with, as a short
// chain of hashes, so that requests can be sent to workers that have the
// beginning of their prompts cached. Queen and hives compute it alike.
//
// Hash number i covers the first (i+1)*BlockBytes bytes of the prompt: two
// prompts that share it begin alike up to there, and share all before it.
package prefix

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/cespare/xxhash/v2"
)

const (
	// BlockBytes is how much of a prompt one hash stands for.
	BlockBytes = 256
	// MaxBlocks bounds a chain: what follows is counted, and told apart no more.
	MaxBlocks = 4096
)

// Of reads the body of a request for a path of OpenAI's API, or of the worker's
// own, and says what its prompt begins with and how long it is. White space,
// escapes and fields that are no part of the prompt make no difference. A body
// that is no such request has no chain.
func Of(path string, body []byte) (chain []uint32, promptBytes int) {
	p := &prompt{}
	p.hash.Reset()
	switch {
	case strings.HasSuffix(path, "/chat/completions"), strings.HasSuffix(path, "/chat/template"):
		p.chat(body)
	case strings.HasSuffix(path, "/completions"), strings.HasSuffix(path, "/inference"):
		p.completion(body)
	case strings.HasSuffix(path, "/embeddings"):
		p.full = true // what is computed for them is not kept
		p.value(pick(body, "input")[0])
	}
	return p.chain, p.bytes
}

// Shared is how many hashes two chains begin with alike.
func Shared(a, b []uint32) int {
	n := min(len(a), len(b))
	for n > 0 && a[n-1] != b[n-1] {
		n--
	}
	return n
}

// prompt hashes a text as it is put together.
type prompt struct {
	hash  xxhash.Digest
	chain []uint32
	bytes int
	full  bool // no more is hashed
}

// write adds to the prompt.
func (p *prompt) write(text []byte) {
	at := p.bytes % BlockBytes
	p.bytes += len(text)
	for !p.full && at+len(text) >= BlockBytes {
		n := BlockBytes - at
		_, _ = p.hash.Write(text[:n]) // cannot fail
		if p.chain == nil {
			p.chain = make([]uint32, 0, min(MaxBlocks, len(text)/BlockBytes+8))
		}
		p.chain = append(p.chain, uint32(p.hash.Sum64()))
		p.full = len(p.chain) == MaxBlocks
		text, at = text[n:], 0
	}
	if !p.full {
		_, _ = p.hash.Write(text)
	}
}

// end separates what stands beside each other.
func (p *prompt) end() { p.write([]byte{0}) }

// chat adds tools, which templates put first, and then the messages.
func (p *prompt) chat(body []byte) {
	found := pick(body, "tools", "messages")
	if tools := found[0]; len(tools) > 2 { // not an empty list
		p.value(tools)
	}
	each(found[1], func(message []byte) {
		for _, part := range pick(message, "role", "content", "tool_calls") {
			p.value(part)
			p.end()
		}
	})
}

// completion adds the prompt, or the first of several.
func (p *prompt) completion(body []byte) {
	text := pick(body, "prompt")[0]
	if len(text) > 0 && text[0] == '[' {
		var first []byte
		each(text, func(v []byte) {
			if first == nil {
				first = v
			}
		})
		if len(first) > 0 && (first[0] == '"' || first[0] == '[') {
			text = first
		}
	}
	p.value(text)
}

// value adds what a JSON value says: a text, the texts of a list of parts, or
// whatever it is without its white space. Null says nothing.
func (p *prompt) value(v []byte) {
	switch {
	case len(v) == 0, string(v) == "null":
	case v[0] == '"':
		p.write(unquoted(v))
	case v[0] != '[' || !p.texts(v):
		p.compact(v)
	}
}

// compact adds a value in one pass, however deep it is.
func (p *prompt) compact(v []byte) {
	for len(v) > 0 {
		n := bytes.IndexAny(v, "\" \t\r\n")
		switch {
		case n < 0:
			n = len(v)
			p.write(v)
		case n > 0:
			p.write(v[:n])
		case v[0] == '"':
			n = quoted(v)
			p.write(unquoted(v[:n]))
			p.end()
		default:
			n = 1
		}
		v = v[n:]
	}
}

// texts adds a list whose parts are all texts, one a line: so is content in
// parts understood.
func (p *prompt) texts(v []byte) bool {
	var all [][]byte
	ok := true
	each(v, func(part []byte) {
		found := pick(part, "type", "text")
		ok = ok && found[0] != nil && len(found[1]) > 0 && found[1][0] == '"'
		all = append(all, found[1])
	})
	if !ok || len(all) == 0 {
		return false
	}
	for i, t := range all {
		if i > 0 {
			p.write([]byte{'\n'})
		}
		p.write(unquoted(t))
	}
	return true
}

// unquoted is the text of a string of JSON.
func unquoted(v []byte) []byte {
	if len(v) < 2 || v[len(v)-1] != '"' {
		return nil
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1]
	}
	var text string
	if json.Unmarshal(v, &text) != nil {
		return v[1 : len(v)-1]
	}
	return []byte(text)
}
