package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/worker"
	"rbee/worker/engine"
	"rbee/worker/engine/fake"
)

// refusal reads an error reply in the shape of OpenAI's API.
func refusal(t *testing.T, resp answer, want rbee.Code) httpapi.OpenAIError {
	t.Helper()
	text := read(t, resp)
	var b httpapi.OpenAIErrorBody
	if err := json.Unmarshal([]byte(text), &b); err != nil || b.Error.Message == "" || b.Error.Type == "" {
		t.Fatalf("%d %q, want an error in the shape of OpenAI", resp.StatusCode, text)
	}
	if b.Error.Code != want || resp.StatusCode != want.Status() {
		t.Errorf("got %d %s, want %s", resp.StatusCode, text, want)
	}
	if !strings.Contains(text, `"param":`) || b.Error.RequestID != resp.Header.Get(rbee.RequestIDHeader) {
		t.Errorf("the error is %s", text)
	}
	return b.Error
}

const userSays = `"messages":[{"role":"user","content":"Hi"}]`

var openAIPosts = []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/chat/template"}

func TestWhatIsNoRequestIsRefusedInTheShapeOfOpenAI(t *testing.T) {
	w := script(t, fake.Script{})
	for _, path := range openAIPosts {
		for name, body := range map[string]string{
			"nothing": ``, "no JSON": `sesame`, "array": `[]`, "null": `null`, "empty object": `{}`, "cut": `{"prompt":"sesame`,
			"NaN":              `{` + userSays + `,"prompt":"a","input":"a","temperature":NaN,"dimensions":NaN}`,
			"two values":       `{"prompt":"a"}{"prompt":"sesame"}`,
			"no UTF-8":         "{\"prompt\":\"\xff\"}",
			"deep":             strings.Repeat(`{"messages":`, 1<<17) + strings.Repeat(`}`, 1<<17),
			"beyond the bound": `{"prompt":"` + strings.Repeat("a", 64<<20) + `"}`,
		} {
			t.Run(path+" "+name, func(t *testing.T) {
				if e := refusal(t, w.post(t, path, body), rbee.CodeInvalidRequest); strings.Contains(e.Message, "sesame") {
					t.Errorf("the error quotes the request: %s", e.Message)
				}
			})
		}
	}
	if got := w.state(t); got != rbee.WorkerIdle {
		t.Errorf("afterwards the worker is %s", got)
	}
}

func TestWhatTheModelCannotDoIsRefused(t *testing.T) {
	w := script(t, fake.Script{})
	for _, c := range []struct {
		name, path, body, param string
		code                    rbee.Code
	}{
		{"another model", "/v1/chat/completions", `{"model":"other",` + userSays + `}`, "model", rbee.CodeModelNotFound},
		{"several faults", "/v1/chat/completions", `{` + userSays + `,"n":0,"temperature":9}`, "n", rbee.CodeInvalidRequest},
		{"an image", "/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}`, "messages[0].content[0].type", rbee.CodeInvalidRequest},
		{"a bad grammar", "/v1/chat/completions", `{` + userSays + `,"grammar":"root ::= ("}`, "", rbee.CodeInvalidRequest},
		{"a bad schema", "/v1/chat/completions", `{` + userSays + `,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"bee"}}}}`, "", rbee.CodeInvalidRequest},
		{"a token beyond the vocabulary", "/v1/completions", `{"prompt":[1,99999999]}`, "prompt[0]", rbee.CodeInvalidRequest},
		{"a long suffix", "/v1/completions", `{"prompt":"a","suffix":"` + strings.Repeat("a", 9<<20) + `"}`, "suffix", rbee.CodeInvalidRequest},
		{"the prompt's probabilities", "/v1/completions", `{"prompt":"a","echo":true,"logprobs":1}`, "logprobs", rbee.CodeInvalidRequest},
		{"an adapter that is not there", "/v1/completions", `{"prompt":"a","lora":[{"id":0,"scale":1}]}`, "lora[0].id", rbee.CodeInvalidRequest},
		{"a long prompt", "/v1/completions", `{"prompt":"` + strings.Repeat("a", 9<<20) + `"}`, "prompt", rbee.CodeInvalidRequest},
		{"beyond the context", "/v1/completions", `{"prompt":"` + strings.Repeat("x", 5000) + `"}`, "", rbee.CodeContextLengthExceeded},
		{"input beyond the context", "/v1/embeddings", `{"input":"` + strings.Repeat("x", 5000) + `"}`, "", rbee.CodeContextLengthExceeded},
		{"more dimensions", "/v1/embeddings", `{"input":"a","dimensions":7777}`, "dimensions", rbee.CodeInvalidRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := refusal(t, w.post(t, c.path, c.body), c.code)
			param := ""
			if e.Param != nil {
				param = *e.Param
			}
			if param != c.param {
				t.Errorf("the parameter is %q, want %q: %s", param, c.param, e.Message)
			}
		})
	}
}

