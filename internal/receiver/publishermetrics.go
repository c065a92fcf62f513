package receiver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// publisherCollector shows what is known of publishers, as of when it is asked.
type publisherCollector struct {
	*Publishers
	up, seen, lag, skew, gaps *prometheus.Desc
}

func newPublisherCollector(p *Publishers) *publisherCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("prometheus_streams_publisher_"+name, help, []string{"publisher"}, nil)
	}
	return &publisherCollector{
		Publishers: p,
		up: desc("up", "1 if something of the publisher came within three of its shortest interval and 30 seconds, else 0: "+
			"for those that are expected and those that were seen, until they are forgotten."),
		seen: desc("last_seen_timestamp_seconds",
			"When the stream stored the newest message of the publisher, in seconds since the Unix epoch."),
		lag: desc("lag_seconds", "Age of the publisher's newest scrape that was received."),
		skew: desc("clock_skew_seconds", "How far the publisher's clock is ahead of the stream's, if what it scrapes takes no time "+
			"to be stored: below zero by that time at least."),
		gaps: desc("gaps_total", "Times that bundles of the publisher were missing."),
	}
}

// Describe implements prometheus.Collector.
func (c *publisherCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.seen, c.lag, c.skew, c.gaps} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *publisherCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, x := range c.known {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name)
		}
		up := 0.0
		if c.Publishers.up(x) {
			up = 1
		}
		gauge(c.up, up)
		if !x.seen.IsZero() {
			gauge(c.seen, float64(x.seen.UnixMilli())/1000)
		}
		if x.scraped != 0 {
			gauge(c.lag, float64(now.UnixMilli()-x.scraped)/1000)
		}
		if d, ok := x.delay.value(); ok {
			gauge(c.skew, float64(-d)/1000)
		}
		gaps := uint64(0) // each sink sees the same ones
		for _, n := range x.gaps {
			gaps = max(gaps, n)
		}
		ch <- prometheus.MustNewConstMetric(c.gaps, prometheus.CounterValue, float64(gaps), name)
	}
}
