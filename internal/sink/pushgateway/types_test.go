package pushgateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"
)

func histogramOf(name string, pairs ...string) fam {
	with := func(more ...string) []string { return append(append([]string{}, pairs...), more...) }
	return fam{name, model.MetricTypeHistogram, []ser{
		{name + "_bucket", 1, with("le", "0.5")}, {name + "_bucket", 3, with("le", "+Inf")},
		{name + "_sum", 4.5, pairs}, {name + "_count", 3, pairs},
	}}
}

// flat is the same as a federated Prometheus hands it on: every name a family of its own, without a type.
func flat(f fam) fam {
	return untyped(f.series...)
}

func TestTypesOfTheTextFormat(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(
			// As OpenMetrics names families.
			fam{"reqs", model.MetricTypeCounter, []ser{{"reqs_total", 1, nil}, {"reqs_created", 1.5, nil}}},
			fam{"plain_total", model.MetricTypeCounter, []ser{{"plain_total", 2, nil}}},
			fam{"build", model.MetricTypeInfo, []ser{{"build_info", 1, []string{"version", "1"}}}},
			fam{"state", model.MetricTypeStateset, []ser{{"state", 1, []string{"state", "on"}}}},
			fam{"gh", model.MetricTypeGaugeHistogram, []ser{{"gh_bucket", 1, []string{"le", "+Inf"}}, {"gh_gcount", 1, nil}, {"gh_gsum", 1, nil}}},
			fam{"odd", model.MetricTypeHistogram, []ser{{"other", 1, nil}}},
			histogramOf("h", "k", "v"),
			fam{"s", model.MetricTypeSummary, []ser{{"s", 0.1, []string{"quantile", "0.5"}}, {"s_sum", 2, nil}, {"s_count", 3, nil}}},
			untyped(ser{"u", 1, nil}),
		))
		r.want("1", "ok")
		r.wantExposed(a1, "counter reqs_total 1", "gauge reqs_created 1.5", "counter plain_total 2", "gauge build_info{version=1} 1",
			"gauge state{state=on} 1", "untyped gh_bucket{le=+Inf} 1", "untyped gh_gcount 1", "untyped gh_gsum 1", "untyped other 1",
			"histogram h{k=v} count=3 sum=4.5 0.5=1 +Inf=3", "summary s count=3 sum=2 0.5=0.1", "untyped u 1", "untyped up 1")
	})
}

// TestTypeConflicts: whichever of two groups comes second, both are delivered, by gateways that check and those that don't.
func TestTypeConflicts(t *testing.T) {
	h := histogramOf("h", "k", "v")
	partial := untyped(h.series[0], h.series[1])
	for _, tc := range []struct {
		name          string
		first, second fam
		want          []string
		left          float64
	}{
		{"gauge after counter", fam{"x", model.MetricTypeCounter, []ser{{"x", 1, nil}}}, gauge("x", 2), []string{"counter x 2"}, 0},
		{"untyped after gauge", gauge("x", 1), untyped(ser{"x", 2, nil}), []string{"gauge x 2"}, 0},
		{"flat after histogram", h, flat(h), []string{"histogram h{k=v} count=3 sum=4.5 0.5=1 +Inf=3"}, 0},
		{"histogram after flat", flat(h), h, []string{"untyped h_bucket{k=v,le=+Inf} 3", "untyped h_bucket{k=v,le=0.5} 1",
			"untyped h_sum{k=v} 4.5", "untyped h_count{k=v} 3"}, 0},
		{"histogram after histogram", h, h, []string{"histogram h{k=v} count=3 sum=4.5 0.5=1 +Inf=3"}, 0},
		{"part of a flat one after histogram", h, partial, nil, 2},
		{"gauge after histogram", h, gauge("h", 1), nil, 1},
		{"histogram after gauge", gauge("h", 1), h, []string{"untyped h_bucket{k=v,le=+Inf} 3", "untyped h_bucket{k=v,le=0.5} 1",
			"untyped h_sum{k=v} 4.5", "untyped h_count{k=v} 3"}, 0},
		{"histogram after its counter", fam{"h_count", model.MetricTypeCounter, []ser{{"h_count", 1, nil}}}, h,
			[]string{"untyped h_bucket{k=v,le=+Inf} 3", "untyped h_bucket{k=v,le=0.5} 1", "untyped h_sum{k=v} 4.5", "counter h_count{k=v} 3"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, unchecked := range []bool{false, true} {
				inBubble(t, Options{}, func(t *testing.T, r *rig) {
					r.gw.unchecked = unchecked
					r.deliver("1", newFeed(t, "job", "a", "instance", "1").scrape(tc.first))
					r.deliver("2", newFeed(t, "job", "a", "instance", "2").scrape(tc.second))
					r.want("1", "ok")
					r.want("2", "ok")
					r.wantExposed("job=a,instance=2", append(tc.want, "untyped up 1")...)
					r.wantMetric(tc.left, "pushgateway_left_out_samples_total", "reason", "type_conflict")
					if _, err := r.gw.page(); err != nil {
						t.Errorf("the page is broken: %v", err)
					}
					if n := len(r.gw.requests()); n != 2 {
						t.Errorf("%d requests, want 2: %q", n, r.gw.requests())
					}
				})
			}
		})
	}
}

