package gateway

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

const (
	acceptText = "text/plain;version=0.0.4"
	acceptOM   = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8"
)

// world is a gateway with a clock of its own.
type world struct {
	*Gateway
	t        testing.TB
	now      time.Time
	seq      uint64
	registry *prometheus.Registry
}

func newWorld(t testing.TB, o Options) *world {
	w := &world{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), registry: prometheus.NewRegistry()}
	o.Clock = func() time.Time { return w.now }
	o.Registerer = w.registry
	w.Gateway = New(o)
	return w
}

// source is a target as some publisher has it.
type source struct {
	publisher string
	labels    labels.Labels
	interval  time.Duration
}

func site(publisher string, pairs ...string) source {
	return source{publisher, labels.FromStrings(pairs...), 15 * time.Second}
}

// give delivers a frame scraped now and gives the reason of its rejection, if it is rejected.
func (w *world) give(s source, f *frame.Frame) string {
	w.t.Helper()
	w.seq++
	f.Target = &frame.Target{ID: 1, Labels: s.labels, Interval: s.interval, Timeout: s.interval}
	f.Position = w.seq
	if f.Time == 0 {
		f.Time = w.now.UnixMilli()
	}
	answers := 0
	var verdict error
	w.Deliver(context.Background(), sink.Delivery{
		Frame: f, Publisher: s.publisher, Lane: "live", Epoch: 1, Seq: w.seq, Stored: w.now,
	}, func(err error) { answers++; verdict = err })
	if answers != 1 {
		w.t.Fatalf("done was called %d times", answers)
	}
	reason, ok := sink.Rejected(verdict)
	if verdict != nil && !ok {
		w.t.Fatalf("not a rejection: %v", verdict)
	}
	return reason
}

// take is give for what must be taken.
func (w *world) take(s source, f *frame.Frame) {
	w.t.Helper()
	if reason := w.give(s, f); reason != "" {
		w.t.Fatalf("rejected: %s", reason)
	}
}

// metric is a family with its series, as a target exposes it.
type metric struct {
	frame.Family
	samples []sample
}

type sample struct {
	labels labels.Labels
	value  float64
}

func gauge(name string, value float64, pairs ...string) metric {
	return metric{frame.Family{Name: name, Type: model.MetricTypeGauge, Help: name + " help"},
		[]sample{{labels.FromStrings(append(pairs, "__name__", name)...), value}}}
}

// scraped makes a frame; the labels are as they stand in a schema.
func scraped(t testing.TB, metrics ...metric) *frame.Frame {
	t.Helper()
	var families []frame.Family
	var series []frame.Series
	f := &frame.Frame{Kind: frame.Scraped}
	for _, m := range metrics {
		at := -1
		if m.Type != "" {
			at = len(families)
			families = append(families, m.Family)
		}
		for _, s := range m.samples {
			series = append(series, frame.Series{Labels: s.labels, Family: at})
			f.Column.Values = append(f.Column.Values, s.value)
		}
	}
	s, err := frame.NewSchema(families, series, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	f.Schema = s
	f.Report = frame.Report{
		Duration: 250 * time.Millisecond, Scraped: len(series), PostRelabel: len(series), Added: len(series),
	}
	return f
}

func down() *frame.Frame {
	return &frame.Frame{Kind: frame.Down, Report: frame.Report{Duration: 10 * time.Second}}
}

func end(why frame.EndReason) *frame.Frame { return &frame.Frame{Kind: frame.End, Reason: why} }

// get asks the metrics handler.
func (w *world) get(query, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, MetricsPath+query, nil)
	r.Header.Set("Accept", accept)
	rec := httptest.NewRecorder()
	w.Metrics().ServeHTTP(rec, r)
	return rec
}

// text gives a page as it is.
func (w *world) text(query, accept string) string {
	w.t.Helper()
	rec := w.get(query, accept)
	if rec.Code != http.StatusOK {
		w.t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// series gives the series of a page, read as Prometheus reads it, with their values by labels.
func (w *world) series(query, accept string) map[string]float64 {
	w.t.Helper()
	rec := w.get(query, accept)
	if rec.Code != http.StatusOK {
		w.t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	return parse(w.t, rec.Body.Bytes(), rec.Header().Get("Content-Type"))
}

func parse(t testing.TB, body []byte, contentType string) map[string]float64 {
	t.Helper()
	layout := exposition.NewLayout(exposition.Rules{HonorLabels: true, HonorTimestamps: true}, exposition.NewSchemas())
	parsed, err := layout.Parse(body, contentType)
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	all := make(map[string]float64)
	b := labels.NewBuilder(labels.EmptyLabels())
	for i := range parsed.Schema.Series {
		all[parsed.Schema.SeriesLabels(i, labels.EmptyLabels(), b).String()] = parsed.Column.Values[i]
	}
	if parsed.Scraped != len(all) {
		t.Fatalf("%d samples of %d series\n%s", parsed.Scraped, len(all), body)
	}
	return all
}

// without leaves out the report series, to keep expectations short.
func without(all map[string]float64) map[string]float64 {
	kept := make(map[string]float64)
	for k, v := range all {
		name := ""
		for _, n := range reportNames() {
			if containsName(k, n) {
				name = n
			}
		}
		if name == "" {
			kept[k] = v
		}
	}
	return kept
}

func containsName(series, name string) bool {
	prefix := `{__name__="` + name + `"`
	return len(series) >= len(prefix) && series[:len(prefix)] == prefix
}

func same(a, b map[string]float64) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || math.Float64bits(v) != math.Float64bits(w) {
			return false
		}
	}
	return true
}

func body(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
