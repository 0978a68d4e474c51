package queen

import (
	"net/http"
	"slices"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
)

// routes is the queen's API; httpapi adds GET /openapi.json.
func (q *Queen) routes() []httpapi.Route {
	return slices.Concat(q.ownRoutes(), q.colonyRoutes(), q.openAIRoutes(), q.decisionRoutes())
}

// ownRoutes are about the queen herself.
func (q *Queen) ownRoutes() []httpapi.Route {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	return []httpapi.Route{
		{
			Method: get, Path: "/v1/health", Access: httpapi.Public,
			Summary: "Says that the queen lives, and its versions.", Handler: httpapi.JSON(q.health),
		},
		{
			Method: get, Path: "/health", Access: httpapi.Public,
			Summary: "The same as /v1/health, for probes that know no API.", Handler: httpapi.JSON(q.health),
		},
		{
			Method: get, Path: "/metrics",
			Summary: "Figures of the queen in the text format of Prometheus.", Handler: httpapi.Raw(q.metrics.handler()),
		},
		{
			Method: get, Path: "/v1/status",
			Summary: "How the queen stands with her bus, her colony and the hive of her machine.", Handler: httpapi.JSON(q.showStatus),
		},
		{
			Method: get, Path: "/v1/tokens",
			Summary: "Lists the tokens with which hives and queens join the colony.", Handler: httpapi.JSON(q.listTokens),
		},
		{
			Method: post, Path: "/v1/tokens", Status: http.StatusCreated,
			Summary: "Makes a token. Its text is told this once.", Handler: httpapi.JSON(q.makeToken),
		},
		{
			Method: del, Path: "/v1/tokens/{id}", Status: http.StatusNoContent,
			Summary: "Makes a token worthless, and cuts off who came with it.", Handler: httpapi.JSON(q.revokeToken),
		},
		{
			Method: post, Path: "/v1/shutdown", Status: http.StatusAccepted,
			Summary: "Ends the queen, and the hive that she started with its workers.", Handler: httpapi.JSON(q.orderShutdown),
		},
	}
}

// colonyRoutes tell of the hives of all machines.
func (q *Queen) colonyRoutes() []httpapi.Route {
	get := http.MethodGet
	return []httpapi.Route{
		{
			Method: get, Path: "/v1/hives",
			Summary: "Lists the hives of the colony, with all that they told.", Handler: httpapi.JSON(q.listHives),
		},
		{
			Method: get, Path: "/v1/workers",
			Summary: "Lists the live workers of all hives.", Handler: httpapi.JSON(q.listWorkers),
		},
		{
			Method: get, Path: "/v1/devices",
			Summary: "Lists the devices of all hives.", Handler: httpapi.JSON(q.listDevices),
		},
		{
			Method: get, Path: "/v1/events",
			Summary: "A snapshot of the colony, then each change.", Handler: httpapi.Stream[struct{}, rbee.ColonyEvent](sse.ContentType, q.streamEvents),
		},
	}
}

// openAIRoutes are those of OpenAI's API: what a worker has, for all hives at once.
func (q *Queen) openAIRoutes() []httpapi.Route {
	get, post := http.MethodGet, http.MethodPost
	return []httpapi.Route{
		{
			Method: post, Path: "/v1/chat/completions", OpenAI: true,
			Summary: "OpenAI's chat completions, where the first token is expected soonest.", Handler: httpapi.RawFunc(q.dispatch.OpenAI),
		},
		{
			Method: post, Path: "/v1/completions", OpenAI: true,
			Summary: "OpenAI's completions, in the same way.", Handler: httpapi.RawFunc(q.dispatch.OpenAI),
		},
		{
			Method: post, Path: "/v1/embeddings", OpenAI: true,
			Summary: "OpenAI's embeddings, in the same way.", Handler: httpapi.RawFunc(q.dispatch.OpenAI),
		},
		{
			Method: post, Path: "/v1/chat/template", OpenAI: true,
			Summary: "The prompt that a conversation becomes, as the model's worker writes it.", Handler: httpapi.RawFunc(q.dispatch.OpenAI),
		},
		{
			Method: get, Path: "/v1/models", OpenAI: true,
			Summary: "Lists the models of all hives, and where each is ready, loads, or is on disk.", Handler: httpapi.JSON(q.dispatch.ListModels),
		},
		{
			Method: get, Path: "/v1/models/{model...}", OpenAI: true,
			Summary: "Tells of one model of the colony.", Handler: httpapi.RawFunc(q.dispatch.ShowModel),
		},
	}
}

// decisionRoutes tell where requests go, and why.
func (q *Queen) decisionRoutes() []httpapi.Route {
	get, post := http.MethodGet, http.MethodPost
	return []httpapi.Route{
		{
			Method: post, Path: "/v1/plan",
			Summary: "Says where a request would go, what that would take, and why. Nothing is sent.", Handler: httpapi.JSON(q.dispatch.Plan),
		},
		{
			Method: get, Path: "/v1/decisions",
			Summary: "Where the last requests went, newest first.", Handler: httpapi.JSON(q.dispatch.ListDecisions),
		},
		{
			Method: get, Path: "/v1/decisions/{id}",
			Summary: "Where a request went, why, and the state of the colony that this was decided of.", Handler: httpapi.JSON(q.dispatch.ShowDecision),
		},
	}
}
