package hive

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rbee"
	"rbee/hive/pool"
)

// metrics are the figures of a hive. Labels are states and codes, never ids.
type metrics struct {
	registry    *prometheus.Registry
	spawns      prometheus.Counter
	failures    *prometheus.CounterVec
	ends        *prometheus.CounterVec
	shutdowns   *prometheus.CounterVec
	loads       prometheus.Histogram
	rulings     *prometheus.CounterVec
	evictions   prometheus.Counter
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
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rbee_hive_worker_ends_total", Help: "Workers that ended, by cause: failed, or the order that ended them.",
		}, []string{"cause"}),
		shutdowns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rbee_hive_worker_shutdowns_total", Help: "Processes of workers that were told to end, by whether they did so by themselves or were killed.",
		}, []string{"clean"}),
		loads: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rbee_hive_worker_load_seconds", Help: "From the start of a worker's process until it was ready.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300},
		}),
		rulings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rbee_hive_decisions_total", Help: "Decisions about memory, by verdict.",
		}, []string{"verdict"}),
		evictions:   prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_hive_worker_evictions_total", Help: "Idle workers that decisions ended for another model."}),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "rbee_hive_requests_in_flight", Help: "Requests that workers compute now."}),
		relayEvents: prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_hive_relay_events_total", Help: "Events passed from workers to callers."}),
		relayBytes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_hive_relay_bytes_total", Help: "Bytes of event streams passed from workers to callers."}),
	}
	m.registry.MustRegister(m.spawns, m.failures, m.ends, m.shutdowns, m.loads, m.rulings, m.evictions, m.inFlight, m.relayEvents, m.relayBytes, &workerStates{h},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) loaded(w rbee.Worker) {
	if w.LoadMS > 0 {
		m.loads.Observe(float64(w.LoadMS) / 1000)
	}
}

func (m *metrics) ended(w rbee.Worker, cause pool.Cause) {
	m.ends.WithLabelValues(string(cause)).Inc()
	switch {
	case w.State == rbee.WorkerFailed && w.Failure != nil:
		m.failures.WithLabelValues(string(w.Failure.Code)).Inc()
	case w.State == rbee.WorkerStopped && w.PID != 0:
		m.shutdowns.WithLabelValues(strconv.FormatBool(w.ExitCause == "exit status 0")).Inc()
	}
	if cause == pool.CauseEvicted {
		m.evictions.Inc()
	}
}

func (m *metrics) decided(d rbee.Decision) { m.rulings.WithLabelValues(string(d.Verdict)).Inc() }

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
