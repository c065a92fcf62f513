package pushgateway

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

func integerHistogram() *histogram.Histogram {
	return &histogram.Histogram{Schema: 3, ZeroThreshold: 1e-128, ZeroCount: 1, Count: 5, Sum: 7.5,
		PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []int64{1, 2}}
}

func floatHistogram(hint histogram.CounterResetHint) *histogram.FloatHistogram {
	return &histogram.FloatHistogram{CounterResetHint: hint, Schema: -1, Count: 2.5, Sum: 3,
		PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []float64{1, 1.5}}
}

func customHistogram() *histogram.Histogram {
	return &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Count: 4, Sum: 9, CustomValues: []float64{0.5, 2},
		PositiveSpans: []histogram.Span{{Length: 3}}, PositiveBuckets: []int64{1, 0, 1}}
}

// holds puts histograms into the rows of a frame that have these names.
func holds(t testing.TB, d sink.Delivery, all map[string]any) sink.Delivery {
	t.Helper()
	for i, s := range d.Frame.Schema.Series {
		switch h := all[s.Labels.Get(model.MetricNameLabel)].(type) {
		case *histogram.Histogram:
			d.Frame.Column.Histograms = append(d.Frame.Column.Histograms, frame.Histogram{Row: i, Int: h})
		case *histogram.FloatHistogram:
			d.Frame.Column.Histograms = append(d.Frame.Column.Histograms, frame.Histogram{Row: i, Float: h})
		}
	}
	if len(d.Frame.Column.Histograms) != len(all) {
		t.Fatalf("%d rows of %d histograms", len(d.Frame.Column.Histograms), len(all))
	}
	return d
}

func histogramRow(name string, pairs ...string) fam {
	return fam{name, model.MetricTypeHistogram, []ser{{name, 0, pairs}}}
}

func exemplar(row int) frame.Exemplar {
	return frame.Exemplar{Row: row, Labels: labels.FromStrings("trace_id", "a"), Value: 1, Timestamp: 1000}
}

func TestNativeHistograms(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		d := holds(t, newFeed(t, "job", "a", "instance", "b:1").scrape(
			histogramRow("i", "k", "v"), histogramRow("f"), histogramRow("g"), histogramRow("c"), histogramOf("classic"), gauge("x", 1),
			fam{"r", model.MetricTypeCounter, []ser{{"r_total", 2, nil}}}, fam{"s", model.MetricTypeSummary, []ser{{"s", 0.1, []string{"quantile", "0.5"}}, {"s_sum", 2, nil}, {"s_count", 3, nil}}},
		), map[string]any{"i": integerHistogram(), "f": floatHistogram(0), "g": floatHistogram(histogram.GaugeType), "c": customHistogram()})
		d.Frame.Column.Exemplars = []frame.Exemplar{exemplar(0), exemplar(0), exemplar(8), exemplar(9)}
		r.deliver("1", d)
		r.want("1", "ok")
		r.wantExposed(a1,
			"histogram i{k=v} count=5 sum=7.5 schema=3 deltas=[1 2] counts=[] exemplars=2",
			"histogram f count=0 sum=3 schema=-1 deltas=[] counts=[1 1.5]",
			"histogram g count=0 sum=3 schema=-1 deltas=[] counts=[1 1.5]", // of a type that the gateway's text page takes
			"histogram c count=4 sum=9 0.5=1 2=2 +Inf=4",
			"histogram classic count=3 sum=4.5 0.5=1 +Inf=3",
			"gauge x 1", "counter r_total 2", "summary s count=3 sum=2 0.5=0.1", "untyped up 1")
		r.wantMetric(0, "pushgateway_left_out_samples_total")
		r.wantMetric(1, "pushgateway_left_out_exemplars_total") // a gauge has no place for one
		if h := d.Frame.Column.Histograms[2].Float; h == nil || h.CounterResetHint != histogram.GaugeType {
			t.Error("the frame's own histogram was changed")
		}
		// A group without any is text as before.
		plain := newFeed(t, "job", "a", "instance", "c").scrape(gauge("x", 1))
		plain.Frame.Column.Exemplars = []frame.Exemplar{exemplar(0)}
		r.deliver("2", plain)
		r.want("2", "ok")
		if want := []string{protobufType, textType}; !slices.Equal(r.gw.types, want) {
			t.Errorf("bodies of type %q, want %q", r.gw.types, want)
		}
		r.wantMetric(2, "pushgateway_left_out_exemplars_total")
	})
}

