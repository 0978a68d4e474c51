package httpapi

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Access says who may call a route.
type Access int

// The kinds of access.
const (
	Keyed  Access = iota // with the daemon's key, if it has one
	Public               // everyone who reaches the port; for liveness only
)

// Route is one row of a daemon's API: what is called, who may, what answers.
type Route struct {
	Method  string
	Path    string // a pattern of net/http, such as /v1/workers/{id}
	Access  Access
	Summary string // one sentence for the documentation
	Status  int    // of a success, by default 200
	OpenAI  bool   // it speaks OpenAI's API, so its errors have that shape
	Handler Handler
}

// Handler answers a route. JSON, Stream and Raw make one.
type Handler interface {
	register(a *API, r Route)
}

type jsonHandler[In, Out any] func(context.Context, *In) (*Out, error)

// JSON is a handler that takes and returns values. In is a struct whose fields
// carry huma's tags: Body, and parameters by `path:"…"` or `query:"…"`; Out is
// a struct with a Body and headers, or nil for no content. All faults of an
// input are reported together as INVALID_REQUEST.
func JSON[In, Out any](fn func(context.Context, *In) (*Out, error)) Handler {
	return jsonHandler[In, Out](fn)
}

func (h jsonHandler[In, Out]) register(a *API, r Route) {
	huma.Register(a.huma, a.operation(r), func(ctx context.Context, in *In) (*Out, error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, a.wireError(ctx, err)
		}
		return out, nil
	})
}

type streamHandler[In, Event any] struct {
	contentType string
	fn          func(context.Context, *In, http.ResponseWriter) error
}

// Stream is a handler that writes its reply as it comes: events of the type
// Event for text/event-stream, or text. An error that fn returns before it
// wrote anything becomes an error reply; later fn has to tell the reader itself.
func Stream[In, Event any](contentType string, fn func(context.Context, *In, http.ResponseWriter) error) Handler {
	return streamHandler[In, Event]{contentType, fn}
}

func (h streamHandler[In, Event]) register(a *API, r Route) {
	op := a.operation(r)
	var event Event
	op.Responses = map[string]*huma.Response{"200": {
		Description: "OK",
		Content: map[string]*huma.MediaType{h.contentType: {
			Schema: a.schemaOf(event),
		}},
	}}
	huma.Register(a.huma, op, func(_ context.Context, in *In) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			req, w := humago.Unwrap(hc)
			sw := &startedWriter{ResponseWriter: w}
			if err := h.fn(req.Context(), in, sw); err != nil && !sw.started {
				a.writeError(w, req, err)
			} else if err != nil {
				a.logFailure(req, err)
			}
		}}, nil
	})
}

// startedWriter remembers whether a reply has begun.
type startedWriter struct {
	http.ResponseWriter
	started bool
}

func (w *startedWriter) WriteHeader(status int) {
	w.started = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *startedWriter) Write(b []byte) (int, error) {
	w.started = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *startedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

var pathParameter = regexp.MustCompile(`\{(\w+)(?:\.\.\.)?\}`)

type rawHandler struct{ http.Handler }

// Raw is a plain HTTP handler: for relays and for formats of others. It is in
// the documentation by its summary alone. An empty Route.Method means any method.
func Raw(h http.Handler) Handler { return rawHandler{h} }

func (h rawHandler) register(a *API, r Route) {
	pattern := r.Path
	if r.Method != "" {
		pattern = r.Method + " " + r.Path
	}
	a.mux.Handle(pattern, h)
	if r.Method != "" {
		op := a.operation(r)
		op.Responses = map[string]*huma.Response{"200": {Description: "OK"}}
		for _, m := range pathParameter.FindAllStringSubmatch(r.Path, -1) {
			op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: a.schemaOf("")})
		}
		a.huma.OpenAPI().AddOperation(&op)
	}
}

// RawFunc is Raw for a function that returns errors.
func RawFunc(fn func(http.ResponseWriter, *http.Request) error) Handler {
	return rawFunc(fn)
}

type rawFunc func(http.ResponseWriter, *http.Request) error

func (fn rawFunc) register(a *API, r Route) {
	rawHandler{http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		sw := &startedWriter{ResponseWriter: w}
		if err := fn(sw, req); err != nil && !sw.started {
			a.writeError(w, req, err)
		} else if err != nil {
			a.logFailure(req, err)
		}
	})}.register(a, r)
}

func (a *API) operation(r Route) huma.Operation {
	op := huma.Operation{
		OperationID:   operationID(r),
		Method:        r.Method,
		Path:          strings.Replace(r.Path, "...}", "}", 1),
		Summary:       r.Summary,
		DefaultStatus: r.Status,
		// One more than the front door lets through, which then is who refuses: huma
		// just stops reading, and the connection would be reset under the reply.
		MaxBodyBytes: a.cfg.MaxBodyBytes + 1,
		// The front door bounds how long a body may take; a deadline set by
		// huma would stay on the connection and end long streams.
		BodyReadTimeout: -1 * time.Second,
	}
	if r.Access == Keyed {
		op.Security = []map[string][]string{{"key": {}}}
	}
	return op
}

// operationID makes a name such as post-workers-spawn of method and path, and
// get-root-health of a path outside the version.
func operationID(r Route) string {
	id := strings.ToLower(r.Method)
	if !strings.HasPrefix(r.Path, "/v1/") {
		id += "-root"
	}
	for e := range strings.FieldsFuncSeq(r.Path, func(c rune) bool { return strings.ContainsRune("/{}.", c) }) {
		if e != "v1" {
			id += "-" + e
		}
	}
	return id
}
