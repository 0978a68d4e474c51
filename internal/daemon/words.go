package daemon

import (
	"strings"

	"rbee"
)

// LastWords makes an error of what one of our programs printed before it ended: its
// error and its suggestion, or else the last line.
func LastWords(what, cause string, lines []string) *rbee.Error {
	message, suggestion, last := "", "", ""
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, "Error: "); ok {
			message, suggestion = text, ""
		}
		if text, ok := strings.CutPrefix(line, "Suggestion: "); ok {
			suggestion = text
		}
		if strings.TrimSpace(line) != "" {
			last = line
		}
	}
	if message == "" {
		message = what + " (" + cause + ")"
		if last != "" {
			message += ": " + last
		}
	}
	if suggestion == "" {
		suggestion = "see 'rbee doctor'"
	}
	return rbee.Errorf(rbee.CodeInternalError, "%s", message).Suggest("%s", suggestion)
}