// TestNativeHistogramsLeftOut: a gateway that takes no protobuf gets the rest as text.
func TestNativeHistogramsLeftOut(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.noProtobuf = true
		f := newFeed(t, "job", "a", "instance", "b:1")
		scrape := func(v float64) sink.Delivery {
			return holds(t, f.scrape(histogramRow("i"), histogramRow("f"), histogramRow("c"), gauge("x", v)),
				map[string]any{"i": integerHistogram(), "f": floatHistogram(0), "c": customHistogram()})
		}
		lines := func(v string) []string {
			return []string{"histogram c count=4 sum=9 0.5=1 2=2 +Inf=4", "gauge x " + v, "untyped up 1"}
		}
		r.deliver("1", scrape(1))
		r.want("1", "ok")
		r.wantExposed(a1, lines("1")...)
		r.wantMetric(2, "pushgateway_left_out_samples_total", "reason", "native_histogram")
		time.Sleep(10 * time.Second)
		r.deliver("2", scrape(2))
		r.want("2", "ok")
		r.wantExposed(a1, lines("2")...)
		r.wantMetric(4, "pushgateway_left_out_samples_total", "reason", "native_histogram")
		if want := []string{protobufType, textType, textType}; !slices.Equal(r.gw.types, want) {
			t.Errorf("bodies of type %q, want %q", r.gw.types, want)
		}
		if n := strings.Count(r.log.String(), "takes no protobuf"); n != 1 {
			t.Errorf("said %d times", n)
		}
		// It may have learnt it.
		r.gw.noProtobuf = false
		time.Sleep(time.Hour)
		r.deliver("3", scrape(3))
		r.want("3", "ok")
		if !slices.Contains(r.gw.exposed(a1), "histogram i count=5 sum=7.5 schema=3 deltas=[1 2] counts=[]") {
			t.Errorf("no native histogram after an hour: %q", r.gw.exposed(a1))
		}
	})
}

// TestNativeHistogramsBesideOtherTypes: what another group has as a gauge cannot be a histogram here.
func TestNativeHistogramsBesideOtherTypes(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.deliver("other", newFeed(t, "job", "a", "instance", "other").scrape(gauge("h", 1), gauge("k_count", 1)))
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", holds(t, f.scrape(histogramRow("h"), histogramRow("k"), gauge("x", 1)),
			map[string]any{"h": integerHistogram(), "k": integerHistogram()}))
		r.want("1", "ok")
		r.wantExposed(a1, "gauge x 1", "untyped up 1")
		r.wantMetric(2, "pushgateway_left_out_samples_total", "reason", "type_conflict")
		time.Sleep(10 * time.Second)
		// Classic and native ones of other groups stand under one name.
		r.deliver("classic", newFeed(t, "job", "a", "instance", "classic").scrape(histogramOf("m")))
		r.deliver("2", holds(t, f.scrape(histogramRow("m"), gauge("x", 2)), map[string]any{"m": integerHistogram()}))
		r.want("2", "ok")
		r.wantExposed(a1, "histogram m count=5 sum=7.5 schema=3 deltas=[1 2] counts=[]", "gauge x 2", "untyped up 1")
	})
}

