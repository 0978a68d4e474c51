package chat

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
)

// Sink takes the parts of an answer as they become certain. Texts are valid
// until the call returns.
type Sink interface {
	Content(text []byte)
	Reasoning(text []byte)
	// Call begins the call of a tool, counted from 0. Its arguments follow.
	Call(index int, id, name string)
	// Arguments are the next piece of the JSON of the last call's arguments.
	Arguments(index int, piece []byte)
}

// Parser reads what a model answers to a prompt, as it comes. It is for one goroutine.
type Parser struct {
	sink  Sink
	style style
	think thinking
	tools map[string]json.RawMessage // the schemas of those that were offered; nil looks for no calls
	one   bool                       // no second call

	state   state
	held    []byte // text that may yet turn out to be something else
	trim    bool   // drop white space before the next text
	space   []byte // white space of thoughts or arguments, dropped if it is their last
	call    *callReader
	xml     *xmlReader
	channel channel
	mark    string // what began the call that is being read, for the case that it is none
	calls   int
}

type state int

const (
	stateBegin   state = iota // nothing but white space has come
	stateContent              // text, and perhaps a mark
	stateThought
	stateCall   // JSON of a call
	stateAfter  // behind a call
	stateName   // NAME[ARGS] or NAME{
	stateCode   // of the python tag
	statePlain  // text to the end
	stateMarked // behind <tool_call>, where JSON or XML may come
	stateXML    // of a call
	stateHead   // of a message in a channel
	stateBody
)

// NewParser makes a Parser for the answer to a prompt.
func (p *Prompt) NewParser(sink Sink, oneCall bool) *Parser {
	a := &Parser{sink: sink, style: p.template.style, think: p.template.thinking, one: oneCall, trim: true}
	if len(p.tools) > 0 {
		a.tools = map[string]json.RawMessage{}
		for _, t := range p.tools {
			a.tools[t.Name] = t.Parameters
		}
	}
	switch {
	case p.calls:
		a.beginCall("")
	case p.thinks:
		a.state = stateThought
	case a.style == styleHarmony:
		a.state = stateHead
		a.held = []byte(p.begun)
	}
	return a
}

// Special gives the texts of tokens that have none, for a model that begins
// its calls and thoughts with such tokens; others stay without. written gives
// the text of tokens with all that is special written out.
func (p *Prompt) Special(written func([]int32) []byte) func(int32) []byte {
	marks := []string{p.template.thinking.open, p.template.thinking.close}
	if calls := callMarks[p.template.style]; len(calls) > 0 && len(p.tools) > 0 {
		marks = append(marks, "[ARGS]", "[CALL_ID]", callEnd)
		marks = append(marks, calls...)
	}
	if p.template.style == styleHarmony {
		marks = append(marks, channelMark, messageMark, "<|constrain|>")
		marks = append(marks, messageEnds...)
	}
	return func(token int32) []byte {
		text := written([]int32{token})
		if slices.Contains(marks, string(text)) {
			return text
		}
		return nil
	}
}

// Thinking says whether the model is in its thoughts.
func (a *Parser) Thinking() bool {
	return a.state == stateThought || a.state == stateBody && a.channel.kind == isThought
}

func (a *Parser) offered(name string) bool {
	_, ok := a.tools[name]
	return ok
}

// Calls is how many calls of tools have begun.
func (a *Parser) Calls() int { return a.calls }

// Full says that nothing more is wanted: the one call has come.
func (a *Parser) Full() bool {
	return a.one && a.calls > 0 && (a.state == stateAfter || a.state == statePlain && a.call == nil)
}

// Push takes the next text of the answer.
func (a *Parser) Push(text []byte) {
	if a.state == statePlain && len(a.held) == 0 && !a.trim {
		if len(text) > 0 {
			a.sink.Content(text)
		}
		return
	}
	a.held = append(a.held, text...)
	for a.step(false) {
	}
}