func TestTheFrontDoorSpeaksOpenAIOnItsPaths(t *testing.T) {
	w := script(t, fake.Script{}, func(c *worker.Config) { c.Key = "k" })
	refusal(t, w.post(t, "/v1/chat/completions", `{}`), rbee.CodeMissingAPIKey)
	if e := refusal(t, w.post(t, "/v1/embeddings", `{}`, "Authorization", "Bearer x"), rbee.CodeInvalidAPIKey); e.Type != "authentication_error" {
		t.Errorf("the type is %s", e.Type)
	}
	refusal(t, w.do(t, http.MethodGet, "/v1/models", ""), rbee.CodeMissingAPIKey)
	failure(t, w.post(t, "/v1/inference", `{}`), rbee.CodeMissingAPIKey)
	resp := w.do(t, http.MethodGet, "/v1/chat/completions", "", "Authorization", "Bearer k")
	if text := read(t, resp); resp.StatusCode != http.StatusMethodNotAllowed || !strings.Contains(text, `"type":"invalid_request_error"`) {
		t.Errorf("a wrong method: %d %s", resp.StatusCode, text)
	}
}

func TestBeforeTheModelIsLoadedOpenAIHearsSo(t *testing.T) {
	steps := make(chan rbee.LoadProgress)
	w := start(t, worker.Config{Load: gated(steps)})
	for _, path := range openAIPosts {
		refusal(t, w.post(t, path, `{}`), rbee.CodeWorkerNotReady)
	}
	refusal(t, w.do(t, http.MethodGet, "/v1/models", ""), rbee.CodeWorkerNotReady)
	failure(t, w.do(t, http.MethodGet, "/v1/slots", ""), rbee.CodeWorkerNotReady)
	close(steps)
	w.ready(t)
}

// delta is what a chunk of a chat holds, as far as the tests look.
type delta struct {
	Choices []struct {
		Index int
		Delta struct {
			Role, Content    string
			ReasoningContent string `json:"reasoning_content"`
			ToolCalls        []struct {
				Index    int
				ID       string
				Function struct{ Name, Arguments string }
			} `json:"tool_calls"`
		}
		FinishReason string `json:"finish_reason"`
	}
}

// story is a stream of a chat in one line.
func story(t *testing.T, all []string) string {
	t.Helper()
	var b strings.Builder
	for _, data := range all[:len(all)-1] {
		var d delta
		if err := json.Unmarshal([]byte(data), &d); err != nil || len(d.Choices) != 1 {
			t.Fatalf("an event is %s, %v", data, err)
		}
		c := d.Choices[0]
		if c.Delta.Role != "" {
			b.WriteString("@")
		}
		if c.Delta.ReasoningContent != "" {
			fmt.Fprintf(&b, "think(%s) ", c.Delta.ReasoningContent)
		}
		if c.Delta.Content != "" {
			fmt.Fprintf(&b, "%s ", c.Delta.Content)
		}
		for _, call := range c.Delta.ToolCalls {
			if call.Function.Name != "" {
				fmt.Fprintf(&b, "call%d(%s) ", call.Index, call.Function.Name)
			}
			if call.Function.Arguments != "" {
				fmt.Fprintf(&b, "args%d(%s) ", call.Index, call.Function.Arguments)
			}
		}
		b.WriteString(c.FinishReason)
	}
	if last := all[len(all)-1]; last != "[DONE]" {
		t.Errorf("the last event is %s", last)
	}
	return b.String()
}

// templated is an engine whose model has a chat template.
type templated struct {
	says
	template string
}

func (e templated) Info() engine.Info {
	info := e.says.Info()
	info.ChatTemplate = e.template
	return info
}

// sayingWith runs a worker whose model has a template and writes the pieces.
func sayingWith(t *testing.T, template string, pieces ...string) *running {
	return script(t, fake.Script{}, func(c *worker.Config) {
		c.Load = func(ctx context.Context, o engine.Options, p func(rbee.LoadProgress)) (engine.Engine, error) {
			e, err := fake.Loader(fake.Script{})(ctx, o, p)
			return templated{says{e, pieces}, template}, err
		}
	})
}

