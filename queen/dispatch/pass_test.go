package dispatch

import (
	"context"
	"io"
	"net/http"
	"testing"

	"rbee/internal/forward"
)

// repeat says one event at each read.
type repeat struct{ event []byte }

func (r *repeat) Read(p []byte) (int, error) { return copy(p, r.event), nil }

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
func (d discard) Flush()                      {}

// stream is a reply that never ends.
func stream(ctx context.Context) (*reply, *attempt, []byte) {
	d := New(Config{})
	w := discard{http.Header{}}
	a := &attempt{f: &flight{d: d, ctx: ctx}, told: true}
	a.body = forward.NewEvents(ctx, io.NopCloser(&repeat{[]byte(`data: {"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}` + "\n\n")}), a)
	return &reply{f: a.f, w: w, rc: http.NewResponseController(w)}, a, make([]byte, forward.BufferBytes)
}

func TestAnEventPassesWithoutAllocations(t *testing.T) {
	p, a, buf := stream(t.Context())
	if n := testing.AllocsPerRun(1000, func() {
		if !p.passOn(a, buf) {
			t.Fatal("it ended")
		}
	}); n > 0 {
		t.Errorf("%g allocations for one event", n)
	}
}

// BenchmarkPassedEvent shows what the queen does to one event.
func BenchmarkPassedEvent(b *testing.B) {
	p, a, buf := stream(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if !p.passOn(a, buf) {
			b.Fatal("it ended")
		}
	}
}

func TestWhatEventsSay(t *testing.T) {
	for name, c := range map[string]struct {
		events string
		want   said
	}{
		"a comment":            {": waits\n\n", saidNothing},
		"a role":               {`data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}`, saidNothing},
		"an empty delta":       {`data: {"choices":[{"delta":{},"finish_reason":null}]}`, saidNothing},
		"no content":           {`data: {"choices":[{"delta":{"content":null,"tool_calls":[]}}]}`, saidNothing},
		"a token":              {`data: {"choices":[{"delta":{"role":"assistant","content":"a"}}]}`, saidToken},
		"a role, then one":     {"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n", saidToken},
		"reasoning":            {`data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}`, saidToken},
		"a call":               {`data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}`, saidToken},
		"a completion":         {`data: {"choices":[{"text":"a"}]}`, saidToken},
		"an empty one":         {`data: {"choices":[{"text":"","finish_reason":null}]}`, saidNothing},
		"the end of an answer": {`data: {"choices":[{"delta":{},"finish_reason":"stop"}]}`, saidToken},
		"the end mark":         {"data: [DONE]", saidToken},
		"what is unknown":      {`data: {"x":1}`, saidToken},
		"what is no JSON":      {"data: hello", saidToken},
		"a failure":            {`data: {"error":{"code":"WORKER_CRASHED"}}`, saidFailure},
		"no failure":           {`data: {"error":null,"choices":[{"delta":{"content":"a"}}]}`, saidToken},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := listen([]byte(c.events)); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func FuzzListenTakesAnything(f *testing.F) {
	f.Add([]byte(`data: {"choices":[{"delta":{"role":"assistant","content":""}}]}`))
	f.Add([]byte("data: {\"error\":{}}\n\n: x\n\ndata:"))
	f.Fuzz(func(t *testing.T, events []byte) {
		if what, data := listen(events); (what == saidFailure) != (data != nil) {
			t.Errorf("%d with %q", what, data)
		}
		readFailure(0, events)
	})
}
