package openai

import (
	"encoding/json"
	"fmt"
	"slices"

	"rbee/worker/chat"
)

// ChatRequest is the body of POST /v1/chat/completions.
type ChatRequest struct {
	Options
	Conversation chat.Conversation
	OneCall      bool            // no parallel calls of tools
	JSON         bool            // the answer is any JSON object
	Schema       json.RawMessage // the answer fits this JSON schema, nil for none
	Logprobs     bool
	TopLogprobs  int
}

// ReadChat reads a ChatRequest. INVALID_REQUEST names all that is wrong with it.
func ReadChat(body []byte) (*ChatRequest, error) {
	f, err := parse(body)
	if err != nil {
		return nil, err
	}
	r := &ChatRequest{Options: f.options(), Logprobs: f.flag("logprobs")}
	r.TopLogprobs = f.whole("top_logprobs", 0, 0, MaxTopLogprobs)
	if r.TopLogprobs > 0 && !r.Logprobs {
		f.fault("top_logprobs", "needs logprobs to be true")
	}
	c := &r.Conversation
	c.Messages = f.messages()
	c.Tools = f.tools()
	c.Force = f.toolChoice(c)
	r.OneCall = c.Force != ""
	if f.has("parallel_tool_calls") {
		r.OneCall = !f.flag("parallel_tool_calls") || r.OneCall
	}
	f.responseFormat(r)
	read(f, "chat_template_kwargs", "an object", &c.Variables)
	if effort, ok := f.raw["reasoning_effort"]; ok && f.has("reasoning_effort") {
		if f.text("reasoning_effort") != "" {
			if c.Variables == nil {
				c.Variables = map[string]json.RawMessage{}
			}
			c.Variables["reasoning_effort"] = effort
		}
	}
	formats := 0
	for _, set := range []bool{r.JSON, r.Schema != nil, r.Grammar != "", c.Force != ""} {
		if set {
			formats++
		}
	}
	if formats > 1 {
		f.fault("response_format", "cannot be combined with a grammar or a tool_choice that forces a call")
	}
	c.Formatted = formats > 0
	return r, f.err()
}

func (f *fields) messages() []chat.Message {
	list := f.objects("messages", MaxMessages)
	if len(list) == 0 {
		f.fault("messages", "must have at least one message")
	}
	all := make([]chat.Message, 0, len(list))
	for _, m := range list {
		all = append(all, m.message())
	}
	return all
}

var roles = map[string]string{
	"system": chat.RoleSystem, "developer": chat.RoleSystem, "user": chat.RoleUser,
	"assistant": chat.RoleAssistant, "tool": chat.RoleTool, "function": chat.RoleTool,
}

func (f *fields) message() chat.Message {
	role := f.text("role")
	m := chat.Message{Role: roles[role], Name: f.text("name"), Content: f.content("content"), CallID: f.text("tool_call_id")}
	if m.Role == "" {
		f.fault("role", "must be system, developer, user, assistant or tool")
	}
	if m.Role == chat.RoleAssistant {
		m.Reasoning = f.text("reasoning_content")
		m.Calls = f.calls()
	}
	if !f.has("content") && !f.has("tool_calls") {
		f.fault("content", "is missing")
	}
	return m
}

// content is a text, or the texts of a list of parts, one a line.
func (f *fields) content(name string) string {
	if !f.has(name) {
		return ""
	}
	var text string
	if json.Unmarshal(f.raw[name], &text) == nil {
		return text
	}
	if f.raw[name][0] != '[' {
		f.fault(name, "must be a string or a list of parts")
		return ""
	}
	for i, part := range f.objects(name, MaxMessages) {
		if i > 0 {
			text += "\n"
		}
		switch kind := part.text("type"); kind {
		case "text", "input_text":
			text += part.text("text")
		case "refusal":
			text += part.text("refusal")
		case "image_url", "input_image", "image":
			part.fault("type", "is an image, and this model sees no images")
		case "input_audio", "audio_url":
			part.fault("type", "is audio, and this model hears none")
		default:
			part.fault("type", "must be text")
		}
	}
	return text
}

