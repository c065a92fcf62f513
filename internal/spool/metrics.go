package spool

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Why records were dropped.
const (
	reasonFull    = "full"    // the spool had no room
	reasonAge     = "age"     // they waited longer than they may
	reasonCorrupt = "corrupt" // the disk does not give back what it was given
	reasonDisk    = "disk"    // the disk takes nothing, and memory had no room
)

// What went wrong with the disk.
const (
	opWrite    = "write"
	opSync     = "sync"
	opRead     = "read"
	opRemove   = "remove"
	opPosition = "position"
)

type metrics struct {
	appended       prometheus.Counter
	droppedRecords *prometheus.CounterVec
	droppedFrames  *prometheus.CounterVec
	droppedSamples *prometheus.CounterVec

	// Of a Disk alone.
	failing         prometheus.Gauge
	diskErrors      *prometheus.CounterVec
	corruptSegments prometheus.Counter
}

// level is how much a spool holds.
type level struct {
	bytes, limit     int64
	records, schemas int
	age              float64 // of the oldest, in seconds
}

func newMetrics(reg prometheus.Registerer, onDisk bool, now func() level) *metrics {
	const ns = "prometheus_streams_spool_"
	var all []prometheus.Collector
	gauge := func(name, help string, value func(level) float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: ns + name, Help: help},
			func() float64 { return value(now()) }))
	}
	gauge("bytes", "Bytes of the records that wait to be stored by the stream, with their schemas.",
		func(l level) float64 { return float64(l.bytes) })
	gauge("limit_bytes", "Bytes that the spool may hold.",
		func(l level) float64 { return float64(l.limit) })
	gauge("records", "Records that wait to be stored by the stream.",
		func(l level) float64 { return float64(l.records) })
	gauge("schemas", "Schemas kept for records or because they are in use.",
		func(l level) float64 { return float64(l.schemas) })
	gauge("oldest_age_seconds", "Age of the oldest record that waits to be stored; 0 if none does.",
		func(l level) float64 { return l.age })
	gauge("on_disk", "1 if what waits is on disk, 0 if it is in memory and lost with the process.",
		func(level) float64 {
			if onDisk {
				return 1
			}
			return 0
		})

	reasons := []string{reasonFull, reasonAge}
	if onDisk {
		reasons = append(reasons, reasonCorrupt, reasonDisk)
	}
	counter := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: ns + name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		all = append(all, v)
		return v
	}
	m := &metrics{
		appended: prometheus.NewCounter(prometheus.CounterOpts{
			Name: ns + "appended_records_total", Help: "Records that the spool took."}),
		droppedRecords: counter("dropped_records_total", "Records dropped before the stream stored them.", "reason", reasons...),
		droppedFrames:  counter("dropped_frames_total", "Frames in dropped records.", "reason", reasons...),
		droppedSamples: counter("dropped_samples_total", "Samples in dropped records.", "reason", reasons...),
	}
	all = append(all, m.appended)
	if onDisk {
		m.failing = prometheus.NewGauge(prometheus.GaugeOpts{Name: ns + "disk_failing",
			Help: "1 while the disk takes nothing and what is appended waits in memory."})
		m.diskErrors = counter("disk_errors_total", "What went wrong with the disk.", "operation",
			opWrite, opSync, opRead, opRemove, opPosition)
		m.corruptSegments = prometheus.NewCounter(prometheus.CounterOpts{Name: ns + "corrupt_segments_total",
			Help: "Segments of which not all could be read."})
		all = append(all, m.failing, m.corruptSegments)
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}

// counts are records and what is in them.
type counts struct{ records, frames, samples int }

func (c *counts) add(d counts) {
	c.records += d.records
	c.frames += d.frames
	c.samples += d.samples
}

// less is c without d, never negative.
func (c counts) less(d counts) counts {
	return counts{max(0, c.records-d.records), max(0, c.frames-d.frames), max(0, c.samples-d.samples)}
}

func (r *Record) counts() counts { return counts{1, r.Frames, r.Samples} }

// voice tells of what is lost and of what soon will be. It belongs to one spool and is guarded by its lock.
type voice struct {
	log     *slog.Logger
	metrics *metrics
	refuse  bool

	last   time.Time // when losses were logged
	lost   map[string]counts
	warned bool // that the spool is nearly full
}

// logEvery is how often, at most, losses are logged.
const logEvery = time.Minute

// warnAt and calmAt are the parts of the limit at which a warning is due and forgotten.
const (
	warnAt = 0.8
	calmAt = 0.7
)

// lose counts what is lost and keeps it for the log.
func (v *voice) lose(reason string, c counts) {
	if c.records == 0 {
		return
	}
	v.metrics.droppedRecords.WithLabelValues(reason).Add(float64(c.records))
	v.metrics.droppedFrames.WithLabelValues(reason).Add(float64(c.frames))
	v.metrics.droppedSamples.WithLabelValues(reason).Add(float64(c.samples))
	if v.lost == nil {
		v.lost = map[string]counts{}
	}
	sum := v.lost[reason]
	sum.add(c)
	v.lost[reason] = sum
}

// say logs what was lost since it last did, at most once in logEvery unless it is the last time, and warns of a spool that
// fills before it does harm.
func (v *voice) say(bytes, limit int64, final bool) {
	switch part := float64(bytes) / float64(limit); {
	case part >= warnAt && !v.warned:
		v.warned = true
		next := "the oldest samples will be dropped"
		if v.refuse {
			next = "nothing will be scraped"
		}
		v.log.Warn("the spool is nearly full: when it is, "+next, "bytes", bytes, "limit", limit)
	case part < calmAt && v.warned:
		v.warned = false
		v.log.Info("the spool has room again", "bytes", bytes, "limit", limit)
	}
	if len(v.lost) == 0 || !final && !v.last.IsZero() && time.Since(v.last) < logEvery {
		return
	}
	for reason, c := range v.lost {
		v.log.Warn(lossText(reason), "reason", reason, "count", c.samples, "bytes", bytes, "limit", limit)
	}
	v.last = time.Now()
	clear(v.lost)
}

func lossText(reason string) string {
	switch reason {
	case reasonAge:
		return "the spool dropped samples that waited too long, which are lost"
	case reasonCorrupt:
		return "a part of the spool cannot be read: its samples are lost"
	case reasonDisk:
		return "the spool's disk takes nothing and memory is full: the oldest samples are lost"
	}
	return "the spool is full and dropped its oldest samples, which are lost"
}