// Flush ends the answer: what was held back is what it looks like.
func (a *Parser) Flush() {
	for a.step(true) {
	}
	switch {
	case a.call != nil && !a.call.begun:
		a.refuseCall()
		a.content(a.held)
	case a.call != nil && a.call.begun:
		a.call.end(a)
	case a.state == stateXML:
		a.cutXML()
	case a.state == stateMarked:
		a.content(append([]byte(a.mark), a.held...))
	case a.state == stateBody:
		a.closeBody()
	case a.state == stateCode:
		a.code()
	case a.state == stateName:
		a.content(append([]byte(a.mark), a.held...))
	case a.state == stateThought:
		a.solid(a.held, a.sink.Reasoning)
	case a.state == stateAfter, a.state == stateHead:
	default:
		a.content(a.held)
	}
	a.held, a.call, a.xml = nil, nil, nil
	a.state, a.trim = statePlain, false
}

// step takes something from what is held, and says whether there may be more.
func (a *Parser) step(last bool) bool {
	switch a.state {
	case stateBegin:
		return a.begin(last)
	case stateThought:
		before, mark := a.until(last, a.think.close)
		a.solid(before, a.sink.Reasoning)
		if mark != "" {
			a.space = nil
			a.state, a.trim = stateBegin, true
		}
		return mark != ""
	case stateContent:
		before, mark := a.until(last, callMarks[a.style]...)
		a.content(before)
		if mark != "" {
			a.beginMarked(mark)
		}
		return mark != ""
	case stateCall:
		return a.readCall()
	case stateAfter:
		return a.after(last)
	case stateName:
		return a.name()
	case stateMarked:
		return a.marked(last)
	case stateXML:
		return a.readXML(last)
	case stateHead:
		return a.head(last)
	case stateBody:
		return a.body(last)
	case statePlain:
		a.content(a.held)
		a.held = a.held[:0]
	case stateCode: // to the end
	}
	return false
}

// take removes n bytes from what is held.
func (a *Parser) take(n int) []byte {
	taken := a.held[:n]
	a.held = a.held[n:]
	return taken
}

// until takes what stands before the first of the marks, and that mark; "" if
// there is none. What may be the beginning of one stays held.
func (a *Parser) until(last bool, marks ...string) (before []byte, mark string) {
	at, keep := len(a.held), 0
	for _, m := range marks {
		if i := bytes.Index(a.held, []byte(m)); i >= 0 && i < at {
			at, mark = i, m
		}
	}
	if mark != "" {
		before = a.take(at)
		a.take(len(mark))
		return before, mark
	}
	if !last {
		for _, m := range marks {
			keep = max(keep, begun(a.held, m))
		}
	}
	return a.take(at - keep), ""
}

// begun is how much of the mark the text ends with.
func begun(text []byte, mark string) int {
	for n := min(len(mark)-1, len(text)); n > 0; n-- {
		if bytes.HasSuffix(text, []byte(mark[:n])) {
			return n
		}
	}
	return 0
}

// begin decides what an answer, or what follows the thoughts, begins with.
func (a *Parser) begin(last bool) bool {
	a.held = bytes.TrimLeft(a.held, " \t\r\n")
	if len(a.held) == 0 {
		return false
	}
	text := string(a.held[:min(len(a.held), 64)])
	marks := []string{a.think.open}
	if a.tools != nil {
		marks = append(marks, callMarks[a.style]...)
	}
	for _, mark := range marks {
		switch {
		case strings.HasPrefix(text, mark) && mark == a.think.open:
			a.take(len(mark))
			a.state, a.trim = stateThought, true
			return true
		case strings.HasPrefix(mark, text) && text != mark && !last:
			return false
		}
	}
	if a.tools != nil && (text[0] == '{' || text[0] == '[') && !strings.HasPrefix(text, "[TOOL_CALLS]") {
		a.beginCall("")
		return true
	}
	a.state = stateContent
	if a.tools == nil {
		a.state = statePlain
	}
	return true
}

func (a *Parser) content(text []byte) {
	if a.trim {
		text = bytes.TrimLeft(text, " \t\r\n")
	}
	if len(text) > 0 {
		a.trim = false
		a.sink.Content(text)
	}
}