// hermes marks its tools and thoughts as Qwen does.
const hermes = `{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if tools %}<tool_call>{% endif %}<think>/</think>: `

func TestAChatIsStreamedAsDeltas(t *testing.T) {
	const tools = `,"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]`
	for _, c := range []struct {
		name   string
		pieces []string
		more   string
		want   string
	}{
		{"text", []string{"It ", "rains", "."}, "", "@It  rains . length"},
		{"a character in pieces", []string{"a", "\xf0\x9f", "\x90\x9d", "b"}, "", "@a 🐝 b length"},
		{"a stop string", []string{"so ", "E", "ND", "x"}, `,"stop":"END"`, "@so  stop"},
		{"no stop string after all", []string{"so ", "E", "N"}, `,"stop":["END"]`, "@so  EN length"},
		{"nothing", nil, "", "@length"},
		{"thoughts", []string{"<thi", "nk>\n", "Hm", ", so", ".\n</th", "ink>\n\n", "It rains."}, "", "@think(Hm) think(, so) think(.) It rains. length"},
		{"a call", []string{"I look. <tool", "_call>\n{\"name\"", ": \"f\", \"arguments\": {\"a\"", ": 1}", "}\n</tool_call>"}, tools, `@I look.  call0(f) args0({"a") args0(: 1}) length`},
		{"two calls", []string{"<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>"}, tools, `@call0(f) args0({}) call1(g) args1({}) length`},
		{"one call is asked for", []string{"<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", "<tool_call>{\"name\": \"g\"", "}"}, tools + `,"parallel_tool_calls":false`, `@call0(f) args0({}) tool_calls`},
		{"no calls are wanted", []string{"<tool_call>{\"name\": \"f\"}"}, tools + `,"tool_choice":"none"`, `@<tool_call>{"name": "f"} length`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := sayingWith(t, hermes, c.pieces...)
			got := events(t, w.post(t, "/v1/chat/completions", `{`+userSays+`,"stream":true`+c.more+`}`))
			if s := story(t, got); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
			whole := read(t, w.post(t, "/v1/chat/completions", `{`+userSays+c.more+`}`))
			if strings.Contains(c.want, "args") != strings.Contains(whole, `"tool_calls":[{"id":"call_`) || strings.Contains(whole, `\ufffd`) {
				t.Errorf("the whole reply is %s", whole)
			}
		})
	}
}

func TestAModelWithoutATemplateEndsItsAnswerByTheMark(t *testing.T) {
	w := saying(t, "It rains.", "<|im", "_end|>", "<|im_start|>user")
	if got := story(t, events(t, w.post(t, "/v1/chat/completions", `{`+userSays+`,"stream":true}`))); got != "@It rains. stop" {
		t.Errorf("got %s", got)
	}
}

// marked is an engine whose model begins its calls with a token that is no text.
type marked struct{ engine.Engine }

func (marked) Detokenize(tokens []engine.Token) []byte {
	if len(tokens) == 1 && tokens[0] == 7 {
		return []byte("[TOOL_CALLS]")
	}
	return []byte("?")
}

func (m marked) Info() engine.Info {
	info := m.Engine.Info()
	info.ChatTemplate = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}[TOOL_CALLS]{% endif %}"
	return info
}

func (marked) Generate(_ context.Context, _ engine.Request, emit func(engine.Piece) bool) (engine.Result, error) {
	for _, p := range []engine.Piece{{Token: 8}, {Token: 7}, {Token: 9, Bytes: []byte(`[{"name": "f", "arguments": {}}]`)}, {Token: 8}} {
		emit(p)
	}
	return engine.Result{Reason: rbee.StopEOS, Tokens: 4}, nil
}

func TestACallMayBeginWithATokenThatIsNoText(t *testing.T) {
	w := script(t, fake.Script{}, func(c *worker.Config) {
		c.Load = func(ctx context.Context, o engine.Options, p func(rbee.LoadProgress)) (engine.Engine, error) {
			e, err := fake.Loader(fake.Script{})(ctx, o, p)
			return marked{e}, err
		}
	})
	const tools = `,"tools":[{"type":"function","function":{"name":"f"}}]`
	if got := story(t, events(t, w.post(t, "/v1/chat/completions", `{`+userSays+tools+`,"stream":true}`))); got != "@call0(f) args0({}) tool_calls" {
		t.Errorf("got %s", got)
	}
}

