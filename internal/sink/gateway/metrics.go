package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/sink"
)

// metrics are what the gateway tells of itself.
type metrics struct {
	taken    prometheus.Counter
	rejected *prometheus.CounterVec
	stale    prometheus.Counter
	invalid  prometheus.Counter
	twice    prometheus.Counter

	omittedHistograms, omittedExemplars prometheus.Counter

	scrapes  *prometheus.CounterVec
	duration prometheus.Histogram
	bytes    prometheus.Counter
}

// newMetrics makes the metrics and registers them; reg may be nil.
func newMetrics(reg prometheus.Registerer, g *Gateway) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "prometheus_streams_gateway_" + name, Help: help}
	}
	m := &metrics{
		taken: prometheus.NewCounter(counter("frames_total", "Frames that the gateway took.")),
		rejected: prometheus.NewCounterVec(counter("frames_rejected_total",
			"Frames that the gateway refused, by reason."), []string{"reason"}),
		stale: prometheus.NewCounter(counter("stale_targets_total",
			"Targets taken off the page because nothing new came in time.")),
		invalid: prometheus.NewCounter(counter("invalid_series_total",
			"Series with names or labels that cannot be written, counted when their target's series change.")),
		twice: prometheus.NewCounter(counter("duplicate_series_total",
			"Series left out of answers because another series there has the same labels.")),
		omittedHistograms: prometheus.NewCounter(counter("omitted_histograms_total",
			"Native histograms left out of answers because the format has no place for them.")),
		omittedExemplars: prometheus.NewCounter(counter("omitted_exemplars_total",
			"Exemplars left out of answers where OpenMetrics or protobuf has no place for them, or beside native histograms in text.")),
		scrapes: prometheus.NewCounterVec(counter("scrapes_total",
			"Requests for the metrics page, by HTTP status code, or \"aborted\"."), []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "prometheus_streams_gateway_scrape_duration_seconds", Help: "Time taken to answer requests for the metrics page.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		bytes: prometheus.NewCounter(counter("response_bytes_total", "Bytes of metrics pages written, after compression.")),
	}
	for _, reason := range []string{sink.Conflict, sink.Late, sink.Future, sink.TooMany, Aged, Stale, sink.Malformed} {
		m.rejected.WithLabelValues(reason)
	}
	for _, code := range []string{"200", "400", "503", "aborted"} {
		m.scrapes.WithLabelValues(code)
	}
	if reg == nil {
		return m
	}
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "prometheus_streams_gateway_" + name, Help: help}, func() float64 {
			g.tend(g.now())
			g.mu.RLock()
			defer g.mu.RUnlock()
			return float64(f())
		})
	}
	reg.MustRegister(m.taken, m.rejected, m.stale, m.invalid, m.twice, m.omittedHistograms, m.omittedExemplars, m.scrapes, m.duration, m.bytes,
		gauge("targets", "Targets on the page, those that are down among them.", func() int { return len(g.targets) }),
		gauge("series", "Series of the targets on the page, as of their last scrape that succeeded.", func() int { return g.series }),
		gauge("publishers", "Publishers that the gateway knows of.", func() int { return len(g.publishers) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "prometheus_streams_gateway_lookback_seconds",
			Help: "How far back the stream is read after a start.",
		}, func() float64 { return g.Lookback().Seconds() }),
	)
	return m
}