// solid gives out thoughts or arguments without the white space around them.
func (a *Parser) solid(text []byte, out func([]byte)) {
	if a.trim {
		text = bytes.TrimLeft(text, " \t\r\n")
	}
	solid := bytes.TrimRight(text, " \t\r\n")
	if len(solid) == 0 {
		a.space = append(a.space, text...)
		return
	}
	a.trim = false
	if len(a.space) > 0 {
		out(a.space)
	}
	out(solid)
	a.space = append(a.space[:0], text[len(solid):]...)
}

// beginMarked goes on behind the mark of a call.
func (a *Parser) beginMarked(mark string) {
	a.mark = mark
	switch a.style {
	case styleMistral, styleLlama:
		a.state = stateName
	case styleXML:
		a.state = stateMarked
		if mark == functionMark {
			a.beginXML()
		}
	default:
		a.beginCall(mark)
	}
}

func (a *Parser) beginCall(mark string) {
	a.state, a.mark = stateCall, mark
	a.call = &callReader{}
}

// name decides, behind a mark, whether an object, a list or a name comes.
func (a *Parser) name() bool {
	a.held = bytes.TrimLeft(a.held, " \t\r\n")
	if len(a.held) == 0 {
		return false
	}
	const arguments = "[ARGS]"
	if len(a.held) < len(arguments) && strings.HasPrefix(arguments, string(a.held)) {
		return false
	}
	if a.held[0] == '{' || a.held[0] == '[' && !bytes.HasPrefix(a.held, []byte(arguments)) {
		a.beginCall(a.mark)
		return true
	}
	if a.style == styleLlama {
		a.state = stateCode
		return false
	}
	i := bytes.IndexByte(a.held, '{')
	if i < 0 {
		return false
	}
	head := string(a.take(i))
	name, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(head), arguments), "[CALL_ID]")
	a.beginCall(a.mark + head)
	a.call.depth, a.call.base = 0, -1 // all that follows is the arguments
	a.call.name, a.call.named = strings.TrimSpace(name), true
	a.call.inValue, a.call.isArguments = true, true
	return true
}

// readCall feeds the JSON of a call.
func (a *Parser) readCall() bool {
	c := a.call
	n, result := c.read(a, a.held)
	switch result {
	case callGoesOn:
		if c.begun {
			a.held = a.held[:0]
		} // else it stays held, to be content if it is no call
		return false
	case callNone:
		a.refuseCall()
		return true
	}
	a.take(n)
	a.call = nil
	a.state = stateAfter
	return len(a.held) > 0
}

// refuseCall makes content of what began like a call.
func (a *Parser) refuseCall() {
	a.call = nil
	a.state = statePlain
	if len(callMarks[a.style]) > 0 && a.mark == "" {
		a.state = stateContent
	}
	if a.mark != "" {
		a.content([]byte(a.mark))
		a.mark = ""
	}
}

// after is between two calls.
func (a *Parser) after(last bool) bool {
	if a.one {
		a.held = nil
		return false
	}
	a.held = bytes.TrimLeft(a.held, " \t\r\n,;]")
	for _, mark := range append([]string{callEnd}, callMarks[a.style]...) {
		switch {
		case bytes.HasPrefix(a.held, []byte(mark)):
			a.take(len(mark))
			if mark != callEnd {
				a.beginMarked(mark)
			}
			return true
		case strings.HasPrefix(mark, string(a.held)) && !last:
			return false
		}
	}
	if len(a.held) == 0 {
		return false
	}
	if a.held[0] == '{' {
		a.beginCall("")
		return true
	}
	a.state, a.trim = stateContent, true
	return true
}

func (a *Parser) newID() string {
	if a.style == styleMistral {
		return rand.Text()[:9]
	}
	return "call_" + rand.Text()
}

// start tells of a call.
func (a *Parser) start(name string) int {
	a.calls++
	a.sink.Call(a.calls-1, a.newID(), name)
	return a.calls - 1
}
