package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestALoadCountsWhatTheServerReports(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/completions" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		asked.Add(1)
		fmt.Fprint(w, `data: {"choices":[{"text":"a"}]}`+"\n\n"+`data: {"choices":[{"text":"b"}]}`+"\n\n"+
			`data: {"choices":[],"usage":{"prompt_tokens":128,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":28}}}`+"\n\ndata: [DONE]\n\n")
	}))
	defer s.Close()
	got, err := newServer(s.URL+"/v1/", "m").load(context.Background(), newLetters(1).clients(3, 2, 128), 3)
	if err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 6 || len(got.answers) != 6 || got.prefilled() != 600 || got.check(128, 3) != nil {
		t.Errorf("%d requests came to %+v", asked.Load(), got)
	}
	if got.check(128, 4) == nil || got.check(127, 3) == nil {
		t.Error("answers of another size pass the check")
	}
	if a := got.answers[0]; a.first <= 0 || len(a.gaps) != 1 {
		t.Errorf("got %+v", a)
	}
	got.took = 2 * time.Second
	if r := got.rate(); r != 9 {
		t.Errorf("got %g tokens per second, want 9", r)
	}
}

func TestALoadFailsWhereAnAnswerCannotBeCounted(t *testing.T) {
	for name, body := range map[string]string{
		"no usage":  `data: {"choices":[{"text":"a"}]}` + "\n\ndata: [DONE]\n\n",
		"an error":  `data: {"error":{"message":"no"}}` + "\n\ndata: [DONE]\n\n",
		"cut short": `data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}` + "\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			if a, err := readAnswer(strings.NewReader(body), time.Now(), func(string) error { return nil }); err == nil {
				t.Errorf("got %+v", a)
			}
		})
	}
}

func TestAnAnswerThatBreaksOffIsWhatCameOfItSoFar(t *testing.T) {
	body := `data: {"choices":[{"text":"a"}]}` + "\n\n" + `data: {"choices":[{"text":"b"}]}` + "\n\n"
	a, err := readAnswer(strings.NewReader(body), time.Now(), func(string) error { return nil })
	if err == nil || a.first <= 0 || len(a.gaps) != 1 {
		t.Errorf("got %+v, %v", a, err)
	}
	late := latenciesOf([]answer{a, {}})
	if len(late.first) != 1 || len(late.gaps) != 1 {
		t.Errorf("got the latencies %+v", late)
	}
}

func TestTheKeyIsSentAndNeverShown(t *testing.T) {
	const key = "sk-of-nobody"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+key {
			t.Errorf("got the header %q", got)
		}
		http.Error(w, "no such key: "+key, http.StatusUnauthorized)
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]struct{ file, variable string }{
		"from a file": {file, "another"}, "from the environment": {"", key},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(keyVariable, from.variable)
			ours := newServer(s.URL, "")
			var err error
			if ours.key, err = readKey(from.file); err != nil {
				t.Fatal(err)
			}
			if _, there := os.LookupEnv(keyVariable); there {
				t.Error("programs that are started would inherit the key")
			}
			if _, err := ours.firstModel(t.Context()); err == nil || strings.Contains(err.Error(), key) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := readKey(file + "-that-is-not-there"); err == nil {
		t.Error("a key file that is not there is no error")
	}
}
