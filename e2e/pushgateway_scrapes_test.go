package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/prompb"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

const protobufType = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

// scrapeYAML is a scrape config of these targets; more has its other keys.
func scrapeYAML(job, more string, all map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - job_name: %s\n    scrape_interval: 1s\n", job)
	if more != "" {
		fmt.Fprintf(&b, "    %s\n", more)
	}
	b.WriteString("    static_configs:\n")
	for name, host := range all {
		fmt.Fprintf(&b, "      - {targets: [%q], labels: {instance: %q}}\n", host, name)
	}
	return b.String()
}

// What a Push Gateway refuses if it is pushed as it was scraped, from the target to the gateway.
func TestPushGatewayAwkwardTargets(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		server, g := startNATS(t, ""), startPushServer(t, name)
		receiver := startReceiver(t, pushYAML(server, g.URL, t.TempDir(), "", ""))
		plain, honored := map[string]string{}, map[string]string{"gw": strings.TrimPrefix(g.URL, "http://")}
		serve := func(to map[string]string, name, contentType, body string) {
			target := targets.New(t, name, 0)
			target.Answer(http.StatusOK, contentType, body)
			to[name] = target.Host()
		}
		serve(plain, "crlf", textType, "x 1\r\ny 2\r\n")
		serve(plain, "no newline", textType, "x 1\ny 2")
		serve(plain, "times", textType, fmt.Sprintf("x 1 %d\ny 2\n", time.Now().UnixMilli()))
		serve(plain, "exemplar", openType, "# TYPE r counter\nr_total 3 # {trace_id=\"a\"} 1\n# EOF\n")
		others := "x 1\nx{instance=\"other\"} 2\nx{job=\"j\",instance=\"other\"} 3\n"
		serve(plain, "others", textType, others)
		serve(honored, "honored", textType, others)
		startPoller(t, pollerYAML(server, "site", "1s", "scrape_configs:\n"+scrapeYAML("edge", "", plain)+
			scrapeYAML("fed", "honor_labels: true", honored)))

		for _, want := range []struct {
			job, instance string
			lines         []string
		}{
			{"edge", "crlf", []string{"untyped up{} 0"}}, // Prometheus does not read it either, see below
			{"edge", "no newline", []string{"untyped x{} 1", "untyped y{} 2", "untyped up{} 1"}},
			{"edge", "times", []string{"untyped x{} 1", "untyped y{} 2", "untyped up{} 1"}},
			{"edge", "exemplar", []string{"counter r_total{} 3", "untyped up{} 1"}},
			{"edge", "others", []string{"untyped x{} 1", "untyped x{exported_instance=other} 2", "untyped x{exported_instance=other,exported_job=j} 3", "untyped up{} 1"}},
			{"fed", "honored", []string{"untyped x{} 1", "untyped up{} 1"}},
			{"fed", "other", []string{"untyped x{} 2"}},
			{"j", "other", []string{"untyped x{} 3"}},
		} {
			g.waitLines(t, 30*time.Second, harness.Labels{"job": want.job, "instance": want.instance}, want.lines...)
		}
		// The gateway itself, which shows all these groups with their push times, is a target like others.
		harness.Wait(t, 30*time.Second, "the gateway's own scrape is a group", func() error {
			own, err := g.lines(harness.Labels{"job": "fed", "instance": "gw"})
			if err == nil && (len(own) < 30 || !slices.Contains(own, "untyped up{} 1")) {
				err = fmt.Errorf("it has %q", own)
			}
			return err
		})
		harness.Wait(t, 30*time.Second, "what is left out is counted", func() error {
			own := receiver.Metrics(t)
			if own.Sum("prometheus_streams_pushgateway_left_out_samples_total", harness.Labels{"reason": "push_time"}) == 0 ||
				own.Sum("prometheus_streams_pushgateway_left_out_exemplars_total", nil) == 0 ||
				own.Sum("prometheus_streams_pushgateway_rejected_total", harness.Labels{"reason": "conflict"}) == 0 {
				return fmt.Errorf("%v", own.Values("prometheus_streams_pushgateway_left_out_samples_total", nil))
			}
			return nil
		})
		if n := receiver.Metrics(t).Sum("prometheus_streams_pushgateway_rejected_total", harness.Labels{"reason": "refused"}); n != 0 {
			t.Errorf("%v scrapes were refused", n)
		}
		prom := harness.StartPrometheus(t, ports.Next(t), "scrape_configs:\n"+scrapeYAML("edge", "", map[string]string{"crlf": plain["crlf"]}))
		harness.Wait(t, 20*time.Second, "Prometheus takes a body with CRLF for a failed scrape", func() error {
			up, err := prom.One(`up{job="edge",instance="crlf"}`)
			if err == nil && up != 0 {
				err = fmt.Errorf("up is %v", up)
			}
			return err
		})
	})
}

