// Package openai reads the requests of OpenAI's API and writes its replies, as
// far as one worker with one model serves it: chat completions, completions,
// embeddings, models.
//
// Fields that it does not know are ignored; known ones of the wrong type or
// outside their range are reported, all at once, and never quoted. The package
// knows bytes and limits, and neither engines nor HTTP.
package openai

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"rbee"
	"rbee/worker/engine/sampling"
)

// Limits of requests.
const (
	MaxChoices     = 8    // n
	MaxPrompts     = 64   // of one completion, times n
	MaxInputs      = 2048 // of one request for embeddings
	MaxMessages    = 65536
	MaxTools       = 256
	MaxBiases      = 4096
	MaxTopLogprobs = 20
	MaxAdapters    = 64
	maxNameLength  = 64
)

// Options are what all requests for text have in common.
type Options struct {
	Model        string
	N            int
	Stream       bool
	IncludeUsage bool
	MaxTokens    int // 0 for as many as there is room for
	Stop         []string
	Sampling     sampling.Params
	Seeded       bool
	IgnoreEOS    bool
	Grammar      string           // GBNF, or ""
	Timeout      int              // seconds, 0 for none
	KeepAlive    string           // as rbee.KeepAlive writes it
	LoRA         []rbee.LoRAScale // nil for none named
}

// Needs implements Request.
func (o *Options) Needs() Needs { return Needs{o.Model, o.Timeout, o.KeepAlive} }

// Request is what a body was read into.
type Request interface{ Needs() Needs }

// Needs are what all requests may ask for.
type Needs struct {
	Model     string // "" for any
	Timeout   int    // seconds that the answer may take, 0 for no bound
	KeepAlive string // how long the worker may be idle afterwards, "" for nothing said
}

// fields are those of one JSON object, and what is wrong with them.
type fields struct {
	at     string // path of the object, with a dot behind it, or ""
	raw    map[string]json.RawMessage
	faults *[]rbee.Fault
}

// parse reads the object that is a request's body.
func parse(body []byte) (*fields, error) {
	f := &fields{faults: new([]rbee.Fault)}
	switch {
	case !utf8.Valid(body):
		return nil, rbee.InvalidRequest(rbee.Fault{Field: "body", Problem: "is not valid UTF-8"})
	case !json.Valid(body):
		return nil, rbee.InvalidRequest(rbee.Fault{Field: "body", Problem: "is not valid JSON"})
	case json.Unmarshal(body, &f.raw) != nil || f.raw == nil:
		return nil, rbee.InvalidRequest(rbee.Fault{Field: "body", Problem: "must be an object"})
	}
	return f, nil
}

// err is all that is wrong, or nil.
func (f *fields) err() error {
	if len(*f.faults) > 0 {
		return rbee.InvalidRequest(*f.faults...)
	}
	return nil
}

// maxFaults keeps the list of what is wrong readable.
const maxFaults = 32

func (f *fields) fault(name, problem string, args ...any) {
	known := func(other rbee.Fault) bool { return other.Field == f.at+name } // one of a field is enough
	if len(*f.faults) < maxFaults && !slices.ContainsFunc(*f.faults, known) {
		*f.faults = append(*f.faults, rbee.Fault{Field: f.at + name, Problem: fmt.Sprintf(problem, args...)})
	}
}

func (f *fields) has(name string) bool {
	v, ok := f.raw[name]
	return ok && string(v) != "null"
}

// read decodes a field that is there and not null. It says whether it did.
func read[T any](f *fields, name, want string, into *T) bool {
	if !f.has(name) {
		return false
	}
	var v T
	if json.Unmarshal(f.raw[name], &v) != nil {
		f.fault(name, "must be %s", want)
		return false
	}
	*into = v
	return true
}

// object is a field that is an object itself; nil if it is not there.
func (f *fields) object(name string) *fields {
	var raw map[string]json.RawMessage
	if !read(f, name, "an object", &raw) {
		return nil
	}
	return &fields{at: f.at + name + ".", raw: raw, faults: f.faults}
}

// objects is a field that is a list of objects.
func (f *fields) objects(name string, most int) []*fields {
	var list []json.RawMessage
	if !read(f, name, "a list", &list) {
		return nil
	}
	if len(list) > most {
		f.fault(name, "must have at most %d entries, has %d", most, len(list))
		return nil
	}
	all := make([]*fields, 0, len(list))
	for i, one := range list {
		at := fmt.Sprintf("%s[%d]", name, i)
		var raw map[string]json.RawMessage
		if json.Unmarshal(one, &raw) != nil || raw == nil {
			f.fault(at, "must be an object")
			continue
		}
		all = append(all, &fields{at: f.at + at + ".", raw: raw, faults: f.faults})
	}
	return all
}

func (f *fields) text(name string) string {
	s := ""
	read(f, name, "a string", &s)
	return s
}

func (f *fields) flag(name string) bool {
	b := false
	read(f, name, "true or false", &b)
	return b
}

func (f *fields) whole(name string, missing, low, high int) int {
	n := missing
	if read(f, name, "a whole number", &n) && (n < low || n > high) {
		if high == math.MaxInt {
			f.fault(name, "must be at least %d", low)
		} else {
			f.fault(name, "must be from %d to %d", low, high)
		}
	}
	return n
}

func (f *fields) number(name string, missing, low, high float64) float64 {
	x := missing
	if read(f, name, "a number", &x) && (math.IsNaN(x) || x < low || x > high) {
		f.fault(name, "must be from %g to %g", low, high)
	}
	return x
}