func TestUsageComesLastWhenAskedFor(t *testing.T) {
	w := saying(t, "a", "b")
	got := events(t, w.post(t, "/v1/chat/completions", `{`+userSays+`,"stream":true,"n":2,"stream_options":{"include_usage":true}}`))
	last := got[len(got)-2]
	if !strings.Contains(last, `"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":4,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":0}`) {
		t.Errorf("the last event is %s", last)
	}
	got = events(t, w.post(t, "/v1/completions", `{"prompt":["a","b"],"stream":true,"n":2,"stream_options":{"include_usage":true}}`))
	if last := got[len(got)-2]; !strings.Contains(last, `"usage":{"prompt_tokens":8,"completion_tokens":8,"total_tokens":16`) {
		t.Errorf("the last event is %s", last)
	}
}

func TestTheTemplateOfTheModelMakesThePrompt(t *testing.T) {
	w := sayingWith(t, hermes)
	reply, err := w.ChatTemplate(t.Context(), json.RawMessage(`{"messages":[{"role":"developer","content":"Be brief."},{"role":"user","content":"Hi"}]}`))
	if err != nil || reply.Prompt != "system: Be brief.\nuser: Hi\n<think>/</think>: " || reply.PromptTokens == 0 || reply.Builtin {
		t.Errorf("got %+v, %v", reply, err)
	}
	w = script(t, fake.Script{})
	reply, err = w.ChatTemplate(t.Context(), json.RawMessage(`{`+userSays+`}`))
	if err != nil || reply.Prompt != "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n" || !reply.Builtin {
		t.Errorf("without a template: %+v, %v", reply, err)
	}
	for name, template := range map[string]string{
		"refuses":       "{{ raise_exception('no user here') }}",
		"cannot be":     "{% for %}",
		"never ends":    "{% for i in range(99999) %}{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
		"fills memory":  "{% set x = 'aaaaaaaa' %}{% for i in range(99) %}{% set x = x ~ x %}{{ x }}{{ x * 99999999 }}{% endfor %}",
		"calls itself":  "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"nests forever": "{{ " + strings.Repeat("(", 5000) + " }}",
	} {
		t.Run(name, func(t *testing.T) {
			w := sayingWith(t, template, "fine")
			e := refusal(t, w.post(t, "/v1/chat/completions", `{`+userSays+`}`), rbee.CodeInvalidRequest)
			if !strings.Contains(e.Message, "chat template") {
				t.Errorf("the message is %s", e.Message)
			}
			if got := read(t, w.post(t, "/v1/completions", `{"prompt":"a"}`)); !strings.Contains(got, "fine") {
				t.Errorf("a completion beside it: %s", got)
			}
		})
	}
}

func TestWhatBeginsAPromptIsThereOnce(t *testing.T) {
	w := script(t, fake.Script{})
	for prompt, want := range map[string]string{"a": `"prompt_tokens":2`, "<s>a": `"prompt_tokens":2`, "<s><s>a": `"prompt_tokens":3`} {
		if got := read(t, w.post(t, "/v1/completions", `{"prompt":"`+prompt+`","max_tokens":1}`)); !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", prompt, got, want)
		}
	}
}

func TestAChatCanBeCanceledByItsID(t *testing.T) {
	hold := make(chan struct{})
	w := script(t, fake.Script{Hold: hold})
	for _, n := range []string{"1", "3"} {
		resp := w.post(t, "/v1/chat/completions", `{`+userSays+`,"stream":true,"n":`+n+`}`, rbee.RequestIDHeader, "chat-1")
		if err := w.CancelInfer(t.Context(), "chat-1"); err != nil {
			t.Error(err)
		}
		got := events(t, resp)
		if len(got) != 2 || !strings.Contains(got[0], `"code":"REQUEST_CANCELED"`) || got[1] != "[DONE]" {
			t.Errorf("n=%s: %d %v the events are %q", n, resp.StatusCode, resp.Header, got)
		}
		eventually(t, "the worker is idle", func() bool { return w.state(t) == rbee.WorkerIdle })
	}
	close(hold)
}

func TestAWorkerThatEndsTellsItsChats(t *testing.T) {
	w := script(t, fake.Script{Hold: make(chan struct{})})
	resp := w.post(t, "/v1/chat/completions", `{`+userSays+`,"stream":true}`)
	if _, err := w.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := events(t, resp)
	if len(got) != 2 || !strings.Contains(got[0], `"code":"WORKER_NOT_READY"`) {
		t.Errorf("the events are %q", got)
	}
	if err := w.wait(t); err != nil {
		t.Error(err)
	}
}