// richPage is a page of native histograms and exemplars in the protobuf format.
func richPage(t testing.TB) string {
	t.Helper()
	exemplar := &dto.Exemplar{Label: []*dto.LabelPair{{Name: proto.String("trace_id"), Value: proto.String("abc")}},
		Value: proto.Float64(1.5), Timestamp: timestamppb.Now()}
	span := []*dto.BucketSpan{{Offset: proto.Int32(-1), Length: proto.Uint32(2)}}
	integer := func() *dto.Histogram {
		return &dto.Histogram{SampleCount: proto.Uint64(5), SampleSum: proto.Float64(7.5), Schema: proto.Int32(3), ZeroThreshold: proto.Float64(1e-128),
			ZeroCount: proto.Uint64(1), PositiveSpan: span, PositiveDelta: []int64{1, 2}, Exemplars: []*dto.Exemplar{exemplar}}
	}
	var b bytes.Buffer
	for _, f := range []struct {
		name   string
		typ    dto.MetricType
		metric *dto.Metric
	}{
		{"rich_seconds", dto.MetricType_HISTOGRAM, &dto.Metric{Histogram: integer()}},
		{"rich_float", dto.MetricType_HISTOGRAM, &dto.Metric{Histogram: &dto.Histogram{SampleCountFloat: proto.Float64(2.5), SampleSum: proto.Float64(0.1),
			Schema: proto.Int32(-2), ZeroThreshold: proto.Float64(0.001), ZeroCountFloat: proto.Float64(0.5), NegativeSpan: span, NegativeCount: []float64{0.25, 1.75}}}},
		{"rich_gauge", dto.MetricType_GAUGE_HISTOGRAM, &dto.Metric{Histogram: integer()}},
		{"rich_classic", dto.MetricType_HISTOGRAM, &dto.Metric{Histogram: &dto.Histogram{SampleCount: proto.Uint64(4), SampleSum: proto.Float64(9),
			Bucket: []*dto.Bucket{{UpperBound: proto.Float64(0.5), CumulativeCount: proto.Uint64(3)}}}}},
		{"rich_total", dto.MetricType_COUNTER, &dto.Metric{Counter: &dto.Counter{Value: proto.Float64(3), Exemplar: exemplar}}},
	} {
		if _, err := protodelim.MarshalTo(&b, &dto.MetricFamily{Name: &f.name, Help: proto.String("Some help."), Type: &f.typ, Metric: []*dto.Metric{f.metric}}); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// Native histograms and exemplars from a target through the gateway to a Prometheus, which has them as from the target itself.
func TestPushGatewayNativeHistograms(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		server, g := startNATS(t, ""), startPushServer(t, name)
		receiver := startReceiver(t, pushYAML(server, g.URL, t.TempDir(), "", ""))
		target := targets.New(t, "rich", 0)
		target.Answer(http.StatusOK, protobufType, richPage(t))
		hosts := map[string]string{"rich": target.Host()}
		startPoller(t, pollerYAML(server, "site", "1s", "scrape_configs:\n"+scrapeYAML("edge", "scrape_native_histograms: true", hosts)))
		prom := harness.StartPrometheus(t, ports.Next(t), "scrape_configs:\n"+scrapeYAML("direct", "scrape_native_histograms: true", hosts)+
			scrapeYAML("pushgateway", "scrape_native_histograms: true\n    honor_labels: true", map[string]string{"gw": strings.TrimPrefix(g.URL, "http://")}),
			"--enable-feature=exemplar-storage")
		for _, metric := range []string{"rich_seconds", "rich_float", "rich_gauge"} {
			harness.Wait(t, 40*time.Second, "Prometheus has "+metric, func() error { return compareHistograms(prom, metric) })
		}
		for _, expr := range []string{"rich_total", `rich_classic_bucket{le="0.5"}`, "rich_classic_count", "rich_classic_sum"} {
			harness.Wait(t, 20*time.Second, "Prometheus has "+expr, func() error {
				_, err := prom.One(fmt.Sprintf("count(%[1]s) == 2 and max(%[1]s) == min(%[1]s)", expr))
				return err
			})
		}
		for _, metric := range []string{"rich_seconds", "rich_total"} {
			harness.Wait(t, 20*time.Second, "Prometheus has the exemplar of "+metric, func() error {
				all, err := prom.Exemplars(metric, "job")
				if err == nil && (len(all["edge"]) != 1 || len(all["direct"]) != 1 || fmt.Sprint(all["edge"]) != fmt.Sprint(all["direct"])) {
					err = fmt.Errorf("it has %v", all)
				}
				return err
			})
		}
		// Who asks for text sees a whole page, and of a native histogram its count and sum.
		page := harness.MustScrape(t, g.URL+"/metrics")
		for metric, count := range map[string]uint64{"rich_seconds": 5, "rich_gauge": 5, "rich_classic": 4} {
			if f := page[metric]; f == nil || len(f.Metric) != 1 || f.Metric[0].Histogram.GetSampleCount() != count {
				t.Errorf("the page in the text format has %s as %v", metric, f)
			}
		}
		if own := receiver.Metrics(t); own.Sum("prometheus_streams_pushgateway_left_out_samples_total", nil)+
			own.Sum("prometheus_streams_pushgateway_left_out_exemplars_total", nil) != 0 {
			t.Errorf("something is left out: %v", own.Values("prometheus_streams_pushgateway_left_out_samples_total", nil))
		}
	})
}

