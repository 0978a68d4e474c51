package queen

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rbee"
	"rbee/internal/httpapi"
)

// routes is the queen's API; httpapi adds GET /openapi.json.
func (q *Queen) routes() []httpapi.Route {
	return []httpapi.Route{
		{
			Method: http.MethodGet, Path: "/v1/health", Access: httpapi.Public,
			Summary: "Says that the queen lives, and its versions.",
			Handler: httpapi.JSON(health),
		},
		{
			Method: http.MethodGet, Path: "/health", Access: httpapi.Public,
			Summary: "The same as /v1/health, for probes that know no API.",
			Handler: httpapi.JSON(health),
		},
		{
			Method: http.MethodGet, Path: "/metrics",
			Summary: "Figures of the queen in the text format of Prometheus.",
			Handler: httpapi.Raw(metrics()),
		},
		{
			Method: http.MethodPost, Path: "/v1/shutdown", Status: http.StatusAccepted,
			Summary: "Ends the queen: it finishes the requests that run, and exits.",
			Handler: httpapi.JSON(q.shutdown),
		},
	}
}

type healthReply struct{ Body rbee.Health }

func health(context.Context, *struct{}) (*healthReply, error) {
	return &healthReply{rbee.Alive()}, nil
}

type messageReply struct{ Body rbee.Message }

func (q *Queen) shutdown(context.Context, *struct{}) (*messageReply, error) {
	q.asked()
	return &messageReply{rbee.Message{Message: "The queen shuts down"}}, nil
}

// metrics serves a registry of the queen's own: the global one would be shared
// by all daemons of a test.
func metrics() http.Handler {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "rbee_queen_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": rbee.Version, "api_version": rbee.APIVersion},
	})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}