// TestFederatedGoMetrics: the gateway's own metrics have types, those of a federated Prometheus have none.
func TestFederatedGoMetrics(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.own = []*dto.MetricFamily{
			{Name: proto.String("go_goroutines"), Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: proto.Float64(1)}}}},
			{Name: proto.String("go_gc_duration_seconds"), Type: dto.MetricType_SUMMARY.Enum(), Metric: []*dto.Metric{{Summary: &dto.Summary{
				SampleCount: proto.Uint64(1), SampleSum: proto.Float64(1)}}}},
		}
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(untyped(
			ser{"go_goroutines", 8, nil},
			ser{"go_gc_duration_seconds", 1, []string{"quantile", "0.5"}}, ser{"go_gc_duration_seconds_sum", 2, nil},
			ser{"go_gc_duration_seconds_count", 3, nil})))
		r.want("1", "ok")
		r.wantExposed(a1, "gauge go_goroutines 8", "summary go_gc_duration_seconds count=3 sum=2 0.5=1", "untyped up 1")
	})
}

// TestTypesAreForgotten: once nobody has the metric any more, another type is as good.
func TestTypesAreForgotten(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		one := newFeed(t, "job", "a", "instance", "1")
		r.deliver("1", one.scrape(histogramOf("x")))
		time.Sleep(time.Second)
		r.deliver("end", one.end(1))
		r.deliver("2", newFeed(t, "job", "a", "instance", "2").scrape(gauge("x", 1), gauge("x_count", 1)))
		r.wantExposed("job=a,instance=2", "gauge x 1", "gauge x_count 1", "untyped up 1")
	})
}

// TestServerInsistsOnType: the gateway has a metric of its own that no Go process is known to have.
func TestServerInsistsOnType(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.own = []*dto.MetricFamily{{Name: proto.String("pushgateway_things"),
			Help: proto.String("Another \"help\"."), Type: dto.MetricType_COUNTER.Enum(),
			Metric: []*dto.Metric{{Counter: &dto.Counter{Value: proto.Float64(1)}}}}}
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", f.scrape(gauge("pushgateway_things", 1), gauge("x", 1)))
		r.want("1", "ok")
		r.wantExposed(a1, "counter pushgateway_things 1", "gauge x 1", "untyped up 1")
		time.Sleep(time.Second)
		r.deliver("2", f.scrape(gauge("pushgateway_things", 2), gauge("x", 2)))
		if n := len(r.gw.requests()); n != 4 {
			t.Errorf("%d pushes, want 4: two to learn help and type, which are kept", n)
		}
		r.wantMetric(2, "pushgateway_retries_total", "reason", "adapted")
	})
}

// TestServerNamesAMetric: another pusher has filled the gateway with a metric of another type.
func TestServerNamesAMetric(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		if err := r.gw.store("job=cron", textType, "# TYPE x histogram\nx_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n", true); err != nil {
			t.Fatal(err)
		}
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", f.scrape(gauge("x", 1), gauge("y", 1)))
		r.want("1", "ok")
		r.wantExposed(a1, "gauge y 1", "untyped up 1")
		r.wantMetric(1, "pushgateway_left_out_samples_total", "reason", "refused")
		if !strings.Contains(r.log.String(), "left out for an hour") {
			t.Errorf("log: %s", r.log)
		}
		// An hour later the other pusher is gone.
		r.gw.mu.Lock()
		delete(r.gw.groups, "job=cron")
		r.gw.mu.Unlock()
		time.Sleep(time.Hour + time.Second)
		r.deliver("2", f.scrape(gauge("x", 2), gauge("y", 2)))
		r.wantExposed(a1, "gauge x 2", "gauge y 2", "untyped up 1")
	})
}

