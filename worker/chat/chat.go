// Package chat turns a conversation into the prompt that a model was trained
// on, and what the model writes back into its answer: content, reasoning, and
// calls of tools.
//
// It knows the habits of families of models and nothing of HTTP, tokens or
// engines. It trusts neither the template, which comes with the model, nor
// what the model writes.
package chat

import (
	"encoding/json"
	"strings"
)

// The roles of messages.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
	RoleTool      = "tool"
)

// Message is one turn of a conversation.
type Message struct {
	Role      string
	Name      string // of the author, or of the tool that was called
	Content   string
	Reasoning string // what an assistant thought before it answered
	Calls     []Call // of tools, by an assistant
	CallID    string // the call that a tool answers
}

// Call is a call of a tool.
type Call struct {
	ID        string
	Name      string
	Arguments string // JSON
}

// Tool is a function that the model may call.
type Tool struct {
	Name       string
	Parameters json.RawMessage // JSON schema, nil for none
	Raw        json.RawMessage // the tool as it was offered
}

// style is how a family of models writes its calls of tools.
type style int

const (
	styleBare    style = iota // {"name": …, "parameters": …} as the whole answer
	styleHermes               // <tool_call>{"name": …, "arguments": …}</tool_call>
	styleMistral              // [TOOL_CALLS][{"name": …, "arguments": …}], or [TOOL_CALLS]NAME[ARGS]{…}
	styleLlama                // <|python_tag|>{"name": …, "parameters": …}, or NAME.call(…)
	styleXML                  // <tool_call><function=NAME><parameter=KEY>value</parameter></function></tool_call>
	styleHarmony              // <|channel|>commentary to=functions.NAME<|message|>{…}<|call|>
)

// callMarks begin calls. All styles but the last also take a bare one.
var callMarks = map[style][]string{
	styleHermes: {"<tool_call>"}, styleMistral: {"[TOOL_CALLS]"}, styleLlama: {"<|python_tag|>"},
	styleXML: {"<tool_call>", functionMark},
}

// thinking are the marks around what a model thinks before it answers.
type thinking struct{ open, close string }

// thoughts are the marks that models use; the first is also for models whose
// template names none.
var thoughts = []thinking{
	{"<think>", "</think>"},
	{"[THINK]", "[/THINK]"},
	{"<|START_THINKING|>", "<|END_THINKING|>"},
	{"<seed:think>", "</seed:think>"},
}

// habits of a model, as far as its template shows them.
func habits(template string) (style, thinking) {
	calls := styleBare
	switch has := func(mark string) bool { return strings.Contains(template, mark) }; {
	case has(channelMark) && has(messageMark):
		calls = styleHarmony
	case has(functionMark):
		calls = styleXML
	case has("<tool_call>"):
		calls = styleHermes
	case has("[TOOL_CALLS]"):
		calls = styleMistral
	case has("<|python_tag|>"), has("ipython"):
		calls = styleLlama
	}
	for _, t := range thoughts {
		if strings.Contains(template, t.open) || strings.Contains(template, t.close) {
			return calls, t
		}
	}
	return calls, thoughts[0]
}
