package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestATraceHasRequestsOfAllKindsAndGroupsOfOne(t *testing.T) {
	for _, of := range traces() {
		kinds, groups, last := map[kind]int{}, map[int]kind{}, time.Duration(0)
		trace := of.draw(newLetters(1))
		for _, a := range trace {
			if a.at < last || a.tokens < 1 || a.own < 1 || a.own > of.most {
				t.Errorf("got %+v", a)
			}
			last = a.at
			kinds[a.kind]++
			if a.group < 0 {
				continue
			}
			if known, ok := groups[a.group]; ok && known != a.kind {
				t.Errorf("group %d is of %s and %s", a.group, known, a.kind)
			}
			groups[a.group] = a.kind
		}
		if len(trace) != 500 || kinds[chat] < 190 || kinds[completion] < 165 || kinds[embedding] < 50 {
			t.Errorf("%s: got the kinds %v", of.name, kinds)
		}
		if len(groups) != of.groups {
			t.Errorf("%s: %d groups have requests, want %d", of.name, len(groups), of.groups)
		}
		common := map[int]string{}
		for i, text := range newLetters(2).texts(trace) {
			a := trace[i]
			if (text.common == "") != (a.group < 0) || strings.Count(text.own, " ") != a.own {
				t.Fatalf("got the text %q for %+v", text, a)
			}
			if before, ok := common[a.group]; ok && before != text.common {
				t.Errorf("group %d has two beginnings", a.group)
			}
			common[a.group] = text.common
		}
	}
}

// speaker answers as a server of OpenAI's API with so many tokens, and tells what
// it was asked.
func speaker(t *testing.T, tokens int) (w *way, asked chan map[string]any) {
	asked = make(chan map[string]any, 8)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Header.Get("Authorization") != "Bearer k" {
			t.Errorf("the request is %v, %v", r.Header, err)
		}
		asked <- body
		said := `"text":"a"`
		switch r.URL.Path {
		case "/v1/embeddings":
			rw.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(rw, `{"data":[{"embedding":[1]},{"embedding":[2]}]}`)
			return
		case "/v1/chat/completions":
			said = `"delta":{"content":"a"}`
		}
		rw.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(rw, "data: {\"choices\":[{\"index\":0,%s}]}\n\ndata: {\"choices\":[],\"usage\":{\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", said, tokens)
	}))
	t.Cleanup(s.Close)
	return &way{name: "it", model: "m", client: official(s.URL, "k")}, asked
}

func TestTheOfficialClientSendsEachKindOfRequest(t *testing.T) {
	w, asked := speaker(t, 7)
	for kind, want := range map[kind]string{
		chat:       `"messages":[{"content":"all","role":"system"},{"content":" one","role":"user"}]`,
		completion: `"prompt":"all one"`,
		embedding:  `"input":[" one"," a bee"]`,
	} {
		before := time.Now()
		at, err := w.send(t.Context(), arrival{kind: kind, tokens: 7}, text{"all", " one"})
		if err != nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s: %v, %v", kind, at, err)
		}
		stream, got := kind != embedding, <-asked
		if (got["stream"] == true) != stream || (got["ignore_eos"] == true) != stream {
			t.Errorf("%s: asked %v", kind, got)
		}
		if body, err := json.Marshal(got); err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: asked %s, want %s", kind, body, want)
		}
	}
}

func TestARequestThatIsNotAnsweredWholeFailsItsWay(t *testing.T) {
	w, _ := speaker(t, 6)
	trace := []arrival{{kind: embedding}, {kind: chat, tokens: 6}, {kind: completion, tokens: 7}}
	texts := []text{{own: "x"}, {own: "y"}, {own: "z"}}
	if took, err := w.play(t.Context(), trace[:2], texts); err != nil || took[0] <= 0 || took[1] <= 0 {
		t.Errorf("got %v, %v", took, err)
	}
	if _, err := w.play(t.Context(), trace, texts); err == nil || !strings.Contains(err.Error(), "6 tokens came instead of 7") {
		t.Errorf("got %v", err)
	}
	took := []time.Duration{time.Second, time.Millisecond, 2 * time.Millisecond}
	w.note(trace, took)
	if len(w.first) != 1 || len(w.first[0]) != 2 || w.first[0][1] != 2 || len(w.whole) != 1 || w.whole[0] != 1000 {
		t.Errorf("noted %v and %v", w.first, w.whole)
	}
}
