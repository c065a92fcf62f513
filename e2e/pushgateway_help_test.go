package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/sink/pushgateway"
)

// What tests need that run the sink itself against real Push Gateways, with scrapes that no target of the harness makes.

// pushGateways are the servers that each test runs against: the newest one and that of Debian 12.
var pushGateways = []string{"pushgateway", "pushgateway-debian"}

// pushServer is a real Push Gateway. It keeps nothing over a restart.
type pushServer struct {
	*harness.Process
	URL  string
	name string
	argv []string
}

func startPushServer(t testing.TB, name string, flags ...string) *pushServer {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", ports.Next(t))
	g := &pushServer{URL: "http://" + address, name: name}
	g.argv = append([]string{harness.Server(t, name), "--web.listen-address=" + address}, flags...)
	g.Restart(t)
	return g
}

func (g *pushServer) Restart(t testing.TB) {
	t.Helper()
	g.Process = harness.Start(t, g.name, g.argv...)
	harness.WaitReady(t, 10*time.Second, g.URL+"/-/ready")
}

// lines are the series of a group, "name{labels but the group's} value" without the gateway's own and the scrape's,
// for simple types; histograms and summaries show their count.
func (g *pushServer) lines(group harness.Labels) ([]string, error) {
	page, err := harness.Scrape(g.URL + "/metrics")
	if err != nil {
		return nil, err
	}
	var out []string
	for name, family := range page {
		if strings.HasPrefix(name, "push_") || strings.HasPrefix(name, "scrape_") {
			continue
		}
		for _, m := range family.Metric {
			if text, ok := line(family, m, group); ok {
				out = append(out, text)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

func line(f *dto.MetricFamily, m *dto.Metric, group harness.Labels) (string, bool) {
	rest := maps.Clone(group)
	var own []string
	for _, l := range m.Label {
		if v, ok := rest[l.GetName()]; ok {
			if v != l.GetValue() {
				return "", false
			}
			delete(rest, l.GetName())
			continue
		}
		own = append(own, l.GetName()+"="+l.GetValue())
	}
	for _, v := range rest {
		if v != "" {
			return "", false
		}
	}
	value := 0.0
	switch {
	case m.Counter != nil:
		value = m.Counter.GetValue()
	case m.Gauge != nil:
		value = m.Gauge.GetValue()
	case m.Untyped != nil:
		value = m.Untyped.GetValue()
	case m.Summary != nil:
		value = float64(m.Summary.GetSampleCount())
	case m.Histogram != nil:
		value = float64(m.Histogram.GetSampleCount())
	}
	return fmt.Sprintf("%s %s{%s} %v", strings.ToLower(f.GetType().String()), f.GetName(), strings.Join(own, ","), value), true
}

func (g *pushServer) waitLines(t testing.TB, limit time.Duration, group harness.Labels, want ...string) {
	t.Helper()
	slices.Sort(want)
	harness.Wait(t, limit, fmt.Sprintf("group %v has %q", group, want), func() error {
		got, err := g.lines(group)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("it has %q", got)
		}
		return err
	})
}

// pushSink is a sink that runs, and what it said of frames.
type pushSink struct {
	*pushgateway.Sink
	t   testing.TB
	reg *prometheus.Registry

	mu       sync.Mutex
	open     int
	verdicts map[string]int
}

func startPushSink(t testing.TB, o pushgateway.Options) (s *pushSink, stop func()) {
	t.Helper()
	s = &pushSink{t: t, reg: prometheus.NewRegistry(), verdicts: make(map[string]int)}
	o.Registerer = s.reg
	var err error
	if s.Sink, err = pushgateway.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

func (s *pushSink) deliver(d sink.Delivery) {
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	s.Deliver(context.Background(), d, func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		verdict := "ok"
		if reason, ok := sink.Rejected(err); ok {
			verdict = reason
		} else if err != nil {
			verdict = "kept"
		}
		s.verdicts[verdict]++
	})
}

// settled waits until everything has its verdict and gives them.
func (s *pushSink) settled(limit time.Duration) map[string]int {
	s.t.Helper()
	harness.Wait(s.t, limit, "all frames have their verdict", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open > 0 {
			return fmt.Errorf("%d wait", s.open)
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.verdicts)
}

// feed makes the frames of one target from expositions.
type pushFeed struct {
	t         testing.TB
	publisher string
	target    *frame.Target
	layout    *exposition.Layout
	position  uint64
}

func newPushFeed(t testing.TB, honor bool, pairs ...string) *pushFeed {
	ls := labels.FromStrings(pairs...)
	return &pushFeed{
		t: t, publisher: "edge",
		target: &frame.Target{ID: ls.Hash(), Labels: ls, Interval: 2 * time.Second, Timeout: time.Second},
		layout: exposition.NewLayout(exposition.Rules{Target: ls, HonorLabels: honor, HonorTimestamps: true}, exposition.NewSchemas()),
	}
}

func (f *pushFeed) scrape(body, contentType string) sink.Delivery {
	f.t.Helper()
	fr := &frame.Frame{Kind: frame.Scraped}
	p, err := f.layout.Parse([]byte(body), contentType)
	if err != nil {
		f.t.Fatal(err)
	}
	fr.Schema = p.Schema
	fr.Column = frame.Column{Values: slices.Clone(p.Column.Values), Absent: slices.Clone(p.Column.Absent), Timestamps: slices.Clone(p.Column.Timestamps)}
	return f.frame(fr)
}

func (f *pushFeed) frame(fr *frame.Frame) sink.Delivery {
	f.position++
	fr.Target, fr.Position, fr.Time = f.target, f.position, time.Now().UnixMilli()
	return sink.Delivery{Frame: fr, Publisher: f.publisher, Lane: "live", Epoch: f.target.ID, Seq: f.position, Stored: time.Now()}
}
