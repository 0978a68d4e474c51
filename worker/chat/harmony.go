package chat

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"

	"rbee/worker/chat/jinja"
)

// Models such as gpt-oss write messages, each in a channel:
//
//	<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…
//
// A message to a function is a call of it, and its text the arguments.
const (
	channelMark = "<|channel|>"
	messageMark = "<|message|>"
	startMark   = "<|start|>"
)

// messageEnds end a message, the last one by beginning another.
var messageEnds = []string{"<|end|>", "<|call|>", "<|return|>", startMark}

// headMarks are what the head of a message begins with.
var headMarks = []string{channelMark, startMark, messageMark, "to="}

// maxHead bounds the head of a message, in bytes.
const maxHead = 256

// channel is where the message goes that is being read.
type channel struct {
	kind channelKind
	call int  // its index, for isCall
	said bool // an earlier message was content
	mind bool // an earlier message was thoughts
}

type channelKind int

const (
	isContent channelKind = iota
	isThought
	isCall
)

var (
	channelName = regexp.MustCompile(`<\|channel\|>\s*(\w+)`)
	recipient   = regexp.MustCompile(`\bto=(?:functions\.)?([\w.-]+)`)
)

// beginMessage writes the head of the answer, as far as it is certain.
func (p *Prompt) beginMessage(c Conversation, closed bool) {
	var forced []Tool
	for _, t := range c.Tools {
		if c.Force == "*" || c.Force == t.Name {
			forced = append(forced, t)
		}
	}
	switch {
	case c.Force != "" && len(forced) == 1:
		p.Text += channelMark + "commentary to=functions." + forced[0].Name + " <|constrain|>json" + messageMark
		if p.Schema = forced[0].Parameters; len(p.Schema) == 0 {
			p.Schema = json.RawMessage(`{"type":"object"}`)
		}
	case c.Force != "": // which one is for the model to say, in the text
		p.Schema = callSchema(c.Tools, c.Force)
		p.Text += channelMark + "final" + messageMark
		p.calls = true
	case closed:
		p.Text += channelMark + "final" + messageMark
	}
	const answer = startMark + "assistant"
	if i := strings.LastIndex(p.Text, answer); i >= 0 {
		p.begun = p.Text[i+len(answer):]
	}
}

// setThinking hands thoughts to a template under the name that models with
// channels have for them. Beside a call they take the place of its content,
// since such templates take one of the two.
func (t *Template) setThinking(d *jinja.Dict, m Message) {
	if t.style != styleHarmony {
		return
	}
	d.Set("thinking", m.Reasoning)
	if len(m.Calls) > 0 {
		d.Set("content", "")
	}
}

// describe gives a tool that has no description an empty one, which templates
// with channels write without looking.
func describe(tool any) {
	d, _ := tool.(*jinja.Dict)
	if d == nil {
		return
	}
	f, _ := d.Get("function")
	if function, ok := f.(*jinja.Dict); ok {
		if text, _ := function.Get("description"); text == nil {
			function.Set("description", "")
		}
	}
}

// head reads what stands before a message.
func (a *Parser) head(last bool) bool {
	held := bytes.TrimLeft(a.held, " \t\r\n")
	if len(held) == 0 {
		return false
	}
	if !beginsHead(string(held[:min(len(held), maxHead)]), last) {
		a.open(isContent) // a model that forgets its marks
		return true
	}
	i := bytes.Index(held, []byte(messageMark))
	if i > maxHead || i < 0 && len(held) > maxHead+len(messageMark) {
		a.open(isContent)
		return true
	}
	if i < 0 {
		return false
	}
	text := string(held[:i])
	a.held = held[i+len(messageMark):]
	to := recipient.FindStringSubmatch(text)
	name := channelName.FindStringSubmatch(text)
	switch {
	case a.tools != nil && to != nil && to[1] != "user":
		if a.one && a.calls > 0 {
			a.state = stateAfter
			return true
		}
		a.open(isCall)
		a.channel.call = a.start(to[1])
	case name != nil && name[1] == "analysis":
		a.open(isThought)
	default:
		a.open(isContent)
	}
	return true
}

// beginsHead says whether a text begins the head of a message, or may.
func beginsHead(text string, last bool) bool {
	for _, mark := range headMarks {
		if strings.HasPrefix(text, mark) || !last && strings.HasPrefix(mark, text) {
			return true
		}
	}
	return false
}

// open begins the text of a message. Those of one kind are apart by an empty line.
func (a *Parser) open(kind channelKind) {
	a.state, a.channel.kind = stateBody, kind
	a.trim, a.space = true, a.space[:0]
	if kind == isThought && a.channel.mind {
		a.space = append(a.space, "\n\n"...)
	}
}

// body reads the text of a message.
func (a *Parser) body(last bool) bool {
	before, mark := a.until(last, messageEnds...)
	switch a.channel.kind {
	case isThought:
		a.solid(before, a.sink.Reasoning)
	case isCall:
		a.solid(before, a.arguments)
	default:
		if a.trim && a.channel.said && len(bytes.TrimSpace(before)) > 0 {
			a.sink.Content([]byte("\n\n"))
		}
		a.content(before)
	}
	if mark == "" {
		return false
	}
	if mark == startMark { // it begins the next head
		a.held = append([]byte(mark), a.held...)
	}
	a.closeBody()
	return true
}

func (a *Parser) arguments(piece []byte) { a.sink.Arguments(a.channel.call, piece) }

// closeBody ends a message.
func (a *Parser) closeBody() {
	c := &a.channel
	a.state = stateHead
	switch {
	case c.kind == isCall:
		if a.trim {
			a.arguments([]byte("{}"))
		}
		if a.one {
			a.state = stateAfter
		}
	case a.trim: // it was empty
	case c.kind == isThought:
		c.mind = true
	default:
		c.said = true
	}
	a.space = a.space[:0]
}
