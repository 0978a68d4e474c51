package rbee

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of an inference request.
const (
	MaxPromptBytes    = 1 << 20
	MaxStops          = 16
	MaxStopCharacters = 256
)

// Defaults of an inference request.
const (
	DefaultMaxTokens         = 256
	DefaultTemperature       = 0.7
	DefaultTopP              = 1.0
	DefaultRepetitionPenalty = 1.0
	DefaultTimeoutSeconds    = 300
)

// InferRequest asks a worker for tokens. Absent fields take the defaults above
// (Normalize sets them).
type InferRequest struct {
	Prompt            string             `json:"prompt" doc:"at most 1 MiB of UTF-8"`
	MaxTokens         *int               `json:"max_tokens,omitempty" doc:"default 256"`
	Temperature       *float64           `json:"temperature,omitempty" doc:"0 to 2, default 0.7; 0 is greedy"`
	TopP              *float64           `json:"top_p,omitempty" doc:"0 to 1, default 1"`
	TopK              int                `json:"top_k,omitempty" doc:"0 is off"`
	MinP              float64            `json:"min_p,omitempty" doc:"0 to 1, 0 is off"`
	TypicalP          float64            `json:"typical_p,omitempty" doc:"0 to 1, 0 and 1 are off"`
	RepetitionPenalty *float64           `json:"repetition_penalty,omitempty" doc:"above 0, default 1 (off)"`
	FrequencyPenalty  float64            `json:"frequency_penalty,omitempty" doc:"-2 to 2, for each time that the answer has the token"`
	PresencePenalty   float64            `json:"presence_penalty,omitempty" doc:"-2 to 2, if the answer has the token"`
	Seed              *uint64            `json:"seed,omitempty" doc:"default random"`
	Stop              []string           `json:"stop,omitempty" doc:"at most 16 strings of 1 to 256 characters"`
	Stream            *bool              `json:"stream,omitempty" doc:"default true"`
	TimeoutSeconds    *int               `json:"timeout_seconds,omitempty" doc:"1 to 86400, default 300"`
	LogitBias         map[string]float64 `json:"logit_bias,omitempty" doc:"added to the logits of tokens, by their numbers; -100 bans"`
	Grammar           string             `json:"grammar,omitempty" doc:"GBNF grammar of the answer"`
	JSONSchema        json.RawMessage    `json:"json_schema,omitempty" doc:"JSON schema that the answer fits; in place of a grammar"`
	IgnoreEOS         bool               `json:"ignore_eos,omitempty" doc:"go on after the end-of-text token; for benchmarks"`
	LoRA              []LoRAScale        `json:"lora,omitempty" doc:"how strongly each adapter of the worker is applied; one that is not named is not. Default as the worker was started"`
	KeepAlive         any                `json:"keep_alive,omitempty" doc:"how long the worker may be idle afterwards: a duration such as 5m, a number of seconds, 0, or forever (also -1)"`
	RequestID         string             `json:"request_id,omitempty" doc:"default the X-Request-Id of the request"`
}

// LoRAScale says how strongly an adapter is applied.
type LoRAScale struct {
	ID    int     `json:"id" doc:"place of the adapter in the order in which the worker loaded them, from 0"`
	Scale float64 `json:"scale" doc:"-100 to 100; 0 is not at all"`
}

// MaxLoRAScale bounds the scale of an adapter, either way.
const MaxLoRAScale = 100

// KeepAliveHeader is how a worker tells its hive how long it may be idle after
// a request, as KeepAlive writes it.
const KeepAliveHeader = "X-Rbee-Keep-Alive"

// KeepAlive reads the keep_alive of a request, a value of JSON, and writes it
// in one way: a duration with units, 0, or forever; "" for none. The problem is
// "" if it can be read.
func KeepAlive(v any) (text, problem string) {
	const wrong = "must be a duration such as 5m, a number of seconds, 0, or forever"
	var d time.Duration
	switch v := v.(type) {
	case nil:
		return "", ""
	case float64:
		if math.IsNaN(v) || v*float64(time.Second) >= math.MaxInt64 {
			return "", wrong
		}
		d = time.Duration(max(v, -1) * float64(time.Second))
	case string:
		if v == "forever" {
			return v, ""
		}
		if seconds, err := strconv.ParseInt(v, 10, 32); err == nil {
			d = time.Duration(seconds) * time.Second
		} else if d, err = time.ParseDuration(v); err != nil {
			return "", wrong
		}
	default:
		return "", wrong
	}
	switch {
	case d < 0:
		return "forever", ""
	case d == 0:
		return "0", ""
	}
	return d.String(), ""
}

