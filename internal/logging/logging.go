// Package logging makes the logger of a program: coloured text on a terminal,
// one JSON object per line elsewhere. Values that may be secret or private
// (keys, prompts) are hidden by the name of their attribute, whoever logs them.
//
// It sets no global logger and opens no file. The attribute keys that rbee uses
// are role, hive, worker, model, device, request_id, addr and err.
package logging

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"

	"rbee"
)

// hidden stands for a value that must not be seen.
const hidden = "***"

// Options say how to log. The zero value logs Info and above in the format
// that fits the writer.
type Options struct {
	Level  string // debug, info, warn or error; default info
	Format string // auto, text or json; default auto
	Role   string // keeper, queen, hive or worker; "" leaves the attribute out
}

// New makes a logger that writes to w. The settings are checked where they are
// read (package conf), so a level or format that it does not know is the default.
func New(w io.Writer, o Options) *slog.Logger {
	var level slog.Level // Info
	if err := level.UnmarshalText([]byte(o.Level)); err != nil {
		level = slog.LevelInfo
	}
	terminal := isTerminal(w)
	var h slog.Handler
	if o.Format == "text" || o.Format != "json" && terminal {
		h = tint.NewTextHandler(w, &tint.Options{
			Level:       level,
			ReplaceAttr: replace,
			TimeFormat:  time.TimeOnly,
			NoColor:     !terminal || os.Getenv("NO_COLOR") != "",
		})
	} else {
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: replace})
	}
	log := slog.New(h)
	if o.Role != "" {
		log = log.With("role", o.Role)
	}
	return log
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}

// replace hides what must not be seen, and tells the cause of an error, which
// its message leaves out because users read that.
func replace(groups []string, a slog.Attr) slog.Attr {
	if !harmless(a.Value.Kind()) && (private(a.Key) || slices.ContainsFunc(groups, private)) {
		return slog.String(a.Key, hidden)
	}
	switch v := a.Value.Any().(type) {
	case error:
		return slog.String(a.Key, withCause(v))
	case http.Header, *http.Request, *http.Response:
		return slog.String(a.Key, fmt.Sprintf("%s (%T)", hidden, v))
	}
	return a
}

// harmless says whether values of the kind are figures, such as prompt_tokens.
func harmless(k slog.Kind) bool {
	switch k {
	case slog.KindBool, slog.KindInt64, slog.KindUint64, slog.KindFloat64, slog.KindDuration, slog.KindTime:
		return true
	}
	return false
}

// private says whether an attribute with this name holds what must not be seen.
func private(key string) bool {
	key = strings.ToLower(strings.NewReplacer("-", "_", ".", "_", " ", "_").Replace(key))
	for _, word := range strings.Split(key, "_") {
		switch word {
		case "authorization", "key", "apikey", "prompt", "secret", "password", "cookie", "token":
			return !strings.HasSuffix(key, "key_file")
		}
	}
	return false
}

func withCause(err error) string {
	text := err.Error()
	var e *rbee.Error
	if !errors.As(err, &e) {
		return text
	}
	if cause := e.Unwrap(); cause != nil && !strings.Contains(text, cause.Error()) {
		text += ": " + withCause(cause)
	}
	return text
}
