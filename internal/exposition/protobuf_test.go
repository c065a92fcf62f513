package exposition

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

const acceptProto = protoType + "; escaping=allow-utf-8"

// read again what a writer wrote as protobuf.
func messages(t testing.TB, body string) (all []*dto.MetricFamily) {
	t.Helper()
	for r := bytes.NewReader([]byte(body)); ; {
		f := &dto.MetricFamily{}
		err := protodelim.UnmarshalFrom(r, f)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
}

func sampleOf(h *histogram.Histogram, fh *histogram.FloatHistogram, name string, ls ...string) Sample {
	return Sample{Labels: labels.FromStrings(append(ls, "__name__", name)...), Timestamp: frame.NoTimestamp, Int: h, Float: fh}
}

func intHistogram() *histogram.Histogram {
	return &histogram.Histogram{
		Schema: 3, ZeroThreshold: 1e-9, ZeroCount: 2, Count: 10, Sum: -1.5,
		PositiveSpans: []histogram.Span{{Offset: -2, Length: 2}, {Offset: 3, Length: 1}}, PositiveBuckets: []int64{1, 2, -1},
		NegativeSpans: []histogram.Span{{Offset: 0, Length: 1}}, NegativeBuckets: []int64{2},
	}
}

func TestWriterWritesMessages(t *testing.T) {
	x := []frame.Exemplar{{Labels: labels.FromStrings("t", "old"), Value: 1, Timestamp: 1500}, {Labels: labels.FromStrings("t", "new"), Value: 2, Timestamp: 2500}}
	classic := []Sample{
		plain("h_bucket", 3, "le", "+Inf"), plain("h_bucket", 1, "le", "1.0"), plain("h_sum", 2.5), plain("h_count", 3),
		plain("h_bucket", 1, "le", "+Inf", "x", "y"), plain("h_count", 1, "x", "y"),
	}
	classic[1].Exemplars, classic[3].Start = x, -1500
	total := plain("a_total", 1, "l", "v")
	total.Exemplars, total.Start, total.Timestamp = x, 1_700_000_000_001, 99
	negative := plain("s_count", -1)
	native := sampleOf(intHistogram(), nil, "n")
	native.Exemplars = x
	gauge := sampleOf(nil, &histogram.FloatHistogram{CounterResetHint: histogram.GaugeType, Count: 1, ZeroCount: 1}, "n", "g", "1")
	for _, tc := range []struct {
		name    string
		family  frame.Family
		samples []Sample
		want    []string
		omitted Omitted
	}{
		{"counter", frame.Family{Name: "a", Type: "counter", Help: "x", Unit: "u"}, []Sample{total, plain("a_created", 2)}, []string{
			`name:"a_total" help:"x" type:COUNTER metric:{label:{name:"l" value:"v"} counter:{value:1 exemplar:{label:{name:"t" value:"new"} value:2 timestamp:{seconds:2 nanos:500000000}} created_timestamp:{seconds:1700000000 nanos:1000000}} timestamp_ms:99} unit:"u"`,
			`name:"a_created" type:UNTYPED metric:{untyped:{value:2}}`,
		}, Omitted{Exemplars: 1}},
		{"gauge, info, stateset, unknown", frame.Family{Name: "i", Type: "info"}, []Sample{plain("i_info", 1, "v", "1")}, []string{
			`name:"i_info" type:GAUGE metric:{label:{name:"v" value:"1"} gauge:{value:1}}`,
		}, Omitted{}},
		{"no type", frame.Family{Name: "u"}, []Sample{plain("u", math.Inf(1)), plain("v", 2)}, []string{
			`name:"u" type:UNTYPED metric:{untyped:{value:inf}}`, `name:"v" type:UNTYPED metric:{untyped:{value:2}}`,
		}, Omitted{}},
		{"histogram, whole and in parts", frame.Family{Name: "h", Type: "histogram"}, classic, []string{
			`name:"h" type:HISTOGRAM metric:{histogram:{sample_count:3 sample_sum:2.5 bucket:{cumulative_count:1 upper_bound:1 exemplar:{label:{name:"t" value:"new"} value:2 timestamp:{seconds:2 nanos:500000000}}} bucket:{cumulative_count:3 upper_bound:inf} created_timestamp:{seconds:-2 nanos:500000000}}}`,
			`name:"h_bucket" type:UNTYPED metric:{label:{name:"le" value:"+Inf"} label:{name:"x" value:"y"} untyped:{value:1}}`,
			`name:"h_count" type:UNTYPED metric:{label:{name:"x" value:"y"} untyped:{value:1}}`,
		}, Omitted{Exemplars: 1}},
		{"summary", frame.Family{Name: "s", Type: "summary"}, []Sample{plain("s", 5, "quantile", "0.5"), plain("s_sum", 1), plain("s_count", 2)}, []string{
			`name:"s" type:SUMMARY metric:{summary:{sample_count:2 sample_sum:1 quantile:{quantile:0.5 value:5}}}`,
		}, Omitted{}},
		{"summary that cannot be", frame.Family{Name: "s", Type: "summary"}, []Sample{plain("s_sum", 1), negative}, []string{
			`name:"s_sum" type:UNTYPED metric:{untyped:{value:1}}`, `name:"s_count" type:UNTYPED metric:{untyped:{value:-1}}`,
		}, Omitted{}},
		{"native", frame.Family{Name: "n", Type: "histogram"}, []Sample{native, gauge}, []string{
			`name:"n" type:HISTOGRAM metric:{histogram:{sample_count:10 sample_sum:-1.5 schema:3 zero_threshold:1e-09 zero_count:2 negative_span:{offset:0 length:1} negative_delta:2 positive_span:{offset:-2 length:2} positive_span:{offset:3 length:1} positive_delta:1 positive_delta:2 positive_delta:-1 exemplars:{label:{name:"t" value:"old"} value:1 timestamp:{seconds:1 nanos:500000000}} exemplars:{label:{name:"t" value:"new"} value:2 timestamp:{seconds:2 nanos:500000000}}}}`,
			`name:"n" type:GAUGE_HISTOGRAM metric:{label:{name:"g" value:"1"} histogram:{sample_count_float:1 sample_sum:0 schema:0 zero_threshold:0 zero_count_float:1 positive_span:{offset:0 length:0}}}`,
		}, Omitted{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			w := NewWriter(&b, Negotiate(acceptProto))
			if err := w.Family(tc.family, tc.samples); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			got := messages(t, b.String())
			if len(got) != len(tc.want) {
				t.Fatalf("%d families %v, want %d", len(got), got, len(tc.want))
			}
			for i, want := range tc.want {
				f := &dto.MetricFamily{}
				if err := prototext.Unmarshal([]byte(want), f); err != nil {
					t.Fatalf("%v in %s", err, want)
				}
				if !proto.Equal(got[i], f) {
					t.Errorf("family %d:\n%v\nwant\n%v", i, got[i], f)
				}
			}
			if w.Omitted() != tc.omitted {
				t.Errorf("omitted %+v, want %+v", w.Omitted(), tc.omitted)
			}
		})
	}
}

// TestWriterLeavesOut shows what the text formats have no place for, and where OpenMetrics has one.
func TestWriterLeavesOut(t *testing.T) {
	total := plain("a_total", 1)
	total.Exemplars = []frame.Exemplar{{Labels: labels.FromStrings("t", "x\"y", "u.v", "w"), Value: 0.5, Timestamp: 1500}, {Value: 2, Timestamp: frame.NoTimestamp}}
	total.Start = 5
	bucket := plain("h_bucket", 1, "le", "+Inf")
	bucket.Exemplars = total.Exemplars[:1]
	f, h := frame.Family{Name: "a", Type: "counter"}, frame.Family{Name: "h", Type: "histogram"}
	for _, tc := range []struct {
		accept, want string
		omitted      Omitted
	}{
		{acceptText, "# TYPE a_total counter\na_total 1\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\n", Omitted{1, 3, 1}},
		{acceptOpenMetrics, "# TYPE a counter\na_total 1.0 # {} 2.0\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1.0 # {t=\"x\\\"y\",\"u.v\"=\"w\"} 0.5 1.5\n# EOF\n", Omitted{1, 1, 1}},
	} {
		var b bytes.Buffer
		w := NewWriter(&b, Negotiate(tc.accept))
		if err := errors.Join(w.Family(f, []Sample{total}), w.Family(h, []Sample{bucket, sampleOf(intHistogram(), nil, "h")}), w.Close()); err != nil {
			t.Fatal(err)
		}
		if b.String() != tc.want || w.Omitted() != tc.omitted {
			t.Errorf("wrote\n%s, want\n%s\nomitted %+v, want %+v", b.String(), tc.want, w.Omitted(), tc.omitted)
		}
	}
}

// TestWriterTurnsCustomBucketsBack shows that a histogram of custom buckets is written as the classic one that it is.
func TestWriterTurnsCustomBucketsBack(t *testing.T) {
	h := &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Count: 6, Sum: 7, CustomValues: []float64{0.5, 1, 2},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 1}, {Offset: 1, Length: 2}}, PositiveBuckets: []int64{1, 1, 1},
	}
	s := sampleOf(h, nil, "h", "x", "y")
	s.Exemplars = []frame.Exemplar{{Value: 0.7, Timestamp: 1000}}
	f := frame.Family{Name: "h", Type: "histogram"}
	want := "# TYPE h histogram\nh_bucket{le=\"0.5\",x=\"y\"} 1.0\nh_bucket{le=\"1.0\",x=\"y\"} 1.0 # {} 0.7 1\nh_bucket{le=\"2.0\",x=\"y\"} 3.0\n" +
		"h_bucket{le=\"+Inf\",x=\"y\"} 6.0\nh_sum{x=\"y\"} 7.0\nh_count{x=\"y\"} 6.0\n# EOF\n"
	if got := write(t, acceptOpenMetrics, f, s); got != want {
		t.Errorf("wrote\n%s, want\n%s", got, want)
	}
	got := messages(t, write(t, acceptProto, f, s))
	if len(got) != 1 || len(got[0].Metric) != 1 || len(got[0].Metric[0].Histogram.Bucket) != 4 || got[0].Metric[0].Histogram.GetSampleCount() != 6 {
		t.Errorf("messages %v", got)
	}
	// The classic one stands beside it: once is enough.
	if got := write(t, acceptText, f, s, plain("h_count", 6, "x", "y")); got != "# TYPE h histogram\nh_count{x=\"y\"} 6\n" {
		t.Errorf("wrote %s", got)
	}
	if h.Count != 6 || len(h.CustomValues) != 3 {
		t.Error("the histogram was changed")
	}
}