func TestAFullWorkerTellsOpenAIWhenToComeBack(t *testing.T) {
	w := script(t, fake.Script{Hold: make(chan struct{})}, func(c *worker.Config) { c.Options.Slots, c.Options.Queue = 1, 0 })
	endless(t, w, "runs")
	resp := w.post(t, "/v1/chat/completions", `{`+userSays+`}`)
	refusal(t, resp, rbee.CodeAllSlotsBusy)
	if resp.Header.Get("Retry-After") == "" {
		t.Error("Retry-After is missing")
	}
}

func TestManyAnswersWaitForFewSlots(t *testing.T) {
	w := script(t, fake.Script{}, func(c *worker.Config) { c.Options.Slots, c.Options.Queue = 1, 0 })
	got := read(t, w.post(t, "/v1/chat/completions", `{`+userSays+`,"n":8,"max_tokens":3}`))
	if n := strings.Count(got, `"finish_reason":"length"`); n != 8 {
		t.Errorf("%d answers came: %s", n, got)
	}
}

// hostile are bodies that shall cost the worker little and others nothing.
func hostile() map[string]string {
	schema := func(s string) string {
		return `{` + userSays + `,"prompt":"a","max_tokens":5,"json_schema":` + s + `,"response_format":{"type":"json_schema","json_schema":{"schema":` + s + `}}}`
	}
	grammar := func(g string) string {
		text, _ := json.Marshal(g) //nolint:errchkjson // a string
		return `{` + userSays + `,"prompt":"a","max_tokens":5,"grammar":` + string(text) + `}`
	}
	nested := strings.Repeat(`{"a":`, 5000) + `1` + strings.Repeat(`}`, 5000)
	return map[string]string{
		"a wrong type":           `{"prompt":5,"messages":5}`,
		"10,000 stop strings":    `{` + userSays + `,"prompt":"a","stop":[` + strings.Repeat(`"x",`, 10000) + `"y"]}`,
		"no UTF-8":               "\xff",
		"brackets":               strings.Repeat("[", 1<<16),
		"NaN":                    `{` + userSays + `,"prompt":"a","temperature":NaN}`,
		"negative numbers":       `{` + userSays + `,"prompt":"a","max_tokens":-1,"top_p":-1,"n":-1}`,
		"a schema of itself":     schema(`{"$ref":"#"}`),
		"a schema without end":   schema(`{"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"},{"$ref":"#/$defs/b"}]},"b":{"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}]}}}`),
		"a schema that doubles":  schema(`{"$ref":"#/$defs/a0","$defs":{` + doubling(40) + `"a40":{"type":"null"}}}`),
		"a deep schema":          schema(nested),
		"a grammar that repeats": grammar(`root ::= "a"{0,9999}{0,9999}{0,9999}`),
		"a grammar of itself":    grammar("root ::= root"),
		"a grammar of brackets":  grammar("root ::= " + strings.Repeat("(", 1<<16)),
		"deep variables":         `{` + userSays + `,"prompt":"a","chat_template_kwargs":` + nested + `,"temperature":9}`,
		"another role":           `{"messages":[{"role":"` + strings.Repeat("x", 1<<20) + `","content":"a"}],"prompt":""}`,
	}
}

