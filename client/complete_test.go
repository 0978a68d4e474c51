package client_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/client"
)

// queenSays is a queen that takes down a request and answers with text.
func queenSays(t *testing.T, text string) (base string, asked *http.Request, body map[string]any) {
	t.Helper()
	asked, body = &http.Request{}, map[string]any{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = *r.Clone(context.Background())
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set(rbee.HiveHeader, "big")
		w.Header().Set(rbee.WorkerHeader, "w-1")
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked, body
}

const completion = ": big loads builtin:bee-tiny, 40%\n\n" +
	`data: {"choices":[{"index":0,"text":"Once","finish_reason":null}]}` + "\n\n" +
	": text with\r\n\n" +
	`data: {"choices":[{"index":0,"text":" more","finish_reason":"length"}],"timings":{"queued_ms":1,"prefill_ms":2,"decode_ms":4}}` + "\n\n" +
	`data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}}` + "\n\n"

func TestACompletionIsAnInferenceWhoseWayIsTold(t *testing.T) {
	base, asked, body := queenSays(t, completion+"data: [DONE]\n\n")
	var waits []string
	place := ""
	c := client.New(base).Routed(client.Routed{
		Node: "big", RequestID: "req-1",
		Waits: func(what string) { waits = append(waits, what) },
		Place: func(hive, worker string) { place = hive + " " + worker },
	})
	defer c.Close()
	req := rbee.InferRequest{Prompt: "Hello", RequestID: "req-1", MinP: 0.1}
	req.Normalize()
	var text strings.Builder
	var done *rbee.InferDone
	for ev, err := range c.Complete(t.Context(), "builtin:bee-tiny", req) {
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(ev.Token)
		if ev.InferDone != nil {
			done = ev.InferDone
		}
	}
	want := &rbee.InferDone{Done: true, TotalTokens: 3, DurationMS: 7, StopReason: rbee.StopLength, PromptTokens: 5, CachedTokens: 2, QueuedMS: 1, PrefillMS: 2, DecodeMS: 4}
	if diff := cmp.Diff(want, done); diff != "" || text.String() != "Once more" {
		t.Errorf("text %q, end %s", text.String(), diff)
	}
	if diff := cmp.Diff([]string{"big loads builtin:bee-tiny, 40%", "text with"}, waits); diff != "" || place != "big w-1" {
		t.Errorf("place %q, waits %s", place, diff)
	}
	if asked.Header.Get(rbee.NodeHeader) != "big" || asked.Header.Get(rbee.RequestIDHeader) != "req-1" {
		t.Errorf("headers %v", asked.Header)
	}
	if body["stream"] != true || body["min_p"] != 0.1 || body["model"] != "builtin:bee-tiny" || body["request_id"] != nil {
		t.Errorf("body %v", body)
	}
}

func TestACompletionThatBreaksOffIsAnError(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		is   func(error) bool
	}{
		"cut":             {completion, client.IsCut},
		"ended too early": {`data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}` + "\n\ndata: [DONE]\n\n", client.IsCut},
		"failed and it says": {
			`data: {"error":{"message":"no room; try later","type":"server_error","code":"QUEUE_FULL","details":{"suggestion":"try later"}}}` + "\n\ndata: [DONE]\n\n",
			func(err error) bool {
				return rbee.CodeOf(err) == rbee.CodeQueueFull && rbee.AsError(err).Message == "no room"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			base, _, _ := queenSays(t, tc.text)
			c := client.New(base)
			defer c.Close()
			var last error
			for _, err := range c.Complete(t.Context(), "m", rbee.InferRequest{}) {
				last = err
			}
			if !tc.is(last) {
				t.Errorf("the last error is %v", last)
			}
		})
	}
}
