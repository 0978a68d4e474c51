package queen

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rbee"
)

// metrics are the figures of a queen. Labels are states and codes, never ids. The
// registry is her own: the global one would be shared by all daemons of a test.
type metrics struct {
	registry  *prometheus.Registry
	shutdowns *prometheus.CounterVec
}

func newMetrics(q *Queen) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		shutdowns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rbee_queen_hive_shutdowns_total", Help: "Hives that this queen had started and told to end, by whether they did so in order.",
		}, []string{"clean"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "rbee_queen_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": rbee.Version, "api_version": rbee.APIVersion},
	})
	build.Set(1)
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rbee_queen_bus_connected", Help: "1 while the queen hears the bus of her colony.",
	}, func() float64 {
		if q.busStatus().Connected {
			return 1
		}
		return 0
	})
	m.registry.MustRegister(build, connected, m.shutdowns, colonyStates{q},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// colonyStates counts hives and workers when somebody asks.
type colonyStates struct{ queen *Queen }

func (colonyStates) hives() *prometheus.Desc {
	return prometheus.NewDesc("rbee_queen_hives", "Known hives by presence.", []string{"presence"}, nil)
}

func (colonyStates) workers() *prometheus.Desc {
	return prometheus.NewDesc("rbee_queen_workers", "Workers of present hives by state.", []string{"state"}, nil)
}

// Describe implements prometheus.Collector.
func (c colonyStates) Describe(out chan<- *prometheus.Desc) {
	out <- c.hives()
	out <- c.workers()
}

// Collect implements prometheus.Collector.
func (c colonyStates) Collect(out chan<- prometheus.Metric) {
	hives, workers, _ := count(c.queen.registry.Hives())
	for _, p := range []rbee.HivePresence{rbee.HivePresent, rbee.HiveLost} {
		out <- prometheus.MustNewConstMetric(c.hives(), prometheus.GaugeValue, float64(hives[p]), string(p))
	}
	for _, s := range rbee.WorkerStates() {
		if !s.Final() {
			out <- prometheus.MustNewConstMetric(c.workers(), prometheus.GaugeValue, float64(workers[s]), string(s))
		}
	}
}

// count sums a colony up.
func count(list []rbee.ColonyHive) (hives map[rbee.HivePresence]int, workers map[rbee.WorkerState]int, models int) {
	hives, workers = map[rbee.HivePresence]int{}, map[rbee.WorkerState]int{}
	refs := map[rbee.ModelRef]bool{}
	for _, h := range list {
		hives[h.Presence]++
		if h.Presence != rbee.HivePresent {
			continue
		}
		for _, w := range h.Workers {
			workers[w.State]++
		}
		for _, m := range h.Models {
			refs[m.ModelRef] = true
		}
	}
	return hives, workers, len(refs)
}
