package chat

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
)

type callResult int

const (
	callGoesOn callResult = iota
	callEnds
	callNone // it is no call
)

// callReader reads the JSON of one call as it comes: an object with a name and
// arguments, perhaps inside a list or under "function". The arguments are
// given out as soon as the name is known.
type callReader struct {
	seen    int // bytes of what is held that were read
	depth   int
	base    int // depth at which the keys of the call stand
	listed  bool
	inText  bool
	escaped bool
	inValue bool // behind a colon at the base

	token []byte // the string that is being read at the base, with its quotes
	key   string
	named bool
	name  string

	isArguments bool
	arguments   []byte // what came before the name, or the string that holds them
	begun       bool   // the sink knows
	index       int
	wrote       bool
}

// read takes the text from where it stopped. n is where the call ended.
func (c *callReader) read(a *Parser, held []byte) (n int, result callResult) {
	if c.begun {
		c.seen = 0
	}
	for i := c.seen; i < len(held); i++ {
		result = c.byte(held[i])
		if result == callNone && !c.begun {
			return i, result
		}
		if c.isArguments && c.keep(held[i], result) {
			c.arguments = append(c.arguments, held[i])
		}
		if c.named && !c.begun && !c.begin(a) {
			return i, callNone
		}
		if result == callEnds {
			c.seen = i + 1
			if !c.begun {
				return i, callNone
			}
			c.end(a)
			return i + 1, result
		}
	}
	c.seen = len(held)
	if c.begun {
		c.flush(a)
	}
	return len(held), callGoesOn
}

// keep says whether a byte belongs to the arguments.
func (c *callReader) keep(b byte, result callResult) bool {
	if c.base < 0 { // the arguments are all there is
		return true
	}
	if result == callEnds || !c.inText && c.depth == c.base && (b == ',' || b == ':') {
		return false
	}
	return len(c.arguments) > 0 || c.wrote || strings.IndexByte(" \t\r\n", b) < 0
}

// begin tells of the call, if a tool of this name was offered or the model
// marked it as a call.
func (c *callReader) begin(a *Parser) bool {
	if c.name == "" || !a.offered(c.name) && a.mark == "" {
		return false
	}
	c.begun = true
	c.index = a.start(c.name)
	return true
}

// flush gives out arguments that came, unless they are in a string. White
// space waits for what follows it, so that none is at the end.
func (c *callReader) flush(a *Parser) {
	ready := bytes.TrimRight(c.arguments, " \t\r\n")
	if len(ready) > 0 && (c.wrote || ready[0] != '"') {
		a.sink.Arguments(c.index, ready)
		c.arguments = append(c.arguments[:0], c.arguments[len(ready):]...)
		c.wrote = true
	}
}

// end gives out the rest.
func (c *callReader) end(a *Parser) {
	c.flush(a)
	if c.wrote {
		return
	}
	text := bytes.TrimSpace(c.arguments)
	var inner string
	if json.Unmarshal(text, &inner) == nil { // null as well
		text = []byte(inner)
	}
	if len(text) == 0 {
		text = []byte("{}")
	}
	a.sink.Arguments(c.index, text)
}

// byte takes one byte of the JSON.
func (c *callReader) byte(b byte) callResult {
	switch {
	case c.inText:
		return c.text(b)
	case b == '"':
		c.inText = true
		if c.depth == c.base {
			c.token = append(c.token[:0], b)
		}
	case b == '{' || b == '[':
		return c.open(b)
	case b == '}' || b == ']':
		return c.closing()
	case b == ':' && c.depth == c.base:
		if json.Unmarshal(c.token, &c.key) != nil {
			return callNone
		}
		c.inValue = true
		return c.known()
	case b == ',' && c.depth == c.base:
		c.inValue, c.isArguments = false, false
	case c.depth == 0 && strings.IndexByte(" \t\r\n", b) < 0:
		return callNone // what comes is no object
	}
	return callGoesOn
}

func (c *callReader) text(b byte) callResult {
	if c.depth == c.base {
		c.token = append(c.token, b)
	}
	switch {
	case c.escaped:
		c.escaped = false
	case b == '\\':
		c.escaped = true
	case b == '"':
		c.inText = false
		if c.depth == c.base && c.inValue && (c.key == "name" || c.key == "function") && !c.named {
			if json.Unmarshal(c.token, &c.name) != nil {
				return callNone
			}
			c.named = true
		}
	}
	return callGoesOn
}

func (c *callReader) open(b byte) callResult {
	switch {
	case c.base < 0: // arguments alone
		c.depth++
		return callGoesOn
	case c.depth == 0 && b == '[' && !c.listed:
		c.listed = true
		return callGoesOn
	case c.depth == 0:
		if b != '{' {
			return callNone
		}
		c.depth, c.base = 1, 1
		return callGoesOn
	}
	if c.depth == c.base && c.inValue && c.key == "function" && b == '{' {
		c.base++
		c.inValue = false
	}
	c.depth++
	return callGoesOn
}

func (c *callReader) closing() callResult {
	c.depth--
	switch {
	case c.base < 0 && c.depth > 0, c.base >= 0 && c.depth >= c.base:
	case c.base == 2: // the object under "function"
		c.base, c.isArguments = 1, false
	default:
		return callEnds
	}
	return callGoesOn
}

// known says whether the key is one of a call.
func (c *callReader) known() callResult {
	switch c.key {
	case "arguments", "parameters", "args":
		c.isArguments = true
	case "name", "function", "type", "id", "tool_call_id", "index", "tool_name", "description":
	default:
		if !c.begun {
			return callNone
		}
	}
	return callGoesOn
}

// pythonCall is what Llama writes for its own tools: NAME.call(key="value").
var (
	pythonCall     = regexp.MustCompile(`^\s*([A-Za-z_][\w-]*)(?:\.call)?\((.*)\)\s*$`)
	pythonArgument = regexp.MustCompile(`^\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|-?[0-9.]+|true|false)\s*(?:,|$)`)
)

// code reads what followed the python tag and is no JSON.
func (a *Parser) code() {
	text := string(a.held)
	if m := pythonCall.FindStringSubmatch(text); m != nil && a.offered(m[1]) {
		if arguments, ok := pythonArguments(m[2]); ok {
			a.sink.Arguments(a.start(m[1]), arguments)
			return
		}
	}
	for _, name := range []string{"python", "code_interpreter", "ipython"} {
		if a.offered(name) {
			if arguments, err := json.Marshal(map[string]string{"code": text}); err == nil {
				a.sink.Arguments(a.start(name), arguments)
				return
			}
		}
	}
	a.content(a.held)
}

func pythonArguments(text string) ([]byte, bool) {
	all := map[string]json.RawMessage{}
	for strings.TrimSpace(text) != "" {
		m := pythonArgument.FindStringSubmatch(text)
		if m == nil || !json.Valid([]byte(m[2])) {
			return nil, false
		}
		all[m[1]] = json.RawMessage(m[2])
		text = text[len(m[0]):]
	}
	out, err := json.Marshal(all)
	return out, err == nil
}
