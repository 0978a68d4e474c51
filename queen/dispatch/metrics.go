package dispatch

import (
	"github.com/prometheus/client_golang/prometheus"

	"rbee"
)

// metrics are the figures of a dispatcher. Labels are ends and codes, never ids.
type metrics struct {
	requests *prometheus.CounterVec
	retries  prometheus.Counter
	inFlight prometheus.Gauge
	first    prometheus.Histogram
	events   prometheus.Counter
	bytes    prometheus.Counter
}

func newMetrics(r prometheus.Registerer, q *queue) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rbee_queen_requests_total", Help: "Requests that ended, by how: answered, or the code of their failure.",
		}, []string{"end"}),
		retries:  prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_queen_retries_total", Help: "Attempts that failed before the first token and were made elsewhere."}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rbee_queen_requests_in_flight", Help: "Requests that are here now."}),
		first: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rbee_queen_first_token_seconds", Help: "From a request to its first token, or to the whole reply where it is no stream.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300},
		}),
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_queen_relay_events_total", Help: "Events passed from hives to clients."}),
		bytes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "rbee_queen_relay_bytes_total", Help: "Bytes of event streams passed from hives to clients."}),
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rbee_queen_requests_waiting", Help: "Requests in the queue: for a model to be loaded, or for a slot.",
	}, func() float64 { return float64(q.size()) })
	if r != nil {
		r.MustRegister(m.requests, m.retries, m.inFlight, m.first, m.events, m.bytes, waiting)
	}
	return m
}

// refused counts a request that was not understood.
func (m *metrics) refused(err error) {
	m.requests.WithLabelValues(string(rbee.AsError(err).Code)).Inc()
}

func (m *metrics) ended(o rbee.Outcome) {
	end := "answered"
	if o.Error != nil {
		end = string(o.Error.Code)
	}
	m.requests.WithLabelValues(end).Inc()
}
