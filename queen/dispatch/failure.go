package dispatch

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"rbee"
	"rbee/internal/httpapi"
)

// failure is why an attempt led to nothing.
type failure struct {
	err  *rbee.Error
	kind failureKind
	body []byte // as the hive said it, where that is for the client to read
}

// failureKind says what is to be done about a failure.
type failureKind int

const (
	finally  failureKind = iota // it would be the same anywhere
	byHive                      // the hive is not reached, or does not know us
	byWorker                    // the hive cannot do it, another may
	byLoad                      // too many requests are there
)

// maxErrorBytes bounds what is read of a reply that is an error.
const maxErrorBytes = 1 << 20

// retried are the codes of what another hive may do better.
var retried = map[rbee.Code]failureKind{
	rbee.CodeMissingAPIKey: byHive, rbee.CodeInvalidAPIKey: byHive, rbee.CodeForbiddenOrigin: byHive,
	rbee.CodeAllSlotsBusy: byLoad, rbee.CodeQueueFull: byLoad,
	rbee.CodeWorkerNotFound: byWorker, rbee.CodeWorkerNotReady: byWorker, rbee.CodeWorkerCrashed: byWorker,
	rbee.CodeModelNotFound: byWorker, rbee.CodeHiveNotFound: byWorker, rbee.CodeConflict: byWorker,
	rbee.CodeBackendUnavailable: byWorker, rbee.CodeLoadingTimeout: byWorker,
	rbee.CodeInsufficientRAM: byWorker, rbee.CodeVRAMExhausted: byWorker, rbee.CodeInsufficientDisk: byWorker,
	rbee.CodeRequestCanceled: byWorker, // by the end of its hive: the client's leave ends the flight
	rbee.CodeDownloadFailed:  byWorker, rbee.CodeChecksumMismatch: byWorker,
	rbee.CodeConnectionTimeout: byWorker, rbee.CodeInternalError: byWorker,
}

// passing says whether the same hive may well do it the next time.
func (f *failure) passing() bool {
	switch f.err.Code {
	case rbee.CodeWorkerNotFound, rbee.CodeWorkerNotReady, rbee.CodeWorkerCrashed, rbee.CodeConnectionTimeout, rbee.CodeRequestCanceled,
		rbee.CodeConflict: // an attempt that was cut off may still end there
		return true
	}
	return f.kind == byHive
}

// unreachable is the failure of a hive that did not answer.
func unreachable(name string, err error) *failure {
	return &failure{kind: byHive, err: rbee.Errorf(rbee.CodeConnectionTimeout, "cannot reach the hive %s", name).WithCause(err).
		Suggest("see the hives with 'rbee status', and look whether it runs")}
}

// wireFailure is an error as hives, workers and servers of others write it.
type wireFailure struct {
	Error struct {
		Message   string          `json:"message"`
		Type      json.RawMessage `json:"type"` // in OpenAI's shape only
		Code      json.RawMessage `json:"code"`
		Details   map[string]any  `json:"details"`
		RequestID string          `json:"request_id"`
	} `json:"error"`
}

// readFailure reads an error that came with a status, or in an event.
func readFailure(status int, body []byte) *failure {
	var wire wireFailure
	var code rbee.Code
	understood := json.Unmarshal(body, &wire) == nil && wire.Error.Message != ""
	e := wire.Error
	_ = json.Unmarshal(e.Code, &code) // servers of others have numbers, or none
	if _, ours := rbee.Codes()[code]; !ours {
		code = codeOf(status)
	}
	f := &failure{kind: retried[code], err: &rbee.Error{Code: code, Message: e.Message, Details: e.Details, RequestID: e.RequestID}}
	if !understood {
		f.err = rbee.Errorf(code, "the hive answered with status %d and no reason", status)
	}
	if e.Type != nil {
		f.body = body
		f.err.Message = strings.TrimSuffix(f.err.Message, "; "+f.err.Suggestion())
	}
	if s, ok := f.err.Details["retry_after_seconds"].(float64); ok {
		f.err = later(f.err, s)
	}
	return f
}

// codeOf is the code of a failure that came without one of ours.
func codeOf(status int) rbee.Code {
	switch {
	case status == http.StatusTooManyRequests:
		return rbee.CodeAllSlotsBusy
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return rbee.CodeInvalidAPIKey
	case status == http.StatusNotFound:
		return rbee.CodeModelNotFound
	case status == http.StatusServiceUnavailable:
		return rbee.CodeWorkerNotReady
	case status >= http.StatusInternalServerError, status < http.StatusBadRequest: // 0 is that of an event
		return rbee.CodeBackendUnavailable
	}
	return rbee.CodeInvalidRequest
}

// refused reads the failure out of a reply with the status of one.
func refused(resp *http.Response) *failure {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	if err != nil {
		body = nil
	}
	f := readFailure(resp.StatusCode, body)
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		f.err = later(f.err, float64(s))
	}
	return f
}

// later is httpapi.RetryAfter with what a hive says.
func later(err *rbee.Error, seconds float64) *rbee.Error {
	return httpapi.RetryAfter(err, int(min(max(seconds, 1), 3600)))
}

// errLost ends an attempt at a hive of which nothing is heard any more.
var errLost = errors.New("nothing is heard of the hive any more")
