package exposition

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

func plain(name string, v float64, ls ...string) Sample {
	return Sample{Labels: labels.FromStrings(append(ls, "__name__", name)...), Value: v, Timestamp: frame.NoTimestamp}
}

const (
	acceptText        = "text/plain;version=0.0.4;escaping=allow-utf-8"
	acceptOpenMetrics = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.2"
)

func write(t testing.TB, accept string, f frame.Family, samples ...Sample) string {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b, Negotiate(accept))
	if err := w.Family(f, samples); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWriterFamilies(t *testing.T) {
	histogram := []Sample{plain("h_bucket", 1, "le", "+Inf"), plain("h_sum", 2.5), plain("h_count", 1), plain("h_created", 1.5)}
	for _, tc := range []struct {
		name    string
		family  frame.Family
		samples []Sample
		text    string
		open    string
	}{
		{
			"counter of the text format", frame.Family{Name: "a_total", Type: "counter", Help: "x"}, []Sample{plain("a_total", 1)},
			"# HELP a_total x\n# TYPE a_total counter\na_total 1\n",
			"# HELP a x\n# TYPE a counter\na_total 1.0\n# EOF\n",
		}, {
			"counter of OpenMetrics", frame.Family{Name: "a", Type: "counter"}, []Sample{plain("a_total", 1), plain("a_created", 2)},
			"# TYPE a_total counter\na_total 1\n# TYPE a_created untyped\na_created 2\n",
			"# TYPE a counter\na_total 1.0\na_created 2.0\n# EOF\n",
		}, {
			"counter without total", frame.Family{Name: "a", Type: "counter"}, []Sample{plain("a", 1)},
			"# TYPE a counter\na 1\n",
			"# TYPE a unknown\na 1.0\n# EOF\n",
		}, {
			"unit", frame.Family{Name: "a_seconds", Type: "gauge", Unit: "seconds"}, []Sample{plain("a_seconds", 0.5)},
			"# TYPE a_seconds gauge\na_seconds 0.5\n",
			"# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 0.5\n# EOF\n",
		}, {
			"unit that the name lacks", frame.Family{Name: "a", Type: "gauge", Unit: "seconds"}, []Sample{plain("a", 1)},
			"# TYPE a gauge\na 1\n",
			"# TYPE a gauge\na 1.0\n# EOF\n",
		}, {
			"info", frame.Family{Name: "a", Type: "info"}, []Sample{plain("a_info", 1, "v", "2")},
			"# TYPE a_info gauge\na_info{v=\"2\"} 1\n",
			"# TYPE a info\na_info{v=\"2\"} 1.0\n# EOF\n",
		}, {
			"stateset", frame.Family{Name: "a", Type: "stateset"}, []Sample{plain("a", 1, "a", "on")},
			"# TYPE a gauge\na{a=\"on\"} 1\n",
			"# TYPE a stateset\na{a=\"on\"} 1.0\n# EOF\n",
		}, {
			"histogram", frame.Family{Name: "h", Type: "histogram"}, histogram,
			"# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 2.5\nh_count 1\n# TYPE h_created untyped\nh_created 1.5\n",
			"# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1.0\nh_sum 2.5\nh_count 1.0\nh_created 1.5\n# EOF\n",
		}, {
			"summary", frame.Family{Name: "s", Type: "summary"}, []Sample{plain("s", math.NaN(), "quantile", "0.5"), plain("s_count", 3)},
			"# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns_count 3\n",
			"# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns_count 3.0\n# EOF\n",
		}, {
			"gauge histogram", frame.Family{Name: "h", Type: "gaugehistogram"}, []Sample{plain("h_bucket", 1, "le", "+Inf"), plain("h_gsum", 2)},
			"# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\n# TYPE h_gsum untyped\nh_gsum 2\n",
			"# TYPE h gaugehistogram\nh_bucket{le=\"+Inf\"} 1.0\nh_gsum 2.0\n# EOF\n",
		}, {
			"no type", frame.Family{Name: "a"}, []Sample{plain("a", 0), plain("b", 1), plain("a", 2, "x", "y")},
			"# TYPE a untyped\na 0\na{x=\"y\"} 2\n# TYPE b untyped\nb 1\n",
			"# TYPE a unknown\na 0.0\na{x=\"y\"} 2.0\n# TYPE b unknown\nb 1.0\n# EOF\n",
		}, {
			"escapes", frame.Family{Name: "a", Type: "gauge", Help: "\"q\" \\ \n"}, []Sample{plain("a", 1, "x", "\"q\" \\ \n ü")},
			"# HELP a \"q\" \\\\ \\n\n# TYPE a gauge\na{x=\"\\\"q\\\" \\\\ \\n ü\"} 1\n",
			"# HELP a \\\"q\\\" \\\\ \\n\n# TYPE a gauge\na{x=\"\\\"q\\\" \\\\ \\n ü\"} 1.0\n# EOF\n",
		}, {
			"UTF-8 names", frame.Family{Name: "a.b", Type: "gauge"}, []Sample{plain("a.b", 1), plain("a.b", 2, "x.y", "z", "p", "q")},
			"# TYPE \"a.b\" gauge\n{\"a.b\"} 1\n{\"a.b\",p=\"q\",\"x.y\"=\"z\"} 2\n",
			"# TYPE \"a.b\" gauge\n{\"a.b\"} 1.0\n{\"a.b\",p=\"q\",\"x.y\"=\"z\"} 2.0\n# EOF\n",
		}, {
			"timestamp", frame.Family{Name: "a", Type: "gauge"}, []Sample{{Labels: labels.FromStrings("__name__", "a"), Value: 1, Timestamp: 1700000000123}},
			"# TYPE a gauge\na 1 1700000000123\n",
			"# TYPE a gauge\na 1.0 1700000000.123\n# EOF\n",
		}, {
			"nothing", frame.Family{Name: "a", Type: "gauge"}, nil, "", "# EOF\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := write(t, acceptText, tc.family, tc.samples...); got != tc.text {
				t.Errorf("text:\n%s\nwant:\n%s", got, tc.text)
			}
			if got := write(t, acceptOpenMetrics, tc.family, tc.samples...); got != tc.open {
				t.Errorf("OpenMetrics:\n%s\nwant:\n%s", got, tc.open)
			}
		})
	}
}