// rewrite writes a parse in a format and reads it again under the same rules.
func rewrite(t testing.TB, p Parsed, rules Rules, accept string) (Parsed, map[string]Sample, string) {
	t.Helper()
	var b bytes.Buffer
	format := Negotiate(accept)
	w := NewWriter(&b, format)
	want, _ := writeParsed(t, w, p, rules.Target)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	body := b.String()
	again, err := NewLayout(rules, NewSchemas()).Parse(b.Bytes(), format.ContentType())
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%q", err, body)
	}
	return again, want, body
}

// TestWhatWasScrapedIsWrittenWhole writes what programs expose in the format that they exposed it in, and reads it
// again: all of it is there.
func TestWhatWasScrapedIsWrittenWhole(t *testing.T) {
	for _, tc := range []struct {
		name, accept, contentType string
		format                    expfmt.FormatType
	}{
		{"protobuf", acceptProto, protoType, expfmt.TypeProtoDelim},
		{"OpenMetrics", acceptOpenMetrics, openMetricsType, expfmt.TypeOpenMetrics},
		{"text", acceptText, textType, expfmt.TypeTextPlain},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, always := range []bool{false, true} {
				rules := Rules{Target: labels.FromStrings("job", "j"), HonorLabels: true, HonorTimestamps: true, ScrapeNativeHistograms: true, AlwaysScrapeClassicHistograms: always}
				p, err := NewLayout(rules, NewSchemas()).Parse([]byte(program(t, 3, tc.format)), tc.contentType)
				if err != nil {
					t.Fatal(err)
				}
				if native := len(p.Column.Histograms) > 0; native != (tc.format == expfmt.TypeProtoDelim) {
					t.Errorf("%d native histograms", len(p.Column.Histograms))
				}
				again, want, body := rewrite(t, p, rules, tc.accept)
				got := map[string]Sample{}
				for _, s := range allSamples(again, rules.Target) {
					got[s.Labels.String()] = s
				}
				if len(got) != len(want) {
					t.Errorf("%d samples, want %d", len(got), len(want))
				}
				for key, x := range want {
					if err := sameSample(got[key], x); err != nil {
						t.Errorf("%s: %v in\n%.2000q", key, err, body)
					}
				}
			}
		})
	}
}

