package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/forward"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
)

// backlog is what targets would have been scraped while nobody received: made by the product's encoder, in bundles of the
// product's size, with a clock that runs as fast as it can.
type backlog struct {
	targets, series, scrapes int
	interval                 time.Duration
	first                    time.Time // of the first scrape of the first target
}

const (
	backlogSite  = "site"
	backlogFlush = 32 << 10 // as poller.flush_size
)

// value is that of a series in a scrape: counters, gauges with and without decimals, and some that never change.
func (b *backlog) value(target, series, scrape int) float64 {
	seed := uint64(target)<<40 ^ uint64(series)<<16 ^ uint64(scrape)
	seed = (seed ^ seed>>31) * 0x9e3779b97f4a7c15
	noise := float64(seed >> 56)
	switch series % 10 {
	case 0, 1, 2, 3, 4:
		return float64(series*1000+scrape*(series%191)*4) + noise
	case 5, 6:
		return noise / 8
	case 7:
		return float64(seed>>11) / (1 << 53)
	}
	return float64(series)
}

// time is that of a scrape: targets are spread over the interval.
func (b *backlog) time(target, scrape int) int64 {
	return b.first.Add(time.Duration(scrape)*b.interval + time.Duration(target)*b.interval/time.Duration(b.targets)).UnixMilli()
}

func (b *backlog) samples() int { return b.targets * b.series * b.scrapes }

// schema names the series: number-N is in the label that receivers tell them apart by.
func (b *backlog) schema(t testing.TB) *frame.Schema {
	t.Helper()
	families := []frame.Family{{Name: "backlog_requests_total", Type: model.MetricTypeCounter, Help: "Requests that were answered."},
		{Name: "backlog_queue_bytes", Type: model.MetricTypeGauge, Help: "Bytes that wait.", Unit: "bytes"}}
	series := make([]frame.Series, b.series)
	for i := range series {
		family := i % 2
		series[i] = frame.Series{Family: family, Labels: labels.FromStrings("__name__", families[family].Name, "code", fmt.Sprint(200+i%7),
			"handler", fmt.Sprintf("/api/v1/some/path/%d", i%50), "series", fmt.Sprintf("number-%d", i))}
	}
	s, err := frame.NewSchema(families, series, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fill stores it all in a stream and tells how many bytes of messages that took.
func (b *backlog) fill(t testing.TB, server *harness.NATS) (size int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	conn, err := jetstream.Connect(ctx, jetstream.Options{
		Server: access.Server{URLs: []string{server.URL}, Name: backlogSite, Logger: logger, Registerer: prometheus.NewRegistry()},
		Topic:  "prometheus", Stream: "PROMETHEUS",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.EnsureStreams(ctx, jetstream.StreamConfig{Create: true}); err != nil {
		t.Fatal(err)
	}
	subjects := stream.Subjects{Topic: "prometheus"}
	frames := subjects.Frames(backlogSite, "live")
	publisher, err := conn.Publisher(jetstream.PublisherOptions{Subjects: []string{frames, subjects.Schema(backlogSite, frame.SchemaID{})}})
	if err != nil {
		t.Fatal(err)
	}
	waiting := spool.NewMemory(spool.MemoryOptions{Logger: logger, Registerer: prometheus.NewRegistry(), Refuse: true})
	forwarder := forward.New(forward.Config{Spool: waiting, Publisher: publisher, Logger: logger, Registerer: prometheus.NewRegistry()})
	ended := make(chan error, 1)
	go func() { ended <- forwarder.Run(ctx) }()

	schema := b.schema(t)
	f := &filler{backlog: b, spool: waiting, subject: frames, epoch: rand.Uint64(), schema: spool.Schema{
		ID: schema.ID.String(), Subject: subjects.Schema(backlogSite, schema.ID), Message: schema.Marshal(),
	}}
	if err := f.run(schema); err != nil {
		t.Fatal(err)
	}
	if err := waiting.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return f.size
}

// filler is the edge of a backlog.
type filler struct {
	*backlog
	spool   *spool.Memory
	subject string
	schema  spool.Schema
	epoch   uint64
	seq     uint64
	totals  frame.Totals
	open    frame.Totals
	bundle  []byte
	size    int
}

func (f *filler) run(schema *frame.Schema) error {
	encoders := make([]*frame.Encoder, f.targets)
	for i := range encoders {
		encoders[i] = frame.NewEncoder(f.epoch, &frame.Target{
			ID: uint64(i + 1), Labels: labels.FromStrings("instance", fmt.Sprintf("host-%d", i), "job", "backlog"), Interval: f.interval, Timeout: f.interval,
		}, frame.EncoderOptions{})
	}
	c := frame.Column{Values: make([]float64, f.series)}
	report := frame.Report{Duration: 20 * time.Millisecond, Scraped: f.series, PostRelabel: f.series}
	var encoded []byte
	for n := range f.scrapes {
		for i, e := range encoders {
			for k := range c.Values {
				c.Values[k] = f.value(i, k, n)
			}
			var err error
			if encoded, err = e.AppendScrape(encoded[:0], f.time(i, n), report, schema, &c); err != nil {
				return err
			}
			if len(f.bundle) > 0 && len(f.bundle)+len(encoded) > backlogFlush {
				if err := f.flush(); err != nil {
					return err
				}
			}
			f.bundle = append(f.bundle, encoded...)
			f.open.Frames++
			f.open.Samples += uint64(f.series)
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	f.bundle = frame.AppendEpochEnd(f.bundle, f.epoch, f.time(f.targets-1, f.scrapes-1))
	return f.flush()
}

// flush hands the open bundle to the spool, as soon as that has room.
func (f *filler) flush() error {
	f.seq++
	f.totals.Frames += f.open.Frames
	f.totals.Samples += f.open.Samples
	totals := f.totals
	m := frame.AppendBundle(nil, frame.Header{Publisher: backlogSite, Lane: "live", Epoch: f.epoch, Seq: f.seq, Totals: &totals}, f.bundle)
	r := spool.Record{Subject: f.subject, Message: m, Frames: int(f.open.Frames), Samples: int(f.open.Samples), Schemas: []string{f.schema.ID}}
	f.size += len(m)
	f.bundle, f.open = f.bundle[:0], frame.Totals{}
	for {
		err := f.spool.Append(r, f.schema)
		if !errors.Is(err, spool.ErrFull) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// number reads the number behind a prefix; -1 if there is none.
func number(text, prefix string) int {
	digits, ok := strings.CutPrefix(text, prefix)
	if !ok || digits == "" {
		return -1
	}
	n := 0
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}
