package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/client"
)

func TestAMessageMayTakeSeveralLines(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want []string
	}{
		"lines":                    {"one\ntwo\r\n\nthree", []string{"one", "two", "", "three"}},
		"backslashes":              {"one\\\ntwo\\\nthree\nfour\n", []string{"one\ntwo\nthree", "four"}},
		"quotation marks":          {"\"\"\"\none\n\n  two\n\"\"\"\nthree\n", []string{"\none\n\n  two", "three"}},
		"quotation marks, at once": {"\"\"\"one\\\"\"\"\ntwo\n", []string{`one\`, "two"}},
		"a text for a command":     {"/system \"\"\"one\ntwo\"\"\"\nthree\n", []string{"/system one\ntwo", "three"}},
		"marks within a line":      {"print(\"\"\"x\n", []string{"print(\"\"\"x"}},
		"an end in between":        {"one\\\ntwo\\", []string{"one\ntwo"}},
		"nothing":                  {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			in := newPipedLines(strings.NewReader(tc.in))
			defer in.close()
			var got []string
			for {
				text, err := readMessage(t.Context(), in, "> ", "… ")
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWaitingForALineEndsWithTheCommand(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	in := newPipedLines(r)
	defer in.close()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
	if _, err := readMessage(ctx, in, "", ""); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

// talkTo makes a chat with a worker that does what the test says.
func talkTo(t *testing.T, answer http.HandlerFunc) (c *chat, stdout, stderr *bytes.Buffer) {
	t.Helper()
	w1 := rbee.Worker{ID: "w1", State: rbee.WorkerIdle, ModelRef: rbee.ModelRef{Provider: "builtin", Reference: "x"}}
	base := serve(t, map[string]http.HandlerFunc{
		"GET /v1/health": reply(rbee.Alive()),
		"POST /v1/workers/w1/v1/chat/completions": answer,
		"GET /v1/workers/w1":                      reply(w1),
	})
	target, err := newTarget(base)
	if err != nil {
		t.Fatal(err)
	}
	o, stdout, stderr := testOutput()
	c = &chat{
		app: &app{out: o}, settings: chatSettings{}, model: w1.ModelRef, worker: w1,
		colony: &colony{target: target, client: client.New(base)},
		pause:  func(context.Context, time.Duration) error { return nil },
	}
	t.Cleanup(c.colony.client.Close)
	return c, stdout, stderr
}

// say streams an answer as OpenAI does.
func say(w http.ResponseWriter, thoughts, text string) {
	fmt.Fprintf(w, `data: {"choices":[{"delta":{"reasoning_content":%q}}]}`+"\n\n", thoughts)
	fmt.Fprintf(w, `data: {"choices":[{"delta":{"content":%q}}]}`+"\n\n", text)
	fmt.Fprint(w, `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n")
}

func TestEC6ABusyWorkerIsAskedAgainByChat(t *testing.T) {
	calls := 0
	c, stdout, stderr := talkTo(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls < 4 {
			busy(w, r)
			return
		}
		say(w, "", "At last.")
	})
	if err := c.ask(t.Context(), "Hello"); err != nil {
		t.Fatal(err)
	}
	if got := stderr.String(); !strings.Contains(got, "retrying in 1 second...\n") || !strings.Contains(got, "retrying in 4 seconds...\n") {
		t.Errorf("stderr %q", got)
	}
	if stdout.String() != "At last.\n" {
		t.Errorf("stdout %q", stdout)
	}
}

func TestAQuestionWithoutAnAnswerIsNoPartOfTheConversation(t *testing.T) {
	var bodies []string
	c, _, _ := talkTo(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(b))
		if len(bodies) == 1 {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":{"message":"too long","code":"CONTEXT_LENGTH_EXCEEDED"}}`)
			return
		}
		say(w, "Hm.", fmt.Sprint("Answer ", len(bodies)))
	})
	if err := c.ask(t.Context(), "first"); rbee.CodeOf(err) != rbee.CodeContextLengthExceeded {
		t.Errorf("error %v", err)
	}
	for _, step := range []string{"/retry", "second", "/retry"} {
		if err := c.handle(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
	want := []client.ChatMessage{
		{Role: "user", Content: "first"},
		{Role: "assistant", Content: "Answer 2"},
		{Role: "user", Content: "second"},
		{Role: "assistant", Content: "Answer 4"},
	}
	if diff := cmp.Diff(want, c.turns); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(bodies[3], "Answer 3") || !strings.Contains(bodies[3], "Answer 2") || strings.Contains(bodies[3], "Hm.") {
		t.Errorf("asked with %s", bodies[3])
	}
}

func TestThoughtsAreDimAndAnswersStyledOnATerminalOnly(t *testing.T) {
	for name, tc := range map[string]struct {
		terminal, colours bool
		want              string
	}{
		"elsewhere":       {false, false, "**Bees** \x1b[31m\n"},
		"without colours": {true, false, "Thinking:\nHm. \ufffd[31m\n\n**Bees** \ufffd[31m\n"},
		"on a terminal":   {true, true, "\x1b[2mThinking:\x1b[m\n\x1b[0;2mHm. \ufffd[31m\x1b[0m\n\n\x1b[0;1mBees\x1b[0m \ufffd[31m\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c, stdout, _ := talkTo(t, func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, `data: {"choices":[{"delta":{"reasoning_content":"Hm. \u001b[31m"}}]}`+"\n\n"+
					`data: {"choices":[{"delta":{"content":"**Bees** \u001b[31m"}}]}`+"\n\n"+"data: [DONE]\n\n")
			})
			c.out.outTerminal, c.out.outStyles = tc.terminal, newStyles(tc.colours)
			if err := c.ask(t.Context(), "Hello"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, stdout.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSettingsOfAChatAreChecked(t *testing.T) {
	s := chatSettings{}
	for _, bad := range [][2]string{
		{"temperature", "2.1"}, {"temperature", "warm"}, {"temperature", "NaN"}, {"top-k", "1.5"}, {"top-p", "-0.1"}, {"max-tokens", "0"}, {"luck", "1"},
	} {
		if err := s.set(bad[0], bad[1]); err == nil {
			t.Errorf("%s %s is taken", bad[0], bad[1])
		}
	}
	if len(s) != 0 {
		t.Errorf("refused settings are kept: %v", s)
	}
	for _, good := range [][2]string{{"temperature", "0.2"}, {"top_k", "40"}, {"seed", "7"}, {"max-tokens", "9"}, {"max-tokens", "default"}} {
		if err := s.set(good[0], good[1]); err != nil {
			t.Error(err)
		}
	}
	var got client.ChatRequest
	s.apply(&got)
	warm, most, seed := 0.2, 40, uint64(7)
	if diff := cmp.Diff(client.ChatRequest{Temperature: &warm, TopK: &most, Seed: &seed}, got); diff != "" {
		t.Error(diff)
	}
	if s.show("temperature") != "0.2" || s.show("max-tokens") != "default" {
		t.Errorf("shown as %s and %s", s.show("temperature"), s.show("max-tokens"))
	}
}