func TestUTF8Names(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		inBubble(t, Options{}, func(t *testing.T, r *rig) {
			r.gw.legacy = legacy
			f := newFeed(t, "job", "a", "instance", "b:1")
			r.deliver("1", f.scrape(gauge("a.b", 1), gauge("x", 2, "label.dot", "v")))
			r.want("1", "ok")
			if !legacy {
				r.wantExposed(a1, "gauge a.b 1", "gauge x{label.dot=v} 2", "untyped up 1")
				return
			}
			r.wantExposed(a1, "untyped up 1")
			r.wantMetric(2, "pushgateway_left_out_samples_total", "reason", "utf8_name")
			time.Sleep(time.Second)
			r.deliver("2", f.scrape(gauge("a.b", 1), gauge("y", 2)))
			r.wantExposed(a1, "gauge y 2", "untyped up 1")
			if n := len(r.gw.requests()); n != 3 {
				t.Errorf("%d pushes, want 3", n)
			}
		})
	}
}

func TestCompression(t *testing.T) {
	big := gauge("x", 1, "pad", strings.Repeat("p", 2000))
	t.Run("taken", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, r *rig) {
			r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(big))
			r.want("1", "ok")
			if sent := r.metric("pushgateway_sent_bytes_total"); sent > 1000 {
				t.Errorf("%v bytes sent of a body that is worth compressing", sent)
			}
		})
	})
	t.Run("not taken", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, r *rig) {
			r.gw.noGzip = true
			f := newFeed(t, "job", "a", "instance", "b:1")
			for i := range 3 {
				r.deliver(string(rune('1'+i)), f.scrape(big))
				time.Sleep(time.Second)
			}
			r.want("3", "ok")
			if n := len(r.gw.requests()); n != 4 {
				t.Errorf("%d requests, want 4: one to learn that it takes none", n)
			}
			r.wantMetric(0, "receiver_publish_errors")
		})
	})
	t.Run("415", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, r *rig) {
			r.gw.setBefore(func(_ string, w http.ResponseWriter, req *http.Request) bool {
				if req.Header.Get("Content-Encoding") == "" {
					return false
				}
				w.WriteHeader(http.StatusUnsupportedMediaType)
				return true
			})
			r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(big))
			r.want("1", "ok")
		})
	})
}

func TestWords(t *testing.T) {
	c := &content{families: []family{{name: "x"}, {name: "x_bucket"}, {name: "go_threads"}}}
	for words, want := range map[string]string{
		`pushed metrics are invalid or inconsistent with existing metrics: collected metric "x" { label:{name:"instance"}} is not a GAUGE`: "x",
		`… inconsistent with existing metrics: collected metric named "x_bucket" collides with previously collected histogram named "x"`:   "x_bucket",
		`… gathered metric family go_threads has type COUNTER but should have GAUGE`:                                                       "go_threads",
		`text format parsing error in line 2: invalid label name for metric "x"`:                                                           "x",
		`text format parsing error in line 2: second TYPE line for metric name "x", or TYPE reported after samples`:                        "x",
		`collected metric "y" { } was collected before`:                                                                                    "",
		`pushed metrics must not have timestamps`:                                                                                          "",
		``: "",
	} {
		if got, ok := c.named(words); got != want || ok != (want != "") {
			t.Errorf("%q names %q, want %q", words, got, want)
		}
	}
	for words, want := range map[string]insisted{
		"gathered metric family x has type UNTYPED but should have GAUGE\n":          {"x", model.MetricTypeGauge, ""},
		"gathered metric family x has type UNTYPED but should have SUMMARY":          {"x", model.MetricTypeSummary, ""},
		"gathered metric family x has type UNTYPED but should have HISTOGRAM, or so": {},
		"gathered metric family x has type UNTYPED but should have ODD":              {},
		"gathered metric family x has help \"\" but should have \"It \\\"is\\\".\"":  {"x", "", `It "is".`},
		"gathered metric family x has help \"\" but should have \"cut of":            {},
		"gathered metric family x": {},
	} {
		got, ok := insists(words)
		if ok != (want.name != "") || ok && got != want {
			t.Errorf("%q insists on %+v, want %+v", words, got, want)
		}
	}
}
