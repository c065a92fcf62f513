package receiver

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// What is shown of each publisher, in the order of publisherFamilies.
const (
	publisherUp = iota
	publisherSeen
	publisherLag
	publisherSkew
	publisherGaps
	publisherSeries
)

// publisherFamilies are the metrics that are shown of publishers.
func publisherFamilies() []frame.Family {
	family := func(name string, kind model.MetricType, help string) frame.Family {
		return frame.Family{Name: "prometheus_streams_publisher_" + name, Type: kind, Help: help}
	}
	return []frame.Family{
		publisherUp: family("up", model.MetricTypeGauge,
			"1 if something of the publisher came within three of its shortest interval and 30 seconds, else 0: "+
				"for those that are expected and those that were seen, until they are forgotten."),
		publisherSeen: family("last_seen_timestamp_seconds", model.MetricTypeGauge,
			"When the stream stored the newest message of the publisher, in seconds since the Unix epoch."),
		publisherLag: family("lag_seconds", model.MetricTypeGauge, "Age of the publisher's newest scrape that was received."),
		publisherSkew: family("clock_skew_seconds", model.MetricTypeGauge,
			"How far the publisher's clock is ahead of the stream's, if what it scrapes takes no time "+
				"to be stored: below zero by that time at least."),
		publisherGaps: family("gaps_total", model.MetricTypeCounter, "Times that bundles of the publisher were missing."),
	}
}

// publisherTruth is what is known of one publisher at a time; what is not known is not in has.
type publisherTruth struct {
	name   string
	values [publisherSeries]float64
	has    [publisherSeries]bool
}

// truth tells what is known of all publishers now, in the order of their names.
func (p *Publishers) truth(now time.Time) []publisherTruth {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]publisherTruth, 0, len(p.known))
	for name, x := range p.known {
		t := publisherTruth{name: name}
		set := func(i int, v float64) { t.values[i], t.has[i] = v, true }
		up := 0.0
		if p.up(x) {
			up = 1
		}
		set(publisherUp, up)
		if !x.seen.IsZero() {
			set(publisherSeen, float64(x.seen.UnixMilli())/1000)
		}
		if x.scraped != 0 {
			set(publisherLag, float64(now.UnixMilli()-x.scraped)/1000)
		}
		if d, ok := x.delay.value(); ok {
			set(publisherSkew, float64(-d)/1000)
		}
		gaps := uint64(0) // each sink sees the same ones
		for _, n := range x.gaps {
			gaps = max(gaps, n)
		}
		set(publisherGaps, float64(gaps))
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b publisherTruth) int { return strings.Compare(a.name, b.name) })
	return all
}

// publisherCollector shows what is known of publishers, as of when it is asked.
type publisherCollector struct {
	*Publishers
	families []*prometheus.Desc
}

func newPublisherCollector(p *Publishers) *publisherCollector {
	c := &publisherCollector{Publishers: p}
	for _, f := range publisherFamilies() {
		c.families = append(c.families, prometheus.NewDesc(f.Name, f.Help, []string{"publisher"}, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *publisherCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.families {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *publisherCollector) Collect(ch chan<- prometheus.Metric) {
	for _, t := range c.truth(time.Now()) {
		for i, d := range c.families {
			kind := prometheus.GaugeValue
			if i == publisherGaps {
				kind = prometheus.CounterValue
			}
			if t.has[i] {
				ch <- prometheus.MustNewConstMetric(d, kind, t.values[i], t.name)
			}
		}
	}
}
