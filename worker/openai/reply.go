package openai

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// Kinds of replies.
const (
	KindChat       = "chat.completion"
	KindChatChunk  = "chat.completion.chunk"
	KindCompletion = "text_completion"
)

// Usage counts tokens.
type Usage struct {
	PromptTokens     int               `json:"prompt_tokens"`
	CompletionTokens int               `json:"completion_tokens"`
	TotalTokens      int               `json:"total_tokens"`
	Prompt           *PromptDetails    `json:"prompt_tokens_details,omitempty"`
	Completion       *CompletionDetail `json:"completion_tokens_details,omitempty"`
}

// PromptDetails says how much of a prompt was not computed again.
type PromptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

// CompletionDetail says what the generated tokens were.
type CompletionDetail struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

// Timings say where the time went, in milliseconds.
type Timings struct {
	QueuedMS       float64 `json:"queued_ms"`
	PrefillMS      float64 `json:"prefill_ms"`
	DecodeMS       float64 `json:"decode_ms"`
	DraftTokens    int     `json:"draft_tokens,omitempty"`
	AcceptedTokens int     `json:"accepted_tokens,omitempty"`
}

// Milliseconds is a duration as Timings holds it.
func Milliseconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e3 }

// Alternative is a token with its probability.
type Alternative struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

// TokenLogprob is a token of an answer, and what might have come in its place.
type TokenLogprob struct {
	Alternative
	Top []Alternative `json:"top_logprobs"`
}

// NewAlternative makes one of a token's bytes. JSON has no infinity, so an
// impossible token gets what OpenAI gives it.
func NewAlternative(text []byte, logprob float64) Alternative {
	a := Alternative{Token: string(text), Logprob: max(logprob, -9999), Bytes: make([]int, 0, len(text))}
	if math.IsNaN(a.Logprob) || math.IsInf(a.Logprob, 1) {
		a.Logprob = -9999
	}
	for _, b := range text {
		a.Bytes = append(a.Bytes, int(b))
	}
	return a
}

// Logprobs are those of an answer.
type Logprobs struct {
	Content []TokenLogprob `json:"content"`
}

// TextLogprobs are those of a completion.
type TextLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []float64            `json:"token_logprobs"`
	Top      []map[string]float64 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"` // in characters
}

// Add adds a token that begins at the offset.
func (l *TextLogprobs) Add(t TokenLogprob, offset int) {
	l.Tokens = append(l.Tokens, t.Token)
	l.Logprobs = append(l.Logprobs, t.Logprob)
	top := make(map[string]float64, len(t.Top))
	for _, a := range t.Top {
		top[a.Token] = a.Logprob
	}
	l.Top = append(l.Top, top)
	l.Offsets = append(l.Offsets, offset)
}

// Function is a called tool and its arguments, which are JSON.
type Function struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// ToolCall is a call that the model makes.
type ToolCall struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Function Function `json:"function"`
}

// AnswerMessage is the answer to a conversation.
type AnswerMessage struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
	Reasoning string     `json:"reasoning_content,omitempty"`
	Calls     []ToolCall `json:"tool_calls,omitempty"`
}

// ChatChoice is one answer.
type ChatChoice struct {
	Index        int           `json:"index"`
	Message      AnswerMessage `json:"message"`
	Logprobs     *Logprobs     `json:"logprobs"`
	FinishReason string        `json:"finish_reason"`
}

// TextChoice is one completion.
type TextChoice struct {
	Index        int           `json:"index"`
	Text         string        `json:"text"`
	Logprobs     *TextLogprobs `json:"logprobs"`
	FinishReason string        `json:"finish_reason"`
}

// Reply is the body of a request without a stream; Choice is ChatChoice or TextChoice.
type Reply[Choice any] struct {
	ID          string   `json:"id"`
	Object      string   `json:"object"`
	Created     int64    `json:"created"`
	Model       string   `json:"model"`
	Fingerprint string   `json:"system_fingerprint"`
	Choices     []Choice `json:"choices"`
	Usage       Usage    `json:"usage"`
	Timings     Timings  `json:"timings"`
}

// Head is what all events of a stream begin with.
type Head []byte

// NewHead makes the beginning of the events of one stream.
func NewHead(id, kind, model, fingerprint string, created int64) Head {
	b := append([]byte(nil), `{"id":`...)
	b = AppendString(b, []byte(id))
	b = append(b, `,"object":`...)
	b = AppendString(b, []byte(kind))
	b = append(b, `,"created":`...)
	b = strconv.AppendInt(b, created, 10)
	b = append(b, `,"model":`...)
	b = AppendString(b, []byte(model))
	b = append(b, `,"system_fingerprint":`...)
	b = AppendString(b, []byte(fingerprint))
	return append(b, ',')
}

// AppendDelta appends an event with a piece of an answer: a field of the delta,
// such as content, and its text.
func (h Head) AppendDelta(b []byte, index int, begins bool, field string, text []byte, logprobs json.RawMessage) []byte {
	b = h.openDelta(b, index, begins)
	b = append(b, '"')
	b = append(b, field...)
	b = append(b, `":`...)
	b = AppendString(b, text)
	return closeDelta(b, logprobs)
}

