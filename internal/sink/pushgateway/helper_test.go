package pushgateway

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// fam is a family of a scrape and ser a series of it; its name is the first of the label pairs' values.
type fam struct {
	name   string
	typ    model.MetricType
	series []ser
}

type ser struct {
	name  string
	value float64
	pairs []string
}

func gauge(name string, value float64, pairs ...string) fam {
	return fam{name, model.MetricTypeGauge, []ser{{name, value, pairs}}}
}

func untyped(series ...ser) fam { return fam{"", model.MetricTypeUnknown, series} }

// feed makes the frames of one target.
type feed struct {
	t         testing.TB
	target    *frame.Target
	publisher string
	lane      string
	epoch     uint64
	seq       uint64
	schemas   map[string]*frame.Schema
}

func newFeed(t testing.TB, pairs ...string) *feed {
	return &feed{
		t: t, publisher: "edge1", lane: "live", epoch: 7, schemas: make(map[string]*frame.Schema),
		target: &frame.Target{ID: 1, Labels: labels.FromStrings(pairs...), Interval: 10 * time.Second, Timeout: 5 * time.Second},
	}
}

func (f *feed) delivery(fr *frame.Frame) sink.Delivery {
	f.seq++
	fr.Target, fr.Position = f.target, f.seq
	if fr.Time == 0 {
		fr.Time = time.Now().UnixMilli()
	}
	return sink.Delivery{Frame: fr, Publisher: f.publisher, Lane: f.lane, Epoch: f.epoch, Seq: f.seq, Stored: time.Now()}
}

func (f *feed) scrape(fams ...fam) sink.Delivery {
	f.t.Helper()
	fr := &frame.Frame{Kind: frame.Scraped, Report: frame.Report{Duration: 2 * time.Second, Added: 3}}
	var families []frame.Family
	var series []frame.Series
	for _, fm := range fams {
		n := -1
		if fm.name != "" {
			n = len(families)
			families = append(families, frame.Family{Name: fm.name, Type: fm.typ, Help: "Help of " + fm.name + "."})
		}
		for _, s := range fm.series {
			b := labels.NewScratchBuilder(4)
			b.Add(model.MetricNameLabel, s.name)
			for i := 0; i < len(s.pairs); i += 2 {
				b.Add(s.pairs[i], s.pairs[i+1])
			}
			b.Sort()
			series = append(series, frame.Series{Labels: b.Labels(), Family: n})
			fr.Column.Values = append(fr.Column.Values, s.value)
		}
	}
	schema, err := frame.NewSchema(families, series, frame.DefaultLimits())
	if err != nil {
		f.t.Fatal(err)
	}
	if len(schema.Series) != len(series) {
		f.t.Fatalf("schema has %d series, want %d", len(schema.Series), len(series))
	}
	fr.Schema = schema
	fr.Report.Scraped, fr.Report.PostRelabel = len(series), len(series)
	return f.delivery(fr)
}

func (f *feed) down() sink.Delivery { return f.delivery(&frame.Frame{Kind: frame.Down}) }

func (f *feed) end(why frame.EndReason) sink.Delivery {
	return f.delivery(&frame.Frame{Kind: frame.End, Reason: why})
}

// verdicts collects what a sink says of frames.
type verdicts struct {
	t  testing.TB
	mu sync.Mutex
	by map[string][]error
}

func (v *verdicts) done(name string) func(error) {
	return func(err error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.by[name] = append(v.by[name], err)
	}
}

// of gives "waiting", "ok", "rejected: REASON" or "kept", and complains of two verdicts.
func (v *verdicts) of(name string) string {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch errs := v.by[name]; {
	case len(errs) == 0:
		return "waiting"
	case len(errs) > 1:
		v.t.Errorf("%s has %d verdicts: %v", name, len(errs), errs)
		return "twice"
	case errs[0] == nil:
		return "ok"
	default:
		if reason, ok := sink.Rejected(errs[0]); ok {
			return "rejected: " + reason
		}
		return "kept"
	}
}

// rig is a running sink with its gateway, in a bubble of synctest.
type rig struct {
	*verdicts
	gw   *fakeGateway
	sink *Sink
	reg  *prometheus.Registry
	log  *logBuffer
	stop func()
	ran  chan error
}

// inBubble runs a test with a sink that runs.
func inBubble(t *testing.T, o Options, test func(*testing.T, *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFake(), o)
		test(t, r)
		r.stop()
		if slices.ContainsFunc(r.gw.requests(), func(l string) bool { return l[:3] == "TWO" }) {
			t.Errorf("two pushes of one group at once: %q", r.gw.requests())
		}
	})
}

func newRig(t *testing.T, gw *fakeGateway, o Options) *rig {
	t.Helper()
	r := &rig{verdicts: &verdicts{t: t, by: make(map[string][]error)}, gw: gw, reg: prometheus.NewPedanticRegistry(), log: &logBuffer{}, ran: make(chan error, 1)}
	if o.URL == "" {
		o.URL = "http://gateway:9091/"
	}
	o.HTTPClient, o.Registerer, o.Logger = gw.client(), r.reg, slog.New(slog.NewTextHandler(r.log, nil))
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.sink = s
	ctx, cancel := context.WithCancel(t.Context())
	go func() { r.ran <- s.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-r.ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// logBuffer is for concurrent use.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// deliver hands over a frame and lets everything settle that needs no time.
func (r *rig) deliver(name string, d sink.Delivery) {
	r.t.Helper()
	r.sink.Deliver(r.t.Context(), d, r.done(name))
	synctest.Wait()
}

func (r *rig) want(name, verdict string) {
	r.t.Helper()
	synctest.Wait()
	if got := r.of(name); got != verdict {
		r.t.Errorf("%s: %s, want %s; log:\n%s", name, got, verdict, r.log)
	}
}

// wantExposed compares what a group shows, but for the scrape_* series.
func (r *rig) wantExposed(group string, lines ...string) {
	r.t.Helper()
	synctest.Wait()
	got := slices.DeleteFunc(r.gw.exposed(group), func(l string) bool { return strings.HasPrefix(l, "untyped scrape_") })
	slices.Sort(lines)
	if !slices.Equal(got, lines) {
		r.t.Errorf("group %s has\n%q, want\n%q; log:\n%s", group, got, lines, r.log)
	}
}

func (r *rig) metric(name string, pairs ...string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "prometheus_streams_"+name {
			continue
		}
	metric:
		for _, m := range f.Metric {
			for i := 0; i < len(pairs); i += 2 {
				if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == pairs[i] && l.GetValue() == pairs[i+1] }) {
					continue metric
				}
			}
			switch {
			case m.Counter != nil:
				sum += m.Counter.GetValue()
			case m.Gauge != nil:
				sum += m.Gauge.GetValue()
			case m.Histogram != nil:
				sum += float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return sum
}

func (r *rig) wantMetric(want float64, name string, pairs ...string) {
	r.t.Helper()
	if got := r.metric(name, pairs...); got != want {
		r.t.Errorf("%s%q = %v, want %v", name, pairs, got, want)
	}
}

func lint(t *testing.T, reg prometheus.Gatherer) {
	t.Helper()
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if p.Metric != "prometheus_streams_receiver_publish_errors" && p.Metric != "prometheus_streams_receiver_aged_discards" {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func ptr[T any](v T) *T { return &v }
