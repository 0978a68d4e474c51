package conf

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// hidden is what a Secret prints as.
const hidden = "***"

// Secret is a text that must not be seen: in fmt, JSON, YAML and logs it is
// "***", or "" where there is none.
type Secret string

// Reveal is the text itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the text.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// Format hides the text from every verb, also %x and %#v.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, s.String()) }

// MarshalText hides the text from JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue hides the text from logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// KeepAlive is how long a worker may be idle before it is ended: a duration,
// 0 for the moment its last request is over, or Forever.
type KeepAlive time.Duration

// Forever is the KeepAlive of a worker that idleness never ends.
const Forever KeepAlive = -1

// ParseKeepAlive reads a duration such as 5m, or 0, or forever.
func ParseKeepAlive(s string) (KeepAlive, error) {
	if s == "forever" {
		return Forever, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("must be a duration with a unit such as 5m, or 0, or forever")
	}
	return KeepAlive(d), nil
}

// Duration is the idle time, and false for Forever.
func (k KeepAlive) Duration() (time.Duration, bool) { return time.Duration(k), k >= 0 }

// String prints what ParseKeepAlive reads.
func (k KeepAlive) String() string {
	switch {
	case k < 0:
		return "forever"
	case k == 0:
		return "0"
	}
	return shortDuration(time.Duration(k))
}

// MarshalText implements encoding.TextMarshaler.
func (k KeepAlive) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *KeepAlive) UnmarshalText(b []byte) error {
	v, err := ParseKeepAlive(string(b))
	if err == nil {
		*k = v
	}
	return err
}

// Set and Type make a KeepAlive a flag.
func (k *KeepAlive) Set(s string) error { return k.UnmarshalText([]byte(s)) }

// Type names the value in a flag's help.
func (*KeepAlive) Type() string { return "duration" }

// Path is the path of a file or directory. "~/" at its beginning is the user's
// home. In config.yaml it must be absolute, since each program has a working
// directory of its own; in the environment and in flags it may be relative.
type Path string
