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
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return r, bad("is not a JSON object")
	}
	var value json.RawMessage
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return r, bad("is not valid JSON")
		}
		if err := dec.Decode(&value); err != nil {
			return r, bad("is not valid JSON")
		}
		switch key {
		case "model":
			r.to = int(dec.InputOffset())
			r.from = r.to - len(value)
			if json.Unmarshal(value, &r.Model) != nil {
				return r, rbee.InvalidRequest(rbee.Fault{Field: "body.model", Problem: "must be a text"})
			}
		case "stream":
			r.Stream = string(value) == "true"
		}
	}
	if _, err := dec.Token(); err != nil {
		return r, bad("is not valid JSON")
	}
	if r.Model == "" {
		return r, rbee.InvalidRequest(rbee.Fault{Field: "body.model", Problem: "must name the model"})
	}
	return r, nil
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

// SetBody gives a request another body.
func SetBody(req *http.Request, body []byte) {
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}
