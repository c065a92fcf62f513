package receiver

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Metrics are those of all pipelines of a process; the names without _total are those of version 1.0.
type Metrics struct {
	received    prometheus.Counter
	paused      prometheus.Gauge
	decodeTime  prometheus.Summary
	publishTime prometheus.Summary
	seen        *prometheus.GaugeVec

	frames, samples                 *prometheus.CounterVec
	droppedFrames, discarded        *prometheus.CounterVec
	rejectedFrames, rejectedSamples *prometheus.CounterVec
	missingBundles, uncleanEpochs   *prometheus.CounterVec
	concurrent                      *prometheus.CounterVec
	lostFrames, lostSamples         *prometheus.CounterVec
	duplicates, already, retries    *prometheus.CounterVec
	heldBytes, decodedBytes, lanes  *prometheus.GaugeVec
	stateBytes                      *prometheus.GaugeVec
	shed                            *prometheus.CounterVec

	junk  *junkLog
	names names
}

// NewMetrics registers the metrics of receiving.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	const ns = "prometheus_streams_receiver_"
	quantiles := map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: ns + name, Help: help}, labels)
	}
	m := &Metrics{
		received: prometheus.NewCounter(prometheus.CounterOpts{Name: ns + "received", Help: "Messages received."}),
		paused:   prometheus.NewGauge(prometheus.GaugeOpts{Name: ns + "paused", Help: "1 while the receiver is paused."}),
		decodeTime: prometheus.NewSummary(prometheus.SummaryOpts{Name: ns + "decompress_time",
			Help: "Seconds it took to decode a message.", Objectives: quantiles}),
		publishTime: prometheus.NewSummary(prometheus.SummaryOpts{Name: ns + "publish_time",
			Help: "Seconds from handing a frame to a sink until the sink had delivered it.", Objectives: quantiles}),
		seen: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: ns + "seen_time",
			Help: "When something of the publisher was last received, in seconds since the Unix epoch."}, []string{"poller"}),
		frames:  counters("delivered_frames_total", "Frames that the sink delivered.", "sink", "publisher"),
		samples: counters("delivered_samples_total", "Samples that the sink delivered, those of scrape reports not counted.", "sink", "publisher"),
		droppedFrames: counters("dropped_frames_total",
			"Frames, or messages that are no bundles, dropped before they reached the sink.", "sink", "publisher", "reason"),
		discarded: counters("discarded_samples_total",
			"Samples of frames that came while the receiver was paused and were discarded.", "sink", "publisher"),
		rejectedFrames:  counters("rejected_frames_total", "Frames that the sink refused for good.", "sink", "publisher", "reason"),
		rejectedSamples: counters("rejected_samples_total", "Samples of frames that the sink refused for good.", "sink", "publisher", "reason"),
		missingBundles:  counters("missing_bundles_total", "Bundles that never came: gaps in a lane's sequence.", "sink", "publisher"),
		uncleanEpochs: counters("unclean_epochs_total",
			"Epochs that ended by a kill or a power failure: what the spool did not have on disk then is lost, and how much that was is not known.",
			"sink", "publisher"),
		concurrent: counters("concurrent_epochs_total",
			"Times that an epoch of the publisher went on after another one that was live too: two pollers run with one identity.",
			"sink", "publisher"),
		lostFrames: counters("lost_frames_total",
			"Frames missing by the running totals of their publisher: never come or not to be decoded.", "sink", "publisher"),
		lostSamples: counters("lost_samples_total",
			"Samples missing by the running totals of their publisher: never come or not to be decoded.", "sink", "publisher"),
		duplicates: counters("duplicate_bundles_total", "Bundles that the stream holds more than once.", "sink", "publisher"),
		already: counters("already_frames_total",
			"Frames that came again after a stop of the receiver: not delivered again, or delivered again when it was not known.",
			"sink", "publisher", "delivered"),
		retries: counters("retries_total", "Frames that the sink did not take and that are given to it again.", "sink"),
		heldBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: ns + "held_bytes",
			Help: "Size of the messages received and not done."}, []string{"sink"}),
		decodedBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: ns + "decoded_bytes",
			Help: "Memory of the frames that are decoded and wait for the sink's verdict, as estimated."}, []string{"sink"}),
		lanes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: ns + "lanes",
			Help: "Lanes (publisher, lane, epoch) known."}, []string{"sink"}),
		stateBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: ns + "state_bytes",
			Help: "Memory of what is kept of targets to decode their next frames, their schemas with it, as estimated."}, []string{"sink"}),
		shed: counters("shed_targets_total",
			"Targets whose state was dropped for other publishers' since their publisher had most of the memory; they go on with a keyframe.",
			"sink", "publisher"),
		junk: &junkLog{last: make(map[string]time.Time)},
	}
	reg.MustRegister(m.received, m.paused, m.decodeTime, m.publishTime, m.seen, m.frames, m.samples, m.droppedFrames, m.discarded,
		m.rejectedFrames, m.rejectedSamples, m.missingBundles, m.uncleanEpochs, m.concurrent, m.lostFrames, m.lostSamples, m.duplicates, m.already,
		m.retries, m.heldBytes, m.decodedBytes, m.lanes, m.stateBytes, m.shed)
	return m
}

