package gateway

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

const acceptProto = protobufAnyName

// richFrame has a counter with an exemplar, a classic histogram, and native histograms of each form.
func richFrame(t testing.TB) *frame.Frame {
	bucket := func(le string, v float64) sample { return sample{named("classic_bucket", "le", le), v} }
	f := scraped(t,
		metric{frame.Family{Name: "requests_total", Type: model.MetricTypeCounter, Help: "Requests."}, []sample{{named("requests_total"), 7}}},
		metric{frame.Family{Name: "classic", Type: model.MetricTypeHistogram}, []sample{
			bucket("1.0", 2), bucket("+Inf", 3), {named("classic_sum"), 4.5}, {named("classic_count"), 3},
		}},
		metric{frame.Family{Name: "native", Type: model.MetricTypeHistogram}, []sample{
			{named("native", "form", "int"), 99}, {named("native", "form", "float"), 99}, {named("native", "form", "stale"), 99},
		}},
		metric{frame.Family{Name: "level", Type: model.MetricTypeGaugeHistogram}, []sample{{named("level"), 99}}},
		metric{frame.Family{Name: "custom", Type: model.MetricTypeHistogram}, []sample{{named("custom"), 99}}},
		gauge("plain", 1.5),
	)
	c := &f.Column
	c.Starts = make([]int64, len(c.Values))
	c.Starts[0], c.Starts[5] = 1_000_000_123, 1_000_000_456
	c.Histograms = []frame.Histogram{
		{Row: 5, Int: tsdbutil.GenerateTestHistogram(3)},
		{Row: 6, Float: tsdbutil.GenerateTestFloatHistogram(4)},
		{Row: 7, Int: &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}},
		{Row: 8, Int: tsdbutil.GenerateTestGaugeHistogram(5)},
		{Row: 9, Int: tsdbutil.GenerateTestCustomBucketsHistogram(6)},
	}
	c.Exemplars = []frame.Exemplar{
		{Row: 0, Labels: labels.FromStrings("trace_id", "a"), Value: 1, Timestamp: 1_700_000_000_123},
		{Row: 1, Labels: labels.FromStrings("trace_id", "b"), Value: 0.5, Timestamp: frame.NoTimestamp},
		{Row: 5, Labels: labels.FromStrings("trace_id", "c"), Value: 2, Timestamp: 1_700_000_000_456},
		{Row: 5, Labels: labels.FromStrings("trace_id", "d"), Value: 3, Timestamp: 1_700_000_000_789},
	}
	return f
}

// readRich reads a page as Prometheus reads it, native histograms, exemplars and start timestamps too: by series.
func readRich(t *testing.T, w *world, query, accept string) map[string]string {
	t.Helper()
	rec := w.get(query, accept)
	layout := exposition.NewLayout(exposition.Rules{HonorLabels: true, HonorTimestamps: true, ScrapeNativeHistograms: true,
		AlwaysScrapeClassicHistograms: true}, exposition.NewSchemas())
	parsed, err := layout.Parse(rec.Body.Bytes(), rec.Header().Get("Content-Type"))
	if err != nil {
		t.Fatalf("%s: %v", accept, err)
	}
	out := make(map[string]string)
	b := labels.NewBuilder(labels.EmptyLabels())
	c := &parsed.Column
	for i := range parsed.Schema.Series {
		text := fmt.Sprint(c.Values[i])
		for _, h := range c.Histograms {
			switch {
			case h.Row != i:
			case h.Int != nil:
				text = fmt.Sprint("int ", h.Int.CounterResetHint, " ", h.Int)
			default:
				text = fmt.Sprint("float ", h.Float.CounterResetHint, " ", h.Float)
			}
		}
		for _, x := range exemplarsOf(c, i) {
			text += fmt.Sprint(" # ", x.Labels, x.Value)
			if x.Timestamp != frame.NoTimestamp {
				text += fmt.Sprint(" @", x.Timestamp)
			}
		}
		if c.Starts != nil && c.Starts[i] != 0 {
			text += fmt.Sprint(" since ", c.Starts[i])
		}
		out[parsed.Schema.SeriesLabels(i, labels.EmptyLabels(), b).String()] = text
	}
	return out
}