// Normalize sets the defaults of absent fields.
func (r *InferRequest) Normalize() {
	setDefault(&r.MaxTokens, DefaultMaxTokens)
	setDefault(&r.Temperature, DefaultTemperature)
	setDefault(&r.TopP, DefaultTopP)
	setDefault(&r.RepetitionPenalty, DefaultRepetitionPenalty)
	setDefault(&r.Stream, true)
	setDefault(&r.TimeoutSeconds, DefaultTimeoutSeconds)
}

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// Faults lists everything that is wrong with a normalized request. It never
// quotes the rejected values.
func (r *InferRequest) Faults() []Fault {
	var faults []Fault
	fault := func(field, format string, args ...any) {
		faults = append(faults, Fault{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	between := func(field string, v, low, high float64) {
		if math.IsNaN(v) || v < low || v > high {
			fault(field, "must be from %g to %g", low, high)
		}
	}
	switch {
	case r.Prompt == "":
		fault("prompt", "must not be empty")
	case len(r.Prompt) > MaxPromptBytes:
		fault("prompt", "must be at most %d bytes, has %d", MaxPromptBytes, len(r.Prompt))
	case !utf8.ValidString(r.Prompt):
		fault("prompt", "must be valid UTF-8")
	}
	if *r.MaxTokens < 1 {
		fault("max_tokens", "must be at least 1")
	}
	between("temperature", *r.Temperature, 0, 2)
	between("top_p", *r.TopP, 0, 1)
	between("min_p", r.MinP, 0, 1)
	between("typical_p", r.TypicalP, 0, 1)
	between("frequency_penalty", r.FrequencyPenalty, -2, 2)
	between("presence_penalty", r.PresencePenalty, -2, 2)
	if r.Grammar != "" && len(r.JSONSchema) > 0 {
		fault("json_schema", "cannot be combined with a grammar")
	}
	if r.TopK < 0 {
		fault("top_k", "must be 0 or more")
	}
	if p := *r.RepetitionPenalty; math.IsNaN(p) || p <= 0 || p > 10 {
		fault("repetition_penalty", "must be above 0 and at most 10")
	}
	between("timeout_seconds", float64(*r.TimeoutSeconds), 1, 86400)
	if len(r.Stop) > MaxStops {
		fault("stop", "must have at most %d strings, has %d", MaxStops, len(r.Stop))
	}
	for i, s := range r.Stop[:min(len(r.Stop), MaxStops)] {
		if n := utf8.RuneCountInString(s); n == 0 || n > MaxStopCharacters {
			fault(fmt.Sprintf("stop[%d]", i), "must have 1 to %d characters, has %d", MaxStopCharacters, n)
		}
	}
	if _, problem := KeepAlive(r.KeepAlive); problem != "" {
		fault("keep_alive", "%s", problem)
	}
	for i, l := range r.LoRA {
		if math.IsNaN(l.Scale) || math.Abs(l.Scale) > MaxLoRAScale {
			fault(fmt.Sprintf("lora[%d].scale", i), "must be from %d to %d", -MaxLoRAScale, MaxLoRAScale)
		}
	}
	if r.RequestID != "" && !ValidRequestID(r.RequestID) {
		fault("request_id", "must have at most 128 letters, digits, '.', '_', ':' or '-'")
	}
	return faults
}

// ValidRequestID says whether an id from a caller may name a request: it is
// written to logs and headers as it is.
func ValidRequestID(id string) bool {
	return id != "" && len(id) <= 128 && strings.IndexFunc(id, func(c rune) bool {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return false
		}
		return !strings.ContainsRune("._:-", c)
	}) < 0
}

// StopReason says why a generation ended.
type StopReason string

// The reasons.
const (
	StopLength   StopReason = "length"   // max_tokens reached
	StopString   StopReason = "stop"     // one of the stop strings came
	StopEOS      StopReason = "eos"      // the model ended its text
	StopCanceled StopReason = "canceled" // DELETE, or the client went away
	StopShutdown StopReason = "shutdown" // the worker ends
)

// InferEvent is one event of the stream of POST /v1/inference: a token, then
// tokens, then the end; or an error. Exactly one of Token (with Index), Done
// and Error is meant.
type InferEvent struct {
	Token string `json:"token"`
	Index int    `json:"index"`

	*InferDone
	Error *Error `json:"error,omitempty"`
}

// InferDone is the last event of a stream. Durations are milliseconds.
type InferDone struct {
	Done         bool       `json:"done"`
	TotalTokens  int        `json:"total_tokens" doc:"tokens generated"`
	DurationMS   int64      `json:"duration_ms"`
	StopReason   StopReason `json:"stop_reason" enum:"length,stop,eos,canceled,shutdown"`
	PromptTokens int        `json:"prompt_tokens"`
	CachedTokens int        `json:"cached_tokens" doc:"prompt tokens whose KV was reused"`
	QueuedMS     float64    `json:"queued_ms" doc:"until the first work on the prompt"`
	PrefillMS    float64    `json:"prefill_ms" doc:"from there to the first token"`
	DecodeMS     float64    `json:"decode_ms" doc:"from the first token to the end"`
}

// InferReply is the body of POST /v1/inference with stream=false.
type InferReply struct {
	RequestID string `json:"request_id"`
	Text      string `json:"text"`
	InferDone
}

// TokenizeRequest asks for the tokens of a text.
type TokenizeRequest struct {
	Text       string `json:"text" maxLength:"1048576"`
	AddSpecial bool   `json:"add_special,omitempty" doc:"add the tokens that begin a text, such as <s>"`
}

// TokenizeReply holds token ids.
type TokenizeReply struct {
	Tokens []int32 `json:"tokens" nullable:"false"`
}

// DetokenizeRequest asks for the text of tokens.
type DetokenizeRequest struct {
	Tokens []int32 `json:"tokens" maxItems:"1048576" nullable:"false"`
}

// DetokenizeReply holds a text; bytes that are no UTF-8 become U+FFFD.
type DetokenizeReply struct {
	Text string `json:"text"`
}