// options reads what requests for text have in common.
func (f *fields) options() Options {
	o := Options{
		Model: f.text("model"), N: f.whole("n", 1, 1, MaxChoices), Stream: f.flag("stream"),
		Stop: f.stops(), IgnoreEOS: f.flag("ignore_eos"), Grammar: f.text("grammar"),
		Timeout: f.whole("timeout_seconds", 0, 1, 86400),
		Sampling: sampling.Params{
			Temperature: f.number("temperature", rbee.DefaultTemperature, 0, 2),
			TopP:        f.number("top_p", rbee.DefaultTopP, 0, 1),
			TopK:        f.whole("top_k", 0, -1, math.MaxInt32),
			MinP:        f.number("min_p", 0, 0, 1), Typical: f.number("typical_p", 0, 0, 1),
			FrequencyPenalty:  f.number("frequency_penalty", 0, -2, 2),
			PresencePenalty:   f.number("presence_penalty", 0, -2, 2),
			RepetitionPenalty: f.repetition(), Bias: f.bias(),
		},
	}
	o.Sampling.TopK = max(0, o.Sampling.TopK) // -1 is off, as others write it
	o.MaxTokens = f.whole("max_tokens", 0, 1, math.MaxInt)
	if f.has("max_completion_tokens") {
		o.MaxTokens = f.whole("max_completion_tokens", 0, 1, math.MaxInt)
	}
	o.KeepAlive, o.LoRA = f.keepAlive(), f.lora()
	var seed json.Number
	if o.Seeded = read(f, "seed", "a whole number", &seed); o.Seeded {
		o.Sampling.Seed, o.Seeded = wholeSeed(seed)
		if !o.Seeded {
			f.fault("seed", "must be a whole number of at most 64 bits")
		}
	}
	if so := f.object("stream_options"); so != nil {
		o.IncludeUsage = so.flag("include_usage")
	}
	return o
}

func (f *fields) keepAlive() string {
	var v any
	read(f, "keep_alive", "a string or a number", &v)
	text, problem := rbee.KeepAlive(v)
	if problem != "" {
		f.fault("keep_alive", "%s", problem)
	}
	return text
}

func (f *fields) lora() []rbee.LoRAScale {
	if !f.has("lora") {
		return nil
	}
	all := []rbee.LoRAScale{}
	for _, one := range f.objects("lora", MaxAdapters) {
		if !one.has("id") {
			one.fault("id", "is missing")
		}
		all = append(all, rbee.LoRAScale{
			ID: one.whole("id", 0, 0, MaxAdapters), Scale: one.number("scale", 1, -rbee.MaxLoRAScale, rbee.MaxLoRAScale),
		})
	}
	return all
}

// wholeSeed takes what fits into 64 bits, with a sign or without.
func wholeSeed(n json.Number) (uint64, bool) {
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return uint64(i), true //nolint:gosec // a negative seed is as good as any
	}
	u, err := strconv.ParseUint(string(n), 10, 64)
	return u, err == nil
}

// repetition is the penalty, under its name here and under that of others.
func (f *fields) repetition() float64 {
	name := "repetition_penalty"
	if !f.has(name) && f.has("repeat_penalty") {
		name = "repeat_penalty"
	}
	p := 1.0
	if read(f, name, "a number", &p) && (math.IsNaN(p) || p <= 0 || p > 10) {
		f.fault(name, "must be above 0 and at most 10")
	}
	return p
}

// stops is one string or a list of them.
func (f *fields) stops() []string {
	if !f.has("stop") {
		return nil
	}
	var one string
	var list []string
	if json.Unmarshal(f.raw["stop"], &one) == nil {
		list = []string{one}
	} else if !read(f, "stop", "a string or a list of strings", &list) {
		return nil
	}
	if len(list) > rbee.MaxStops {
		f.fault("stop", "must have at most %d strings, has %d", rbee.MaxStops, len(list))
		return nil
	}
	for i, s := range list {
		if n := utf8.RuneCountInString(s); n == 0 || n > rbee.MaxStopCharacters {
			f.fault(fmt.Sprintf("stop[%d]", i), "must have 1 to %d characters, has %d", rbee.MaxStopCharacters, n)
		}
	}
	return list
}

func (f *fields) bias() map[int32]float32 {
	var raw map[string]float64
	if !read(f, "logit_bias", "an object of numbers", &raw) {
		return nil
	}
	bias, fault := Bias(raw)
	if fault != "" {
		f.fault("logit_bias", "%s", fault)
	}
	return bias
}

// Bias reads a logit bias, whose keys are the numbers of tokens. The fault is "" if it is well.
func Bias(raw map[string]float64) (bias map[int32]float32, fault string) {
	if len(raw) > MaxBiases {
		return nil, fmt.Sprintf("must have at most %d tokens, has %d", MaxBiases, len(raw))
	}
	bias = make(map[int32]float32, len(raw))
	for key, b := range raw {
		token, err := strconv.ParseInt(key, 10, 32)
		if err != nil || token < 0 {
			return nil, "must have the numbers of tokens as keys"
		}
		if math.IsNaN(b) || b < -100 || b > 100 {
			return nil, "must have values from -100 to 100"
		}
		bias[int32(token)] = float32(b)
	}
	return bias, ""
}

// validName says whether a name can be that of a tool.
func validName(name string) bool {
	return name != "" && len(name) <= maxNameLength && strings.IndexFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_-.", c)
	}) < 0
}
