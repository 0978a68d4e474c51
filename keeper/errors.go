package keeper

import (
	"context"
	"errors"
	"fmt"

	"rbee"
)

var (
	errInterrupted = errors.New("interrupted")

	// errCanceled ends a command that the user interrupted.
	errCanceled = errors.New("canceled by the user")

	// errLeft ends a command that shows something without an end, and that the
	// user has seen enough of. There is nothing to say about that.
	errLeft = errors.New("left by the user")

	// errReported ends a command whose output already says what failed.
	errReported = errors.New("failed")
)

// failure tells the user why the command failed, and returns the exit code.
func (o *output) failure(err error) int {
	if errors.Is(err, errCanceled) {
		o.reportError(rbee.Errorf(rbee.CodeRequestCanceled, "Canceled."))
		o.note("Canceled.")
		return rbee.ExitInterrupted
	}
	if errors.Is(err, errLeft) {
		return rbee.ExitInterrupted
	}
	if errors.Is(err, errReported) {
		return rbee.ExitFailed
	}
	var usage *usageError
	if errors.As(err, &usage) {
		e := rbee.Errorf(rbee.CodeInvalidRequest, "%s", usage.Error()).Suggest("%s", usage.suggestion())
		o.reportError(e)
		o.printError(e)
		return rbee.ExitUsage
	}
	e := asError(err)
	o.reportError(e)
	o.printError(e)
	return rbee.ExitFailed
}

// asError is rbee.AsError for the user's own machine: an error without a code
// arose in this process, so its text is for the user.
func asError(err error) *rbee.Error {
	var e *rbee.Error
	if !errors.As(err, &e) {
		return rbee.Errorf(rbee.CodeInternalError, "%s", err.Error())
	}
	if e.Suggestion() == "" {
		if advice := adviceOn(e.Code); advice != "" {
			return e.Suggest("%s", advice)
		}
	}
	return e
}

// reportError is the JSON form of a failure.
func (o *output) reportError(e *rbee.Error) {
	if o.json {
		o.emit(errorEvent{Event: "error", Error: e})
	}
}

type errorEvent struct {
	Event string      `json:"event"`
	Error *rbee.Error `json:"error"`
}

func (o *output) printError(e *rbee.Error) {
	fmt.Fprintf(o.stderr, "%s %s\n", o.styles.bad("Error:"), e.Message)
	if required, available := e.Details["required"], e.Details["available"]; required != nil && available != nil {
		fmt.Fprintf(o.stderr, "Required: %v MB, available: %v MB\n", required, available)
	}
	if s := e.Suggestion(); s != "" {
		fmt.Fprintf(o.stderr, "%s %s\n", o.styles.strong("Suggestion:"), s)
	}
}

// adviceOn says what to try after a failure whose message came without advice.
func adviceOn(code rbee.Code) string {
	switch code {
	case rbee.CodeInsufficientRAM, rbee.CodeVRAMExhausted:
		return "try a smaller quantisation, or a smaller --context"
	case rbee.CodeInsufficientDisk:
		return "free some disk space, or set RBEE_HOME to a directory on a larger disk"
	case rbee.CodeModelNotFound:
		return "see 'rbee models list', or name a file such as ./model.gguf"
	case rbee.CodeDownloadFailed, rbee.CodeChecksumMismatch:
		return "run the command again; a download goes on from where it was"
	case rbee.CodeWorkerNotFound:
		return "see 'rbee workers list'"
	case rbee.CodeBackendUnavailable:
		return "see 'rbee doctor', or try --backend cpu"
	case rbee.CodeContextLengthExceeded:
		return "shorten the prompt, or ask for a larger --context"
	case rbee.CodeLoadingTimeout:
		return "try again when the machine is less busy, or raise worker.load_timeout"
	case rbee.CodeGenerationTimeout, rbee.CodeRequestTimeout:
		return "raise --timeout, or ask for fewer tokens"
	case rbee.CodeConnectionTimeout:
		return "check the address with 'rbee hive status'"
	case rbee.CodeAllSlotsBusy, rbee.CodeQueueFull:
		return "try again later, or start another worker with 'rbee workers spawn'"
	case rbee.CodeWorkerNotReady:
		return "wait until 'rbee workers list' shows it as idle"
	case rbee.CodeWorkerCrashed:
		return "see 'rbee hive logs'"
	}
	return ""
}

// interrupted says whether the user ended the command, as opposed to a deadline.
func interrupted(ctx context.Context) bool {
	return errors.Is(ctx.Err(), context.Canceled)
}
