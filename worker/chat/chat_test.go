package chat_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"rbee"
	"rbee/worker/chat"
)

func source(t testing.TB, family string) string {
	t.Helper()
	if family == "" {
		return ""
	}
	text, err := os.ReadFile("jinja/testdata/" + family + ".jinja")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var weather = chat.Tool{
	Name: "weather", Parameters: json.RawMessage(`{"type":"object","properties":{"town":{"$ref":"#/$defs/town"}},"$defs":{"town":{"type":"string"}}}`),
	Raw: json.RawMessage(`{"type":"function","function":{"name":"weather"}}`),
}

var clock = chat.Tool{Name: "time", Raw: json.RawMessage(`{"type":"function","function":{"name":"time"}}`)}

func prompt(t testing.TB, family string, c chat.Conversation) *chat.Prompt {
	t.Helper()
	if c.Messages == nil {
		c.Messages = []chat.Message{{Role: chat.RoleUser, Content: "Hi"}}
	}
	p, err := chat.NewTemplate(source(t, family), "<s>", "</s>").Prompt(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// note has parameters of several types.
var note = chat.Tool{
	Name: "note", Raw: json.RawMessage(`{"type":"function","function":{"name":"note"}}`),
	Parameters: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"},"line":{"type":"integer"},"tags":{"type":"array"},
		"bold":{"type":"boolean"},"by":{"type":["string","null"]},"mood":{"enum":["a","b"]},"size":{"anyOf":[{"type":"integer"},{"type":"string"}]}}}`),
}

// record writes down what a Parser says.
type record struct {
	content, thoughts string
	names, arguments  []string
	ids               []string
}

func (r *record) Content(text []byte)   { r.content += string(text) }
func (r *record) Reasoning(text []byte) { r.thoughts += string(text) }
func (r *record) Call(_ int, id, name string) {
	r.names, r.ids, r.arguments = append(r.names, name), append(r.ids, id), append(r.arguments, "")
}
func (r *record) Arguments(i int, piece []byte) { r.arguments[i] += string(piece) }

func (r *record) String() string {
	s := fmt.Sprintf("%q", r.content)
	if r.thoughts != "" {
		s += fmt.Sprintf(" thinks %q", r.thoughts)
	}
	for i := range r.names {
		s += fmt.Sprintf(" calls %s %s", r.names[i], r.arguments[i])
	}
	return s
}

// read gives a text to a Parser in pieces of so many bytes.
func read(p *chat.Prompt, text string, size int, one bool) *record {
	r := &record{}
	a := p.NewParser(r, one)
	for len(text) > 0 {
		n := min(size, len(text))
		a.Push([]byte(text[:n]))
		text = text[n:]
	}
	a.Flush()
	return r
}

func TestAnswersOfTheFamilies(t *testing.T) {
	tools := []chat.Tool{weather, clock, note}
	for _, c := range []struct{ name, family, text, want string }{
		{"text", "llama3", "It rains.", `"It rains."`},
		{"text that looks like a mark", "qwen25", "a < b <tool <tool_cal", `"a < b <tool <tool_cal"`},
		{"other JSON", "llama3", `{"town": "Bern"}`, `"{\"town\": \"Bern\"}"`},
		{"a list", "llama3", `[1, 2]`, `"[1, 2]"`},
		{"a name that was not offered", "llama3", `{"name": "Bern", "parameters": {}}`, `"{\"name\": \"Bern\", \"parameters\": {}}"`},
		{"JSON", "llama3", `{"name": "weather", "parameters": {"town": "Bern", "days": [1, {"a": "}"}]}}`, `"" calls weather {"town": "Bern", "days": [1, {"a": "}"}]}`},
		{"JSON with its type", "llama3", ` {"type": "function", "name": "weather", "parameters": {"town": "Bern"}}`, `"" calls weather {"town": "Bern"}`},
		{"two of them", "llama3", `{"name": "weather", "parameters": {"town": "Bern"}}; {"name": "time", "parameters": {}}`, `"" calls weather {"town": "Bern"} calls time {}`},
		{"python tag", "llama3", `<|python_tag|>{"name": "weather", "parameters": {"town": "Bern"}}`, `"" calls weather {"town": "Bern"}`},
		{"python call", "llama3", `<|python_tag|>weather.call(town="Bern", days=2)`, `"" calls weather {"days":2,"town":"Bern"}`},
		{"python code", "llama3", `<|python_tag|>print(1)`, `"print(1)"`},
		{"function inside", "llama3", `{"type": "function", "function": {"name": "weather", "arguments": {"town": "Bern"}}}`, `"" calls weather {"town": "Bern"}`},
		{"arguments first", "llama3", `{"parameters": {"town": "Bern"}, "name": "weather"}`, `"" calls weather {"town": "Bern"}`},
		{"arguments in a string", "llama3", `{"name": "weather", "arguments": "{\"town\": \"Bern\"}"}`, `"" calls weather {"town": "Bern"}`},
		{"no arguments", "llama3", `{"name": "time"}`, `"" calls time {}`},
		{"Hermes", "qwen25", "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"Zürich\"}}\n</tool_call>", `"" calls weather {"town": "Zürich"}`},
		{"Hermes after text", "qwen25", "I look.\n<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>", `"I look.\n" calls time {}`},
		{"Hermes twice", "qwen25", "<tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"a\"}}\n</tool_call>", `"" calls time {} calls weather {"town": "a"}`},
		{"Hermes without its end", "qwen25", "<tool_call>\n{\"name\": \"time\", \"arguments\": {\"a\": 1}}", `"" calls time {"a": 1}`},
		{"Hermes of no JSON", "qwen25", "<tool_call>\nsing\n</tool_call>", `"<tool_call>\nsing\n</tool_call>"`},
		{"Hermes cut in the name", "qwen25", "<tool_call>\n{\"name\": \"wea", `"<tool_call>\n{\"name\": \"wea"`},
		{"Hermes cut in the arguments", "qwen25", "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"Be", `"" calls weather {"town": "Be`},
		{"Hermes of an unknown tool", "qwen25", "<tool_call>{\"name\": \"sing\", \"arguments\": {}}</tool_call>", `"" calls sing {}`},
		{"thoughts", "qwen3", "<think>\nHm, <b> \n\nso.\n</think>\n\nIt rains.", `"It rains." thinks "Hm, <b> \n\nso."`},
		{"no thoughts", "qwen3", "<think>\n\n</think>\n\nIt rains.", `"It rains."`},
		{"thoughts without an end", "qwen3", "<think>\nHm ", `"" thinks "Hm"`},
		{"thoughts and a call", "qwen3", "<think>\nHm.\n</think>\n\n<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>", `"" thinks "Hm." calls time {}`},
		{"Mistral list", "mistral", `[TOOL_CALLS] [{"name": "weather", "arguments": {"town": "Bern"}, "id": "123456789"}, {"name": "time", "arguments": {}}]`, `"" calls weather {"town": "Bern"} calls time {}`},
		{"Mistral name", "mistral", `[TOOL_CALLS]weather[ARGS]{"town": "Bern"}[TOOL_CALLS]time{"a": {}}`, `"" calls weather {"town": "Bern"} calls time {"a": {}}`},
		{"Mistral text", "mistral", "It rains. [TOOL", `"It rains. [TOOL"`},
		{"a model without a style", "bee-tiny", `{"name": "time", "arguments": {"zone": "CET"}}`, `"" calls time {"zone": "CET"}`},
		{"channels", "gptoss", `<|channel|>analysis<|message|>Hm, so.<|end|><|start|>assistant<|channel|>final<|message|>It rains.<|return|>`, `"It rains." thinks "Hm, so."`},
		{"channels without their last mark", "gptoss", `<|channel|>analysis<|message|> Hm.
<|end|><|start|>assistant<|channel|>final<|message|>It < rains. <|e`, `"It < rains. <|e" thinks "Hm."`},
		{"a channel and a call", "gptoss", `<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"town": "Zürich"}
<|call|>`, `"" thinks "Hm." calls weather {"town": "Zürich"}`},
		{"a call of the role", "gptoss", `<|start|>assistant to=functions.time<|channel|>commentary json<|message|>{}`, `"" calls time {}`},
		{"a call at once", "gptoss", ` to=functions.time<|channel|>commentary<|message|>`, `"" calls time {}`},
		{"a call in the thoughts", "gptoss", `<|channel|>analysis to=weather code<|message|> {"town":  1} `, `"" calls weather {"town":  1}`},
		{"words before a call", "gptoss", `<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.time<|message|>{"a": {}}<|call|>`, `"I look." calls time {"a": {}}`},
		{"two calls in channels", "gptoss", `<|channel|>commentary to=functions.time<|message|>{}<|call|><|start|>assistant<|channel|>commentary to=functions.weather<|message|>{"town": 1}<|call|>`, `"" calls time {} calls weather {"town": 1}`},
		{"messages of one channel", "gptoss", `<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>analysis<|message|>B.<|end|><|start|>assistant<|channel|>commentary<|message|>C.<|end|><|start|>assistant<|channel|>final<|message|> D.`, `"C.\n\nD." thinks "A.\n\nB."`},
		{"a message without its end", "gptoss", `<|channel|>analysis<|message|>A.<|start|>assistant<|channel|>final<|message|>B.`, `"B." thinks "A."`},
		{"a call cut in its arguments", "gptoss", `<|channel|>commentary to=functions.weather<|message|>{"town": "Be`, `"" calls weather {"town": "Be`},
		{"a head that is cut", "gptoss", `<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|chan`, `"" thinks "A."`},
		{"a model that forgets its channels", "gptoss", "to be <|or|> not", `"to be <|or|> not"`},
		{"a head without an end", "gptoss", "<|channel|>" + strings.Repeat("x", 300), fmt.Sprintf("%q", "<|channel|>"+strings.Repeat("x", 300))},
		{"XML", "qwen3coder", "<tool_call>\n<function=weather>\n<parameter=town>\nZürich\n</parameter>\n</function>\n</tool_call>", `"" calls weather {"town": "Zürich"}`},
		{"XML after text", "qwen3coder", "I look.\n<tool_call>\n<function=time>\n</function>\n</tool_call>", `"I look.\n" calls time {}`},
		{"XML twice", "qwen3coder", "<tool_call>\n<function=time>\n</function>\n</tool_call>\n<tool_call><function=note><parameter=line>2</parameter></function></tool_call> Done.", `"Done." calls time {} calls note {"line": 2}`},
		{"XML without its first mark", "qwen3coder", "So: <function=time>\n</function>\n</tool_call>", `"So: " calls time {}`},
		{
			"XML of several types", "qwen3coder", "<tool_call>\n<function=note>\n<parameter=text>\n 5 \"<b>\"\n\n\\ </param\n\n</parameter>\n<parameter=line>\n 7\n</parameter>\n<parameter=tags>\n[\"a\",\n1]\n</parameter>\n<parameter=bold>True</parameter><parameter=by>None</parameter><parameter=mood>\na\n</parameter><parameter=size>\n5\n</parameter><parameter=other>\nfalse\n</parameter>\n</function>\n</tool_call>",
			`"" calls note {"text": " 5 \"<b>\"\n\n\\ </param\n", "line": 7, "tags": ["a",
1], "bold": true, "by": null, "mood": "a", "size": 5, "other": false}`,
		},
		{"XML of other types than it should be", "qwen3coder", "<tool_call><function=note><parameter=line>\nseven\n</parameter><parameter=tags>\n{}\n</parameter><parameter=by>\n5\n</parameter></function></tool_call>", `"" calls note {"line": "seven", "tags": "{}", "by": "5"}`},
		{"XML of no values", "qwen3coder", "<tool_call><function=note><parameter=text></parameter><parameter=by>\n</parameter></function>", `"" calls note {"text": "", "by": ""}`},
		{"XML cut in a text", "qwen3coder", "<tool_call>\n<function=note>\n<parameter=text>\nBe\n</para", `"" calls note {"text": "Be\n</para`},
		{"XML cut in a number", "qwen3coder", "<tool_call>\n<function=note>\n<parameter=line>\n1", `"" calls note {"line": `},
		{"XML cut between", "qwen3coder", "<tool_call>\n<function=note>\n<parameter=line>\n1\n</parameter>\n", `"" calls note {"line": 1}`},
		{"XML cut in the name", "qwen3coder", "<tool_call>\n<function=no", `"<tool_call>\n<function=no"`},
		{"XML cut at the mark", "qwen3coder", "<tool_call>\n<func", `"<tool_call>\n<func"`},
		{"XML of no function", "qwen3coder", "<tool_call>\nsing\n</tool_call> and <function=sing> and <function=\n", `"<tool_call>\nsing\n</tool_call> and <function=sing> and <function=\n"`},
		{"XML that ends with its call", "qwen3coder", "<tool_call><function=time></tool_call>Done.", `"Done." calls time {}`},
		{"JSON in place of XML", "qwen3coder", "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>", `"" calls time {}`},
		{"text after a call", "llama3", `{"name": "time", "parameters": {}} Done.`, `"Done." calls time {}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := prompt(t, c.family, chat.Conversation{Tools: tools})
			for _, size := range []int{1, 2, 3, 7, 1000} {
				if got := read(p, c.text, size, false).String(); got != c.want {
					t.Errorf("in pieces of %d: %s, want %s", size, got, c.want)
				}
			}
			for at := range c.text {
				r := &record{}
				a := p.NewParser(r, false)
				a.Push([]byte(c.text[:at]))
				a.Push([]byte(c.text[at:]))
				a.Flush()
				if got := r.String(); got != c.want {
					t.Errorf("cut at %d: %s, want %s", at, got, c.want)
				}
			}
		})
	}
}

func TestWithoutToolsACallIsText(t *testing.T) {
	const text = "<tool_call>\n{\"name\": \"time\"}"
	if got := read(prompt(t, "qwen25", chat.Conversation{}), text, 2, false).String(); got != fmt.Sprintf("%q", text) {
		t.Errorf("got %s", got)
	}
}

func TestArgumentsComeInPiecesAfterTheName(t *testing.T) {
	p := prompt(t, "qwen25", chat.Conversation{Tools: []chat.Tool{weather}})
	r := &record{}
	a := p.NewParser(r, false)
	for _, step := range []struct{ push, want string }{
		{"<tool_call>\n{\"name\": \"weat", `""`},
		{"her\", \"argu", `"" calls weather `},
		{"ments\": {\"town\"", `"" calls weather {"town"`},
		{": \"Bern\"}", `"" calls weather {"town": "Bern"}`},
		{"}\n</tool_call>", `"" calls weather {"town": "Bern"}`},
	} {
		a.Push([]byte(step.push))
		if got := r.String(); got != step.want {
			t.Errorf("after %q: %s, want %s", step.push, got, step.want)
		}
	}
	if len(r.ids) != 1 || !strings.HasPrefix(r.ids[0], "call_") {
		t.Errorf("the ids are %q", r.ids)
	}
}

func TestOneCallIsEnough(t *testing.T) {
	p := prompt(t, "llama3", chat.Conversation{Tools: []chat.Tool{clock}})
	r := &record{}
	a := p.NewParser(r, true)
	a.Push([]byte(`{"name": "time", "parameters": {}}`))
	if !a.Full() {
		t.Error("it wants more")
	}
	a.Push([]byte(`; {"name": "time", "parameters": {}}`))
	a.Flush()
	if got := r.String(); got != `"" calls time {}` {
		t.Errorf("got %s", got)
	}
}

func TestMistralWantsIDsOfNineCharacters(t *testing.T) {
	p := prompt(t, "mistral", chat.Conversation{Tools: []chat.Tool{clock}})
	if r := read(p, `[TOOL_CALLS]time{}`, 100, false); len(r.ids) != 1 || len(r.ids[0]) != 9 {
		t.Errorf("the ids are %q", r.ids)
	}
}

func TestAPromptThatEndsInThoughtsIsReadSo(t *testing.T) {
	const thinker = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
	template := chat.NewTemplate(thinker, "", "")
	messages := []chat.Message{{Role: chat.RoleUser, Content: "Hi"}}
	p, err := template.Prompt(t.Context(), chat.Conversation{Messages: messages})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(p, "Hm.</think>Yes", 3, false).String(); got != `"Yes" thinks "Hm."` {
		t.Errorf("got %s", got)
	}
	p, err = template.Prompt(t.Context(), chat.Conversation{Messages: messages, Formatted: true})
	if err != nil || !strings.HasSuffix(p.Text, "Hi<think>\n\n</think>\n\n") {
		t.Errorf("with a grammar the prompt is %q, %v", p.Text, err)
	}
	if got := read(p, `{"a": 1}`, 3, false).String(); got != `"{\"a\": 1}"` {
		t.Errorf("with a grammar: %s", got)
	}
}

func TestPromptsOfConversations(t *testing.T) {
	talk := []chat.Message{
		{Role: chat.RoleSystem, Content: "Be brief."},
		{Role: chat.RoleUser, Content: "Time?"},
		{Role: chat.RoleAssistant, Calls: []chat.Call{{ID: "abcdefghi", Name: "time", Arguments: `{"zone": "CET"}`}}},
		{Role: chat.RoleTool, CallID: "abcdefghi", Name: "time", Content: "12:00"},
	}
	for _, c := range []struct {
		name, family string
		messages     []chat.Message
		tools        []chat.Tool
		force        string
		want         []string
	}{
		{"no template", "", talk[:2], nil, "", []string{"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTime?<|im_end|>\n<|im_start|>assistant\n"}},
		{"system is the user's where there is none", "gemma", talk[:2], nil, "", []string{"<s><start_of_turn>user\nBe brief.\n\nTime?<end_of_turn>\n<start_of_turn>model\n"}},
		{"calls as the model writes them", "qwen25", talk, []chat.Tool{clock}, "", []string{`{"name": "time", "arguments": {"zone": "CET"}}`, "<tool_response>\n12:00"}},
		{"tools of a template that has none", "bee-tiny", talk, []chat.Tool{clock}, "", []string{
			"Be brief.\n\nYou can call", `"name":"time"`, `<|assistant|>` + "\n" + `{"name": "time", "arguments": {"zone": "CET"}}`, "<|user|>\nThe function returned:\n12:00",
		}},
		{"a forced call", "qwen25", talk[:2], []chat.Tool{clock}, "*", []string{"<|im_start|>assistant\n<tool_call>\n"}},
		{"a forced call of a model that writes XML", "qwen3coder", talk[:2], []chat.Tool{clock}, "*", []string{"<|im_start|>assistant\n<tool_call>\n"}},
		{"calls as XML", "qwen3coder", talk, []chat.Tool{clock}, "", []string{"<function=time>\n<parameter=zone>\nCET\n</parameter>\n</function>", "<tool_response>\n12:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := prompt(t, c.family, chat.Conversation{Messages: c.messages, Tools: c.tools, Force: c.force})
			for _, want := range c.want {
				if !strings.Contains(p.Text, want) {
					t.Errorf("%q is not in %q", want, p.Text)
				}
			}
			if c.force != "" {
				if got := read(p, `{"name": "time", "arguments": {"a": 1}}`, 3, false).String(); got != `"" calls time {"a": 1}` {
					t.Errorf("the forced call is %s", got)
				}
			}
		})
	}
}

func TestPromptsOfChannels(t *testing.T) {
	user := chat.Message{Role: chat.RoleUser, Content: "Time?"}
	for _, c := range []struct {
		name, answer, want, schema string
		c                          chat.Conversation
		ends                       []string
	}{
		{"free", `<|channel|>final<|message|>12:00`, `"12:00"`, ``, chat.Conversation{}, []string{"<|start|>user<|message|>Time?<|end|><|start|>assistant"}},
		{"JSON", `{"a": 1}`, `"{\"a\": 1}"`, ``, chat.Conversation{Formatted: true}, []string{"<|start|>assistant<|channel|>final<|message|>"}},
		{
			"a forced call", `{"zone": "CET"}`, `"" calls time {"zone": "CET"}`, `{"type":"object"}`,
			chat.Conversation{Tools: []chat.Tool{weather, clock}, Force: "time"},
			[]string{"<|start|>assistant<|channel|>commentary to=functions.time <|constrain|>json<|message|>"},
		},
		{
			"one of several calls", `{"name": "time", "arguments": {}}`, `"" calls time {}`, `"const":"weather"`,
			chat.Conversation{Tools: []chat.Tool{weather, clock}, Force: "*"},
			[]string{"<|start|>assistant<|channel|>final<|message|>"},
		},
		{
			"an earlier call and its thoughts", ``, `""`, ``,
			chat.Conversation{Tools: []chat.Tool{clock}, Messages: []chat.Message{
				user,
				{Role: chat.RoleAssistant, Content: "I look.", Reasoning: "Hm.", Calls: []chat.Call{{Name: "time", Arguments: `{"zone": "CET"}`}}},
				{Role: chat.RoleTool, Content: "12:00"},
			}},
			[]string{"<|channel|>analysis<|message|>Hm.<|end|>", `<|start|>assistant to=functions.time<|channel|>commentary json<|message|>{"zone": "CET"}<|call|>`, `<|end|><|start|>assistant`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.c.Messages == nil {
				c.c.Messages = []chat.Message{user}
			}
			p := prompt(t, "gptoss", c.c)
			for _, want := range c.ends {
				if !strings.Contains(p.Text, want) {
					t.Errorf("%q is not in %q", want, p.Text)
				}
			}
			if last := c.ends[len(c.ends)-1]; !strings.HasSuffix(p.Text, last) {
				t.Errorf("%q does not end with %q", p.Text, last)
			}
			if !strings.Contains(string(p.Schema), c.schema) || c.schema == "" && p.Schema != nil {
				t.Errorf("the schema is %s", p.Schema)
			}
			for size := 1; size < 9; size++ {
				if got := read(p, c.answer, size, c.c.Force != "").String(); got != c.want {
					t.Errorf("the answer is %s, want %s", got, c.want)
				}
			}
		})
	}
}

func TestAChannelIsOfThoughtsAndNeedsItsMarks(t *testing.T) {
	p := prompt(t, "gptoss", chat.Conversation{})
	a := p.NewParser(&record{}, false)
	a.Push([]byte("<|channel|>analysis<|message|>Hm"))
	if !a.Thinking() {
		t.Error("analysis is no thought")
	}
	a.Push([]byte("<|end|><|start|>assistant<|channel|>final<|message|>So"))
	if a.Thinking() {
		t.Error("the answer is a thought")
	}
	written := map[int32]string{1: "<|end|>", 2: "<|channel|>", 3: "<|im_end|>"}
	special := p.Special(func(tokens []int32) []byte { return []byte(written[tokens[0]]) })
	if string(special(1)) != "<|end|>" || string(special(2)) != "<|channel|>" || special(3) != nil {
		t.Errorf("the texts of special tokens are %q, %q and %q", special(1), special(2), special(3))
	}
}

func TestATextParameterComesInPieces(t *testing.T) {
	p := prompt(t, "qwen3coder", chat.Conversation{Tools: []chat.Tool{note}})
	r := &record{}
	a := p.NewParser(r, false)
	for _, step := range []struct{ push, want string }{
		{"<tool_call>\n<function=note>\n<parameter=te", `"" calls note `},
		{"xt>\nOnce", `"" calls note {"text": "Once`},
		{" upon\n", `"" calls note {"text": "Once upon`},
		{"a time\n</param", `"" calls note {"text": "Once upon\na time`},
		{"eter>\n", `"" calls note {"text": "Once upon\na time"`},
		{"<parameter=line>\n1", `"" calls note {"text": "Once upon\na time", "line": `},
		{"2\n</parameter>\n</function>", `"" calls note {"text": "Once upon\na time", "line": 12}`},
	} {
		a.Push([]byte(step.push))
		if got := r.String(); got != step.want {
			t.Errorf("after %q: %s, want %s", step.push, got, step.want)
		}
	}
}

func TestTheSchemaOfAForcedCall(t *testing.T) {
	tools := []chat.Tool{weather, clock}
	for force, want := range map[string]string{
		"time":    `{"type":"object","properties":{"name":{"const":"time"},"arguments":{"type":"object"}},"required":["name","arguments"],"additionalProperties":false}`,
		"weather": `"$ref":"#/properties/arguments/$defs/town"`,
		"*":       `"$ref":"#/anyOf/0/properties/arguments/$defs/town"`,
	} {
		p := prompt(t, "llama3", chat.Conversation{Tools: tools, Force: force})
		if !json.Valid(p.Schema) || !strings.Contains(string(p.Schema), want) {
			t.Errorf("%s: %s, want %s", force, p.Schema, want)
		}
	}
}

func TestATemplateThatRefusesIsTheRequestsFault(t *testing.T) {
	for name, source := range map[string]string{
		"at use":     "{{ raise_exception('alternate, please') }}",
		"at reading": "{% alternate, please %}",
		"for ever":   "{% for i in range(999999) %}{% for i in range(999999) %}{% endfor %}{% endfor %}",
	} {
		_, err := chat.NewTemplate(source, "", "").Prompt(t.Context(), chat.Conversation{Messages: []chat.Message{{Role: chat.RoleUser}}})
		if rbee.CodeOf(err) != rbee.CodeInvalidRequest || !strings.Contains(err.Error(), "alternate") && name != "for ever" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParser(f *testing.F) {
	for _, s := range []string{
		`{"name": "weather", "parameters": {"town": "Bern"}}; {"name"`, "<think>a</think><tool_call>{\"name\":\"time\",\"arguments\":\"{}\"}</tool_call>",
		"<tool_call><function=note><parameter=text>a</parameter><parameter=line>1</parameter></function></tool_call>",
		`<|channel|>analysis<|message|>a<|end|><|start|>assistant to=functions.time<|channel|>commentary<|message|>{}<|call|>`,
		`[TOOL_CALLS]weather[ARGS]{"a":[{}]}`, `<|python_tag|>weather.call(a="b")`, `{"function":{"name":"time","arguments":{}}}`, `[{"name":"time"}]`,
	} {
		f.Add(s, uint8(3))
	}
	tools := []chat.Tool{weather, clock, note}
	var prompts []*chat.Prompt
	for _, family := range []string{"qwen3", "llama3", "mistral", "bee-tiny", "gptoss", "qwen3coder"} {
		prompts = append(prompts, prompt(f, family, chat.Conversation{Tools: tools}))
	}
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		if !utf8.ValidString(text) {
			return // worker/text gives valid UTF-8 only
		}
		for i, p := range prompts {
			for _, one := range []bool{false, true} {
				whole, pieces := read(p, text, len(text)+1, one), read(p, text, int(size%16)+1, one)
				if whole.String() != pieces.String() {
					t.Errorf("prompt %d, one %t: whole %s, in pieces %s", i, one, whole, pieces)
				}
			}
		}
	})
}
