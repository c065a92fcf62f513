package scrape

import (
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Metrics count the scrapes that failed because of a limit. A nil one counts nothing.
type Metrics struct {
	limited *prometheus.CounterVec
}

// limitOther is a bound that no key of the configuration sets: those of a schema.
const limitOther = "schema"

// limits that a scrape can exceed; errors about them begin with these words.
func limits() []string {
	return []string{
		"body_size_limit", "body_memory_limit", "sample_limit", "label_limit", "label_name_length_limit", "label_value_length_limit", "target_limit",
		"native_histogram_bucket_limit", "series_limit", limitOther,
	}
}

// NewMetrics makes the metrics of a process's scrapers. guard may be nil.
func NewMetrics(reg prometheus.Registerer, guard *Guard) *Metrics {
	m := &Metrics{limited: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prometheus_streams_scrape_exceeded_limit_total",
		Help: "Scrapes that failed because the target exceeded a limit."}, []string{"limit"})}
	for _, l := range limits() {
		m.limited.WithLabelValues(l)
	}
	if reg != nil {
		reg.MustRegister(m.limited, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "prometheus_streams_scrape_series",
			Help: "Series of all targets that count against poller.series_limit."}, func() float64 { return float64(guard.Held()) }))
	}
	return m
}

func (m *Metrics) failed(err error) {
	if m == nil {
		return
	}
	text := err.Error()
	var size *BodySizeError
	var schema *frame.LimitError
	switch {
	case errors.As(err, &size):
		m.limited.WithLabelValues("body_size_limit").Inc()
		return
	case errors.As(err, &schema):
		m.limited.WithLabelValues(limitOther).Inc()
		return
	}
	for _, l := range limits() {
		if strings.Contains(text, l+" exceeded") {
			m.limited.WithLabelValues(l).Inc()
			return
		}
	}
}
