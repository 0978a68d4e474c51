package hive

import (
	"net/http"
	"slices"

	"rbee"
	"rbee/internal/httpapi"
	"rbee/internal/sse"
)

// routes is the API of a hive.
func (h *Hive) routes() []httpapi.Route {
	return slices.Concat(h.workerRoutes(), h.holdRoutes(), h.colonyRoutes(), h.openAIRoutes(), h.modelRoutes())
}

func (h *Hive) workerRoutes() []httpapi.Route {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	return []httpapi.Route{
		{
			Method: get, Path: "/health", Access: httpapi.Public,
			Summary: "Says that the hive lives.", Handler: httpapi.JSON(h.health),
		},
		{
			Method: get, Path: "/v1/health", Access: httpapi.Public,
			Summary: "Says that the hive lives, and its versions.", Handler: httpapi.JSON(h.health),
		},
		{
			Method: get, Path: "/v1/devices",
			Summary: "Lists the devices of the machine, and why a backend is not available.", Handler: httpapi.JSON(h.listDevices),
		},
		{
			Method: post, Path: "/v1/workers/spawn", Status: http.StatusAccepted,
			Summary: "Starts a worker for a model. It answers while the worker loads.", Handler: httpapi.JSON(h.spawnWorker),
		},
		{
			Method: post, Path: "/v1/workers/ready",
			Summary: "Takes a worker's word that it answers on its port. An unknown one is listed as external.", Handler: httpapi.JSON(h.workerReady),
		},
		{
			Method: get, Path: "/v1/workers/list",
			Summary: "Lists the live workers, oldest first.", Handler: httpapi.JSON(h.listWorkers),
		},
		{
			Method: get, Path: "/v1/workers/{id}",
			Summary: "Tells of one worker, live or ended not long ago.", Handler: httpapi.JSON(h.showWorker),
		},
		{
			Method: del, Path: "/v1/workers/{id}", Status: http.StatusNoContent,
			Summary: "Drains a worker, then ends it, and answers when it is gone. An external one is only forgotten.", Handler: httpapi.JSON(h.stopWorker),
		},
		{
			Method: get, Path: "/v1/workers/{id}/logs",
			Summary: "The worker's own output, one line each.", Handler: httpapi.Stream[logsIn, string]("text/plain; charset=utf-8", h.workerLogs),
		},
		{
			Method: get, Path: "/v1/workers/{id}/metrics",
			Summary: "The worker's figures in the text format of Prometheus.", Handler: httpapi.RawFunc(h.workerMetrics),
		},
		{
			Path:    "/v1/workers/{id}/v1/{path...}",
			Summary: "The worker's own API, relayed without buffering.", Handler: httpapi.RawFunc(h.relay.serve),
		},
		{
			Method: get, Path: "/v1/events",
			Summary: "A snapshot of the workers, then each change.", Handler: httpapi.Stream[struct{}, rbee.Event](sse.ContentType, h.streamEvents),
		},
		{
			Method: post, Path: "/v1/shutdown",
			Summary: "Ends the workers, then the hive.", Handler: httpapi.JSON(h.orderShutdown),
		},
		{
			Method: get, Path: "/metrics",
			Summary: "The figures of the hive in the text format of Prometheus.", Handler: httpapi.Raw(h.metrics.handler()),
		},
	}
}

// holdRoutes are about what the hive holds and takes on.
func (h *Hive) holdRoutes() []httpapi.Route {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	return []httpapi.Route{
		{
			Method: post, Path: "/v1/workers/{id}/pin",
			Summary: "Keeps a worker from being ended for another model or by idleness.", Handler: httpapi.JSON(h.pinWorker),
		},
		{
			Method: del, Path: "/v1/workers/{id}/pin",
			Summary: "Takes the pin of a worker away.", Handler: httpapi.JSON(h.unpinWorker),
		},
		{
			Method: get, Path: "/v1/decisions",
			Summary: "The last decisions about memory, newest first, with all that they were made of.", Handler: httpapi.JSON(h.listDecisions),
		},
		{
			Method: get, Path: "/v1/status",
			Summary: "What the hive takes on, why, and how its memory is used.", Handler: httpapi.JSON(h.showStatus),
		},
		{
			Method: post, Path: "/v1/cordon",
			Summary: "Has the hive start no more workers; those it has go on.", Handler: httpapi.JSON(h.cordon),
		},
		{
			Method: post, Path: "/v1/uncordon",
			Summary: "Takes cordon and drain back.", Handler: httpapi.JSON(h.uncordon),
		},
		{
			Method: post, Path: "/v1/drain",
			Summary: "Has the hive take no more requests, finish what runs, and end its workers.", Handler: httpapi.JSON(h.drain),
		},
	}
}

