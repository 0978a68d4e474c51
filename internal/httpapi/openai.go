package httpapi

import (
	"net/http"
	"strings"

	"rbee"
)

// OpenAIError is a failure in the shape of OpenAI's API. Code is the one of
// the table of codes; details and request id stand beside what OpenAI has.
type OpenAIError struct {
	Message   string         `json:"message"`
	Type      string         `json:"type"`
	Param     *string        `json:"param"`
	Code      rbee.Code      `json:"code"`
	Details   map[string]any `json:"details,omitempty"`
	RequestID string         `json:"request_id,omitempty"`
}

// OpenAIErrorBody is the body of a failure on routes that speak OpenAI's API.
type OpenAIErrorBody struct {
	Error OpenAIError `json:"error"`
}

// OpenAI gives an error the shape of OpenAI's API.
func OpenAI(e *rbee.Error) OpenAIErrorBody {
	out := OpenAIError{Message: e.Message, Type: openAIType(e.Code.Status()), Code: e.Code, Details: e.Details, RequestID: e.RequestID}
	if s := e.Suggestion(); s != "" {
		out.Message += "; " + s
	}
	if faults, _ := e.Details["faults"].([]rbee.Fault); len(faults) > 0 {
		out.Param = &faults[0].Field
	} else if e.Code == rbee.CodeModelNotFound {
		param := "model"
		out.Param = &param
	}
	return OpenAIErrorBody{Error: out}
}

// openAIType is what OpenAI calls the errors of a status.
func openAIType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return "timeout_error"
	case http.StatusServiceUnavailable:
		return "service_unavailable_error"
	}
	if status < http.StatusInternalServerError {
		return "invalid_request_error"
	}
	return "server_error"
}

// speaksOpenAI says whether the answer to a request has the shape of OpenAI's
// API. A method that a path does not take has no pattern, but the path's shape.
func (a *API) speaksOpenAI(r *http.Request) bool {
	_, pattern := a.mux.Handler(r)
	return a.openAI[pattern] || pattern == "" && a.openAI[strings.TrimSuffix(r.URL.Path, "/")]
}
