// Package tracing tells a collector how requests went, one span each, by
// OpenTelemetry's protocol over HTTP. It is off unless the standard variables
// of OpenTelemetry name an endpoint. Off, a *Tracer and a *Span are nil, and
// their methods do nothing and allocate nothing.
//
// It knows no role. What a span says is the caller's, who must never say
// prompts, answers or secrets.
package tracing

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"rbee"
)

// closeTime bounds how long the last spans may take to reach the collector: a
// worker that is told to end has five seconds, and needs most of them itself.
const closeTime = 400 * time.Millisecond

// Tracer makes spans. A nil one makes none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New makes the tracer of a program, whose instance, if it has many, has a name
// of its own. It is nil if no endpoint is configured, and, with a warning, if
// what is configured cannot be done: a program is of use without its traces.
func New(service, instance string, log *slog.Logger) *Tracer {
	reason, on := configured()
	if reason != "" {
		log.Warn("requests are not traced", "err", reason)
	}
	if !on {
		return nil
	}
	exporter, err := otlptracehttp.New(context.Background()) // it reads the variables, and connects later
	if err != nil {
		log.Warn("requests are not traced", "err", err)
		return nil
	}
	about, err := resource.New(context.Background(),
		resource.WithAttributes(
			attribute.String("service.name", service), attribute.String("service.version", rbee.Version),
			attribute.String("service.instance.id", instance)),
		resource.WithTelemetrySDK(), resource.WithFromEnv()) // the variables win
	if err != nil {
		log.Warn("some of what is told of this program in traces is wrong", "err", err)
	}
	p := sdk.NewTracerProvider(sdk.WithBatcher(&logged{SpanExporter: exporter, log: log}), sdk.WithResource(about))
	log.Info("tracing requests")
	return &Tracer{p, p.Tracer("rbee", trace.WithInstrumentationVersion(rbee.Version))}
}

// configured says whether to trace, and why not if somebody wants to.
func configured() (reason string, on bool) {
	first := func(names ...string) string {
		for _, name := range names {
			if v := os.Getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	if first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "" || os.Getenv("OTEL_SDK_DISABLED") == "true" {
		return "", false
	}
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "", "otlp":
	case "none":
		return "", false
	default:
		return "OTEL_TRACES_EXPORTER must be otlp or none", false
	}
	switch first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") {
	case "", "http/protobuf":
		return "", true
	}
	return "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf", false
}

// logged is an exporter that says once when the collector is lost, and when it is back.
type logged struct {
	sdk.SpanExporter
	log  *slog.Logger
	lost atomic.Bool
}

// ExportSpans implements the exporter.
func (l *logged) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := l.SpanExporter.ExportSpans(ctx, spans)
	switch was := l.lost.Swap(err != nil); {
	case err != nil && !was:
		l.log.Warn("the collector of traces does not take them", "err", err)
	case err == nil && was:
		l.log.Info("the collector of traces takes them again")
	}
	return nil
}

// Close sends what is left, for at most closeTime.
func (t *Tracer) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what could not be sent was logged
}

// parent is where a request says whose part it is, as the W3C has it.
type parent struct{ traceparent, tracestate string }

// Get implements propagation.TextMapCarrier.
func (p parent) Get(key string) string {
	switch key {
	case "traceparent":
		return p.traceparent
	case "tracestate":
		return p.tracestate
	}
	return ""
}

// Set implements propagation.TextMapCarrier; nothing is sent on.
func (parent) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (parent) Keys() []string { return []string{"traceparent", "tracestate"} }

// Start begins the span of a request that was received with these headers, ""
// for those that it has not. The span needs an End.
func (t *Tracer) Start(ctx context.Context, name, traceparent, tracestate string) *Span {
	if t == nil {
		return nil
	}
	ctx = propagation.TraceContext{}.Extract(ctx, parent{traceparent, tracestate})
	_, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	return &Span{span}
}

// Span is what is told of one request. It is for one goroutine. A nil one takes
// everything and tells nothing.
type Span struct{ span trace.Span }

// Text says something in words.
func (s *Span) Text(key, value string) {
	if s != nil {
		s.span.SetAttributes(attribute.String(key, value))
	}
}

// Int says a whole number.
func (s *Span) Int(key string, value int) {
	if s != nil {
		s.span.SetAttributes(attribute.Int(key, value))
	}
}

// Float says a number.
func (s *Span) Float(key string, value float64) {
	if s != nil {
		s.span.SetAttributes(attribute.Float64(key, value))
	}
}

// End ends the span of a request that ended with err. What the client did wrong
// is named, and is no failure of the program.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	if err != nil {
		code := rbee.AsError(err).Code
		s.span.SetAttributes(attribute.String("error.type", string(code)))
		if code.Status() >= http.StatusInternalServerError {
			s.span.SetStatus(codes.Error, string(code))
		}
	}
	s.span.End()
}