func (h *Hive) colonyRoutes() []httpapi.Route {
	return []httpapi.Route{
		{
			Method: http.MethodPost, Path: "/v1/colony/join",
			Summary: "Has the hive join a colony, and keeps the token for later starts. It answers when the colony has taken the hive in; a refusal changes nothing.",
			Handler: httpapi.JSON(h.joinColony),
		},
		{
			Method: http.MethodDelete, Path: "/v1/colony", Status: http.StatusNoContent,
			Summary: "Has the hive leave its colony, and forget the token. Its workers go on.", Handler: httpapi.JSON(h.leaveColony),
		},
	}
}

// openAIRoutes find the worker by the model that a request names.
func (h *Hive) openAIRoutes() []httpapi.Route {
	post := http.MethodPost
	return []httpapi.Route{
		{
			Method: post, Path: "/v1/chat/completions", OpenAI: true,
			Summary: "OpenAI's chat completions, by a worker of the model, which is started if there is none.", Handler: httpapi.RawFunc(h.openAI),
		},
		{
			Method: post, Path: "/v1/completions", OpenAI: true,
			Summary: "OpenAI's completions, in the same way.", Handler: httpapi.RawFunc(h.openAI),
		},
		{
			Method: post, Path: "/v1/embeddings", OpenAI: true,
			Summary: "OpenAI's embeddings, in the same way.", Handler: httpapi.RawFunc(h.openAI),
		},
		{
			Method: post, Path: "/v1/chat/template", OpenAI: true,
			Summary: "The prompt that a conversation becomes, as the model's worker writes it.", Handler: httpapi.RawFunc(h.openAI),
		},
	}
}

func (h *Hive) modelRoutes() []httpapi.Route {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	return []httpapi.Route{
		{
			Method: get, Path: "/v1/models",
			Summary: "Lists the models on this machine that can be served as they are.", Handler: httpapi.JSON(h.listModels),
		},
		{
			Method: get, Path: "/v1/models/{ref...}",
			Summary: "Tells of one model on this machine, and of the memory that it takes.", Handler: httpapi.RawFunc(h.showModel),
		},
		{
			Method: get, Path: "/v1/models/variants",
			Summary: "Lists what a repository of the hub offers, best first, and what of it fits here.", Handler: httpapi.JSON(h.listVariants),
		},
		{
			Method: get, Path: "/v1/models/search",
			Summary: "Finds repositories with GGUF files on the hub.", Handler: httpapi.JSON(h.searchModels),
		},
		{
			Method: get, Path: "/v1/models/usage",
			Summary: "Says what the models take on the disk, and which files no model needs.", Handler: httpapi.JSON(h.showUsage),
		},
		{
			Method: post, Path: "/v1/models/download", Status: http.StatusAccepted,
			Summary: "Brings a model to this machine. It answers when it is known where the file is going to be.", Handler: httpapi.JSON(h.startDownload),
		},
		{
			Method: get, Path: "/v1/models/download/progress",
			Summary: "The present state of a download, then each change.", Handler: httpapi.Stream[downloadIn, rbee.DownloadProgress](sse.ContentType, h.followDownload),
		},
		{
			Method: del, Path: "/v1/models/download/{id}", Status: http.StatusNoContent,
			Summary: "Takes a wish for a download back. When nobody else wants it, it ends, and what has arrived is kept.", Handler: httpapi.JSON(h.cancelDownload),
		},
		{
			Method: post, Path: "/v1/models/verify",
			Summary: "Reads model files and compares their digests. A damaged one is set aside.",
			Handler: httpapi.Stream[struct{ Body rbee.VerifyRequest }, rbee.StoreProgress](sse.ContentType, h.verifyModels),
		},
		{
			Method: post, Path: "/v1/models/import",
			Summary: "Takes GGUF files of this machine into the store, by links: one file, or what another program keeps.",
			Handler: httpapi.Stream[struct{ Body rbee.ImportRequest }, rbee.StoreProgress](sse.ContentType, h.importModels),
		},
		{
			Method: post, Path: "/v1/models/export",
			Summary: "Gives a model a name outside the store.",
			Handler: httpapi.Stream[struct{ Body rbee.ExportRequest }, rbee.StoreProgress](sse.ContentType, h.exportModel),
		},
		{
			Method: post, Path: "/v1/models/gc",
			Summary: "Removes the files that no model needs, and the models that the quota has no room for.", Handler: httpapi.JSON(h.collectModels),
		},
		{
			Method: del, Path: "/v1/models/{ref...}",
			Summary: "Takes a model out of the catalog, and its file out of the store. A model in use is CONFLICT.", Handler: httpapi.RawFunc(h.removeModel),
		},
	}
}
