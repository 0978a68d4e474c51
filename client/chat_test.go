package client_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/client"
)

func TestAChatIsAStreamWithItsUsage(t *testing.T) {
	warm := 0.2
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var got, want any
		_ = json.Unmarshal(body, &got)
		_ = json.Unmarshal([]byte(`{"model":"builtin:bee-tiny","messages":[{"role":"user","content":"Hello"}],
			"temperature":0.2,"stream":true,"stream_options":{"include_usage":true}}`), &want)
		if diff := cmp.Diff(want, got); diff != "" || r.URL.Path != "/v1/chat/completions" {
			t.Errorf("%s: %s", r.URL.Path, diff)
		}
		fmt.Fprint(w, `data: {"choices":[{"delta":{"role":"assistant","reasoning_content":"Hm."}}]}`+"\n\n"+
			`data: {"choices":[{"delta":{"content":"Once"},"finish_reason":null}]}`+"\n\n"+
			`data: {"choices":[{"delta":{},"finish_reason":"stop"}]}`+"\n\n"+
			`data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":5}}}`+"\n\n"+
			"data: [DONE]\n\n")
	})
	var got []client.ChatEvent
	for ev, err := range c.Chat(t.Context(), client.ChatRequest{
		Model: "builtin:bee-tiny", Messages: []client.ChatMessage{{Role: client.RoleUser, Content: "Hello"}}, Temperature: &warm,
	}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ev)
	}
	want := []client.ChatEvent{
		{Reasoning: "Hm."},
		{Content: "Once"},
		{Finish: "stop"},
		{Usage: &client.ChatUsage{PromptTokens: 7, CompletionTokens: 2, CachedTokens: 5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAChatThatFailsSaysWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		status     int
		body       string
		code       rbee.Code
		message    string
		suggestion string
		cut        bool
	}{
		"refused": {
			503, `{"error":{"message":"all slots are busy; try later","type":"x","code":"ALL_SLOTS_BUSY","details":{"suggestion":"try later"}}}`,
			rbee.CodeAllSlotsBusy, "all slots are busy", "try later", false,
		},
		"in the stream": {
			200, `data: {"error":{"message":"slow","code":"GENERATION_TIMEOUT"}}` + "\n\ndata: [DONE]\n\n",
			rbee.CodeGenerationTimeout, "slow", "", false,
		},
		"of a server that is not ours": {
			200, `data: {"error":{"message":"out of luck","code":500}}` + "\n\ndata: [DONE]\n\n",
			rbee.CodeInternalError, "out of luck", "", false,
		},
		"cut": {200, `data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n", "", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			})
			var last error
			for _, err := range c.Chat(t.Context(), client.ChatRequest{}) {
				last = err
			}
			if client.IsCut(last) != tc.cut || rbee.CodeOf(last) != tc.code {
				t.Fatalf("got %v", last)
			}
			if e := rbee.AsError(last); !tc.cut && (e.Message != tc.message || e.Suggestion() != tc.suggestion) {
				t.Errorf("got %q with %q", e.Message, e.Suggestion())
			}
		})
	}
}
