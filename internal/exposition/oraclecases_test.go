package exposition

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const protoType = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

// delimited writes families as a target that speaks protobuf does.
func delimited(t testing.TB, families ...*dto.MetricFamily) string {
	t.Helper()
	var b bytes.Buffer
	for _, f := range families {
		if _, err := protodelim.MarshalTo(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// program is what client_golang exposes of a program after some time.
func program(t testing.TB, step int, format expfmt.FormatType) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	trace := func(i int) prometheus.Labels { return prometheus.Labels{"trace_id": fmt.Sprintf("t%d-%d", step, i)} }
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c_total", Help: "A counter."}, []string{"x"})
	classic := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "classic_seconds", Help: "Classic.", Buckets: []float64{0.1, 1, 10}}, []string{"x"})
	native := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "native", NativeHistogramBucketFactor: 1.1}, []string{"x"})
	both := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "both", Help: "Both \"kinds\".\n", Buckets: []float64{-1, 0, 1}, NativeHistogramBucketFactor: 1.05, NativeHistogramZeroThreshold: 0.001,
	}, []string{"x"})
	summary := prometheus.NewSummaryVec(prometheus.SummaryOpts{Name: "s", Objectives: map[float64]float64{0.5: 0.05, 0.99: 0.001}}, []string{"x"})
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "g"}, []string{"x"})
	untyped := prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "u"}, func() float64 { return math.NaN() })
	reg.MustRegister(counter, classic, native, both, summary, gauge, untyped)
	for _, x := range []string{"", "a", "ü \"\\\n"} {
		counter.WithLabelValues(x).(prometheus.ExemplarAdder).AddWithExemplar(float64(step)+0.5, trace(0))
		gauge.WithLabelValues(x).Set(math.Inf(step%2*2 - 1))
		for i := range 20 * step {
			v := math.Pow(-1.3, float64(i%17)) * float64(step)
			for _, h := range []*prometheus.HistogramVec{classic, native, both} {
				h.WithLabelValues(x).(prometheus.ExemplarObserver).ObserveWithExemplar(v, trace(i))
			}
			summary.WithLabelValues(x).Observe(v)
		}
		native.WithLabelValues(x)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var options []expfmt.EncoderOption
	if step%2 == 0 {
		options = append(options, expfmt.WithCreatedLines())
	}
	e := expfmt.NewEncoder(&b, expfmt.NewFormat(format), options...)
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	if c, ok := e.(expfmt.Closer); ok {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// odd are families that no client library would write.
func odd(t testing.TB, now time.Time) []string {
	t.Helper()
	typ := func(x dto.MetricType) *dto.MetricType { return &x }
	label := func(n, v string) []*dto.LabelPair { return []*dto.LabelPair{{Name: &n, Value: &v}} }
	ts := func(d time.Duration) *int64 { return proto.Int64(now.Add(d).UnixMilli()) }
	example := func(v float64, at *timestamppb.Timestamp, ls []*dto.LabelPair) *dto.Exemplar {
		return &dto.Exemplar{Label: ls, Value: &v, Timestamp: at}
	}
	floats := &dto.Histogram{
		SampleCountFloat: proto.Float64(7.5), SampleSum: proto.Float64(math.NaN()), Schema: proto.Int32(3), ZeroThreshold: proto.Float64(1e-9), ZeroCountFloat: proto.Float64(0.5),
		PositiveSpan:  []*dto.BucketSpan{{Offset: proto.Int32(-3), Length: proto.Uint32(2)}, {Offset: proto.Int32(5), Length: proto.Uint32(1)}},
		PositiveCount: []float64{1, 2, 3}, NegativeSpan: []*dto.BucketSpan{{Offset: proto.Int32(0), Length: proto.Uint32(1)}}, NegativeCount: []float64{1},
		CreatedTimestamp: timestamppb.New(now.Add(-time.Hour)),
		Exemplars: []*dto.Exemplar{
			example(9, timestamppb.New(now), label("a", "new")), example(1, nil, label("a", "none")), example(2, timestamppb.New(now.Add(-time.Minute)), label("a", "old")),
			example(3, timestamppb.New(now), label("a", strings.Repeat("x", 200))), example(3, timestamppb.New(now), label("empty", "")),
		},
	}
	wrong := proto.Clone(floats).(*dto.Histogram)
	wrong.NegativeCount = []float64{-1}
	short := proto.Clone(floats).(*dto.Histogram)
	short.NegativeCount = nil
	gauge := &dto.MetricFamily{Name: proto.String("g"), Type: typ(dto.MetricType_GAUGE), Unit: proto.String("bytes"), Metric: []*dto.Metric{
		{Label: label("x", "1"), Gauge: &dto.Gauge{Value: proto.Float64(math.Copysign(0, -1))}, TimestampMs: ts(-time.Second)},
		{Label: label("x", "2"), Gauge: &dto.Gauge{Value: proto.Float64(5)}},
		{Label: label("x", "1"), Gauge: &dto.Gauge{Value: proto.Float64(6)}, TimestampMs: ts(-time.Millisecond)},
		{Label: label("x", "2"), Gauge: &dto.Gauge{Value: proto.Float64(7)}},
		{Label: label("x", "3"), Gauge: &dto.Gauge{Value: proto.Float64(7)}, TimestampMs: ts(time.Hour)},
	}}
	histograms := func(name string, h ...*dto.Histogram) *dto.MetricFamily {
		f := &dto.MetricFamily{Name: &name, Help: proto.String("h"), Type: typ(dto.MetricType_HISTOGRAM)}
		for i, one := range h {
			f.Metric = append(f.Metric, &dto.Metric{Label: label("i", fmt.Sprint(i)), Histogram: one})
		}
		return f
	}
	gaugeHistogram := histograms("gh", floats, &dto.Histogram{SampleCount: proto.Uint64(3), SampleSum: proto.Float64(1), Bucket: []*dto.Bucket{
		{UpperBound: proto.Float64(1), CumulativeCount: proto.Uint64(2), Exemplar: example(0.5, nil, label("t", "b"))},
	}})
	gaugeHistogram.Type = typ(dto.MetricType_GAUGE_HISTOGRAM)
	counter := &dto.MetricFamily{Name: proto.String("dots.total"), Type: typ(dto.MetricType_COUNTER), Metric: []*dto.Metric{{
		Label: label("l.x", "y"), Counter: &dto.Counter{Value: proto.Float64(1), CreatedTimestamp: timestamppb.New(now), Exemplar: example(1, nil, label("t", "c"))},
	}}}
	empty := &dto.MetricFamily{Name: proto.String("empty"), Type: typ(dto.MetricType_GAUGE)}
	all := delimited(t, gauge, empty, gaugeHistogram, counter, histograms("f", floats), histograms("f", floats))
	return []string{
		all, all, delimited(t, histograms("f", floats), gauge), delimited(t, gauge, histograms("w", wrong)), delimited(t, gauge, histograms("s", short)),
		all[:len(all)-1], "\x05abc", delimited(t, &dto.MetricFamily{Name: proto.String("")}), "", all + "\x01", all,
	}
}

// oracleCases are formats and settings.
func oracleCases(t *testing.T) map[string]oracleCase {
	t.Helper()
	now := time.Now().Truncate(time.Millisecond)
	proto, open, text := make([]string, 4), make([]string, 4), make([]string, 4)
	for i := range proto {
		proto[i] = program(t, i+1, expfmt.TypeProtoDelim)
		open[i] = program(t, i+1, expfmt.TypeOpenMetrics)
		text[i] = program(t, i+1, expfmt.TypeTextPlain)
	}
	cases := map[string]oracleCase{
		"odd-protobuf":      {"scrape_native_histograms: true", protoType, odd(t, now)},
		"odd-utf8-legacy":   {"scrape_native_histograms: true\nmetric_name_validation_scheme: legacy", protoType, odd(t, now)[:2]},
		"odd-no-timestamps": {"scrape_native_histograms: true\nhonor_timestamps: false", protoType, odd(t, now)},
		"bucket-limit":      {"scrape_native_histograms: true\nnative_histogram_bucket_limit: 4", protoType, append(proto, odd(t, now)...)},
		"bucket-limit-nhcb": {"scrape_native_histograms: true\nconvert_classic_histograms_to_nhcb: true\nnative_histogram_bucket_limit: 2", openMetricsType, open},
		"both-limits":       {"scrape_native_histograms: true\nconvert_classic_histograms_to_nhcb: true\nnative_histogram_bucket_limit: 2\nsample_limit: 10", protoType, proto},
		"bucket-factor":     {"scrape_native_histograms: true\nnative_histogram_min_bucket_factor: 2", protoType, proto},
		"sample-limit":      {"scrape_native_histograms: true\nsample_limit: 12", protoType, proto},
		"sample-limit-fits": {"scrape_native_histograms: true\nsample_limit: 60", protoType, proto},
		"label-limit":       {"scrape_native_histograms: true\nlabel_limit: 3", protoType, proto},
		"blank":             {"", "", text[:1]},
		"blank-fallback":    {"fallback_scrape_protocol: OpenMetricsText1.0.0", "", open[:1]},
		"unknown":           {"", "text/html", text[:1]},
		"unknown-fallback":  {"fallback_scrape_protocol: PrometheusText0.0.4", "text/html; charset=utf-8", text[:1]},
		"proto-fallback":    {"fallback_scrape_protocol: PrometheusProto\nscrape_native_histograms: true", "wrong;;", proto[:2]},
		"openmetrics-2":     {"", "application/openmetrics-text; version=2.0.0", open[:1]},
		"text-1":            {"scrape_protocols: [PrometheusText1.0.0, PrometheusProto]\nmetric_name_escaping_scheme: dots", "text/plain; version=1.0.0", text},
		"relabelled": {`scrape_native_histograms: true
always_scrape_classic_histograms: true
honor_labels: true
metric_relabel_configs:
- {source_labels: [x], regex: a, action: drop}
- {regex: "le|i", action: labeldrop}`, protoType, append(proto, odd(t, now)...)},
		"aliased": {"metric_relabel_configs: [{regex: x, action: labeldrop}]", textType, []string{"a{x=\"1\"} 1\na{x=\"2\"} 2\n", "a{x=\"1\"} 1\na{x=\"2\"} 1\na{x=\"3\"} 1\n", "a{x=\"2\"} 1\n"}},
		"stamps": {"", openMetricsType, []string{
			fmt.Sprintf("# TYPE a counter\na_total{x=\"1\"} 1 %d.5 # {t=\"1\"} 1\na_total{x=\"1\"} 2 %d.25 # {t=\"2\"} 1\na_created{x=\"1\"} 5\n# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1 # {q=\"1\"} 2 %d\n# EOF\n", now.Unix()-5, now.Unix()-5, now.Unix()),
		}},
		// Several samples of a series, with times of their own: all that are newer than those before them; later some are shown again.
		"batches": {"", textType, []string{
			batch("", 1, now, -9, -8, -8.5, -7), batch("b 1\n", 2, now, -8, -7, -6, -5), batch("", 3, now, -4), batch("", 4, now, -6, -4, -3, -2), batch("c 2\n", 5, now, -1, -0.5),
		}},
		"batches-ignored": {"honor_timestamps: false", textType, []string{batch("", 1, now, -9, -8), batch("", 2, now, -7, -6)}},
		"batches-open": {"", openMetricsType, []string{
			fmt.Sprintf("# TYPE a counter\na_total 1 %d # {t=\"1\"} 1\na_total 2 %d\na_total 3 %d # {t=\"3\"} 1 %d\n# EOF\n", now.Unix()-9, now.Unix()-8, now.Unix()-7, now.Unix()-20),
		}},
		"info-and-stateset": {"", openMetricsType, []string{"# TYPE i info\n# HELP i info\ni_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"a\"} 1\ns{s=\"b\"} 0\n# TYPE u unknown\nu 1\n# TYPE gh gaugehistogram\ngh_bucket{le=\"1\"} 1 # {} 1\ngh_bucket{le=\"+Inf\"} 1\ngh_gsum 1\ngh_gcount 1\n# EOF\n"}},
		"created":           {"", openMetricsType, []string{created(1), created(1), created(2), created(1)}},
		"sample-limit-text": {"sample_limit: 3", textType, []string{"a 1\nb 1\nc 1\n", "a 1\nb 1\nc 1\nd 1\n", "a 1\nb 1\n"}},
	}
	settings := map[string]string{
		"plain": "", "native": "scrape_native_histograms: true", "classic": "scrape_native_histograms: true\nalways_scrape_classic_histograms: true",
		"nhcb": "scrape_native_histograms: true\nconvert_classic_histograms_to_nhcb: true",
		"all":  "scrape_native_histograms: true\nconvert_classic_histograms_to_nhcb: true\nalways_scrape_classic_histograms: true",
	}
	for name, s := range settings {
		cases["protobuf-"+name] = oracleCase{s, protoType, proto}
		cases["openmetrics-"+name] = oracleCase{s, openMetricsType, open}
		cases["text-"+name] = oracleCase{s, textType, text}
	}
	return cases
}

// batch shows samples of two series at several times, in seconds from now.
func batch(before string, first int, now time.Time, at ...float64) string {
	var b strings.Builder
	b.WriteString(before)
	for _, series := range []string{"a", `a{x="1"}`} {
		for i, s := range at {
			fmt.Fprintf(&b, "%s %d.5 %d\n", series, first*100+i, now.Add(time.Duration(s*float64(time.Second))).UnixMilli())
		}
	}
	return b.String()
}

// created is OpenMetrics with _created lines: of each series, of none, of one that is not there.
func created(n int) string {
	return fmt.Sprintf(`# TYPE a counter
a_total{x="1"} %d # {t="%d"} 1
a_created{x="1"} 1.5
a_total{x="2"} 2.0
a_created{x="2"} 1000.125
a_total{x="3"} 2.0
a_created{x="4"} 7
# TYPE b counter
b_total 1
b_total{x="1"} 1
# TYPE h histogram
h_bucket{le="1"} 1 # {t="h"} 0.5 1.5
h_bucket{le="+Inf"} %d
h_count 2
h_sum 3
h_created %d.5
# TYPE s summary
s{quantile="0.5"} 1
s_count 2
s_sum 3
s_created 9.0
# TYPE g gauge
g_created 5
# EOF
`, n, n, n+1, n)
}

// BenchmarkParseFormats reads what one program exposes in each format, two scrapes in turn.
func BenchmarkParseFormats(b *testing.B) {
	for _, tc := range []struct {
		name, contentType string
		format            expfmt.FormatType
		rules             Rules
	}{
		{"text", textType, expfmt.TypeTextPlain, Rules{}},
		{"openmetrics", openMetricsType, expfmt.TypeOpenMetrics, Rules{}},
		{"openmetrics-starts", openMetricsType, expfmt.TypeOpenMetrics, Rules{StartTimestamps: true}},
		{"openmetrics-nhcb", openMetricsType, expfmt.TypeOpenMetrics, Rules{ConvertClassicHistogramsToNHCB: true}},
		{"protobuf", protoType, expfmt.TypeProtoDelim, Rules{ScrapeNativeHistograms: true}},
		{"protobuf-classic", protoType, expfmt.TypeProtoDelim, Rules{}},
	} {
		pair := [2]string{program(b, 3, tc.format), program(b, 5, tc.format)}
		b.Run(tc.name, func(b *testing.B) {
			l, samples, exemplars := NewLayout(tc.rules, NewSchemas()), 0, 0
			bodies := [2][]byte{[]byte(pair[0] + " ")[:len(pair[0])], []byte(pair[1] + " ")[:len(pair[1])]}
			b.ReportAllocs()
			for b.Loop() {
				for _, body := range bodies {
					p, err := l.Parse(body, tc.contentType)
					if err != nil {
						b.Fatal(err)
					}
					samples += p.Scraped
					exemplars += len(p.Column.Exemplars)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
			b.ReportMetric(float64(exemplars)/float64(samples), "exemplars/sample")
		})
	}
}
