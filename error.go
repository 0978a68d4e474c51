package rbee

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
)

// Code is the machine-readable name of a failure. It is the same in logs, on
// the wire and in the keeper's --json output.
type Code string

// The codes of the contract. The table below maps each to its HTTP status.
const (
	CodeInvalidRequest        Code = "INVALID_REQUEST"
	CodeMissingAPIKey         Code = "MISSING_API_KEY"
	CodeInvalidAPIKey         Code = "INVALID_API_KEY"
	CodeForbiddenOrigin       Code = "FORBIDDEN_ORIGIN"
	CodeModelNotFound         Code = "MODEL_NOT_FOUND"
	CodeWorkerNotFound        Code = "WORKER_NOT_FOUND"
	CodeHiveNotFound          Code = "HIVE_NOT_FOUND"
	CodeRequestTimeout        Code = "REQUEST_TIMEOUT"
	CodeConflict              Code = "CONFLICT"
	CodeVersionMismatch       Code = "VERSION_MISMATCH"
	CodeContextLengthExceeded Code = "CONTEXT_LENGTH_EXCEEDED"
	CodeRequestCanceled       Code = "REQUEST_CANCELED"
	CodeWorkerNotReady        Code = "WORKER_NOT_READY"
	CodeAllSlotsBusy          Code = "ALL_SLOTS_BUSY"
	CodeQueueFull             Code = "QUEUE_FULL"
	CodeBackendUnavailable    Code = "BACKEND_UNAVAILABLE"
	CodeLoadingTimeout        Code = "LOADING_TIMEOUT"
	CodeGenerationTimeout     Code = "GENERATION_TIMEOUT"
	CodeInsufficientRAM       Code = "INSUFFICIENT_RAM"
	CodeVRAMExhausted         Code = "VRAM_EXHAUSTED"
	CodeInsufficientDisk      Code = "INSUFFICIENT_DISK"
	CodeDownloadFailed        Code = "DOWNLOAD_FAILED"
	CodeChecksumMismatch      Code = "CHECKSUM_MISMATCH"
	CodeConnectionTimeout     Code = "CONNECTION_TIMEOUT"
	CodeWorkerCrashed         Code = "WORKER_CRASHED"
	CodeInternalError         Code = "INTERNAL_ERROR"
)

var statusOf = map[Code]int{
	CodeInvalidRequest:        http.StatusBadRequest,
	CodeContextLengthExceeded: http.StatusBadRequest,
	CodeMissingAPIKey:         http.StatusUnauthorized,
	CodeInvalidAPIKey:         http.StatusUnauthorized,
	CodeForbiddenOrigin:       http.StatusForbidden,
	CodeModelNotFound:         http.StatusNotFound,
	CodeWorkerNotFound:        http.StatusNotFound,
	CodeHiveNotFound:          http.StatusNotFound,
	CodeRequestTimeout:        http.StatusRequestTimeout,
	CodeConflict:              http.StatusConflict,
	CodeVersionMismatch:       http.StatusConflict,
	CodeRequestCanceled:       499,
	CodeWorkerCrashed:         http.StatusInternalServerError,
	CodeInternalError:         http.StatusInternalServerError,
	CodeDownloadFailed:        http.StatusBadGateway,
	CodeChecksumMismatch:      http.StatusBadGateway,
	CodeConnectionTimeout:     http.StatusBadGateway,
	CodeWorkerNotReady:        http.StatusServiceUnavailable,
	CodeAllSlotsBusy:          http.StatusServiceUnavailable,
	CodeQueueFull:             http.StatusServiceUnavailable,
	CodeBackendUnavailable:    http.StatusServiceUnavailable,
	CodeLoadingTimeout:        http.StatusGatewayTimeout,
	CodeGenerationTimeout:     http.StatusGatewayTimeout,
	CodeInsufficientRAM:       http.StatusInsufficientStorage,
	CodeVRAMExhausted:         http.StatusInsufficientStorage,
	CodeInsufficientDisk:      http.StatusInsufficientStorage,
}

// Status is the HTTP status of the code, 500 for one that is not in the table.
func (c Code) Status() int {
	if s, ok := statusOf[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Codes returns a copy of the table of codes and their HTTP statuses.
func Codes() map[Code]int { return maps.Clone(statusOf) }

// Exit codes of the keeper.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitInterrupted = 130
)

// Error is a failure that a user may see. Message and Details go over the
// wire; the cause does not: it is for the log of the process where it arose.
type Error struct {
	Code      Code           `json:"code" doc:"machine-readable name of the failure"`
	Message   string         `json:"message" doc:"what failed and where"`
	Details   map[string]any `json:"details,omitempty" doc:"figures of the failure; 'suggestion' says what to try"`
	RequestID string         `json:"request_id,omitempty" doc:"the X-Request-Id of the request"`

	cause error
}

// Errorf makes an Error. A %w in the format becomes the cause that Unwrap
// returns, and its text becomes part of the message, so wrap only causes that
// a user may read; hand others to WithCause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Error is the code and the message.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Unwrap returns the cause, nil if there is none.
func (e *Error) Unwrap() error { return e.cause }

// WithCause returns e with a cause for the log; it never goes over the wire.
func (e *Error) WithCause(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

// With returns e with one more detail.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Details = maps.Clone(e.Details)
	if c.Details == nil {
		c.Details = map[string]any{}
	}
	c.Details[key] = value
	return &c
}

// Suggest returns e with the detail that says what to try.
func (e *Error) Suggest(format string, args ...any) *Error {
	return e.With("suggestion", fmt.Sprintf(format, args...))
}

// Suggestion returns what Suggest set, or "".
func (e *Error) Suggestion() string {
	s, _ := e.Details["suggestion"].(string)
	return s
}

// AsError finds the *Error in err's chain. Any other error becomes an
// INTERNAL_ERROR with a message that tells the user nothing but where to look;
// err stays as its cause. AsError(nil) is nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return (&Error{Code: CodeInternalError, Message: "internal error; the log of the program has the cause"}).WithCause(err)
}

// CodeOf is the code of the *Error in err's chain, or "" if there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// ErrorBody is the shape of a failure on every native endpoint.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// Fault is one thing wrong with a request. All faults of a request are
// reported together, under details.faults. The rejected value is never echoed.
type Fault struct {
	Field   string `json:"field" doc:"path of the field, such as body.max_tokens"`
	Problem string `json:"problem" doc:"what is wrong with it"`
}

// InvalidRequest makes one INVALID_REQUEST of all faults.
func InvalidRequest(faults ...Fault) *Error {
	msg := "the request is not valid"
	for i, f := range faults {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		msg += sep + f.Field + " " + f.Problem
	}
	return (&Error{Code: CodeInvalidRequest, Message: msg}).With("faults", faults)
}
