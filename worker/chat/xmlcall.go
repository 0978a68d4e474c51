package chat

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Marks of calls as Qwen3-Coder writes them.
const (
	functionMark  = "<function="
	functionEnd   = "</function>"
	parameterMark = "<parameter="
	parameterEnd  = "</parameter>"
	callEnd       = "</tool_call>"
)

// maxXMLName bounds the names of functions and parameters, in bytes.
const maxXMLName = 256

// xmlReader reads one call as it comes. A parameter that the tool's schema
// calls a text is given out as it comes, others when they are complete, since
// what they are shows then.
type xmlReader struct {
	at     xmlPlace
	index  int             // of the call
	schema json.RawMessage // of the tool
	count  int             // parameters
	types  []string        // of the parameter that is being read
	begins bool            // nothing of its value was read
	seen   int             // bytes of its value in which the end is not
}

type xmlPlace int

const (
	inFunctionName xmlPlace = iota
	betweenParameters
	inParameterName
	inText
	inValue
)

func (a *Parser) beginXML() {
	a.state = stateXML
	a.xml = &xmlReader{}
}

// marked decides, behind the mark of a call, whether it is JSON or XML.
func (a *Parser) marked(last bool) bool {
	rest := bytes.TrimLeft(a.held, " \t\r\n")
	switch text := string(rest[:min(len(rest), len(functionMark))]); {
	case text == "":
		return false
	case text == functionMark:
		a.mark += string(a.held[:len(a.held)-len(rest)]) + functionMark
		a.held = rest[len(functionMark):]
		a.beginXML()
	case strings.HasPrefix(functionMark, text) && !last:
		return false
	case text[0] == '{':
		a.beginCall(a.mark)
	default:
		a.state = stateContent
		a.content([]byte(a.mark))
	}
	return true
}

// readXML takes the next part of a call, and says whether there may be more.
func (a *Parser) readXML(last bool) bool {
	switch a.xml.at {
	case inFunctionName:
		return a.functionName()
	case betweenParameters:
		return a.betweenParameters(last)
	case inParameterName:
		return a.parameterName()
	}
	return a.parameterValue()
}

// nameBefore takes a name and the bracket behind it.
func (a *Parser) nameBefore() (name string, found, bad bool) {
	i := bytes.IndexByte(a.held, '>')
	text := a.held
	if i >= 0 {
		text = text[:i]
	}
	if len(text) > maxXMLName || bytes.ContainsAny(text, "\n<") {
		return "", false, true
	}
	if i < 0 {
		return "", false, false
	}
	name = strings.TrimSpace(string(text))
	if name == "" {
		return "", false, true
	}
	a.take(i + 1)
	return name, true, false
}

func (a *Parser) functionName() bool {
	name, found, bad := a.nameBefore()
	switch {
	case found && (a.mark != functionMark || a.offered(name)):
		a.xml.at, a.xml.index, a.xml.schema = betweenParameters, a.start(name), a.tools[name]
	case found:
		a.refuseXML(name + ">")
	case bad:
		a.refuseXML("")
	default:
		return false
	}
	return true
}

// refuseXML makes content of what began like a call.
func (a *Parser) refuseXML(taken string) {
	a.xml, a.state = nil, stateContent
	a.content([]byte(a.mark + taken))
}

// betweenParameters decides whether another one comes. Whatever else comes ends the call.
func (a *Parser) betweenParameters(last bool) bool {
	a.held = bytes.TrimLeft(a.held, " \t\r\n")
	text := string(a.held[:min(len(a.held), len(parameterMark))])
	switch {
	case text == "":
		return false
	case strings.HasPrefix(text, parameterMark):
		a.take(len(parameterMark))
		a.xml.at = inParameterName
	case strings.HasPrefix(text, functionEnd):
		a.take(len(functionEnd))
		a.endXML()
	case !last && (strings.HasPrefix(parameterMark, text) || strings.HasPrefix(functionEnd, text)):
		return false
	default:
		a.endXML()
	}
	return true
}

// endXML ends a call in good order.
func (a *Parser) endXML() {
	end := "}"
	if a.xml.count == 0 {
		end = "{}"
	}
	a.sink.Arguments(a.xml.index, []byte(end))
	a.xml, a.state = nil, stateAfter
}

// cutXML ends a call whose end did not come.
func (a *Parser) cutXML() {
	switch a.xml.at {
	case inFunctionName:
		a.content(append([]byte(a.mark), a.held...))
	case betweenParameters:
		a.endXML()
	case inText:
		a.textPiece(a.held)
	case inParameterName, inValue: // what is not whole is not told
	}
}

