package sse_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee/internal/sse"
)

type event struct {
	Text string `json:"text"`
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	want := []event{{"Once <upon> & a time"}, {"line\nbreak\r\n"}, {"🐝"}, {""}, {"[DONE]"}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s := sse.NewWriter(w)
		for i, e := range want {
			if err := s.Comment(fmt.Sprint("before ", i)); err != nil {
				t.Error(err)
			}
			if err := s.JSON(e); err != nil {
				t.Error(err)
			}
		}
		if err := s.Done(); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []event
	for e, err := range sse.Read[event](resp.Body) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAStreamWithoutItsEndMarkIsCut(t *testing.T) {
	for name, body := range map[string]string{
		"empty":           "",
		"after an event":  "data: {\"text\":\"a\"}\n\n",
		"within an event": "data: {\"te",
	} {
		t.Run(name, func(t *testing.T) {
			var last error
			for _, err := range sse.Read[event](strings.NewReader(body)) {
				last = err
			}
			if !errors.Is(last, sse.ErrCut) {
				t.Errorf("got %v, want ErrCut", last)
			}
		})
	}
}

func TestAnEventThatIsNoJSONEndsTheStream(t *testing.T) {
	n := 0
	for _, err := range sse.Read[event](strings.NewReader("data: nonsense\n\ndata: {}\n\ndata: [DONE]\n\n")) {
		n++
		if err == nil || errors.Is(err, sse.ErrCut) {
			t.Errorf("got %v, want an error about the event", err)
		}
	}
	if n != 1 {
		t.Errorf("got %d results, want 1", n)
	}
}

func FuzzReadNeverPanics(f *testing.F) {
	f.Add("data: {\"text\":\"a\"}\n\ndata: [DONE]\n\n")
	f.Add("event: x\nid: 1\nretry: 5\ndata: {}\n\n: comment\n\n")
	f.Add("data\r\rdata:[DONE]\r\r")
	f.Fuzz(func(t *testing.T, s string) {
		var ends int
		for _, err := range sse.Read[event](strings.NewReader(s)) {
			if err != nil {
				ends++
			}
		}
		if ends > 1 {
			t.Errorf("%d errors from one stream", ends)
		}
	})
}

func BenchmarkJSON(b *testing.B) {
	w := sse.NewWriter(discard{h: http.Header{}})
	ev := &event{Text: "Once"}
	b.ReportAllocs()
	for b.Loop() {
		if err := w.JSON(ev); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
func (d discard) Flush()                      {}
