package main

import "github.com/prometheus/client_golang/prometheus"

// reloadMetrics tell how the last reading of the configuration went, as Prometheus tells it of its own.
type reloadMetrics struct {
	successful prometheus.Gauge
	time       prometheus.Gauge
}

func newReloadMetrics(reg prometheus.Registerer) *reloadMetrics {
	m := &reloadMetrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "prometheus_streams_config_last_reload_successful",
			Help: "Whether the last reading of the configuration went well.",
		}),
		time: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "prometheus_streams_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration was last read and taken.",
		}),
	}
	reg.MustRegister(m.successful, m.time)
	m.note(nil)
	return m
}

func (m *reloadMetrics) note(err error) {
	if err != nil {
		m.successful.Set(0)
		return
	}
	m.successful.Set(1)
	m.time.SetToCurrentTime()
}
