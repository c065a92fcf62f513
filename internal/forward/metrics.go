package forward

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	published     prometheus.Counter
	publishErrors prometheus.Counter
	publishTime   prometheus.Summary

	messages, cut, resent, bytes, schemas prometheus.Counter
	lastStored                            prometheus.Gauge
	blocked                               *prometheus.GaugeVec

	asideRecords, asideFrames, asideSamples, asideSchemas *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "prometheus_streams_" + name, Help: help})
	}
	byReason := func(name, help string, reasons ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prometheus_streams_forward_" + name, Help: help}, []string{"reason"})
		for _, r := range reasons {
			v.WithLabelValues(r)
		}
		return v
	}
	m := &metrics{
		published:     counter("poller_published_count", "Frames that the stream stored."),
		publishErrors: counter("poller_publish_errors", "Messages that were not stored when they were sent; most are sent again."),
		publishTime: prometheus.NewSummary(prometheus.SummaryOpts{
			Name:       "prometheus_streams_poller_publish_time",
			Help:       "Seconds from sending a message to its acknowledgement by the stream.",
			Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001},
		}),
		messages: counter("forward_messages_total", "Messages sent to the stream, with those sent again."),
		cut:      counter("forward_cut_messages_total", "Messages sent in parts, because they are larger than the server or the stream takes."),
		resent:   counter("forward_resent_messages_total", "Messages sent again, since it was unknown whether the stream stored them."),
		bytes:    counter("forward_bytes_total", "Bytes of messages and schemas sent to the stream."),
		schemas:  counter("forward_stored_schemas_total", "Schemas that the stream stored, with those stored again."),
		lastStored: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "prometheus_streams_forward_last_stored_timestamp_seconds",
			Help: "When the stream last acknowledged a message; 0 if it never did."}),
		blocked: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "prometheus_streams_forward_blocked",
			Help: "1 if nothing can be stored now, by what is in the way."}, []string{"reason"}),
		asideRecords: byReason("aside_records_total", "Messages given up because the stream refuses them while others pass.", reasonTooLarge, reasonRefused),
		asideFrames:  byReason("aside_frames_total", "Frames in the messages given up.", reasonTooLarge, reasonRefused),
		asideSamples: byReason("aside_samples_total", "Samples in the messages given up.", reasonTooLarge, reasonRefused),
		asideSchemas: byReason("aside_schemas_total", "Schemas that cannot be stored, so that what needs them cannot be read.", reasonTooLarge, reasonMissing),
	}
	m.blockedBy("")
	if reg != nil {
		reg.MustRegister(m.published, m.publishErrors, m.publishTime, m.messages, m.cut, m.resent, m.bytes, m.schemas, m.lastStored,
			m.blocked, m.asideRecords, m.asideFrames, m.asideSamples, m.asideSchemas)
	}
	return m
}

// blockedBy shows what is in the way; nothing if the kind is empty.
func (m *metrics) blockedBy(kind string) {
	for _, k := range []string{disconnected, refusing, full, denied, failing} {
		v := 0.0
		if k == kind {
			v = 1
		}
		m.blocked.WithLabelValues(k).Set(v)
	}
}
