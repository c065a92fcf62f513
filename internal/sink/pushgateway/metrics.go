package pushgateway

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	namespace = "prometheus_streams_"
	// maxJobs bounds the jobs that metrics tell apart: their names come with the frames.
	maxJobs   = 1000
	otherJobs = "other"
)

type metrics struct {
	publishErrors, aged *prometheus.CounterVec

	pushes, retries, rejected, deleted, leftOut *prometheus.CounterVec
	superseded, samples, bytes, stateErrors     prometheus.Counter
	leftExemplars                               prometheus.Counter
	duration                                    prometheus.Histogram

	jobs map[string]bool
}

// newMetrics registers the sink's metrics. The first two are those of version 1.0, which other sinks may have
// registered already.
func newMetrics(reg prometheus.Registerer, s *Sink) *metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + name, Help: help})
	}
	m := &metrics{
		publishErrors: shared(reg, counters("receiver_publish_errors",
			"Pushes to the Push Gateway that it did not accept, tries that were repeated among them.", "receiver_job")),
		aged: shared(reg, counters("receiver_aged_discards",
			"Scrapes not delivered because they were too old.", "receiver_job")),
		pushes: counters("pushgateway_pushes_total",
			"Requests to the Push Gateway by method (put, post, delete) and result (accepted, refused, failed).", "method", "result"),
		retries: counters("pushgateway_retries_total",
			"Pushes that are tried again, by what was wrong with the last try.", "reason"),
		rejected: counters("pushgateway_rejected_total",
			"Parts of scrapes, one for each group, that were not delivered and never will be.", "reason"),
		deleted: counters("pushgateway_deleted_groups_total", "Groups deleted from the Push Gateway.", "reason"),
		leftOut: counters("pushgateway_left_out_samples_total",
			"Samples left out of pushes that the Push Gateway accepted.", "reason"),
		leftExemplars: counter("pushgateway_left_out_exemplars_total",
			"Exemplars left out of pushes that the Push Gateway accepted."),
		superseded: counter("pushgateway_superseded_total",
			"Parts of scrapes, one for each group, that a newer scrape made needless before they were pushed."),
		samples: counter("pushgateway_samples_total", "Samples that the Push Gateway accepted."),
		bytes:   counter("pushgateway_sent_bytes_total", "Size of the bodies that the Push Gateway accepted, as sent."),
		stateErrors: counter("pushgateway_state_errors_total",
			"Writes of the list of groups that did not succeed: after a restart some groups may stay that should be deleted."),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: namespace + "pushgateway_push_duration_seconds",
			Help: "Time until the Push Gateway answered a push or delete.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12)}),
		jobs: make(map[string]bool),
	}
	reg.MustRegister(m.pushes, m.retries, m.rejected, m.deleted, m.leftOut, m.leftExemplars, m.superseded, m.samples, m.bytes, m.stateErrors, m.duration)
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: namespace + name, Help: help}, f))
	}
	gauge("pushgateway_groups", "Groups of the Push Gateway that this receiver fills or has to delete.", s.countGroups)
	gauge("pushgateway_waiting_groups", "Groups whose newest scrape is not accepted yet.", s.countWaiting)
	gauge("pushgateway_oldest_unaccepted_timestamp_seconds",
		"Since when some group has had scrapes of which none was accepted, in seconds since the Unix epoch; 0 if there is none.", s.oldest)
	return m
}

// shared registers a collector, or gives the one that is there.
func shared(reg prometheus.Registerer, c *prometheus.CounterVec) *prometheus.CounterVec {
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if there, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
			return there
		}
	} else if err != nil {
		panic(err) // as MustRegister: two rooms describe one metric in two ways
	}
	return c
}

// job bounds a job's name as a label. It is called with the sink's lock held.
func (m *metrics) job(name string) string {
	if m.jobs[name] {
		return name
	}
	if len(m.jobs) >= maxJobs {
		return otherJobs
	}
	m.jobs[name] = true
	return name
}

// pushed counts an answer.
func (m *metrics) pushed(method string, w *work, a *answer) {
	result := "accepted"
	switch a.outcome {
	case refused:
		result = "refused"
	case failed:
		result = "failed"
	}
	if w.part == nil {
		method = "delete"
	}
	m.pushes.WithLabelValues(method, result).Inc()
	m.duration.Observe(a.took.Seconds())
	if a.outcome != accepted {
		m.publishErrors.WithLabelValues(m.job(w.target.job)).Inc()
	}
}

// accepted counts what the gateway took.
func (m *metrics) accepted(a *answer) {
	m.samples.Add(float64(a.samples))
	m.bytes.Add(float64(a.bytes))
	m.leftExemplars.Add(float64(a.exemplars))
	for _, l := range a.left {
		m.leftOut.WithLabelValues(l.reason).Add(float64(l.samples))
	}
}

func (s *Sink) countGroups() float64 {
	s.lock()
	defer s.unlock()
	return float64(len(s.groups))
}

func (s *Sink) countWaiting() float64 {
	s.lock()
	defer s.unlock()
	n := 0
	for _, g := range s.groups {
		if g.next != nil || g.pushing != nil {
			n++
		}
	}
	return float64(n)
}

func (s *Sink) oldest() float64 {
	s.lock()
	defer s.unlock()
	var oldest time.Time
	for _, g := range s.groups {
		if !g.since.IsZero() && (oldest.IsZero() || g.since.Before(oldest)) {
			oldest = g.since
		}
	}
	if oldest.IsZero() {
		return 0
	}
	return float64(oldest.UnixMilli()) / 1000
}