// doubling are definitions of which each needs the next one twice.
func doubling(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"a%d":{"allOf":[{"$ref":"#/$defs/a%d"},{"$ref":"#/$defs/a%d"}]},`, i, i+1, i+1)
	}
	return b.String()
}

func TestBadRequestsDisturbNobody(t *testing.T) {
	w := script(t, fake.Script{})
	const looked = `{"prompt":"Once","temperature":0,"max_tokens":50}`
	alone := choicesOf(read(t, w.post(t, "/v1/completions", looked)))
	var group sync.WaitGroup
	for _, path := range []string{"/v1/completions", "/v1/chat/completions", "/v1/inference"} {
		group.Go(func() {
			for name, body := range hostile() {
				resp := w.post(t, path, body)
				if resp.StatusCode != http.StatusBadRequest {
					t.Errorf("%s of %s got %d: %.300s", path, name, resp.StatusCode, read(t, resp))
				}
				if got := choicesOf(read(t, w.post(t, "/v1/completions", looked))); got != alone {
					t.Errorf("beside %s: %s, alone %s", name, got, alone)
				}
			}
		})
	}
	group.Wait()
	if got := w.state(t); got != rbee.WorkerIdle {
		t.Errorf("afterwards the worker is %s", got)
	}
}

func TestSlotsAreShown(t *testing.T) {
	hold := make(chan struct{}, 1)
	w := script(t, fake.Script{Hold: hold})
	endless(t, w, "r1")
	hold <- struct{}{}
	eventually(t, "a slot generates", func() bool {
		list, err := w.Slots(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Slots) == 4 && list.KVSizeTokens == 1024 &&
			slices.ContainsFunc(list.Slots, func(s rbee.Slot) bool { return s.State == "generating" })
	})
	close(hold)
}

func TestInferenceTakesGrammarsAndPenalties(t *testing.T) {
	w := script(t, fake.Script{})
	whole := func(more string) rbee.InferReply {
		t.Helper()
		var reply rbee.InferReply
		text := read(t, w.post(t, "/v1/inference", `{"prompt":"a","stream":false,`+more+`}`))
		if err := json.Unmarshal([]byte(text), &reply); err != nil || !reply.Done {
			t.Fatalf("%s: %v", text, err)
		}
		return reply
	}
	if got := whole(`"grammar":"root ::= \"bee \" [0-9]"`).Text; len(got) != 5 || !strings.HasPrefix(got, "bee ") {
		t.Errorf("with a grammar: %q", got)
	}
	if got := whole(`"json_schema":{"enum":["bee"]}`).Text; strings.TrimSpace(got) != `"bee"` {
		t.Errorf("with a schema: %q", got)
	}
	whole(`"typical_p":0.5,"frequency_penalty":1,"presence_penalty":-1,"logit_bias":{"5":-100}`)
	for _, bad := range []string{
		`"typical_p":2`, `"frequency_penalty":3`, `"presence_penalty":-3`, `"logit_bias":{"a":1}`, `"logit_bias":{"1":200}`,
		`"grammar":"root ::= ("`, `"grammar":"root ::= \"a\"","json_schema":{}`, `"json_schema":{"type":"bee"}`, `"grammar":5`,
	} {
		failure(t, w.post(t, "/v1/inference", `{"prompt":"a",`+bad+`}`), rbee.CodeInvalidRequest)
	}
}

// discard is a response that takes everything.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
func (d discard) Flush()                      {}

// many is an engine that writes one word many times.
type many struct {
	engine.Engine
	tokens int
}

func (m many) Generate(_ context.Context, _ engine.Request, emit func(engine.Piece) bool) (engine.Result, error) {
	word := []byte(" bee")
	for range m.tokens {
		emit(engine.Piece{Token: 300, Bytes: word})
	}
	return engine.Result{Reason: rbee.StopLength, Tokens: m.tokens}, nil
}

const relayed = 10000 // tokens

func relay(t testing.TB) http.Handler {
	return worker.HandlerForTest(t, worker.Config{Load: func(ctx context.Context, o engine.Options, p func(rbee.LoadProgress)) (engine.Engine, error) {
		e, err := fake.Loader(fake.Script{})(ctx, o, p)
		return many{e, relayed}, err
	}})
}

var relays = []struct{ name, path, body string }{
	{"inference", "/v1/inference", `{"prompt":"a"}`},
	{"inference with stop strings", "/v1/inference", `{"prompt":"a","stop":["END","###"]}`},
	{"chat", "/v1/chat/completions", `{` + userSays + `,"stream":true}`},
	{"chat with tools", "/v1/chat/completions", `{` + userSays + `,"stream":true,"tools":[{"type":"function","function":{"name":"f"}}]}`},
	{"completion", "/v1/completions", `{"prompt":"a","stream":true}`},
}

func post(t testing.TB, h http.Handler, path, body string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(discard{http.Header{}}, req)
}

func TestATokenCostsAtMostTwoAllocations(t *testing.T) {
	handler := relay(t)
	for _, c := range relays {
		perToken := testing.AllocsPerRun(3, func() { post(t, handler, c.path, c.body) }) / relayed
		if perToken > 2 {
			t.Errorf("%s: %.2f allocations per token", c.name, perToken)
		}
	}
}

// BenchmarkRelay is what the worker's HTTP path costs per token, without the network.
func BenchmarkRelay(b *testing.B) {
	handler := relay(b)
	for _, c := range relays {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				post(b, handler, c.path, c.body)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/relayed, "ns/token")
		})
	}
}
