package prefix

import "bytes"

// What reads JSON here looks for the ends of values and nothing else: the body
// is checked by those who answer it, and a wrong one has just a wrong chain.

// pick finds fields of an object by their names; nil for those it lacks. Of
// several alike the last one counts.
func pick(object []byte, names ...string) [][]byte {
	found := make([][]byte, len(names))
	Fields(object, func(name []byte, from, to int) {
		for i, wanted := range names {
			if string(name) == wanted {
				found[i] = object[from:to]
			}
		}
	})
	return found
}

// Fields goes through an object of JSON, and says where in it the value of each
// field stands. It copies nothing, and does not check what it skips.
func Fields(object []byte, f func(name []byte, from, to int)) {
	s := scanner{b: object}
	if !s.take('{') {
		return
	}
	for {
		name := s.value()
		if len(name) == 0 || name[0] != '"' || !s.take(':') {
			return
		}
		value := s.value()
		if len(value) == 0 {
			return
		}
		to := len(object) - len(s.b)
		f(unquoted(name), to-len(value), to)
		if !s.take(',') {
			return
		}
	}
}

// each goes through a list.
func each(list []byte, f func(value []byte)) {
	s := scanner{b: list}
	if !s.take('[') {
		return
	}
	for {
		value := s.value()
		if len(value) == 0 {
			return
		}
		f(value)
		if !s.take(',') {
			return
		}
	}
}

type scanner struct{ b []byte }

func (s *scanner) space() { s.b = bytes.TrimLeft(s.b, " \t\r\n") }

// take steps over one character.
func (s *scanner) take(c byte) bool {
	s.space()
	if len(s.b) == 0 || s.b[0] != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

// value steps over one value and returns it; nothing at the end.
func (s *scanner) value() []byte {
	s.space()
	n := length(s.b)
	v := s.b[:n]
	s.b = s.b[n:]
	return v
}

// length is that of the value that a text begins with.
func length(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"':
		return quoted(b)
	case '{', '[':
		return nested(b)
	}
	if n := bytes.IndexAny(b, ",:]} \t\r\n"); n >= 0 {
		return n
	}
	return len(b)
}

// quoted is the length of a string with its quotes.
func quoted(b []byte) int {
	for i := 1; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			break
		}
		i += n + 1
		escapes := 0
		for j := i - 2; j > 0 && b[j] == '\\'; j-- {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
	return len(b)
}

// nested is the length of an object or a list.
func nested(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += quoted(b[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(b)
}