// sameSample tells how two samples differ.
func sameSample(got, want Sample) error {
	r := rowsOf{histograms: map[int]frame.Histogram{}, exemplars: map[int][]frame.Exemplar{0: got.Exemplars}, starts: []int64{got.Start}}
	if got.native() {
		r.histograms[0] = frame.Histogram{Int: got.Int, Float: got.Float}
	}
	x := refSample{start: want.Start, h: want.Int, fh: want.Float}
	for _, e := range want.Exemplars {
		x.exemplars = append(x.exemplars, exemplar.Exemplar{Labels: e.Labels, Value: e.Value, Ts: e.Timestamp, HasTs: e.Timestamp != frame.NoTimestamp})
	}
	if !want.native() && math.Float64bits(got.Value) != math.Float64bits(want.Value) {
		return errors.New("another value")
	}
	if got.Timestamp != want.Timestamp {
		return errors.New("another timestamp")
	}
	return r.compare(0, x)
}

func TestHostileMessages(t *testing.T) {
	big := bytes.Repeat([]byte{0}, maxEmpty+1)
	nested := bytes.Repeat([]byte{0x0b}, 1<<20) // groups within groups, without an end
	for name, body := range map[string][]byte{
		"families without metrics":   big,
		"and more of them":           bytes.Repeat([]byte{0}, 1<<22),
		"a length beyond the end":    {0xff, 0xff, 0xff, 0xff, 0x0f, 1},
		"a length without an end":    bytes.Repeat([]byte{0xff}, 64),
		"groups within groups":       slices.Concat([]byte{0x80, 0x80, 0x40}, nested),
		"a field beyond its message": {4, 0x0a, 0xff, 0xff, 0x03},
		"not UTF-8":                  []byte(delimited(t, &dto.MetricFamily{Name: proto.String("a"), Metric: []*dto.Metric{{Gauge: &dto.Gauge{}}}})[:4] + "\xff\xff"),
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLayout(Rules{ScrapeNativeHistograms: true}, NewSchemas())
			if p, err := l.Parse(body, protoType); err == nil {
				t.Errorf("it was taken: %+v", p)
			} else if len(err.Error()) > 2*maxErrorText {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
	if _, err := NewLayout(Rules{}, NewSchemas()).Parse(big[:maxEmpty], protoType); err != nil {
		t.Errorf("just not too many: %v", err)
	}
}

func TestAccept(t *testing.T) {
	for _, tc := range []struct {
		protocols []string
		escaping  string
		want      string
	}{
		{nil, "", "*/*;q=0.7"},
		{[]string{"PrometheusProto", "unknown", "PrometheusText0.0.4"}, "dots", protobufType +
			";proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.6,*/*;q=0.5"},
		{[]string{"OpenMetricsText1.0.0"}, "", "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7,*/*;q=0.6"},
	} {
		if got := Accept(tc.protocols, tc.escaping); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.protocols, got, tc.want)
		}
	}
	if got := Accept(DefaultProtocols(true), ""); !strings.HasPrefix(got, protobufType) || !strings.HasSuffix(got, "*/*;q=0.2") {
		t.Errorf("with native histograms: %s", got)
	}
}
