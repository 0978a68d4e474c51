package worker

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
	"rbee/worker/engine"
	"rbee/worker/openai"
)

// progressPath is where the loading can be followed, below the worker's base URL.
const progressPath = "/v1/loading/progress"

// routes is the worker's API: its own, and OpenAI's as far as a worker serves it.
func (w *Worker) routes() []httpapi.Route {
	return append(w.ownRoutes(), []httpapi.Route{
		{
			Method: http.MethodPost, Path: "/v1/chat/completions", OpenAI: true,
			Summary: "OpenAI's chat: an answer to a conversation, whole or as a stream of events.", Handler: openAIRoute(w, "chat", openai.ReadChat, (*openAI).chat),
		},
		{
			Method: http.MethodPost, Path: "/v1/completions", OpenAI: true,
			Summary: "OpenAI's completions: text that goes on from a prompt.", Handler: openAIRoute(w, "text_completion", openai.ReadCompletion, (*openAI).complete),
		},
		{
			Method: http.MethodPost, Path: "/v1/embeddings", OpenAI: true,
			Summary: "OpenAI's embeddings: a vector for each text.", Handler: openAIRoute(w, "embeddings", openai.ReadEmbedding, (*openAI).embed),
		},
		{
			Method: http.MethodGet, Path: "/v1/models", OpenAI: true,
			Summary: "The model that is loaded, as OpenAI lists models.", Handler: httpapi.RawFunc(w.listModels),
		},
		{
			Method: http.MethodGet, Path: "/v1/models/{model...}", OpenAI: true,
			Summary: "The model that is loaded, by any of its names.", Handler: httpapi.RawFunc(w.showModel),
		},
		{
			Method: http.MethodPost, Path: "/v1/chat/template", OpenAI: true,
			Summary: "The prompt that a conversation becomes; the body is that of a chat.", Handler: openAIRoute(w, "template", openai.ReadChat, (*openAI).showPrompt),
		},
	}...)
}

func (w *Worker) ownRoutes() []httpapi.Route {
	return []httpapi.Route{
		{
			Method: http.MethodGet, Path: "/v1/health", Access: httpapi.Public,
			Summary: "Whether the worker lives, and its versions.", Handler: httpapi.JSON(health),
		},
		{
			Method: http.MethodGet, Path: "/health", Access: httpapi.Public,
			Summary: "The same as /v1/health.", Handler: httpapi.JSON(health),
		},
		{
			Method: http.MethodGet, Path: "/v1/ready", Access: httpapi.Public,
			Summary: "Whether the worker takes requests: 200, or 503 while it loads or drains.", Handler: httpapi.JSON(w.readiness),
		},
		{
			Method: http.MethodGet, Path: progressPath,
			Summary: "How far the loading is: the present state at once, then changes to the end.",
			Handler: httpapi.Stream[struct{}, rbee.LoadProgress](sse.ContentType, w.loading),
		},
		{
			Method: http.MethodPost, Path: "/v1/inference",
			Summary: "Generates text: a stream of events, or with stream=false one InferReply.",
			Handler: httpapi.Stream[inferIn, rbee.InferEvent](sse.ContentType, w.infer),
		},
		{
			Method: http.MethodDelete, Path: "/v1/inference/{request_id}", Status: http.StatusNoContent,
			Summary: "Ends a generation; one that does not run is no error.", Handler: httpapi.JSON(w.cancelInfer),
		},
		{
			Method: http.MethodPost, Path: "/v1/tokenize",
			Summary: "The tokens of a text.", Handler: httpapi.JSON(w.tokenize),
		},
		{
			Method: http.MethodPost, Path: "/v1/detokenize",
			Summary: "The text of tokens.", Handler: httpapi.JSON(w.detokenize),
		},
		{
			Method: http.MethodGet, Path: "/v1/slots",
			Summary: "What each slot does.", Handler: httpapi.JSON(w.slots),
		},
		{
			Method: http.MethodPost, Path: "/v1/admin/rest",
			Summary: "Gives back the memory of the KV cache until the next request; CONFLICT while requests run.", Handler: httpapi.JSON(w.adminRest),
		},
		{
			Method: http.MethodPost, Path: "/v1/admin/shutdown",
			Summary: "Finishes what runs, for at most 30 s, takes nothing new, and ends.", Handler: httpapi.JSON(w.adminShutdown),
		},
		{
			Method: http.MethodPost, Path: "/v1/shutdown",
			Summary: "Ends the streams with a last event, and the worker within 5 s.", Handler: httpapi.JSON(w.shutdown),
		},
		{
			Method: http.MethodGet, Path: "/metrics",
			Summary: "The worker's figures in the text format of Prometheus.", Handler: httpapi.Raw(w.metrics.handler()),
		},
	}
}

// OpenAPI is the OpenAPI 3.1 document of the worker's API.
func OpenAPI() ([]byte, error) { return New(Config{}).api.OpenAPI() }

type body[T any] struct{ Body T }