func TestRichPages(t *testing.T) {
	classic := map[string]string{
		`{__name__="classic_bucket", instance="x", job="a", le="1.0"}`:  "2",
		`{__name__="classic_bucket", instance="x", job="a", le="+Inf"}`: "3",
		`{__name__="classic_sum", instance="x", job="a"}`:               "4.5",
		`{__name__="classic_count", instance="x", job="a"}`:             "3",
		`{__name__="requests_total", instance="x", job="a"}`:            "7",
		`{__name__="plain", instance="x", job="a"}`:                     "1.5",
		`{__name__="up", instance="x", job="a"}`:                        "1",
		`{__name__="custom_count", instance="x", job="a"}`:              fmt.Sprint(tsdbutil.GenerateTestCustomBucketsHistogram(6).Count),
	}
	exemplars := map[string]string{
		`{__name__="requests_total", instance="x", job="a"}`:           `7 # {trace_id="a"} 1 @1700000000123`,
		`{__name__="classic_bucket", instance="x", job="a", le="1.0"}`: `2 # {trace_id="b"} 0.5`,
	}
	gaugeOf := func() *histogram.Histogram { h := tsdbutil.GenerateTestGaugeHistogram(5); return h }
	native := map[string]string{
		`{__name__="requests_total", instance="x", job="a"}`: `7 # {trace_id="a"} 1 @1700000000123 since 1000000123`,
		`{__name__="native", form="int", instance="x", job="a"}`: fmt.Sprint("int ", histogram.UnknownCounterReset, " ", tsdbutil.GenerateTestHistogram(3),
			` # {trace_id="c"} 2 @1700000000456 # {trace_id="d"} 3 @1700000000789 since 1000000456`),
		`{__name__="native", form="float", instance="x", job="a"}`: fmt.Sprint("float ", histogram.UnknownCounterReset, " ", tsdbutil.GenerateTestFloatHistogram(4)),
		`{__name__="level", instance="x", job="a"}`:                fmt.Sprint("int ", histogram.GaugeType, " ", gaugeOf()),
	}
	for _, c := range []struct {
		accept  string
		want    []map[string]string
		without string
		omitted float64
	}{
		{acceptText, []map[string]string{classic}, "native", 3},
		{acceptOM, []map[string]string{classic, exemplars}, "native", 3},
		{acceptProto, []map[string]string{classic, exemplars, native}, "stale", 0},
	} {
		t.Run(c.accept[:strings.IndexByte(c.accept, ';')], func(t *testing.T) {
			w := newWorld(t, Options{})
			w.take(site("A", "job", "a", "instance", "x"), richFrame(t))
			w.take(site("A", "job", "b", "instance", "x"), scraped(t, gauge("plain", 2)))
			got := readRich(t, w, "", c.accept)
			want := make(map[string]string)
			for _, m := range c.want {
				for k, v := range m {
					want[k] = v
				}
			}
			for k, v := range want {
				if got[k] != v {
					t.Errorf("%s is %q, want %q", k, got[k], v)
				}
			}
			for k, v := range got {
				if strings.Contains(k, c.without) || strings.HasPrefix(v, "99") {
					t.Errorf("%s is there: %s", k, v)
				}
			}
			if got[`{__name__="plain", instance="x", job="b"}`] != "2" {
				t.Errorf("the other target: %v", got)
			}
			if n := testutil.ToFloat64(w.metrics.omittedHistograms); n != c.omitted {
				t.Errorf("%v histograms are counted as left out, want %v", n, c.omitted)
			}
		})
	}
}

// What holds for text holds for protobuf: parameters, duplicates, times, names that need escaping, targets that are down.
func TestProtobufPages(t *testing.T) {
	w := newWorld(t, Options{Timestamps: true, PublisherLabel: "site"})
	w.take(site("A", "job", "a"), scraped(t, gauge("m", 1, "job", "b"), gauge("own.name", 5)))
	w.take(site("A", "job", "b"), scraped(t, gauge("m", 2)))
	w.take(site("A", "job", "c"), down())
	got := readRich(t, w, "", acceptProto)
	if got[`{__name__="m", job="b", site="A"}`] != "1" || got[`{__name__="up", job="c", site="A"}`] != "0" ||
		got[`{__name__="own.name", job="a", site="A"}`] != "5" {
		t.Errorf("page %v", got)
	}
	if n := testutil.ToFloat64(w.metrics.twice); n != 1 {
		t.Errorf("%v duplicates", n)
	}
	under := readRich(t, w, "", strings.Replace(acceptProto, "allow-utf-8", "underscores", 1))
	if under[`{__name__="own_name", job="a", site="A"}`] != "5" {
		t.Errorf("escaped page %v", under)
	}
	got = readRich(t, w, `?job=b&match[]={__name__=~"m|up"}`, acceptProto)
	if len(got) != 2 || got[`{__name__="m", job="b", site="A"}`] != "2" {
		t.Errorf("page of one job %v", got)
	}
	rec := w.get("?job=b", acceptProto)
	parsed, err := exposition.NewLayout(exposition.Rules{HonorLabels: true, HonorTimestamps: true}, exposition.NewSchemas()).
		Parse(rec.Body.Bytes(), rec.Header().Get("Content-Type"))
	if err != nil || !slices.Contains(parsed.Column.Timestamps, w.now.UnixMilli()) {
		t.Errorf("times %v, %v", parsed.Column.Timestamps, err)
	}
	if !strings.HasPrefix(rec.Header().Get("Content-Type"), "application/vnd.google.protobuf") {
		t.Errorf("content type %q", rec.Header().Get("Content-Type"))
	}
}

// A family of many targets goes on in further messages, so that none has to be held for all of them.
func TestProtobufFamilyOfManyTargets(t *testing.T) {
	w := newWorld(t, Options{})
	const targets, series = 12, 1000
	for i := range targets {
		m := metric{Family: gauge("m", 0).Family}
		for j := range series {
			m.samples = append(m.samples, sample{named("m", "n", fmt.Sprint(j)), float64(j)})
		}
		w.take(site("A", "job", fmt.Sprint(i)), scraped(t, m))
	}
	page := w.text("", acceptProto)
	if n := strings.Count(page, "m help"); n != 3 {
		t.Errorf("the family stands in %d messages, want 3", n)
	}
	if got := readRich(t, w, "", acceptProto); len(got) != targets*(series+5) {
		t.Errorf("%d series", len(got))
	}
}
