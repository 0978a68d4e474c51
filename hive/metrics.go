package hive

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rbee"
)

// metrics are the figures of a hive. Labels are states and codes, never ids.
type metrics struct {
	registry    *prometheus.Registry
	spawns      prometheus.Counter
	failures    *prometheus.CounterVec
	inFlight    prometheus.Gauge
	relayEvents prometheus.Counter
	relayBytes  prometheus.Counter
}

func newMetrics(h *Hive) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		spawns:   prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_hive_worker_spawns_total", Help: "Worker processes started."}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rbee_hive_worker_failures_total", Help: "Workers that ended unasked or were killed for cause, by error code.",
		}, []string{"reason"}),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "rbee_hive_requests_in_flight", Help: "Requests that workers compute now."}),
		relayEvents: prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_hive_relay_events_total", Help: "Events passed from workers to callers."}),
		relayBytes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_hive_relay_bytes_total", Help: "Bytes of event streams passed from workers to callers."}),
	}
	m.registry.MustRegister(m.spawns, m.failures, m.inFlight, m.relayEvents, m.relayBytes, &workerStates{h},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) workerEnded(w rbee.Worker) {
	if w.State == rbee.WorkerFailed && w.Failure != nil {
		m.failures.WithLabelValues(string(w.Failure.Code)).Inc()
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// workerStates counts the live workers when somebody asks.
type workerStates struct{ hive *Hive }

func (*workerStates) desc() *prometheus.Desc {
	return prometheus.NewDesc("rbee_hive_workers", "Live workers by state.", []string{"state"}, nil)
}

// Describe implements prometheus.Collector.
func (c *workerStates) Describe(out chan<- *prometheus.Desc) { out <- c.desc() }

// Collect implements prometheus.Collector.
func (c *workerStates) Collect(out chan<- prometheus.Metric) {
	count := map[rbee.WorkerState]int{}
	for _, w := range c.hive.pool.Workers() {
		count[w.State]++
	}
	for _, s := range rbee.WorkerStates() {
		if !s.Final() {
			out <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(count[s]), string(s))
		}
	}
}