// sinkMetrics are the metrics of one pipeline.
type sinkMetrics struct {
	*Metrics
	name    string
	held    prometheus.Gauge
	decoded prometheus.Gauge
	lanes   prometheus.Gauge
	state   prometheus.Gauge
}

func (m *Metrics) sink(name string) *sinkMetrics {
	return &sinkMetrics{
		m, name, m.heldBytes.WithLabelValues(name), m.decodedBytes.WithLabelValues(name), m.lanes.WithLabelValues(name),
		m.stateBytes.WithLabelValues(name),
	}
}

func (m *sinkMetrics) delivered(publisher string, f *frame.Frame) {
	m.frames.WithLabelValues(m.name, m.names.known(publisher)).Inc()
	m.samples.WithLabelValues(m.name, m.names.known(publisher)).Add(float64(samples(f)))
}

func (m *sinkMetrics) rejected(publisher, reason string, f *frame.Frame) {
	m.rejectedFrames.WithLabelValues(m.name, m.names.known(publisher), reason).Inc()
	m.rejectedSamples.WithLabelValues(m.name, m.names.known(publisher), reason).Add(float64(samples(f)))
}

func (m *sinkMetrics) dropped(publisher, reason string, frames int) {
	m.droppedFrames.WithLabelValues(m.name, m.names.known(publisher), reason).Add(float64(frames))
}

func (m *sinkMetrics) missing(publisher string, bundles uint64) {
	m.missingBundles.WithLabelValues(m.name, m.names.known(publisher)).Add(float64(bundles))
}

func (m *sinkMetrics) lost(publisher string, t frame.Totals) {
	if t.Frames > 0 {
		m.lostFrames.WithLabelValues(m.name, m.names.known(publisher)).Add(float64(t.Frames))
		m.lostSamples.WithLabelValues(m.name, m.names.known(publisher)).Add(float64(t.Samples))
	}
}

// names are the publishers that have series of their own. Whoever makes up more than publishersKept is counted without a
// name.
type names struct {
	mu  sync.Mutex
	all map[string]struct{}
}

// known is the publisher, or "" for one too many.
func (n *names) known(publisher string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.all[publisher]; ok {
		return publisher
	}
	if len(n.all) >= publishersKept {
		return ""
	}
	if n.all == nil {
		n.all = make(map[string]struct{})
	}
	n.all[publisher] = struct{}{}
	return publisher
}

// junkLog keeps the log readable when somebody sends junk without end: one line a minute for each subject and reason.
type junkLog struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	junkEvery = time.Minute
	junkKept  = 10000
)

func (j *junkLog) logged(logger *slog.Logger, now time.Time, subject, reason string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	key := reason + " " + subject
	if now.Sub(j.last[key]) < junkEvery {
		return
	}
	if len(j.last) >= junkKept {
		clear(j.last)
	}
	j.last[key] = now
	logger.Warn("received something that cannot be used", "subject", subject, "reason", reason, "error", err)
}
