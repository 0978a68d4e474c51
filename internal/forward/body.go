// Package forward is what programs share that pass requests on: the model that
// a body names is found without decoding the rest, and streams of events are
// handed on as they come, whole, with an end that says why where their sender
// died.
//
// It knows neither workers nor hives, and never changes what it passes.
package forward

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"rbee"
	"rbee/internal/prefix"
)

// Request is what has to be known of the body of a request to pass it on.
type Request struct {
	Model  string
	Stream bool // events are asked for

	from, to int // where in the body the model stands
}

// Parse finds out what has to be known of a body. The rest of it is only skipped.
func Parse(body []byte) (Request, error) {
	var r Request
	bad := func(problem string) error { return rbee.InvalidRequest(rbee.Fault{Field: "body", Problem: problem}) }
	switch text := bytes.TrimLeft(body, " \t\r\n"); {
	case len(text) == 0 || text[0] != '{':
		return r, bad("is not a JSON object")
	case !json.Valid(text):
		return r, bad("is not valid JSON")
	}
	isText := true
	prefix.Fields(body, func(name []byte, from, to int) {
		switch string(name) {
		case "model":
			r.from, r.to = from, to
			isText = json.Unmarshal(body[from:to], &r.Model) == nil && isText
		case "stream":
			r.Stream = string(body[from:to]) == "true"
		}
	})
	if !isText {
		return r, rbee.InvalidRequest(rbee.Fault{Field: "body.model", Problem: "must be a text"})
	}
	if r.Model == "" {
		return r, rbee.InvalidRequest(rbee.Fault{Field: "body.model", Problem: "must name the model"})
	}
	return r, nil
}

// NoModel is the error of a name that no model can have, as clients of OpenAI's
// API expect it: that there is no such model.
func NoModel(err error) error {
	e := *rbee.AsError(err)
	if e.Code == rbee.CodeInvalidRequest {
		e.Code = rbee.CodeModelNotFound
	}
	return &e
}

// Renamed is the body that was parsed, with another name for the model.
func (r Request) Renamed(body []byte, model string) []byte {
	quoted, err := json.Marshal(model)
	if err != nil { // a text can be encoded
		return body
	}
	out := append(make([]byte, 0, len(body)+len(quoted)), body[:r.from]...)
	return append(append(out, quoted...), body[r.to:]...)
}

// SetBody gives a request another body, which can be had again.
func SetBody(req *http.Request, body []byte) {
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody() // which cannot fail
	req.ContentLength = int64(len(body))
}
