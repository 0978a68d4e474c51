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
	queued   prometheus.Histogram
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
		queued: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rbee_worker_queued_seconds", Help: "Time from a request to the first work on its prompt.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		interval: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rbee_worker_inter_token_seconds", Help: "Time between two tokens of a generation, without the client's.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
		}),
	}
	m.registry.MustRegister(m.requests, m.ttft, m.queued, m.interval,
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
	gauge("rbee_worker_kv_used_tokens", "Cells of the KV cache that running requests hold.", func(s engine.Stats) int { return s.KVUsed })
	gauge("rbee_worker_kv_cached_tokens", "Cells of the KV cache kept for prompts that begin alike.", func(s engine.Stats) int { return s.KVCached })
	gauge("rbee_worker_kv_packed_tokens", "Tokens whose KV is kept in main memory for prompts that begin alike.", func(s engine.Stats) int { return s.KVPacked })
	gauge("rbee_worker_kv_packed_bytes", "Main memory that these take.", func(s engine.Stats) int { return s.PackBytes })
	gauge("rbee_worker_kv_size_tokens", "Cells of the KV cache.", func(s engine.Stats) int { return s.KVTotal })
	gauge("rbee_worker_threads", "Compute threads of the last batch.", func(s engine.Stats) int { return s.Threads })
	counter("rbee_worker_steps_total", "Batches computed.", func(s engine.Stats) uint64 { return s.Steps })
	counter("rbee_worker_batch_tokens_total", "Tokens of all batches; by steps it is how full they are.", func(s engine.Stats) uint64 { return s.BatchTokens })
	counter("rbee_worker_prompt_tokens_total", "Tokens of prompts that were computed.", func(s engine.Stats) uint64 { return s.PromptTokens })
	counter("rbee_worker_cached_tokens_total", "Tokens of prompts whose KV was reused.", func(s engine.Stats) uint64 { return s.CachedTokens })
	counter("rbee_worker_cache_hits_total", "Requests that reused KV of others.", func(s engine.Stats) uint64 { return s.CacheHits })
	counter("rbee_worker_admitted_requests_total", "Requests that got a slot.", func(s engine.Stats) uint64 { return s.Requests })
	counter("rbee_worker_put_backs_total", "Times that a request lost its KV cells to older ones.", func(s engine.Stats) uint64 { return s.PutBacks })
	counter("rbee_worker_generated_tokens_total", "Tokens generated.", func(s engine.Stats) uint64 { return s.GeneratedTokens })
	counter("rbee_worker_draft_tokens_total", "Tokens proposed by speculation.", func(s engine.Stats) uint64 { return s.DraftTokens })
	counter("rbee_worker_accepted_tokens_total", "Proposed tokens that came true.", func(s engine.Stats) uint64 { return s.AcceptedTokens })
	counter("rbee_worker_embedded_tokens_total", "Tokens of texts that became vectors.", func(s engine.Stats) uint64 { return s.EmbeddedTokens })
	m.registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "rbee_worker_step_seconds_total", Help: "Time spent on batches."},
			func() float64 { return f.stats().StepTime.Seconds() }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "rbee_worker_compute_seconds_total", Help: "Of the time spent on batches, that in llama.cpp."},
			func() float64 { return f.stats().ComputeTime.Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "rbee_worker_last_step_seconds", Help: "Time that the last batch took."},
			func() float64 { return f.stats().LastStep.Seconds() }))
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
		m.queued.Observe(g.result.Queued.Seconds())
	}
}