func (f *fields) calls() []chat.Call {
	var all []chat.Call
	for _, c := range f.objects("tool_calls", MaxTools) {
		call := chat.Call{ID: c.text("id")}
		if fn := c.object("function"); fn != nil {
			call.Name = fn.text("name")
			if call.Name == "" && !fn.has("name") {
				fn.fault("name", "is missing")
			}
			call.Arguments = fn.arguments()
		} else if !c.has("function") {
			c.fault("function", "is missing")
		}
		all = append(all, call)
	}
	return all
}

// arguments are JSON in a string; some clients send the JSON itself.
func (f *fields) arguments() string {
	var text string
	raw := f.raw["arguments"]
	switch {
	case !f.has("arguments"):
		return "{}"
	case json.Unmarshal(raw, &text) != nil:
		text = string(raw)
	}
	if text == "" {
		return "{}"
	}
	return text
}

func (f *fields) tools() []chat.Tool {
	var list []json.RawMessage
	if read(f, "tools", "a list", &list) && len(list) == 0 {
		return nil
	}
	var all []chat.Tool
	for i, t := range f.objects("tools", MaxTools) {
		tool := chat.Tool{Raw: list[min(i, len(list)-1)]}
		if kind := t.text("type"); kind != "" && kind != "function" {
			t.fault("type", "must be function")
			continue
		}
		fn := t.object("function")
		if fn == nil {
			if !t.has("function") {
				t.fault("function", "is missing")
			}
			continue
		}
		tool.Name = fn.text("name")
		fn.text("description") // the template gets the tool as it is
		if !validName(tool.Name) {
			fn.fault("name", "must have 1 to %d letters, digits, '_', '-' or '.'", maxNameLength)
		}
		if p := fn.object("parameters"); p != nil {
			tool.Parameters = fn.raw["parameters"]
		}
		if slices.ContainsFunc(all, func(other chat.Tool) bool { return other.Name == tool.Name }) {
			fn.fault("name", "is that of another tool as well")
		}
		all = append(all, tool)
	}
	return all
}

// toolChoice says which call is forced; "none" takes the tools away.
func (f *fields) toolChoice(c *chat.Conversation) string {
	if !f.has("tool_choice") {
		return ""
	}
	const want = "must be none, auto, required or a function"
	var word string
	if json.Unmarshal(f.raw["tool_choice"], &word) == nil {
		switch word {
		case "none":
			c.Tools = nil
			return ""
		case "auto":
			return ""
		case "required":
			if len(c.Tools) == 0 {
				f.fault("tool_choice", "needs tools")
				return ""
			}
			return "*"
		}
		f.fault("tool_choice", want)
		return ""
	}
	if f.raw["tool_choice"][0] != '{' {
		f.fault("tool_choice", want)
		return ""
	}
	choice := f.object("tool_choice")
	fn := choice.object("function")
	if fn == nil {
		f.fault("tool_choice", want)
		return ""
	}
	name := fn.text("name")
	if !slices.ContainsFunc(c.Tools, func(t chat.Tool) bool { return t.Name == name }) {
		fn.fault("name", "must be that of one of the tools")
		return ""
	}
	return name
}

func (f *fields) responseFormat(r *ChatRequest) {
	format := f.object("response_format")
	if format == nil {
		return
	}
	switch format.text("type") {
	case "text":
	case "json_object":
		r.JSON = true
		if s := format.object("schema"); s != nil { // as llama.cpp's server takes it
			r.JSON, r.Schema = false, format.raw["schema"]
		}
	case "json_schema":
		named := format.object("json_schema")
		switch {
		case named == nil:
			format.fault("json_schema", "is missing")
		case !named.has("schema"):
			named.fault("schema", "is missing")
		default:
			r.Schema = named.raw["schema"]
		}
	default:
		format.fault("type", "must be text, json_object or json_schema")
	}
}

// Input is a text, or tokens in its place.
type Input struct {
	Text   string
	Tokens []int32 // nil for a text
}

