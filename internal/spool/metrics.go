package spool

import "github.com/prometheus/client_golang/prometheus"

// reasonFull is why a record was dropped: the spool had no room.
const reasonFull = "full"

type metrics struct {
	appended       prometheus.Counter
	droppedRecords *prometheus.CounterVec
	droppedFrames  *prometheus.CounterVec
	droppedSamples *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, m *Memory) *metrics {
	const ns = "prometheus_streams_spool_"
	var all []prometheus.Collector
	gauge := func(name, help string, value func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: ns + name, Help: help}, func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			return value()
		}))
	}
	gauge("bytes", "Bytes of the records that wait to be stored by the stream, with their schemas.",
		func() float64 { return float64(m.bytes) })
	gauge("limit_bytes", "Bytes that the spool may hold.",
		func() float64 { return float64(m.opts.MaxBytes) })
	gauge("records", "Records that wait to be stored by the stream.",
		func() float64 { return float64(len(m.entries) - m.head) })
	gauge("schemas", "Schemas kept for records or because they are in use.",
		func() float64 { return float64(len(m.schemas)) })
	gauge("oldest_age_seconds", "Age of the oldest record that waits to be stored; 0 if none does.", m.oldestAge)

	counter := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: ns + name, Help: help}, []string{"reason"})
		v.WithLabelValues(reasonFull)
		all = append(all, v)
		return v
	}
	mm := &metrics{
		appended: prometheus.NewCounter(prometheus.CounterOpts{
			Name: ns + "appended_records_total", Help: "Records that the spool took."}),
		droppedRecords: counter("dropped_records_total", "Records dropped before the stream stored them."),
		droppedFrames:  counter("dropped_frames_total", "Frames in dropped records."),
		droppedSamples: counter("dropped_samples_total", "Samples in dropped records."),
	}
	if reg != nil {
		reg.MustRegister(append(all, mm.appended)...)
	}
	return mm
}