func health(context.Context, *struct{}) (*body[rbee.Health], error) {
	return &body[rbee.Health]{rbee.Alive()}, nil
}

type readyOut struct {
	Status int
	Body   rbee.Readiness
}

func (w *Worker) readiness(context.Context, *struct{}) (*readyOut, error) {
	out := &readyOut{Status: http.StatusServiceUnavailable, Body: rbee.Readiness{State: w.floor.state()}}
	if now, _, _ := w.progress.state(); now.Stage == rbee.LoadError {
		out.Body.State = rbee.WorkerFailed
	}
	switch {
	case out.Body.State.Ready():
		out.Status = http.StatusOK
		out.Body.Ready, out.Body.ModelLoaded = true, true
		info, stats := w.floor.figures()
		out.Body.SlotsTotal, out.Body.SlotsBusy, out.Body.Context = info.Slots, stats.SlotsBusy, info.Context
	case out.Body.State == rbee.WorkerLoading:
		out.Body.ProgressURL = progressPath
	}
	return out, nil
}

func (w *Worker) loading(ctx context.Context, _ *struct{}, rw http.ResponseWriter) error {
	out := sse.NewWriter(rw)
	err := w.progress.watch(ctx, func(p rbee.LoadProgress) error { return out.JSON(p) })
	if err != nil {
		return err
	}
	return out.Done()
}

func (w *Worker) slots(context.Context, *struct{}) (*body[rbee.SlotList], error) {
	eng, err := w.floor.use()
	if err != nil {
		return nil, err
	}
	stats := eng.Stats()
	list := rbee.SlotList{
		Queued: stats.Queued, QueueSize: stats.QueueSize, KVUsedTokens: stats.KVUsed,
		KVCachedTokens: stats.KVCached, KVSizeTokens: stats.KVTotal, Slots: []rbee.Slot{},
		Speed: w.speed.now(),
	}
	for _, s := range eng.Slots() {
		list.Slots = append(list.Slots, rbee.Slot{
			Slot: s.Slot, State: string(s.State), PromptTokens: s.PromptTokens, CachedTokens: s.CachedTokens,
			GeneratedTokens: s.GeneratedTokens, MaxTokens: s.MaxTokens, KVTokens: s.KVTokens, RunningMS: s.Running.Milliseconds(),
		})
	}
	return &body[rbee.SlotList]{list}, nil
}

type requestIDIn struct {
	RequestID string `path:"request_id" maxLength:"128"`
}

func (w *Worker) cancelInfer(_ context.Context, in *requestIDIn) (*struct{}, error) {
	w.floor.cancel(in.RequestID)
	return nil, nil
}

type tokenizeIn struct {
	Body    rbee.TokenizeRequest
	RawBody []byte
}

// Resolve reports what the schema cannot see.
func (in *tokenizeIn) Resolve(huma.Context) []error { return textFault(in.RawBody) }

func (w *Worker) tokenize(_ context.Context, in *tokenizeIn) (*body[rbee.TokenizeReply], error) {
	e, err := w.floor.use()
	if err != nil {
		return nil, err
	}
	tokens, err := e.Tokenize(in.Body.Text, in.Body.AddSpecial)
	if err != nil {
		return nil, err
	}
	if tokens == nil {
		tokens = []int32{}
	}
	return &body[rbee.TokenizeReply]{rbee.TokenizeReply{Tokens: tokens}}, nil
}

func (w *Worker) detokenize(_ context.Context, in *body[rbee.DetokenizeRequest]) (*body[rbee.DetokenizeReply], error) {
	e, err := w.floor.use()
	if err != nil {
		return nil, err
	}
	text := strings.ToValidUTF8(string(e.Detokenize(in.Body.Tokens)), "\ufffd")
	return &body[rbee.DetokenizeReply]{rbee.DetokenizeReply{Text: text}}, nil
}

func (w *Worker) adminRest(context.Context, *struct{}) (*body[rbee.Message], error) {
	eng, err := w.floor.use()
	if err != nil {
		return nil, err
	}
	if n := w.floor.running(); n > 0 { // also those that have not come to the engine yet
		return nil, engine.ErrRunning(n)
	}
	if err := eng.Rest(); err != nil {
		return nil, err
	}
	w.log.Info("resting")
	return &body[rbee.Message]{rbee.Message{Message: "Worker rests until the next request"}}, nil
}

func (w *Worker) adminShutdown(context.Context, *struct{}) (*body[rbee.Message], error) {
	w.log.Info("told to finish and end")
	w.doDrain(errShutdown)
	return &body[rbee.Message]{rbee.Message{Message: "Worker finishes what runs and shuts down"}}, nil
}

func (w *Worker) shutdown(context.Context, *struct{}) (*body[rbee.Message], error) {
	w.log.Info("told to end")
	w.doEnd(errShutdown)
	return &body[rbee.Message]{rbee.Message{Message: "Worker shuts down"}}, nil
}
