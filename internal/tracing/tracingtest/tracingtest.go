// Package tracingtest is a collector of OpenTelemetry's traces, over real HTTP,
// for tests of who sends them.
package tracingtest

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one that came.
type Span struct {
	Name              string
	TraceID, ParentID string // hexadecimal, "" for none
	State             string // of the trace
	Failed            bool
	Message           string         // of the status
	Attributes        map[string]any // string, int64, float64, bool
	Resource          map[string]any // of who sent it
}

// Collector keeps what it is sent.
type Collector struct {
	t   testing.TB
	srv *httptest.Server

	mu     sync.Mutex
	spans  []Span
	header http.Header
}

// New starts a collector, ends it with the test, and makes the variables of
// OpenTelemetry name it and nothing else.
func New(t testing.TB) *Collector {
	c := &Collector{t: t}
	c.srv = httptest.NewServer(http.HandlerFunc(c.take))
	t.Cleanup(c.Close)
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.srv.URL)
	return c
}

// Close ends the collector. It may be called again.
func (c *Collector) Close() { c.srv.Close() }

// Spans are those that came so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Header is one of the last request.
func (c *Collector) Header(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.header.Get(name)
}

func (c *Collector) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var req collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" {
		c.t.Errorf("%s %s is no report of traces: %v", r.Method, r.URL.Path, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header = r.Header
	for _, rs := range req.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans = append(c.spans, Span{
					Name: s.GetName(), TraceID: hex.EncodeToString(s.GetTraceId()), ParentID: hex.EncodeToString(s.GetParentSpanId()),
					State: s.GetTraceState(), Failed: s.GetStatus().GetCode() == trace.Status_STATUS_CODE_ERROR, Message: s.GetStatus().GetMessage(),
					Attributes: values(s.GetAttributes()), Resource: values(rs.GetResource().GetAttributes()),
				})
			}
		}
	}
}

func values(list []*common.KeyValue) map[string]any {
	all := map[string]any{}
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			all[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			all[kv.GetKey()] = v.IntValue
		case *common.AnyValue_DoubleValue:
			all[kv.GetKey()] = v.DoubleValue
		case *common.AnyValue_BoolValue:
			all[kv.GetKey()] = v.BoolValue
		}
	}
	return all
}
