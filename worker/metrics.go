package worker

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rbee/worker/engine"
)

// metrics are the figures of GET /metrics.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	ttft     prometheus.Histogram
	interval prometheus.Histogram
}

func newMetrics(f *floor) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rbee_worker_requests_total", Help: "Generations that ended, by the reason of their end.",
		}, []string{"reason"}),
		ttft: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rbee_worker_ttft_seconds", Help: "Time from a request to its first token.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
		interval: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rbee_worker_inter_token_seconds", Help: "Mean time between two tokens of a generation.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
	m.registry.MustRegister(m.requests, m.ttft, m.interval,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, read func(engine.Stats) int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return float64(read(f.stats())) }))
	}
	counter := func(name, help string, read func(engine.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
			func() float64 { return float64(read(f.stats())) }))
	}
	gauge("rbee_worker_slots", "Requests that can be served in parallel.", func(s engine.Stats) int { return s.SlotsTotal })
	gauge("rbee_worker_slots_busy", "Slots that serve a request.", func(s engine.Stats) int { return s.SlotsBusy })
	gauge("rbee_worker_queued_requests", "Requests that wait for a slot.", func(s engine.Stats) int { return s.Queued })
	gauge("rbee_worker_queue_size_requests", "Requests that may wait for a slot.", func(s engine.Stats) int { return s.QueueSize })
	gauge("rbee_worker_kv_used_tokens", "Cells of the KV cache that are promised to requests.", func(s engine.Stats) int { return s.KVUsed })
	gauge("rbee_worker_kv_size_tokens", "Cells of the KV cache.", func(s engine.Stats) int { return s.KVTotal })
	counter("rbee_worker_steps_total", "Batches computed.", func(s engine.Stats) uint64 { return s.Steps })
	counter("rbee_worker_prompt_tokens_total", "Tokens of prompts.", func(s engine.Stats) uint64 { return s.PromptTokens })
	counter("rbee_worker_generated_tokens_total", "Tokens generated.", func(s engine.Stats) uint64 { return s.GeneratedTokens })
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// ended counts a generation that got as far as the engine.
func (m *metrics) ended(reason string, g *generation) {
	m.requests.WithLabelValues(reason).Inc()
	if g.tokens > 0 {
		m.ttft.Observe(g.first.Seconds())
	}
	if g.tokens > 1 {
		m.interval.Observe(g.result.Decode.Seconds() / float64(g.tokens-1))
	}
}
