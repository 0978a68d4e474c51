package openai_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"rbee"
	"rbee/worker/chat"
	"rbee/worker/openai"
)

// faults are the fields that an error names.
func faults(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	if rbee.CodeOf(err) != rbee.CodeInvalidRequest {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("the error quotes the request: %v", err)
	}
	list, _ := rbee.AsError(err).Details["faults"].([]rbee.Fault)
	var fields []string
	for _, f := range list {
		fields = append(fields, f.Field)
	}
	slices.Sort(fields)
	return fields
}

const hello = `"messages":[{"role":"user","content":"Hi"}]`

func TestFaultsOfAChatAreNamedTogether(t *testing.T) {
	const tool = `{"type":"function","function":{"name":"f"}}`
	for _, c := range []struct {
		name, body string
		fields     []string
	}{
		{"plain", `{` + hello + `}`, nil},
		{"nulls and unknown fields", `{` + hello + `,"temperature":null,"stop":null,"tools":null,"sesame":{"a":[1]},"user":"me","store":true,"metadata":{}}`, nil},
		{
			"types", `{"messages":"sesame","model":5,"temperature":"sesame","n":1.5,"stream":"sesame","stop":{},"seed":"sesame","logit_bias":[],"logprobs":1,"tools":{},"response_format":"sesame","stream_options":1,"max_tokens":"sesame"}`,
			[]string{"logit_bias", "logprobs", "max_tokens", "messages", "model", "n", "response_format", "seed", "stop", "stream", "stream_options", "temperature", "tools"},
		},
		{
			"ranges", `{` + hello + `,"temperature":2.5,"top_p":-1,"top_k":-2,"min_p":7,"typical_p":2,"frequency_penalty":3,"presence_penalty":-3,"repetition_penalty":0,"n":9,"max_tokens":0,"max_completion_tokens":-1,"top_logprobs":21,"timeout_seconds":0,"logit_bias":{"1":101},"seed":99999999999999999999999}`,
			[]string{"frequency_penalty", "logit_bias", "max_completion_tokens", "max_tokens", "min_p", "n", "presence_penalty", "repetition_penalty", "seed", "temperature", "timeout_seconds", "top_k", "top_logprobs", "top_p", "typical_p"},
		},
		{"no messages", `{}`, []string{"messages"}},
		{"empty messages", `{"messages":[]}`, []string{"messages"}},
		{
			"messages", `{"messages":[1,null,{"role":"bee","content":5},{"role":"user"},{"role":"user","content":[{"type":"image_url"},{"type":"text","text":7}]},{"role":"assistant","content":null,"tool_calls":[{"function":{}},{}]}]}`,
			[]string{
				"messages[0]", "messages[1]", "messages[2].content", "messages[2].role", "messages[3].content",
				"messages[4].content[0].type", "messages[4].content[1].text", "messages[5].tool_calls[0].function.name", "messages[5].tool_calls[1].function",
			},
		},
		{
			"tools", `{` + hello + `,"tools":[{"type":"sing"},{"type":"function"},{"type":"function","function":{"name":"a b"}},` + tool + `,` + tool + `]}`,
			[]string{"tools[0].type", "tools[1].function", "tools[2].function.name", "tools[4].function.name"},
		},
		{"choice of nothing", `{` + hello + `,"tool_choice":"required"}`, []string{"tool_choice"}},
		{"choice of another", `{` + hello + `,"tools":[` + tool + `],"tool_choice":{"type":"function","function":{"name":"g"}}}`, []string{"tool_choice.function.name"}},
		{"odd choice", `{` + hello + `,"tools":[` + tool + `],"tool_choice":7}`, []string{"tool_choice"}},
		{"formats", `{` + hello + `,"response_format":{"type":"xml"}}`, []string{"response_format.type"}},
		{"format without schema", `{` + hello + `,"response_format":{"type":"json_schema","json_schema":{}}}`, []string{"response_format.json_schema.schema"}},
		{"two grammars", `{` + hello + `,"grammar":"root ::= \"a\"","response_format":{"type":"json_object"}}`, []string{"response_format"}},
		{"10,000 stop strings", `{` + hello + `,"stop":[` + strings.Repeat(`"x",`, 9999) + `"x"]}`, []string{"stop"}},
		{"empty stop string", `{` + hello + `,"stop":["a",""]}`, []string{"stop[1]"}},
		{"array", `[]`, []string{"body"}},
		{"null", `null`, []string{"body"}},
		{"nothing", ``, []string{"body"}},
		{"NaN", `{` + hello + `,"temperature":NaN}`, []string{"body"}},
		{"beyond a float", `{` + hello + `,"temperature":1e999}`, []string{"temperature"}},
		{"two values", `{` + hello + `}{}`, []string{"body"}},
		{"no UTF-8", `{"messages":[{"role":"user","content":"` + "\xff" + `"}]}`, []string{"body"}},
		{"deep", `{` + hello + `,"tools":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, []string{"body"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := openai.ReadChat([]byte(c.body))
			if got := faults(t, err); !slices.Equal(got, c.fields) {
				t.Errorf("the faults are %q, want %q", got, c.fields)
			}
		})
	}
}

func TestAChatIsReadAsItIsMeant(t *testing.T) {
	r, err := openai.ReadChat([]byte(`{"model":"m","messages":[
		{"role":"developer","content":"Be brief."},
		{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
		{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
		{"role":"tool","tool_call_id":"1","content":"c"}],
		"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],
		"tool_choice":{"type":"function","function":{"name":"f"}},
		"temperature":0,"stop":"x","seed":-1,"n":2,"max_completion_tokens":7,"max_tokens":9,"logit_bias":{"5":-100},
		"stream":true,"stream_options":{"include_usage":true},"parallel_tool_calls":true,"reasoning_effort":"low"}`))
	if err != nil {
		t.Fatal(err)
	}
	c := r.Conversation
	want := []chat.Message{
		{Role: chat.RoleSystem, Content: "Be brief."},
		{Role: chat.RoleUser, Content: "a\nb"},
		{Role: chat.RoleAssistant, Calls: []chat.Call{{ID: "1", Name: "f", Arguments: `{"a":1}`}}},
		{Role: chat.RoleTool, CallID: "1", Content: "c"},
	}
	for i, m := range want {
		if got := openaiText(c.Messages[i]); got != openaiText(m) {
			t.Errorf("message %d is %s, want %s", i, got, openaiText(m))
		}
	}
	if c.Force != "f" || !r.OneCall || len(c.Tools) != 1 || string(c.Tools[0].Parameters) != `{"type":"object"}` {
		t.Errorf("tools %+v, forced %q, one %t", c.Tools, c.Force, r.OneCall)
	}
	if r.MaxTokens != 7 || r.N != 2 || !r.Stream || !r.IncludeUsage || !r.Seeded || r.Sampling.Temperature != 0 ||
		r.Sampling.Bias[5] != -100 || !slices.Equal(r.Stop, []string{"x"}) || string(c.Variables["reasoning_effort"]) != `"low"` {
		t.Errorf("read %+v", r)
	}
}

func openaiText(m chat.Message) string {
	b, err := json.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestPromptsAndInputs(t *testing.T) {
	for _, c := range []struct {
		body   string
		want   int
		fields []string
	}{
		{`"a"`, 1, nil},
		{`["a","b"]`, 2, nil},
		{`[1,2]`, 1, nil},
		{`[[1,2],[3]]`, 2, nil},
		{`""`, 0, []string{"prompt"}},
		{`[]`, 0, []string{"prompt"}},
		{`["a",""]`, 0, []string{"prompt[1]"}},
		{`[1,"a"]`, 0, []string{"prompt"}},
		{`[1.5]`, 0, []string{"prompt"}},
		{`null`, 0, []string{"prompt"}},
		{`{"a":1}`, 0, []string{"prompt"}},
		{`[` + strings.Repeat(`"a",`, openai.MaxPrompts) + `"a"]`, 0, []string{"prompt"}},
	} {
		r, err := openai.ReadCompletion([]byte(`{"prompt":` + c.body + `}`))
		if got := faults(t, err); !slices.Equal(got, c.fields) || err == nil && len(r.Prompts) != c.want {
			t.Errorf("%.40s: faults %q, want %q; read %+v", c.body, got, c.fields, r)
		}
	}
	_, err := openai.ReadCompletion([]byte(`{"prompt":"a","suffix":5,"echo":true,"logprobs":1,"best_of":3}`))
	if got := faults(t, err); !slices.Equal(got, []string{"best_of", "logprobs", "suffix"}) {
		t.Errorf("the faults are %q", got)
	}
	if r, err := openai.ReadCompletion([]byte(`{"prompt":"","suffix":"b"}`)); err != nil || r.Suffix != "b" || len(r.Prompts) != 1 {
		t.Errorf("a gap at the beginning: %+v, %v", r, err)
	}
	_, err = openai.ReadEmbedding([]byte(`{"encoding_format":"int8","dimensions":0}`))
	if got := faults(t, err); !slices.Equal(got, []string{"dimensions", "encoding_format", "input"}) {
		t.Errorf("the faults are %q", got)
	}
}

func TestHowLongToKeepAliveAndAdapters(t *testing.T) {
	read := map[string]func(body []byte) (openai.Request, error){
		`{` + hello:     func(b []byte) (openai.Request, error) { return openai.ReadChat(b) },
		`{"prompt":"a"`: func(b []byte) (openai.Request, error) { return openai.ReadCompletion(b) },
		`{"input":"a"`:  func(b []byte) (openai.Request, error) { return openai.ReadEmbedding(b) },
	}
	for begin, read := range read {
		for value, want := range map[string]string{
			`"5m"`: "5m0s", `300`: "5m0s", `0`: "0", `"0"`: "0", `"forever"`: "forever", `-1`: "forever", `"-1"`: "forever",
			`"-1m"`: "forever", `1.5`: "1.5s", `"90"`: "1m30s", `null`: "",
		} {
			r, err := read([]byte(begin + `,"keep_alive":` + value + `}`))
			if err != nil || r.Needs().KeepAlive != want {
				t.Errorf("%s of %s gave %+v, %v", value, begin, r, err)
			}
		}
		for _, bad := range []string{`"soon"`, `""`, `true`, `[]`, `{}`, `1e300`, `"99999999999999999999s"`} {
			_, err := read([]byte(begin + `,"keep_alive":` + bad + `}`))
			if got := faults(t, err); !slices.Equal(got, []string{"keep_alive"}) {
				t.Errorf("%s of %s gave %q", bad, begin, got)
			}
		}
	}
	r, err := openai.ReadChat([]byte(`{` + hello + `,"lora":[{"id":1,"scale":-0.5},{"id":0}]}`))
	if err != nil || !slices.Equal(r.LoRA, []rbee.LoRAScale{{ID: 1, Scale: -0.5}, {ID: 0, Scale: 1}}) {
		t.Errorf("the adapters are %+v, %v", r, err)
	}
	if r, err := openai.ReadChat([]byte(`{` + hello + `}`)); err != nil || r.LoRA != nil {
		t.Errorf("without adapters %+v, %v", r, err)
	}
	if r, err := openai.ReadChat([]byte(`{` + hello + `,"lora":[]}`)); err != nil || r.LoRA == nil {
		t.Errorf("with none of the adapters %+v, %v", r, err)
	}
	for bad, want := range map[string]string{
		`5`: "lora", `[5]`: "lora[0]", `[{}]`: "lora[0].id", `[{"id":-1}]`: "lora[0].id", `[{"id":0,"scale":101}]`: "lora[0].scale", `[{"id":0,"scale":"1"}]`: "lora[0].scale",
	} {
		_, err := openai.ReadChat([]byte(`{` + hello + `,"lora":` + bad + `}`))
		if got := faults(t, err); !slices.Equal(got, []string{want}) {
			t.Errorf("%s gave %q", bad, got)
		}
	}
}

func TestAnImpossibleTokenHasANumber(t *testing.T) {
	for _, p := range []float64{math.Inf(-1), math.NaN(), math.Inf(1), -1e300} {
		got := openai.NewAlternative([]byte("a"), p)
		if got.Logprob != -9999 || !strings.Contains(string(openai.Encode(got)), `"logprob":-9999,`) {
			t.Errorf("%g becomes %s", p, openai.Encode(got))
		}
	}
	if got := openai.NewAlternative(nil, -0.5); got.Logprob != -0.5 {
		t.Errorf("got %+v", got)
	}
}

func TestStringsAreJSON(t *testing.T) {
	for _, s := range []string{"", "plain", "a\"b\\c\n\r\t\x00\x1f", "Zürich 🐝 \u2028", "\xff\xf0\x9f", "</script>&"} {
		got := openai.AppendString(nil, []byte(s))
		var back string
		if err := json.Unmarshal(got, &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) {
			t.Errorf("%q becomes %s, %v", s, got, err)
		}
	}
}

func FuzzString(f *testing.F) {
	f.Add("a\"\n\xff🐝")
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		err := json.Unmarshal(openai.AppendString(nil, []byte(s)), &back)
		if err != nil || back != string([]rune(s)) {
			t.Errorf("%q becomes %q, %v", s, back, err)
		}
	})
}

func FuzzReadRequests(f *testing.F) {
	f.Add([]byte(`{` + hello + `,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"required"}`))
	f.Add([]byte(`{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"response_format":{"type":"json_schema","json_schema":{"schema":{}}}}`))
	f.Add([]byte(`{"prompt":[[1]],"logit_bias":{"1":1},"stop":["a"],"seed":1}`))
	f.Add([]byte(`{"input":["a"],"encoding_format":"base64"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		check := func(err error) {
			if err != nil && rbee.CodeOf(err) != rbee.CodeInvalidRequest {
				t.Errorf("%v", err)
			}
		}
		_, err := openai.ReadChat(body)
		check(err)
		_, err = openai.ReadCompletion(body)
		check(err)
		_, err = openai.ReadEmbedding(body)
		check(err)
	})
}
