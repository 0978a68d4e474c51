package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A worker may answer an embedding while the end of the request is still on its way.
func TestADispatcherPassesARequestOnWholeWhoseAnswerComesEarly(t *testing.T) {
	hive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		_ = c.Flush() // the answer begins
		_, _ = io.Copy(w, r.Body)
	}))
	defer hive.Close()
	d, base, err := startDispatcher([]string{hive.URL}, roundRobin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	body := strings.Repeat("the bee ", 8<<10)
	for range 50 {
		resp, err := http.Post(base, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != body {
			t.Fatalf("%d of %d bytes came back, %v", len(got), len(body), err)
		}
	}
}
