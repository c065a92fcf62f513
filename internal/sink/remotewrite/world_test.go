package remotewrite

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// world is a running sink with a server.
type world struct {
	*Sink
	t        testing.TB
	server   *server
	registry *prometheus.Registry
	stopped  func()
	seq      uint64

	mu       sync.Mutex
	open     int
	verdicts []error
}

func newWorld(t testing.TB, server *server, o Options) *world {
	t.Helper()
	w := &world{t: t, server: server, registry: prometheus.NewRegistry()}
	o.URL, o.Name, o.Registerer = "http://centre/api/v1/write", "remote_write-test", w.registry
	o.HTTPClient = &http.Client{Transport: server}
	var err error
	if w.Sink, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	w.stopped = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.open != 0 {
			t.Errorf("%d frames have no verdict", w.open)
		}
	})
	return w
}

// bubble runs a test with a clock of its own.
func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

// target is what a frame is about.
func site(pairs ...string) *frame.Target {
	return &frame.Target{ID: 1, Labels: labels.FromStrings(pairs...), Interval: 15 * time.Second, Timeout: 10 * time.Second}
}

func schemaOf(t testing.TB, series ...labels.Labels) *frame.Schema {
	t.Helper()
	families := []frame.Family{{Name: "m", Type: model.MetricTypeCounter, Help: "What m counts.", Unit: "things"}}
	all := make([]frame.Series, len(series))
	for i, l := range series {
		all[i] = frame.Series{Labels: l, Family: 0}
	}
	s, err := frame.NewSchema(families, all, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ms makes labels of m with a label x each.
func ms(xs ...string) (out []labels.Labels) {
	for _, x := range xs {
		out = append(out, labels.FromStrings("__name__", "m", "x", x))
	}
	return out
}

func scraped(s *frame.Schema, ms int64, values ...float64) *frame.Frame {
	return &frame.Frame{Kind: frame.Scraped, Time: ms, Schema: s, Column: frame.Column{Values: values},
		Report: frame.Report{Duration: 12 * time.Millisecond, Scraped: len(values), PostRelabel: len(values)}}
}

// give delivers a frame.
func (w *world) give(g *frame.Target, f *frame.Frame, change ...func(*sink.Delivery)) {
	w.seq++
	f.Target, f.Position = g, w.seq
	d := sink.Delivery{Frame: f, Publisher: "DC1", Lane: "live", Epoch: 1, Seq: w.seq, Stored: time.Now()}
	for _, c := range change {
		c(&d)
	}
	w.mu.Lock()
	w.open++
	w.mu.Unlock()
	w.Deliver(context.Background(), d, func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open--
		w.verdicts = append(w.verdicts, err)
	})
}

// settle waits, in the bubble's time, and checks that all frames have a verdict and it was good.
func (w *world) settle(wait time.Duration) {
	w.t.Helper()
	time.Sleep(wait)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open != 0 {
		w.t.Errorf("%d frames have no verdict after %v", w.open, wait)
	}
	for _, err := range w.verdicts {
		if err != nil {
			w.t.Errorf("verdict %v", err)
		}
	}
	w.verdicts = nil
}

// reasons waits and gives the reasons of rejections.
func (w *world) reasons(wait time.Duration) (out []string) {
	w.t.Helper()
	time.Sleep(wait)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.verdicts {
		if reason, ok := sink.Rejected(err); ok {
			out = append(out, reason)
		} else if err != nil && !errors.Is(err, errStopped) {
			w.t.Errorf("verdict %v", err)
		}
	}
	w.verdicts = nil
	return out
}

// has checks what the server has of a series: times and values in turn.
func (w *world) has(series []string, want ...float64) {
	w.t.Helper()
	var points []point
	for i := 0; i < len(want); i += 2 {
		bits := math.Float64bits(want[i+1])
		if math.IsNaN(want[i+1]) {
			bits = value.StaleNaN
		}
		points = append(points, point{int64(want[i]), bits})
	}
	if got := w.server.series(series...); !slices.Equal(got, points) {
		w.t.Errorf("%v has %v, want %v", series, got, points)
	}
}

func (w *world) metric(name string, pairs ...string) float64 {
	w.t.Helper()
	all, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != namespace+name {
			continue
		}
		for _, m := range f.Metric {
			match := 0
			for i := 0; i < len(pairs); i += 2 {
				for _, l := range m.Label {
					if l.GetName() == pairs[i] && l.GetValue() == pairs[i+1] {
						match += 2
					}
				}
			}
			if match == len(pairs) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

var stale = math.NaN() // in has: a stale marker