// AppendCall appends an event that begins a call of a tool.
func (h Head) AppendCall(b []byte, index int, begins bool, call int, id, name string) []byte {
	b = h.openDelta(b, index, begins)
	b = append(b, `"tool_calls":[{"index":`...)
	b = strconv.AppendInt(b, int64(call), 10)
	b = append(b, `,"id":`...)
	b = AppendString(b, []byte(id))
	b = append(b, `,"type":"function","function":{"name":`...)
	b = AppendString(b, []byte(name))
	b = append(b, `,"arguments":""}}]`...)
	return closeDelta(b, nil)
}

// AppendArguments appends an event with a piece of a call's arguments.
func (h Head) AppendArguments(b []byte, index, call int, piece []byte) []byte {
	b = h.openDelta(b, index, false)
	b = append(b, `"tool_calls":[{"index":`...)
	b = strconv.AppendInt(b, int64(call), 10)
	b = append(b, `,"function":{"arguments":`...)
	b = AppendString(b, piece)
	b = append(b, `}}]`...)
	return closeDelta(b, nil)
}

func (h Head) openDelta(b []byte, index int, begins bool) []byte {
	b = append(b, h...)
	b = append(b, `"choices":[{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"delta":{`...)
	if begins {
		b = append(b, `"role":"assistant",`...)
	}
	return b
}

func closeDelta(b []byte, logprobs json.RawMessage) []byte {
	b = append(b, '}')
	return closeChoice(b, logprobs, "")
}

func closeChoice(b []byte, logprobs json.RawMessage, reason string) []byte {
	b = append(b, `,"logprobs":`...)
	if len(logprobs) > 0 {
		b = append(b, logprobs...)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"finish_reason":`...)
	if reason == "" {
		return append(b, "null}]}"...)
	}
	b = append(b, '"')
	b = append(b, reason...)
	return append(b, `"}]`...)
}

// AppendFinish appends the last event of one answer of a chat.
func (h Head) AppendFinish(b []byte, index int, begins bool, reason string, logprobs json.RawMessage, t Timings) []byte {
	b = h.openDelta(b, index, false)
	if begins {
		b = append(b, `"role":"assistant","content":""`...)
	}
	b = append(b, '}')
	return appendTimings(closeChoice(b, logprobs, reason), t)
}

// AppendText appends an event with a piece of a completion; with a reason it is the last.
func (h Head) AppendText(b []byte, index int, text []byte, logprobs json.RawMessage, reason string, t Timings) []byte {
	b = append(b, h...)
	b = append(b, `"choices":[{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"text":`...)
	b = AppendString(b, text)
	b = closeChoice(b, logprobs, reason)
	if reason == "" {
		return b
	}
	return appendTimings(b, t)
}

// appendTimings ends an event.
func appendTimings(b []byte, t Timings) []byte {
	b = append(b, `,"timings":`...)
	b = append(b, Encode(t)...)
	return append(b, '}')
}

// AppendUsage appends the event that tells the usage at the end.
func (h Head) AppendUsage(b []byte, u Usage) []byte {
	b = append(b, h...)
	b = append(b, `"choices":[],"usage":`...)
	b = append(b, Encode(u)...)
	return append(b, '}')
}

// Encode is the JSON of one of the types of this package, which always have one.
func Encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}

const hexDigits = "0123456789abcdef"

// AppendString appends a text as a JSON string. Bytes that are no UTF-8 become U+FFFD.
func AppendString(b, text []byte) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, text[from:i]...)
		switch {
		case c >= utf8.RuneSelf:
			b = append(b, `\ufffd`...)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	b = append(b, text[from:]...)
	return append(b, '"')
}

// Embedding is one vector. Values are numbers, or their bytes in base64.
type Embedding struct {
	Object string `json:"object"`
	Index  int    `json:"index"`
	Values any    `json:"embedding"`
}

// EmbeddingReply is the body of the reply to an EmbeddingRequest.
type EmbeddingReply struct {
	Object string      `json:"object"`
	Data   []Embedding `json:"data"`
	Model  string      `json:"model"`
	Usage  Usage       `json:"usage"`
}

// Base64 is a vector as OpenAI packs it: 32-bit floats, little end first.
func Base64(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// Model describes a model that is served.
type Model struct {
	ID      string    `json:"id"`
	Object  string    `json:"object"`
	Created int64     `json:"created"`
	OwnedBy string    `json:"owned_by"`
	Meta    ModelMeta `json:"meta"`
}

// ModelMeta is what is known of a model beyond OpenAI's fields.
type ModelMeta struct {
	Name          string `json:"name,omitempty"`
	Architecture  string `json:"architecture,omitempty"`
	Quantisation  string `json:"quantisation,omitempty"`
	Parameters    uint64 `json:"parameters,omitempty"`
	SizeBytes     int64  `json:"size_bytes,omitempty"`
	Vocabulary    int    `json:"vocabulary,omitempty"`
	ContextTokens int    `json:"context_tokens,omitempty"`
	Embedding     int    `json:"embedding_length,omitempty"`

	FillsGaps bool     `json:"fills_gaps,omitempty"`    // completions take a suffix
	Adapters  []string `json:"lora_adapters,omitempty"` // their names; the id in requests is the place in this list
}

// ModelList is the body of GET /v1/models.
type ModelList struct {
	Object string  `json:"object"`
	Data   []Model `json:"data"`
}
