package chat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rbee"
	"rbee/worker/chat/jinja"
)

// renderTime bounds the rendering of a template, which counts its steps as well.
const renderTime = 10 * time.Second

// fallback is for models without a template: ChatML, which many were trained on.
const fallback = `{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// Template is how one model wants its conversations written.
type Template struct {
	builtin  bool
	jinja    *jinja.Template
	fault    error // why the model's template cannot be used
	bos, eos string
	tools    bool // it writes tools by itself
	style    style
	thinking thinking
}

// NewTemplate reads the Jinja source of a model's template; "" takes the
// built-in one. A template that cannot be read fails when it is used. The
// texts of the tokens that begin and end a text are handed to it.
func NewTemplate(source, bos, eos string) *Template {
	t := &Template{bos: bos, eos: eos}
	if strings.TrimSpace(source) == "" {
		source, t.builtin = fallback, true
	}
	t.jinja, t.fault = jinja.Parse(source)
	t.tools = strings.Contains(source, "tools")
	t.style, t.thinking = habits(source)
	return t
}

// Builtin says whether the model has no template of its own.
func (t *Template) Builtin() bool { return t.builtin }

// Stops are the texts that end an answer: for a model that was not made for the
// template it gets, and may write the mark as text.
func (t *Template) Stops() []string {
	if t.builtin {
		return []string{"<|im_end|>"}
	}
	return nil
}

// Conversation is what a prompt is made of.
type Conversation struct {
	Messages  []Message
	Tools     []Tool
	Force     string                     // "" lets the model choose; "*" makes it call one of the tools, another value the tool of that name
	Formatted bool                       // a grammar holds the answer, so there is no room for thoughts
	Variables map[string]json.RawMessage // more for the template, such as enable_thinking
}

// Prompt is the text for the model, and how to read what it answers.
type Prompt struct {
	Text     string
	Schema   json.RawMessage // what a forced call must be, or nil
	template *Template
	tools    []Tool
	thinks   bool   // the prompt ends inside the model's thoughts
	calls    bool   // the prompt ends inside a call
	begun    string // what the prompt has of the answer, where that is messages in channels
}

// Prompt writes a conversation. It fails with INVALID_REQUEST, naming what the
// template does not like, and with ctx's cause.
func (t *Template) Prompt(ctx context.Context, c Conversation) (*Prompt, error) {
	p := &Prompt{template: t, tools: c.Tools}
	closed := c.Formatted || c.Force != ""
	vars := map[string]any{"bos_token": t.bos, "eos_token": t.eos, "add_generation_prompt": true}
	if closed {
		vars["enable_thinking"] = false
	}
	for name, raw := range c.Variables {
		v, err := jinja.Value(raw)
		if err != nil {
			return nil, rbee.InvalidRequest(rbee.Fault{Field: "chat_template_kwargs." + name, Problem: "is not valid JSON"})
		}
		vars[name] = v
	}
	messages := slices.Clone(c.Messages)
	switch {
	case len(c.Tools) == 0:
	case t.tools:
		vars["tools"] = t.toolValues(c.Tools)
	default:
		messages = explainTools(messages, c.Tools)
	}
	if !t.tools {
		messages = withoutCalls(messages)
	}
	text, err := t.render(ctx, vars, messages)
	if err != nil {
		return nil, err
	}
	p.Text = text
	p.begin(c, closed)
	return p, nil
}

// begin writes the beginning of the answer, as far as it is certain.
func (p *Prompt) begin(c Conversation, closed bool) {
	if p.template.style == styleHarmony {
		p.beginMessage(c, closed)
		return
	}
	think := p.template.thinking
	p.thinks = strings.HasSuffix(strings.TrimRight(p.Text, " \n"), think.open)
	if p.thinks && closed {
		p.Text = strings.TrimRight(p.Text, " \n") + "\n\n" + think.close + "\n\n"
		p.thinks = false
	}
	if c.Force == "" {
		return
	}
	p.Schema = callSchema(c.Tools, c.Force)
	if p.template.style == styleHermes || p.template.style == styleXML {
		p.Text += "<tool_call>\n"
		p.calls = true
	}
}

// render writes the messages. Models that know no system message get its text
// before that of the first user.
func (t *Template) render(ctx context.Context, vars map[string]any, messages []Message) (string, error) {
	if t.fault != nil {
		return "", refused(t.fault)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, renderTime, &jinja.Error{Message: "the template takes too long"})
	defer cancel()
	vars["messages"] = t.messageValues(messages)
	text, err := t.jinja.Render(ctx, vars)
	if err != nil && ctx.Err() == nil {
		if merged, ok := mergeSystem(messages); ok {
			vars["messages"] = t.messageValues(merged)
			if text, again := t.jinja.Render(ctx, vars); again == nil {
				return text, nil
			}
		}
	}
	if err != nil {
		return "", refused(err)
	}
	return text, nil
}

// refused is the failure of a template as the user sees it.
func refused(err error) error {
	var own *jinja.Error
	if !errors.As(err, &own) {
		return err
	}
	return rbee.Errorf(rbee.CodeInvalidRequest, "cannot write the conversation with the model's chat template: %s", own.Error()).
		Suggest("check the order and the roles of the messages; POST /v1/chat/template shows the prompt, and POST /v1/completions takes a prompt as it is")
}

func (t *Template) messageValues(messages []Message) []any {
	all := make([]any, 0, len(messages))
	for _, m := range messages {
		d := &jinja.Dict{}
		d.Set("role", m.Role)
		d.Set("content", m.Content)
		if m.Name != "" {
			d.Set("name", m.Name)
		}
		if m.Reasoning != "" {
			d.Set("reasoning_content", m.Reasoning)
			t.setThinking(d, m)
		}
		if m.CallID != "" {
			d.Set("tool_call_id", m.CallID)
		}
		if len(m.Calls) > 0 {
			d.Set("tool_calls", callValues(m.Calls))
		}
		all = append(all, d)
	}
	return all
}

func callValues(calls []Call) []any {
	all := make([]any, 0, len(calls))
	for _, c := range calls {
		arguments, err := jinja.Value([]byte(c.Arguments))
		if err != nil {
			arguments = c.Arguments
		}
		function := &jinja.Dict{}
		function.Set("name", c.Name)
		function.Set("arguments", arguments)
		d := &jinja.Dict{}
		d.Set("id", c.ID)
		d.Set("type", "function")
		d.Set("function", function)
		all = append(all, d)
	}
	return all
}

func (t *Template) toolValues(tools []Tool) []any {
	all := make([]any, 0, len(tools))
	for _, tool := range tools {
		v, err := jinja.Value(tool.Raw)
		if err != nil {
			continue
		}
		if t.style == styleHarmony {
			describe(v)
		}
		all = append(all, v)
	}
	return all
}

// mergeSystem puts the system message before the first user's.
func mergeSystem(messages []Message) ([]Message, bool) {
	if len(messages) < 2 || messages[0].Role != RoleSystem || messages[1].Role != RoleUser {
		return nil, false
	}
	merged := slices.Clone(messages[1:])
	merged[0].Content = messages[0].Content + "\n\n" + merged[0].Content
	return merged, true
}

// explainTools tells a model whose template knows no tools how to call them.
func explainTools(messages []Message, tools []Tool) []Message {
	var b strings.Builder
	b.WriteString("You can call these functions:\n")
	for _, t := range tools {
		b.Write(t.Raw)
		b.WriteByte('\n')
	}
	b.WriteString(`To call one, answer with JSON and nothing else: {"name": "the function", "arguments": {"its": "arguments"}}`)
	if len(messages) > 0 && messages[0].Role == RoleSystem {
		messages[0].Content += "\n\n" + b.String()
		return messages
	}
	return append([]Message{{Role: RoleSystem, Content: b.String()}}, messages...)
}

// withoutCalls writes calls and their results as texts.
func withoutCalls(messages []Message) []Message {
	for i, m := range messages {
		switch {
		case m.Role == RoleTool:
			messages[i] = Message{Role: RoleUser, Content: "The function returned:\n" + m.Content}
		case len(m.Calls) > 0:
			text := m.Content
			for _, c := range m.Calls {
				name, err := json.Marshal(c.Name)
				if err != nil {
					continue
				}
				if text != "" {
					text += "\n"
				}
				text += `{"name": ` + string(name) + `, "arguments": ` + c.Arguments + `}`
			}
			messages[i].Content, messages[i].Calls = text, nil
		}
	}
	return messages
}

// callSchema is the JSON schema of a call of one of the tools, the name before
// the arguments, as models are used to.
func callSchema(tools []Tool, force string) json.RawMessage {
	var calls []Tool
	for _, t := range tools {
		if force == "*" || t.Name == force {
			calls = append(calls, t)
		}
	}
	var b bytes.Buffer
	if len(calls) != 1 {
		b.WriteString(`{"anyOf":[`)
	}
	for i, t := range calls {
		at := "#/properties/arguments"
		if len(calls) != 1 {
			at = fmt.Sprintf("#/anyOf/%d/properties/arguments", i)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(t.Name)
		if err != nil {
			return nil // a string is always JSON
		}
		fmt.Fprintf(&b, `{"type":"object","properties":{"name":{"const":%s},"arguments":%s},"required":["name","arguments"],"additionalProperties":false}`,
			name, movedSchema(t.Parameters, at))
	}
	if len(calls) != 1 {
		b.WriteString("]}")
	}
	return b.Bytes()
}

// movedSchema is a schema that stands at another place than the root.
func movedSchema(schema json.RawMessage, at string) []byte {
	var b bytes.Buffer
	if len(schema) == 0 || json.Compact(&b, schema) != nil {
		return []byte(`{"type":"object"}`)
	}
	moved := bytes.ReplaceAll(b.Bytes(), []byte(`"$ref":"#/`), []byte(`"$ref":"`+at+`/`))
	return bytes.ReplaceAll(moved, []byte(`"$ref":"#"`), []byte(`"$ref":"`+at+`"`))
}