func TestWriterEscapesNamesAsAsked(t *testing.T) {
	f := frame.Family{Name: "a.b", Type: "gauge"}
	s := plain("a.b", 1, "x.y", "z")
	for accept, want := range map[string]string{
		"":                                       "# TYPE a_b gauge\na_b{x_y=\"z\"} 1\n",
		"text/plain":                             "# TYPE a_b gauge\na_b{x_y=\"z\"} 1\n",
		"text/plain;version=0.0.4;escaping=dots": "# TYPE a_dot_b gauge\na_dot_b{x_dot_y=\"z\"} 1\n",
		"text/plain;version=0.0.4;escaping=values": "# TYPE U__a_2e_b gauge\nU__a_2e_b{U__x_2e_y=\"z\"} 1\n",
	} {
		if got := write(t, accept, f, s); got != want {
			t.Errorf("%q gives %q, want %q", accept, got, want)
		}
	}
	var b bytes.Buffer
	w := NewWriter(&b, Format{})
	if err := w.Family(f, []Sample{s}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil || b.String() != "# TYPE a_b gauge\na_b{x_y=\"z\"} 1\n" {
		t.Errorf("the zero format gives %q, %v", b.String(), err)
	}
}

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]string{
		"":                             "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"*/*":                          "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"text/html":                    "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"application/openmetrics-text": "application/openmetrics-text; version=0.0.1; charset=utf-8; escaping=underscores",
		"application/openmetrics-text;version=1.0.0":                  "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
		"application/openmetrics-text;version=9.0.0,text/plain;q=0.1": "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," +
			"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2": "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=underscores",
	} {
		if got := Negotiate(accept).ContentType(); got != want {
			t.Errorf("%q gives %q, want %q", accept, got, want)
		}
	}
	if got := (Format{}).ContentType(); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("the zero format is %q", got)
	}
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestWriterTellsOfErrors(t *testing.T) {
	want := errors.New("gone")
	w := NewWriter(brokenWriter{want}, Format{})
	long := plain("a", 1, "x", strings.Repeat("y", writerBuffer))
	if err := w.Family(frame.Family{Name: "a"}, []Sample{long}); !errors.Is(err, want) {
		t.Errorf("Family says %v", err)
	}
	if err := w.Close(); !errors.Is(err, want) {
		t.Errorf("Close says %v", err)
	}
}

func TestGather(t *testing.T) {
	reg := prometheus.NewRegistry()
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "g", Help: "A gauge."}, []string{"x"})
	reg.MustRegister(g)
	g.WithLabelValues("1").Set(2.5)
	body, contentType, err := Gather(reg)
	if err != nil {
		t.Fatal(err)
	}
	if want := "# HELP g A gauge.\n# TYPE g gauge\ng{x=\"1\"} 2.5\n"; string(body) != want {
		t.Errorf("body %q, want %q", body, want)
	}
	if cap(body) == len(body) {
		t.Error("no room behind the body")
	}
	rules := fuzzRules(0)
	p := check(t, NewLayout(rules, NewSchemas()), newReference(rules), body, contentType)
	if f := p.Schema.Families; len(f) != 1 || f[0] != (frame.Family{Name: "g", Type: model.MetricTypeGauge, Help: "A gauge."}) {
		t.Errorf("families %+v", f)
	}
	if _, _, err := Gather(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("no") })); err == nil {
		t.Error("a failing registry gave a body")
	}
}