// CompletionRequest is the body of POST /v1/completions.
type CompletionRequest struct {
	Options
	Prompts  []Input
	Suffix   string // what follows the gap to be filled; "" for nothing
	Echo     bool
	Logprobs int // alternatives to each token, -1 for no probabilities at all
	Schema   json.RawMessage
}

// ReadCompletion reads a CompletionRequest. INVALID_REQUEST names all that is wrong with it.
func ReadCompletion(body []byte) (*CompletionRequest, error) {
	f, err := parse(body)
	if err != nil {
		return nil, err
	}
	r := &CompletionRequest{Options: f.options(), Suffix: f.text("suffix"), Echo: f.flag("echo"), Logprobs: -1}
	r.Prompts = f.inputs("prompt", MaxPrompts, r.Suffix != "")
	if len(r.Prompts)*r.N > MaxPrompts {
		f.fault("prompt", "must have at most %d prompts, times n", MaxPrompts)
	}
	if f.has("logprobs") {
		r.Logprobs = f.whole("logprobs", 0, 0, MaxTopLogprobs)
	}
	if r.Echo && r.Logprobs >= 0 {
		f.fault("logprobs", "cannot be combined with echo: the probabilities of a prompt's tokens are not computed; ask for one of the two")
	}
	if best := f.whole("best_of", r.N, 1, math32); best != r.N && f.has("best_of") {
		f.fault("best_of", "must be as large as n")
	}
	if s := f.object("json_schema"); s != nil {
		r.Schema = f.raw["json_schema"]
		if r.Grammar != "" {
			f.fault("json_schema", "cannot be combined with a grammar")
		}
	}
	return r, f.err()
}

const math32 = 1<<31 - 1

// inputs is a text, a list of texts, a list of tokens, or a list of such lists.
func (f *fields) inputs(name string, most int, mayBeEmpty bool) []Input {
	if !f.has(name) {
		f.fault(name, "is missing")
		return nil
	}
	raw := f.raw[name]
	var (
		text   string
		texts  []string
		tokens []int32
		lists  [][]int32
		all    []Input
	)
	switch {
	case json.Unmarshal(raw, &text) == nil:
		all = []Input{{Text: text}}
	case json.Unmarshal(raw, &texts) == nil:
		for _, t := range texts {
			all = append(all, Input{Text: t})
		}
	case json.Unmarshal(raw, &tokens) == nil:
		all = []Input{{Tokens: tokens}}
	case json.Unmarshal(raw, &lists) == nil:
		for _, l := range lists {
			all = append(all, Input{Tokens: append([]int32{}, l...)})
		}
	default:
		f.fault(name, "must be a string, a list of strings, a list of tokens, or a list of such lists")
		return nil
	}
	if len(all) == 0 || len(all) > most {
		f.fault(name, "must have 1 to %d entries, has %d", most, len(all))
		return nil
	}
	for i, in := range all {
		if in.Text == "" && len(in.Tokens) == 0 && !mayBeEmpty {
			at := name
			if len(all) > 1 {
				at = fmt.Sprintf("%s[%d]", name, i)
			}
			f.fault(at, "must not be empty")
		}
	}
	return all
}

// EmbeddingRequest is the body of POST /v1/embeddings.
type EmbeddingRequest struct {
	Model      string
	Inputs     []Input
	Base64     bool
	Dimensions int // 0 for the model's
	KeepAlive  string
}

// Needs implements Request.
func (r *EmbeddingRequest) Needs() Needs { return Needs{Model: r.Model, KeepAlive: r.KeepAlive} }

// ReadEmbedding reads an EmbeddingRequest. INVALID_REQUEST names all that is wrong with it.
func ReadEmbedding(body []byte) (*EmbeddingRequest, error) {
	f, err := parse(body)
	if err != nil {
		return nil, err
	}
	r := &EmbeddingRequest{
		Model: f.text("model"), Inputs: f.inputs("input", MaxInputs, false), Dimensions: f.whole("dimensions", 0, 1, math32), KeepAlive: f.keepAlive(),
	}
	switch f.text("encoding_format") {
	case "", "float":
	case "base64":
		r.Base64 = true
	default:
		f.fault("encoding_format", "must be float or base64")
	}
	return r, f.err()
}
