// Package httpapi is the front door of every daemon: a table of routes over
// the standard mux, the checks that stand before them, one shape of error, the
// OpenAPI document made from the same table, and a listener that ends cleanly.
//
// It knows HTTP and the shape of errors, and nothing of what a role does.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"rbee"
)

// DefaultMaxBodyBytes bounds the body of a request.
const DefaultMaxBodyBytes = 32 << 20

// Config makes an API.
type Config struct {
	Role         string // hive, worker or queen; the title of the document
	Key          string // bearer key that keyed routes demand; "" demands none
	Routes       []Route
	MaxBodyBytes int64 // default DefaultMaxBodyBytes
	Log          *slog.Logger

	// ColonyKey is the key that opens them as well at this time, from wherever the request
	// comes; "" for none. The function may be nil.
	ColonyKey func() string
}

// API serves a table of routes.
type API struct {
	cfg  Config
	mux  *http.ServeMux
	huma huma.API
	open map[string]bool // patterns of public routes

	openAI map[string]bool // patterns and paths of routes that speak OpenAI's API
}

// New builds the API. It panics on a route that huma or net/http refuses:
// tables are code, and a test of each role builds its table.
func New(cfg Config) *API {
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	shapeHumaErrors()
	hc := huma.DefaultConfig("rbee-"+cfg.Role, rbee.Version)
	hc.CreateHooks = nil // no $schema links in replies
	hc.OpenAPIPath, hc.DocsPath, hc.SchemasPath = "", "", ""
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"key": {Type: "http", Scheme: "bearer", Description: "the daemon's key, if it has one"},
	}
	mux := http.NewServeMux()
	a := &API{cfg: cfg, mux: mux, huma: humago.New(mux, hc), open: map[string]bool{}, openAI: map[string]bool{}}
	rows := append([]Route{{
		Method: http.MethodGet, Path: "/openapi.json", Summary: "This document.",
		Handler: RawFunc(a.serveOpenAPI),
	}}, cfg.Routes...)
	for _, r := range rows {
		r.Handler.register(a, r)
		if r.Access == Public {
			a.open[r.Method+" "+r.Path] = true
		}
		if r.OpenAI {
			a.openAI[r.Method+" "+r.Path], a.openAI[r.Path] = true, true
		}
	}
	return a
}

// OpenAPI is the OpenAPI 3.1 document of the routes, indented JSON.
func (a *API) OpenAPI() ([]byte, error) {
	b, err := json.MarshalIndent(a.huma.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode the OpenAPI document: %w", err)
	}
	return append(b, '\n'), nil
}

func (a *API) serveOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	b, err := a.OpenAPI()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(b)
	return err
}

func (a *API) schemaOf(v any) *huma.Schema {
	return a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(v), true, "")
}

// wireError is an *rbee.Error in the shape and with the status that huma writes.
type wireError struct {
	rbee.ErrorBody
	status int
}

// Error implements error.
func (e *wireError) Error() string { return e.ErrorBody.Error.Error() }

// GetStatus is the name that huma asks for.
func (e *wireError) GetStatus() int { return e.status }

// ContentType keeps replies plain JSON.
func (e *wireError) ContentType(string) string { return "application/json" }

// GetHeaders adds Retry-After where a later try may succeed.
func (e *wireError) GetHeaders() http.Header { return retryAfter(e.ErrorBody.Error) }

func retryAfter(e *rbee.Error) http.Header {
	if s, ok := e.Details[retryAfterDetail].(int); ok {
		return http.Header{"Retry-After": {fmt.Sprint(s)}}
	}
	return nil
}

const retryAfterDetail = "retry_after_seconds"

// RetryAfter returns err with the seconds after which a client may try again;
// the reply then carries the Retry-After header.
func RetryAfter(err *rbee.Error, seconds int) *rbee.Error { return err.With(retryAfterDetail, seconds) }

func (a *API) wireError(ctx context.Context, err error) *wireError {
	e := *rbee.AsError(nameEnd(err))
	e.RequestID = RequestID(ctx)
	a.log(ctx, &e)
	return &wireError{ErrorBody: rbee.ErrorBody{Error: &e}, status: e.Code.Status()}
}

