package poller

import (
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/exposition"
)

// Why a scrape did not take place.
const (
	skipOverrun = "overrun" // the one before took too long, or waited too long for its turn
	skipPaused  = "paused"
	skipSpool   = "spool_full"
)

// What of an exposition is in no frame.
const (
	skipDuplicate = "duplicate"
	skipFuture    = "future"
	skipHistogram = "native_histogram"
	skipExemplar  = "exemplar"
)

// Why a frame was lost before it was in the spool.
const (
	lostEncode  = "encode"
	lostSpool   = "spool"
	lostStopped = "stopped" // it came after the end of the epoch
)

type metrics struct {
	jobs, paused, full      prometheus.Gauge
	targets                 *prometheus.GaugeVec
	compressTime            prometheus.Summary
	skipped, skippedSamples *prometheus.CounterVec
	lostFrames, lostSamples *prometheus.CounterVec
	frames, samples         prometheus.Counter
	bundles, bundleBytes    prometheus.Counter
	bundleAge               prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, measured func() map[measuredTarget]measure) *metrics {
	const ns = "prometheus_streams_poller_"
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: ns + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: ns + name, Help: help})
	}
	byReason := func(name, help string, reasons ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: ns + name, Help: help}, []string{"reason"})
		for _, r := range reasons {
			v.WithLabelValues(r)
		}
		return v
	}
	m := &metrics{
		jobs:    gauge("jobs", "Jobs that have targets."),
		paused:  gauge("paused", "1 while the poller is paused."),
		full:    gauge("spool_full", "1 while nothing is scraped because the spool is full."),
		targets: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: ns + "targets", Help: "Targets of a job."}, []string{"poller_job"}),
		compressTime: prometheus.NewSummary(prometheus.SummaryOpts{Name: ns + "compress_time",
			Help: "Seconds it took to encode a scrape.", Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001}}),
		skipped: byReason("skipped_scrapes_total", "Scrapes that did not take place.", skipOverrun, skipPaused, skipSpool),
		skippedSamples: byReason("skipped_samples_total", "What targets exposed and frames do not carry.",
			skipDuplicate, skipFuture, skipHistogram, skipExemplar),
		lostFrames: byReason("lost_frames_total", "Frames lost before they were in the spool.",
			lostEncode, lostSpool, lostStopped),
		lostSamples: byReason("lost_samples_total", "Samples lost before they were in the spool.",
			lostEncode, lostSpool, lostStopped),
		frames:      counter("frames_total", "Frames put into bundles."),
		samples:     counter("samples_total", "Samples put into bundles, those of scrape reports not counted."),
		bundles:     counter("bundles_total", "Bundles made."),
		bundleBytes: counter("bundle_bytes_total", "Bytes of the bundles made."),
		bundleAge: prometheus.NewHistogram(prometheus.HistogramOpts{Name: ns + "bundle_age_seconds",
			Help: "How long the oldest frame of a bundle waited for it.", Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5}}),
	}
	if reg != nil {
		reg.MustRegister(newTargetCollector(measured), m.jobs, m.paused, m.full, m.targets, m.compressTime, m.skipped,
			m.skippedSamples, m.lostFrames, m.lostSamples, m.frames, m.samples, m.bundles, m.bundleBytes, m.bundleAge)
	}
	return m
}

func (m *metrics) setJobs(targets map[string]int) {
	m.jobs.Set(float64(len(targets)))
	m.targets.Reset()
	for job, n := range targets {
		m.targets.WithLabelValues(job).Set(float64(n))
	}
}

// notCarried counts what a scrape had and its frame does not.
func (m *metrics) notCarried(s exposition.Skipped) {
	if s == (exposition.Skipped{}) {
		return
	}
	m.skippedSamples.WithLabelValues(skipDuplicate).Add(float64(s.Duplicates))
	m.skippedSamples.WithLabelValues(skipFuture).Add(float64(s.Ahead))
	m.skippedSamples.WithLabelValues(skipHistogram).Add(float64(s.Histograms))
	m.skippedSamples.WithLabelValues(skipExemplar).Add(float64(s.Exemplars))
}

func (m *metrics) lose(reason string, frames, samples int) {
	m.lostFrames.WithLabelValues(reason).Add(float64(frames))
	m.lostSamples.WithLabelValues(reason).Add(float64(samples))
}

func (m *metrics) bundle(b Bundle, age time.Duration) {
	m.frames.Add(float64(b.Frames))
	m.samples.Add(float64(b.Samples))
	m.bundles.Inc()
	m.bundleBytes.Add(float64(len(b.Message)))
	m.bundleAge.Observe(age.Seconds())
}

func set(g prometheus.Gauge, on bool) {
	if on {
		g.Set(1)
	} else {
		g.Set(0)
	}
}

// measuredTarget is how the metrics name a target; two targets may share it.
type measuredTarget struct{ job, instance string }

// measure is what the metrics tell of a target.
type measure struct {
	errors, scrapes uint64
	bytes           int64
	seconds         float64
	recent          []float64
}

// targetCollector gives the metrics of each target. A summary of client_golang takes about 70 kB, which is too much for
// each of a thousand targets; here the quantiles are those of the times that the loops remember.
type targetCollector struct {
	errors, bytes, time *prometheus.Desc
	measured            func() map[measuredTarget]measure
}

func newTargetCollector(measured func() map[measuredTarget]measure) *targetCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("prometheus_streams_poller_"+name, help, []string{"poller_job", "poller_target"}, nil)
	}
	return &targetCollector{
		errors:   desc("poll_errors", "Scrapes of the target that failed."),
		bytes:    desc("bytes_polled", "Bytes of exposition read from the target."),
		time:     desc("poll_time", "Seconds that scrapes of the target took."),
		measured: measured,
	}
}

// Describe implements prometheus.Collector.
func (c *targetCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.errors
	ch <- c.bytes
	ch <- c.time
}

// Collect implements prometheus.Collector.
func (c *targetCollector) Collect(ch chan<- prometheus.Metric) {
	for t, m := range c.measured() {
		ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(m.errors), t.job, t.instance)
		ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, float64(m.bytes), t.job, t.instance)
		ch <- prometheus.MustNewConstSummary(c.time, m.scrapes, m.seconds, quantiles(m.recent, .5, .9, .99), t.job, t.instance)
	}
}

// quantiles are those of some values; NaN if there are none.
func quantiles(values []float64, qs ...float64) map[float64]float64 {
	slices.Sort(values)
	m := make(map[float64]float64, len(qs))
	for _, q := range qs {
		if m[q] = math.NaN(); len(values) > 0 {
			m[q] = values[max(0, int(math.Ceil(q*float64(len(values))))-1)]
		}
	}
	return m
}

// measured gathers what the loops know.
func (p *Poller) measured() map[measuredTarget]measure {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[measuredTarget]measure, len(p.loops))
	for _, l := range p.loops {
		t := measuredTarget{l.target.Job(), l.target.Instance()}
		all[t] = l.status.addTo(all[t])
	}
	return all
}
