package rbee

import "time"

// Route is one way to serve a request, and what its first token is expected to
// take. Times are seconds.
type Route struct {
	Hive     HiveID    `json:"hive"`
	HiveName string    `json:"hive_name"`
	Worker   WorkerID  `json:"worker,omitempty" doc:"absent where one would be started"`
	Kind     RouteKind `json:"kind" enum:"ready,loading,start,download"`
	Cost     RouteCost `json:"cost"`
	Excluded string    `json:"excluded,omitempty" doc:"why it cannot be taken, whatever it would cost"`
}

// RouteKind says what a route needs before the model can compute.
type RouteKind string

// The kinds of routes, the one with least to do first.
const (
	RouteReady    RouteKind = "ready"    // a worker that is ready
	RouteLoading  RouteKind = "loading"  // a worker that loads already
	RouteStart    RouteKind = "start"    // a load from the hive's disk
	RouteDownload RouteKind = "download" // a download, then a load
)

// RouteCost is the expected time to first token, in seconds, and its parts.
type RouteCost struct {
	Total          float64 `json:"total_s"`
	Queue          float64 `json:"queue_s" doc:"until a slot is free"`
	Load           float64 `json:"load_s" doc:"until the model is loaded"`
	Evict          float64 `json:"evict_s,omitempty" doc:"what the workers that would end for it cost others"`
	Download       float64 `json:"download_s,omitempty"`
	Prefill        float64 `json:"prefill_s" doc:"of the tokens that are not cached"`
	Guard          float64 `json:"guard_s,omitempty" doc:"added where a worker is close to more than it can do"`
	CachedTokens   int     `json:"cached_tokens,omitempty" doc:"of the prompt, as far as one can tell from outside"`
	UncachedTokens int     `json:"uncached_tokens"`
}

// RouteRequest is what a decision knows of a request: no text of it.
type RouteRequest struct {
	ModelRef     ModelRef `json:"model_ref"`
	PromptTokens int      `json:"prompt_tokens" doc:"estimated from its length"`
	Prefix       []uint32 `json:"prefix,omitempty" doc:"chain of hashes of what it begins with (package prefix)"`
	Node         string   `json:"node,omitempty" doc:"the hive that must serve it, by name or id"`
	Tried        []HiveID `json:"tried,omitempty" doc:"hives that failed it already"`
}

// RouteDecision is where a request goes, or why nowhere, and all alternatives.
type RouteDecision struct {
	Chosen   *Route  `json:"chosen,omitempty" doc:"absent where no hive can serve the request"`
	Others   []Route `json:"others" nullable:"false" doc:"best first, some of them"`
	Code     Code    `json:"code,omitempty" doc:"of a request that no hive can serve"`
	Sentence string  `json:"sentence" doc:"the reason"`
}

// Plan is the answer to POST /v1/plan: where a request would go.
type Plan struct {
	Request RouteRequest `json:"request"`
	RouteDecision
}

// DecisionRecord is the body of GET /v1/decisions/{request_id}: where a request
// went, and why. The last attempt is the one that counts.
type DecisionRecord struct {
	RequestID string            `json:"request_id"`
	Time      time.Time         `json:"time" format:"date-time"`
	Attempts  []DecisionAttempt `json:"attempts" nullable:"false"`
	Outcome   *Outcome          `json:"outcome,omitempty" doc:"absent while it runs"`
}

// DecisionRecordList is the body of a queen's GET /v1/decisions, newest first.
// The state of the colony is told for single requests only.
type DecisionRecordList struct {
	Decisions []DecisionRecord `json:"decisions" nullable:"false"`
}

// DecisionAttempt is one decision, and the state of the colony that it was made
// of: the same input always leads to the same decision.
type DecisionAttempt struct {
	Plan
	Input  RouteInput `json:"input"`
	Failed *Error     `json:"failed,omitempty" doc:"why the next attempt was made"`
}

// RouteInput is what of the colony a decision about one model depends on.
type RouteInput struct {
	Hives []RouteHive `json:"hives" nullable:"false"`
}

// RouteHive is a hive as a decision sees it: only what concerns one model.
type RouteHive struct {
	ID            HiveID        `json:"id"`
	Name          string        `json:"name"`
	Excluded      string        `json:"excluded,omitempty" doc:"why it takes no request"`
	StartsNone    string        `json:"starts_none,omitempty" doc:"why it starts no worker"`
	Model         *ColonyModel  `json:"model,omitempty" doc:"absent where it is not on disk"`
	DownloadMBps  float64       `json:"download_mbps,omitempty"`
	DownloadBytes int64         `json:"download_bytes,omitempty" doc:"of a model that it can fetch, 0 for unknown"`
	Workers       []RouteWorker `json:"workers,omitempty"`
	Sent          int           `json:"sent,omitempty" doc:"requests for the model that were sent here to have it started, and wait"`
	SentTokens    int           `json:"sent_tokens,omitempty" doc:"of the prompts of these, not computed yet"`
	SentPrefix    []uint32      `json:"sent_prefix,omitempty" doc:"what of the request's prefix these begin with"`
}

// RouteWorker is a worker as a decision sees it.
type RouteWorker struct {
	ColonyWorker
	Sent       int      `json:"sent,omitempty" doc:"requests of this queen that its hive has not told of yet; less than none where more have ended since"`
	SentTokens int      `json:"sent_tokens,omitempty" doc:"of the prompts of this queen's requests there, not computed yet"`
	SentPrefix []uint32 `json:"sent_prefix,omitempty" doc:"what of the request's prefix this queen's requests there begin with"`
	Prefixes   []uint32 `json:"prefixes,omitempty" doc:"what of the request's prefix is in its cache, as its hive told"`
}

// Outcome is how a request ended.
type Outcome struct {
	Status  int    `json:"status" doc:"of HTTP; 499 for a client that left"`
	Error   *Error `json:"error,omitempty"`
	QueueMS int64  `json:"queue_ms" doc:"in the queen's own queue"`
	FirstMS int64  `json:"first_ms,omitempty" doc:"to the first token, as the queen saw it"`
	TotalMS int64  `json:"total_ms"`
}
