package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// selfScrapeHeld bounds the samples of a SelfScrape that wait for its sink: 8 MiB.
const selfScrapeHeld = 1 << 20

// SelfScrape gives a sink, again and again, what is known of the publishers: the samples, with their times and stale
// markers, that a Prometheus would hold that scrapes the metrics of this process and keeps those of publishers.
//
// It is a frame as any other, only that it comes from no stream: it has no publisher. What the sink cannot take yet
// waits here, up to 8 MiB; above, newer ones are not made, which is counted.
type SelfScrape struct {
	Publishers *Publishers
	Sink       Sink
	// Target are the labels of the target that it stands for.
	Target labels.Labels
	// Label is the name of the label with the publisher.
	Label string
	// Interval is how often.
	Interval time.Duration
	// Schemas, if not nil, keep the schema for a sink that asks for it after a restart.
	Schemas *Schemas
	// Skipped counts what was not made because too much waits.
	Skipped prometheus.Counter
	Logger  *slog.Logger

	waiting  atomic.Int64 // samples
	names    []string     // of the last one
	schema   *frame.Schema
	position uint64
	said     bool
}

// NewSelfScrapeSkipped makes and registers the counter of all SelfScrapes of a process.
func NewSelfScrapeSkipped(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "prometheus_streams_receiver_publisher_metrics_skipped_total",
		Help: "Times that the metrics of publishers were not given to the sink, because too many wait for it.",
	}, []string{"sink"})
	reg.MustRegister(c)
	return c
}

// Run gives one to the sink each interval until ctx ends. The first comes after one interval: until then a process that
// has just begun may not have heard of those that are well.
func (s *SelfScrape) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			err := s.scrape(ctx, now)
			if err != nil && !s.said {
				s.Logger.Warn("the metrics of publishers are not written", "error", err)
			}
			s.said = err != nil
		}
	}
}

var errSelfScrapesWait = errors.New("too many wait for the sink already")

func (s *SelfScrape) scrape(ctx context.Context, now time.Time) error {
	all := s.Publishers.truth(now)
	n := publisherSeries * len(all)
	if w := s.waiting.Load(); w > 0 && w+int64(n) > selfScrapeHeld {
		s.Skipped.Inc()
		return fmt.Errorf("%w: %d samples and %d more, the limit is %d", errSelfScrapesWait, w, n, selfScrapeHeld)
	}
	added, err := s.adapt(all)
	if err != nil {
		s.Skipped.Inc()
		return err
	}
	c := frame.Column{Values: make([]float64, n)}
	scraped := 0
	for i := range all {
		for k := range publisherSeries {
			at := k*len(all) + i
			if all[i].has[k] {
				c.Values[at] = all[i].values[k]
				scraped++
				continue
			}
			if c.Absent == nil {
				c.Absent = frame.NewBitmap(n)
			}
			c.Absent.Set(at)
		}
	}
	s.position++
	f := &frame.Frame{
		Kind: frame.Scraped, Time: now.UnixMilli(), Schema: s.schema, Column: c, Position: s.position,
		Target: &frame.Target{ID: 1, Labels: s.Target, Interval: s.Interval, Timeout: s.Interval},
		Report: frame.Report{Duration: time.Since(now), Scraped: scraped, PostRelabel: scraped, Added: added},
	}
	s.waiting.Add(int64(n))
	// Epoch 0 is ordered by time, also over a restart.
	s.Sink.Deliver(ctx, sink.Delivery{Frame: f, Lane: "self", Seq: s.position, Stored: now}, func(error) {
		s.waiting.Add(int64(-n)) // a refusal was counted by the sink; one that stops takes nothing more
	})
	return nil
}

// adapt makes the schema of these publishers, if it is not that of the last time, and counts the series that are new.
func (s *SelfScrape) adapt(all []publisherTruth) (added int, err error) {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].name
		if _, known := slices.BinarySearch(s.names, names[i]); !known {
			added += publisherSeries
		}
	}
	if s.schema != nil && slices.Equal(names, s.names) {
		return added, nil
	}
	families := publisherFamilies()
	series := make([]frame.Series, 0, len(families)*len(all))
	for k := range families {
		for _, name := range names {
			series = append(series, frame.Series{Labels: labels.FromStrings(model.MetricNameLabel, families[k].Name, s.Label, name), Family: k})
		}
	}
	schema, err := frame.NewSchema(families, series, frame.DefaultLimits())
	if err != nil {
		return 0, err
	}
	s.names, s.schema = names, schema
	if s.Schemas != nil {
		s.Schemas.keep(schema)
	}
	return added, nil
}