// nameEnd gives a code to the end of a request that is nobody's failure.
func nameEnd(err error) error {
	var own *rbee.Error
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(err, ErrShutdown):
		return rbee.Errorf(rbee.CodeWorkerNotReady, "the daemon shuts down").WithCause(err)
	case errors.Is(err, context.Canceled):
		return rbee.Errorf(rbee.CodeRequestCanceled, "the request was canceled").WithCause(err)
	}
	return err
}

// writeError replies with an error, on routes that are not huma's.
func (a *API) writeError(w http.ResponseWriter, r *http.Request, err error) {
	we := a.wireError(r.Context(), err)
	we.ErrorBody.Error.RequestID = w.Header().Get(rbee.RequestIDHeader) // a handler may know a better one
	a.writeStatus(w, r, we)
}

func (a *API) writeStatus(w http.ResponseWriter, r *http.Request, we *wireError) {
	for k, v := range we.GetHeaders() {
		w.Header()[k] = v
	}
	var body any = we.ErrorBody
	if a.speaksOpenAI(r) {
		body = OpenAI(we.ErrorBody.Error)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(we.status)
	_ = json.NewEncoder(w).Encode(body) // a client that left misses it
}

// log tells the operator of failures of our own; what a client did wrong is at debug.
func (a *API) log(ctx context.Context, e *rbee.Error) {
	level := slog.LevelDebug
	if e.Code.Status() == http.StatusInternalServerError {
		level = slog.LevelError
	}
	attrs := []slog.Attr{slog.String("request_id", RequestID(ctx)), slog.String("code", string(e.Code))}
	if cause := errors.Unwrap(e); cause != nil {
		attrs = append(attrs, slog.Any("err", cause))
	}
	a.cfg.Log.LogAttrs(ctx, level, "request failed: "+e.Message, attrs...)
}

func (a *API) logFailure(r *http.Request, err error) {
	a.log(r.Context(), rbee.AsError(err))
}

// shapeHumaErrors gives huma, whose error type is a package variable, the shape
// of ours. All APIs of a process share it, so once is enough.
var shapeHumaErrors = sync.OnceFunc(func() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return humaError(context.Background(), status, msg, errs)
	}
	huma.NewErrorWithContext = func(hc huma.Context, status int, msg string, errs ...error) huma.StatusError {
		return humaError(hc.Context(), status, msg, errs)
	}
})

// humaError turns what huma found wrong into our error. Values of the request
// are left out: huma would quote them.
func humaError(ctx context.Context, status int, msg string, errs []error) *wireError {
	var e *rbee.Error
	var faults []rbee.Fault
	for _, err := range errs {
		var d huma.ErrorDetailer
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &e):
		case errors.As(err, &large):
			e = tooLarge(large)
		case errors.As(err, &d):
			faults = append(faults, fault(d.ErrorDetail()))
		case err != nil:
			faults = append(faults, rbee.Fault{Field: "body", Problem: "cannot be read"})
		}
	}
	switch {
	case e != nil && e.Code != rbee.CodeInvalidRequest:
	case status == http.StatusRequestTimeout:
		e = rbee.Errorf(rbee.CodeRequestTimeout, "the request's body did not arrive in time")
	case status >= http.StatusInternalServerError && status != http.StatusInternalServerError,
		status == http.StatusInternalServerError && msg != "cannot read request body":
		e = rbee.AsError(fmt.Errorf("%s: %w", msg, errors.Join(errs...)))
	case len(faults) > 0:
		e = rbee.InvalidRequest(faults...)
	case e == nil:
		e = rbee.Errorf(rbee.CodeInvalidRequest, "the request is not valid: %s", msg)
	}
	c := *e
	c.RequestID = RequestID(ctx)
	return &wireError{ErrorBody: rbee.ErrorBody{Error: &c}, status: c.Code.Status()}
}

func fault(d *huma.ErrorDetail) rbee.Fault {
	f := rbee.Fault{Field: d.Location, Problem: d.Message}
	if d.Location == "body" {
		// The message comes from the JSON decoder, which may quote the body.
		if text, isText := d.Value.(string); isText && json.Valid([]byte(text)) {
			f.Problem = "holds a number that does not fit into its field"
		} else if isText {
			f.Problem = "is not valid JSON"
		}
	}
	return f
}