func (a *Parser) parameterName() bool {
	name, found, bad := a.nameBefore()
	switch {
	case found:
	case bad:
		a.endXML()
		return true
	default:
		return false
	}
	x := a.xml
	opens := "{"
	if x.count++; x.count > 1 {
		opens = ", "
	}
	x.types = parameterTypes(x.schema, name)
	x.at, x.begins, x.seen = inValue, true, 0
	out := append([]byte(opens), quoted(name)...)
	out = append(out, ": "...)
	if len(x.types) == 1 && x.types[0] == "string" {
		x.at = inText
		out = append(out, '"')
	}
	a.sink.Arguments(x.index, out)
	return true
}

// parameterValue takes the value of a parameter. The line breaks next to its
// marks do not belong to it.
func (a *Parser) parameterValue() bool {
	x := a.xml
	if x.begins {
		if len(a.held) == 0 {
			return false
		}
		x.begins = false
		if a.held[0] == '\n' {
			a.take(1)
		}
	}
	end := bytes.Index(a.held[x.seen:], []byte(parameterEnd))
	if end < 0 && x.at == inText {
		keep := max(begun(a.held, parameterEnd), begun(a.held, "\n"+parameterEnd))
		a.textPiece(a.take(len(a.held) - keep))
		return false
	}
	if end < 0 {
		x.seen = max(0, len(a.held)-len(parameterEnd))
		return false
	}
	value := bytes.TrimSuffix(a.take(x.seen+end), []byte("\n"))
	a.take(len(parameterEnd))
	if x.at == inText {
		a.textPiece(value)
		a.sink.Arguments(x.index, []byte{'"'})
	} else {
		a.sink.Arguments(x.index, valueOf(string(value), x.types))
	}
	x.at = betweenParameters
	return true
}

// textPiece gives out a piece of a text.
func (a *Parser) textPiece(text []byte) {
	if len(text) > 0 {
		a.sink.Arguments(a.xml.index, escaped(nil, text))
	}
}

// valueOf is the JSON of a parameter of one of the types; none are known for a
// parameter that the schema does not describe.
func valueOf(text string, types []string) []byte {
	trimmed := strings.TrimSpace(text)
	switch trimmed { // as Python writes them
	case "True":
		trimmed = "true"
	case "False":
		trimmed = "false"
	case "None":
		trimmed = "null"
	}
	if kind := kindOf(trimmed); kind != "string" && (len(types) == 0 || slices.Contains(types, kind)) {
		return []byte(trimmed)
	}
	return quoted(text)
}

// kindOf is the type that a text has as JSON; what is no JSON is a string.
func kindOf(text string) string {
	if !json.Valid([]byte(text)) {
		return "string"
	}
	switch text[0] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	}
	return "number"
}

// parameterTypes are the types that a schema of parameters gives to one of
// them, integer being number; none if it says nothing that shows at once.
func parameterTypes(schema json.RawMessage, name string) []string {
	var s struct{ Properties map[string]json.RawMessage }
	if json.Unmarshal(schema, &s) != nil {
		return nil
	}
	return schemaTypes(s.Properties[name], 0)
}

func schemaTypes(schema json.RawMessage, depth int) (types []string) {
	var s struct {
		Type         json.RawMessage
		AnyOf, OneOf []json.RawMessage
		Enum         []json.RawMessage
	}
	if depth > 4 || json.Unmarshal(schema, &s) != nil {
		return nil
	}
	var one string
	var several []string
	if json.Unmarshal(s.Type, &one) == nil {
		several = []string{one}
	} else {
		_ = json.Unmarshal(s.Type, &several) // neither is for the grammar to refuse
	}
	for _, t := range several {
		if t == "integer" {
			t = "number"
		}
		types = append(types, t)
	}
	if types != nil {
		return types
	}
	for _, v := range s.Enum {
		types = append(types, kindOf(string(v)))
	}
	for _, inner := range append(s.AnyOf, s.OneOf...) {
		more := schemaTypes(inner, depth+1)
		if more == nil {
			return nil
		}
		types = append(types, more...)
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// quoted is a text as a JSON string.
func quoted(text string) []byte { return append(escaped([]byte{'"'}, []byte(text)), '"') }

// escaped appends a text as it stands inside a JSON string. It goes byte by
// byte, so that a text may come in any pieces.
func escaped(out, text []byte) []byte {
	const hex = "0123456789abcdef"
	for _, b := range text {
		switch {
		case b == '"' || b == '\\':
			out = append(out, '\\', b)
		case b == '\n':
			out = append(out, '\\', 'n')
		case b == '\t':
			out = append(out, '\\', 't')
		case b < ' ':
			out = append(out, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
		default:
			out = append(out, b)
		}
	}
	return out
}
