package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"rbee"
	"rbee/internal/logging"
)

// line logs with fn at the given options and returns what was written.
func line(t *testing.T, o logging.Options, fn func(*slog.Logger)) string {
	t.Helper()
	var b bytes.Buffer
	fn(logging.New(&b, o))
	return b.String()
}

func TestElsewhereThanOnATerminalLinesAreJSON(t *testing.T) {
	for _, format := range []string{"", "auto", "json"} {
		got := line(t, logging.Options{Format: format, Role: "hive"}, func(l *slog.Logger) { l.Info("ready", "addr", "127.0.0.1:1", "tokens", 12) })
		var o struct {
			Level, Msg, Role, Addr string
			Tokens                 int
		}
		if err := json.Unmarshal([]byte(got), &o); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		if o.Level != "INFO" || o.Msg != "ready" || o.Role != "hive" || o.Addr != "127.0.0.1:1" || o.Tokens != 12 {
			t.Errorf("%s: got %+v", format, o)
		}
	}
}

func TestTextIsPlainElsewhereThanOnATerminal(t *testing.T) {
	got := line(t, logging.Options{Format: "text"}, func(l *slog.Logger) { l.Warn("slow", "addr", "x") })
	if strings.Contains(got, "\x1b") || !strings.Contains(got, "slow addr=x") || strings.Contains(got, "role") {
		t.Errorf("got %q", got)
	}
}

func TestTheLevelDecidesWhatIsWritten(t *testing.T) {
	for level, want := range map[string]string{"debug": "diwe", "": "iwe", "info": "iwe", "warn": "we", "error": "e"} {
		got := line(t, logging.Options{Level: level}, func(l *slog.Logger) {
			l.Debug("d")
			l.Info("i")
			l.Warn("w")
			l.Error("e")
		})
		var letters string
		for l := range strings.Lines(got) {
			var o struct{ Msg string }
			if err := json.Unmarshal([]byte(l), &o); err != nil {
				t.Fatal(err)
			}
			letters += o.Msg
		}
		if letters != want {
			t.Errorf("%q writes %q, want %q", level, letters, want)
		}
	}
}

func TestPrivateValuesAreHidden(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a/?k=topsecret", nil)
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{"Authorization": {"Bearer topsecret"}}
	request.Header = header
	for _, format := range []string{"json", "text"} {
		for _, key := range []string{"key", "Key", "api_key", "api-key", "hive.key", "Authorization", "prompt", "system_prompt", "password", "token", "secret", "Cookie"} {
			got := line(t, logging.Options{Format: format}, func(l *slog.Logger) { l.With(key, "topsecret").Info("x", key, "topsecret") })
			if strings.Contains(got, "topsecret") || !strings.Contains(got, "***") {
				t.Errorf("%s %s: %s", format, key, got)
			}
		}
		got := line(t, logging.Options{Format: format}, func(l *slog.Logger) {
			l.WithGroup("prompt").Info("x", "text", "topsecret")
			l.Info("x", slog.Group("request", "prompt", "topsecret"), "header", header, "request", request)
			l.Info("x", "value", masked("topsecret"))
		})
		if strings.Contains(got, "topsecret") {
			t.Errorf("%s: %s", format, got)
		}
	}
}

// masked is a value that says itself how it is logged.
type masked string

func (masked) LogValue() slog.Value { return slog.StringValue("masked") }

func TestHarmlessNamesAreNotHidden(t *testing.T) {
	got := line(t, logging.Options{}, func(l *slog.Logger) {
		l.Info("x", "keyboard", "one", "key_file", "two", "tokens", "three", "prompt_tokens", 5, "hive_key_file", "four")
	})
	for _, want := range []string{"one", "two", "three", "four", `"prompt_tokens":5`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is hidden in %s", want, got)
		}
	}
}

func TestTheLogTellsTheCauseThatTheUserIsNotTold(t *testing.T) {
	cause := errors.New("open /dev/x: permission denied")
	err := fmt.Errorf("cannot spawn: %w", rbee.Errorf(rbee.CodeInternalError, "cannot start").WithCause(cause))
	for _, format := range []string{"json", "text"} {
		got := line(t, logging.Options{Format: format}, func(l *slog.Logger) { l.Error("x", "err", err) })
		if !strings.Contains(got, "cannot spawn: INTERNAL_ERROR: cannot start: open /dev/x: permission denied") {
			t.Errorf("%s: %s", format, got)
		}
		wrapped := rbee.Errorf(rbee.CodeInternalError, "cannot start: %w", cause)
		got = line(t, logging.Options{Format: format}, func(l *slog.Logger) { l.Error("x", "err", wrapped) })
		if strings.Count(got, "permission denied") != 1 {
			t.Errorf("%s tells the cause twice: %s", format, got)
		}
	}
}
