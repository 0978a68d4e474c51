package fake

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"rbee"
)

// Env is the environment variable from which test programs take their script.
const Env = "RBEE_FAKE_ENGINE"

// Script tells a fake engine how to behave. The zero value loads at once,
// generates at once and ends its texts after 200 tokens. Tokens are counted
// from 1 in each request.
type Script struct {
	Load        time.Duration // how long a load takes
	LoadStallAt int           // layer at which a load stands still, 0 is never
	Layers      int           // default 12
	Context     int           // tokens that the model is trained with, default 1024
	Refuse      string        // a load fails, for this reason
	Prefill     time.Duration // how long a prompt takes, however long it is
	Token       time.Duration // how long each token takes, whatever other slots do
	StallAt     int           // token that never comes, 0 is none
	FailAt      int           // token in whose place INTERNAL_ERROR comes, 0 is none
	CrashAt     int           // token in whose place the process ends, 0 is none
	CrashCode   int           // its exit code, default 134
	EOSAt       int           // tokens of a text that ends by itself, default 200

	// PrefillToken is how long each token of a prompt takes, besides Prefill. With it
	// prompts are computed one after the other, and what a sequence that runs or ran
	// began with is not computed again, as far as there are KV cells for it.
	PrefillToken time.Duration

	Hold <-chan struct{} // if not nil, each token takes one message first
	Exit func(code int)  // default os.Exit
}

func (s Script) layers() int {
	if s.Layers > 0 {
		return s.Layers
	}
	return 12
}

func (s Script) context() int {
	if s.Context > 0 {
		return s.Context
	}
	return 1024
}

func (s Script) eosAt() int {
	if s.EOSAt > 0 {
		return s.EOSAt
	}
	return 200
}

func (s Script) exit() {
	code := s.CrashCode
	if code == 0 {
		code = 134
	}
	if s.Exit != nil {
		s.Exit(code)
		return
	}
	os.Exit(code)
}

// ParseScript reads a script such as "load=2s,token=50ms,crash_at=12". The
// empty string is the zero Script. Keys: load, load_stall_at, layers, context,
// refuse, prefill, prefill_token, token, stall_at, fail_at, crash_at, crash_code,
// eos_at.
func ParseScript(text string) (Script, error) {
	var s Script
	durations := map[string]*time.Duration{"load": &s.Load, "prefill": &s.Prefill, "prefill_token": &s.PrefillToken, "token": &s.Token}
	numbers := map[string]*int{
		"load_stall_at": &s.LoadStallAt, "layers": &s.Layers, "context": &s.Context, "stall_at": &s.StallAt, "fail_at": &s.FailAt,
		"crash_at": &s.CrashAt, "crash_code": &s.CrashCode, "eos_at": &s.EOSAt,
	}
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		key, value, _ := strings.Cut(entry, "=")
		var err error
		switch {
		case key == "refuse":
			s.Refuse = value
		case durations[key] != nil:
			*durations[key], err = time.ParseDuration(value)
		case numbers[key] != nil:
			*numbers[key], err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("there is no key %q", key)
		}
		if err != nil {
			return Script{}, rbee.Errorf(rbee.CodeInvalidRequest, "cannot read the script of the fake engine: %v", err)
		}
	}
	return s, nil
}
