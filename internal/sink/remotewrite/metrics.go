package remotewrite

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/sink"
)

const namespace = "prometheus_streams_remote_write_"

type metrics struct {
	requests, dropped, already, frames, droppedExemplars, late, lateLost *prometheus.CounterVec

	samples, exemplars, retries, bytes, stateErrors prometheus.Counter
	lateBytes, pending, targets, version, highest   prometheus.Gauge
	duration, latency                               prometheus.Histogram

	newestMs int64 // of Run
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: namespace + name, Help: help})
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: namespace + name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 11)})
	}
	m := &metrics{
		requests: counters("requests_total", "Requests by the HTTP status code of their answer, or failed if there was none.", "code"),
		dropped: counters("dropped_samples_total",
			"Samples that the server refused for good, by reason and publisher.", "reason", "publisher"),
		already: counters("already_samples_total",
			"Samples that the server refused when they were delivered once more after a restart: it has them.", "publisher"),
		frames: counters("rejected_frames_total", "Frames that were not written at all, by reason.", "reason"),
		droppedExemplars: counters("dropped_exemplars_total",
			"Exemplars that were not written, by reason and publisher; the publisher is empty if it may be one of several.",
			"reason", "publisher"),
		late: counters("late_samples_total",
			"Samples written to the files of late data; the server may have some of them.", "publisher"),
		lateLost: counters("late_lost_samples_total", "Late samples that are not in the files either, by publisher and reason.",
			"publisher", "reason"),
		lateBytes: gauge("late_bytes", "Bytes of the files of late data, each counted with at least 4096."),
		exemplars: counter("exemplars_total", "Exemplars that the server took."),
		samples:   counter("samples_total", "Samples that the server took, stale markers among them."),
		retries:   counter("retries_total", "Requests that have to be repeated."),
		bytes:     counter("sent_bytes_total", "Size of the requests' bodies, compressed, repeated ones among them."),
		stateErrors: counter("state_errors_total",
			"Writes of the state file that did not succeed: stale markers may be missing after a restart."),
		pending:  gauge("pending_frames", "Frames that wait for the server's verdict."),
		targets:  gauge("targets", "Targets that are remembered for stale markers."),
		version:  gauge("protocol_version", "Version of remote write that is spoken: 2 or 1."),
		highest:  gauge("newest_timestamp_seconds", "Newest time of a scrape that the server took, in seconds since the Unix epoch."),
		duration: histogram("request_duration_seconds", "Time until the server answered a request."),
		latency:  histogram("delivery_duration_seconds", "Time from a frame's delivery to the server's verdict on all of it."),
	}
	reg.MustRegister(m.requests, m.dropped, m.already, m.frames, m.droppedExemplars, m.exemplars, m.late, m.lateLost, m.lateBytes, m.samples, m.retries, m.bytes, m.stateErrors, m.pending, m.targets,
		m.version, m.highest, m.duration, m.latency)
	return m
}

// answered counts a request.
func (m *metrics) answered(b *batch) {
	code := "failed"
	if b.answer.status != 0 {
		code = strconv.Itoa(b.answer.status)
	}
	m.requests.WithLabelValues(code).Inc()
	m.bytes.Add(float64(len(b.packed)))
	m.duration.Observe(b.answer.took.Seconds())
}

func (m *metrics) rejectFrame(err error) {
	reason, _ := sink.Rejected(err)
	m.frames.WithLabelValues(reason).Inc()
}

func (m *metrics) newest(ms int64) {
	if ms > m.newestMs {
		m.newestMs = ms
		m.highest.Set(float64(ms) / 1000)
	}
}
