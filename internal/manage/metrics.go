package manage

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	changes *prometheus.CounterVec
}

// newMetrics makes the metrics and registers them; reg may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{changes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "prometheus_streams_management_changes_total",
		Help: "Changes that were asked for, by action (pause, resume, loglevel) and by the way the request came.",
	}, []string{"action", "via"})}
	if reg != nil {
		reg.MustRegister(m.changes)
	}
	return m
}

func (m *metrics) change(action, via string) {
	if via == "" {
		via = "unknown"
	}
	m.changes.WithLabelValues(action, via).Inc()
}