// TestRowChangesItsForm: what was a float is a histogram in the next frame, and the other way round.
func TestRowChangesItsForm(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		rows := fam{"h", model.MetricTypeUnknown, []ser{{"h", 4, nil}}}
		for i, native := range []bool{false, true, true, false} {
			name := string(rune('1' + i))
			d, want := f.scrape(rows), "untyped h 4"
			if native {
				d, want = holds(t, d, map[string]any{"h": integerHistogram()}), "histogram h count=5 sum=7.5 schema=3 deltas=[1 2] counts=[]"
			}
			r.deliver(name, d)
			r.want(name, "ok")
			r.wantExposed(a1, want, "untyped up 1")
			time.Sleep(10 * time.Second)
		}
		// Both at once cannot stand in one family.
		both := fam{"h", model.MetricTypeHistogram, []ser{{"h", 4, []string{"n", "1"}}, {"h", 5, []string{"n", "2"}}}}
		d := f.scrape(both)
		d.Frame.Column.Histograms = []frame.Histogram{{Row: 0, Int: integerHistogram()}}
		r.deliver("both", d)
		r.want("both", "ok")
		r.wantExposed(a1, "histogram h{n=1} count=5 sum=7.5 schema=3 deltas=[1 2] counts=[]", "untyped up 1")
		r.wantMetric(1, "pushgateway_left_out_samples_total", "reason", "type_conflict")
	})
}

// TestIncompleteHistogramBesideNative: what relabelling left of a classic histogram costs nothing else.
func TestIncompleteHistogramBesideNative(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		d := holds(t, f.scrape(
			fam{"h", model.MetricTypeHistogram, []ser{{"h", 0, nil}, {"h_sum", 7.5, nil}, {"h_count", 5, nil}}},
			fam{"k", model.MetricTypeHistogram, []ser{{"k_bucket", 1, []string{"le", "1.0"}}, {"k_sum", 1, nil}, {"k_count", 1, nil}}},
			fam{"o", model.MetricTypeHistogram, []ser{{"o_bucket", 1, []string{"le", "1"}}, {"o_bucket", 1, []string{"le", "+Inf"}}, {"o_sum", 1, nil}, {"o_count", 1, nil}}},
			fam{"s", model.MetricTypeSummary, []ser{{"s", 0.1, []string{"quantile", "0.5"}}, {"s_sum", 2, nil}}},
			histogramOf("m"), gauge("x", 1),
		), map[string]any{"h": integerHistogram()})
		r.deliver("1", d)
		r.want("1", "ok")
		r.wantExposed(a1, "histogram h count=5 sum=7.5 schema=3 deltas=[1 2] counts=[]", "histogram m count=3 sum=4.5 0.5=1 +Inf=3", "gauge x 1", "untyped up 1")
		r.wantMetric(2+3+4+2, "pushgateway_left_out_samples_total", "reason", "incomplete")
		if n := len(r.gw.requests()); n != 1 {
			t.Errorf("%d pushes, want one that is accepted at once", n)
		}
	})
}

func TestMalformedFrames(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		for name, spoil := range map[string]func(*frame.Frame){
			"too few values":       func(f *frame.Frame) { f.Column.Values = nil },
			"histogram of no row":  func(f *frame.Frame) { f.Column.Histograms = []frame.Histogram{{Row: 9, Int: integerHistogram()}} },
			"histogram of no kind": func(f *frame.Frame) { f.Column.Histograms = []frame.Histogram{{Row: 0}} },
			"exemplar of no row":   func(f *frame.Frame) { f.Column.Exemplars = []frame.Exemplar{exemplar(-1)} },
			"no labels":            func(f *frame.Frame) { f.Target = &frame.Target{} },
		} {
			d := f.scrape(gauge("x", 1))
			spoil(d.Frame)
			r.deliver(name, d)
			r.want(name, "rejected: malformed")
		}
		r.wantMetric(5, "pushgateway_rejected_total", "reason", "malformed")
		if n := len(r.gw.requests()); n != 0 {
			t.Errorf("%d pushes", n)
		}
	})
}
