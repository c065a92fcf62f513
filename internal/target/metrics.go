package target

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	targets *prometheus.GaugeVec
	failed  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		targets: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "prometheus_streams_target_pool_targets",
			Help: "Targets of a scrape config: scraped, dropped by relabelling, or not usable as targets."}, []string{"scrape_job", "state"}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "prometheus_streams_target_failed_total",
			Help: "How often something that was discovered could not be a target."}),
	}
	reg.MustRegister(m.targets, m.failed)
	return m
}

// The states of what was discovered.
const (
	stateActive  = "active"
	stateDropped = "dropped"
	stateFailed  = "failed"
)

func (m *metrics) pools(all map[string]*pool) {
	m.targets.Reset()
	for name, p := range all {
		m.targets.WithLabelValues(name, stateActive).Set(float64(len(p.active)))
		m.targets.WithLabelValues(name, stateDropped).Set(float64(p.count))
		m.targets.WithLabelValues(name, stateFailed).Set(float64(p.failures))
	}
}
