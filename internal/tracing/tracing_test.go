package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/tracing"
	"rbee/internal/tracing/tracingtest"
)

const (
	parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unseen = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00" // its sampler left it out
)

// logger writes down what is logged.
func logger() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

func TestASpanReachesTheCollector(t *testing.T) {
	c := tracingtest.New(t)
	log, _ := logger()
	tr := tracing.New("rbee-worker", "w1", log)
	s := tr.Start(t.Context(), "chat", parent, "vendor=1")
	s.Text("model", "bee")
	s.Int("tokens", 7)
	s.Float("ms", 1.5)
	s.End(nil)
	tr.Close()
	spans := c.Spans()
	if len(spans) != 1 {
		t.Fatalf("%d spans came", len(spans))
	}
	got := spans[0]
	if got.Name != "chat" || got.TraceID != "0af7651916cd43dd8448eb211c80319c" || got.ParentID != "b7ad6b7169203331" || got.State != "vendor=1" || got.Failed {
		t.Errorf("the span is %+v", got)
	}
	for key, want := range map[string]any{"model": "bee", "tokens": int64(7), "ms": 1.5} {
		if got.Attributes[key] != want {
			t.Errorf("%s is %v, want %v", key, got.Attributes[key], want)
		}
	}
	for key, want := range map[string]any{"service.name": "rbee-worker", "service.instance.id": "w1", "service.version": rbee.Version} {
		if got.Resource[key] != want {
			t.Errorf("of the program, %s is %v, want %v", key, got.Resource[key], want)
		}
	}
}

func TestTheStandardVariablesRule(t *testing.T) {
	for _, c := range []struct {
		name, variable, value string
		says                  string // in the log, "" for nothing
	}{
		{"no endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", "", ""},
		{"disabled", "OTEL_SDK_DISABLED", "true", ""},
		{"no exporter", "OTEL_TRACES_EXPORTER", "none", ""},
		{"another exporter", "OTEL_TRACES_EXPORTER", "console", "OTEL_TRACES_EXPORTER"},
		{"another protocol", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"},
		{"another protocol of traces", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "http/protobuf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tracingtest.New(t)
			t.Setenv(c.variable, c.value)
			log, said := logger()
			if tr := tracing.New("s", "i", log); tr != nil {
				tr.Close()
				t.Error("it traces")
			}
			if text := said.String(); !strings.Contains(text, c.says) || c.says == "" && text != "" {
				t.Errorf("the log says %q", text)
			}
		})
	}
	c := tracingtest.New(t)
	t.Setenv("OTEL_SERVICE_NAME", "mine")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "place=attic")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=sesame")
	log, said := logger()
	tr := tracing.New("s", "i", log)
	tr.Start(t.Context(), "a", "", "").End(nil)
	tr.Start(t.Context(), "left out", unseen, "").End(nil)
	tr.Close()
	spans := c.Spans()
	if len(spans) != 1 || spans[0].ParentID != "" || spans[0].Resource["service.name"] != "mine" || spans[0].Resource["place"] != "attic" {
		t.Errorf("the spans are %+v", spans)
	}
	if got := c.Header("X-Token"); got != "sesame" || strings.Contains(said.String(), "sesame") {
		t.Errorf("the collector was sent %q, and the log says %s", got, said)
	}
}

func TestFailuresAreNamedAndOnlyOursAreFailures(t *testing.T) {
	c := tracingtest.New(t)
	log, _ := logger()
	tr := tracing.New("s", "i", log)
	for _, err := range []error{
		rbee.InvalidRequest(rbee.Fault{Field: "a", Problem: "b"}), rbee.Errorf(rbee.CodeAllSlotsBusy, "busy"), errors.New("secret"),
	} {
		tr.Start(t.Context(), "a", "not a parent", "=").End(err)
	}
	tr.Close()
	spans := c.Spans()
	if len(spans) != 3 {
		t.Fatalf("%d spans came", len(spans))
	}
	for i, want := range []struct {
		code   rbee.Code
		failed bool
	}{{rbee.CodeInvalidRequest, false}, {rbee.CodeAllSlotsBusy, true}, {rbee.CodeInternalError, true}} {
		if got := spans[i]; got.Attributes["error.type"] != string(want.code) || got.Failed != want.failed || strings.Contains(got.Message, "secret") {
			t.Errorf("the span is %+v, want %+v", got, want)
		}
	}
}

func TestACollectorThatIsGoneHoldsNothingUp(t *testing.T) {
	c := tracingtest.New(t)
	c.Close()
	log, said := logger()
	tr := tracing.New("s", "i", log)
	tr.Start(t.Context(), "a", "", "").End(nil)
	tr.Close()
	if !strings.Contains(said.String(), "the collector of traces does not take them") {
		t.Errorf("the log says %s", said)
	}
}

func TestTracingThatIsOffAllocatesNothing(t *testing.T) {
	var tr *tracing.Tracer
	ctx, failure := context.Background(), error(rbee.Errorf(rbee.CodeInternalError, "x"))
	n := testing.AllocsPerRun(1000, func() {
		s := tr.Start(ctx, "a", parent, "vendor=1")
		s.Text("a", "b")
		s.Int("c", 1000)
		s.Float("d", 1)
		s.End(failure)
	})
	tr.Close()
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkSpan is what a request pays for its span, off and on.
func BenchmarkSpan(b *testing.B) {
	one := func(b *testing.B, tr *tracing.Tracer) {
		b.ReportAllocs()
		for b.Loop() {
			s := tr.Start(b.Context(), "a", parent, "")
			for range 10 {
				s.Int("c", 1000)
			}
			s.End(nil)
		}
	}
	b.Run("off", func(b *testing.B) { one(b, nil) })
	b.Run("on", func(b *testing.B) {
		tracingtest.New(b)
		tr := tracing.New("s", "i", slog.New(slog.DiscardHandler))
		defer tr.Close()
		one(b, tr)
	})
}
