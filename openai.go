package rbee

// PromptReply is the body of POST /v1/chat/template: what a conversation is to
// the model.
type PromptReply struct {
	Prompt       string `json:"prompt" doc:"the text that the model gets"`
	PromptTokens int    `json:"prompt_tokens"`
	Builtin      bool   `json:"builtin" doc:"the model has no chat template of its own"`
}

// SlotList is the body of a worker's GET /v1/slots.
type SlotList struct {
	Queued         int    `json:"queued_requests"`
	QueueSize      int    `json:"queue_size_requests"`
	KVUsedTokens   int    `json:"kv_used_tokens" doc:"KV cells of running requests; shared ones count once"`
	KVCachedTokens int    `json:"kv_cached_tokens" doc:"KV cells kept for prompts that begin alike"`
	KVSizeTokens   int    `json:"kv_size_tokens"`
	Slots          []Slot `json:"slots" nullable:"false"`

	Speed Speed `json:"speed" doc:"as measured on the requests that ended, the last ones most"`
}

// Speed is what a worker was measured to do. 0 is for what was not measured yet.
type Speed struct {
	PrefillPerSec float64 `json:"prefill_per_sec,omitempty" doc:"tokens of a prompt per second, of those that were not cached"`
	TokenMS       float64 `json:"token_ms,omitempty" doc:"between two tokens of one request"`
	RequestMS     float64 `json:"request_ms,omitempty" doc:"that a request holds its slot"`
}

// Slot is what one slot of a worker does.
type Slot struct {
	Slot            int    `json:"slot"`
	State           string `json:"state" enum:"idle,prefill,generating,blocked"`
	PromptTokens    int    `json:"prompt_tokens"`
	CachedTokens    int    `json:"cached_tokens" doc:"prompt tokens whose KV was reused"`
	GeneratedTokens int    `json:"generated_tokens"`
	MaxTokens       int    `json:"max_tokens"`
	KVTokens        int    `json:"kv_tokens" doc:"KV cells it holds, shared ones included"`
	RunningMS       int64  `json:"running_ms" doc:"since its request got it"`
}