// compareHistograms compares the newest histogram that came through the gateway with the one from the target itself.
func compareHistograms(prom *harness.Prometheus, metric string) error {
	newest := func(job string) (h prompb.Histogram, err error) {
		all, err := prom.Histograms(harness.Labels{"__name__": metric, "job": job, "instance": "rich"})
		if err == nil && len(all) == 0 {
			err = fmt.Errorf("none of %s", job)
		}
		if err != nil {
			return h, err
		}
		h = all[len(all)-1]
		h.Timestamp, h.ResetHint = 0, 0
		return h, nil
	}
	direct, err := newest("direct")
	if err != nil {
		return err
	}
	pushed, err := newest("edge")
	if err == nil && pushed.String() != direct.String() {
		err = fmt.Errorf("it has %s, from the target itself %s", pushed.String(), direct.String())
	}
	return err
}

// A gateway that takes no protobuf gets everything but the native histograms, which are counted.
func TestPushGatewayWithoutProtobuf(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		server, g := startNATS(t, ""), startPushServer(t, name)
		p := startProxy(t, g.URL)
		p.do(func(w http.ResponseWriter, r *http.Request) bool {
			refuse := strings.HasPrefix(r.Header.Get("Content-Type"), "application/")
			if refuse {
				http.Error(w, "text alone", http.StatusUnsupportedMediaType)
			}
			return refuse
		})
		receiver := startReceiver(t, pushYAML(server, p.URL, t.TempDir(), "", ""))
		target := targets.New(t, "rich", 0)
		target.Answer(http.StatusOK, protobufType, richPage(t))
		startPoller(t, pollerYAML(server, "site", "1s", "scrape_configs:\n"+
			scrapeYAML("edge", "scrape_native_histograms: true", map[string]string{"rich": target.Host()})))
		g.waitLines(t, 30*time.Second, harness.Labels{"job": "edge", "instance": "rich"},
			"histogram rich_classic{} 4", "counter rich_total{} 3", "untyped up{} 1")
		receiver.WaitOutput(10*time.Second, "takes no protobuf")
		own := receiver.Metrics(t)
		if n := own.Sum("prometheus_streams_pushgateway_left_out_samples_total", harness.Labels{"reason": "native_histogram"}); n == 0 || int(n)%3 != 0 {
			t.Errorf("%v native histograms are counted as left out, want three of each scrape", n)
		}
		if own.Sum("prometheus_streams_pushgateway_left_out_exemplars_total", nil) == 0 {
			t.Error("exemplars that are left out are not counted")
		}
	})
}
