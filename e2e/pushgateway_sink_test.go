package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/sink/pushgateway"
)

const (
	textType = "text/plain; version=0.0.4"
	openType = "application/openmetrics-text; version=1.0.0"
)

func eachPushGateway(t *testing.T, test func(*testing.T, string)) {
	t.Parallel()
	for _, name := range pushGateways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, name)
		})
	}
}

// Whatever a name has in it, it arrives as exactly that.
func TestPushGatewayNames(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, server string) {
		g := startPushServer(t, server)
		s, _ := startPushSink(t, pushgateway.Options{URL: g.URL + "/", PublisherLabel: "publisher"})
		names := []string{"web/1", "a b", "ü", "dot/../x", "x?y#z", "c:9100", "%2F", "%zz", " ", "", ".", "..", "=", "@base64", "\u00a0",
			"a@base64", "+", "//", "new\nline", `quote"\`, strings.Repeat("long/", 400)}
		for i, n := range names {
			f := newPushFeed(t, false, "job", "job "+n, "instance", n)
			f.publisher = n + "/edge"
			s.deliver(f.scrape(fmt.Sprintf("x %d\n", i), textType))
		}
		if got := s.settled(10 * time.Second); got["ok"] != len(names) {
			t.Fatalf("verdicts %v, want %d accepted", got, len(names))
		}
		page := harness.MustScrape(t, g.URL+"/metrics")
		if got := len(page["x"].GetMetric()); got != len(names) {
			t.Errorf("the gateway has %d groups, want %d", got, len(names))
		}
		for i, n := range names {
			g.waitLines(t, time.Second, harness.Labels{"job": "job " + n, "instance": n, "publisher": n + "/edge"},
				fmt.Sprintf("untyped x{} %d", i), "untyped up{} 1")
		}
		// And they are found again to be deleted.
		for _, n := range names {
			f := newPushFeed(t, false, "job", "job "+n, "instance", n)
			f.publisher, f.position = n+"/edge", 1
			s.deliver(f.frame(&frame.Frame{Kind: frame.End, Reason: frame.Removed}))
		}
		s.settled(10 * time.Second)
		if page := harness.MustScrape(t, g.URL+"/metrics"); page["up"] != nil || page["push_time_seconds"] != nil {
			t.Errorf("groups are left: %v", page["push_time_seconds"])
		}
	})
}

// What the gateway answers 400 to, if it is pushed as it was scraped.
func TestPushGatewayAwkwardScrapes(t *testing.T) {
	group := harness.Labels{"job": "a", "instance": "b:1"}
	for _, test := range []struct {
		name, body, contentType string
		honor                   bool
		want                    []string
		other                   harness.Labels
		wantOther               []string
		debian                  []string // where Debian's takes less
	}{
		{name: "timestamps", body: fmt.Sprintf("x 1 %d\ny 2\n", time.Now().UnixMilli()), want: []string{"untyped x{} 1", "untyped y{} 2"}},
		{name: "exemplar", contentType: openType, body: "# TYPE r counter\nr_total 3 # {trace_id=\"a\"} 1\n# EOF\n", want: []string{"counter r_total{} 3"}},
		{name: "OpenMetrics types", contentType: openType, body: "# TYPE b info\nb_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"on\"} 1\n# TYPE u unknown\nu 5\n" +
			"# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\nh_created 4\n# TYPE g gaugehistogram\ng_bucket{le=\"+Inf\"} 1\ng_gcount 1\ng_gsum 1\n# EOF\n",
			want: []string{"gauge b_info{v=1} 1", "gauge s{s=on} 1", "untyped u{} 5", "histogram h{} 2", "untyped h_created{} 4",
				"untyped g_bucket{le=+Inf} 1", "untyped g_gcount{} 1", "untyped g_gsum{} 1"}},
		{name: "other instance, honored", honor: true, body: "x 1\nx{instance=\"c\"} 2\nx{job=\"j\",instance=\"c\"} 3\n",
			want: []string{"untyped x{} 1"}, other: harness.Labels{"job": "a", "instance": "c"}, wantOther: []string{"untyped x{} 2"}},
		{name: "other instance, not honored", body: "x 1\nx{instance=\"c\"} 2\nx{instance=\"d\"} 3\n",
			want: []string{"untyped x{} 1", "untyped x{exported_instance=c} 2", "untyped x{exported_instance=d} 3"}},
		{name: "no final newline", body: "x 1", want: []string{"untyped x{} 1"}},
		{name: "own push times", honor: true, body: "push_time_seconds{job=\"j\",instance=\"i\"} 5\npush_failure_time_seconds 1\nx 1\n", want: []string{"untyped x{} 1"}},
		{name: "gateway's own metrics without types", body: "go_goroutines 5\ngo_gc_duration_seconds{quantile=\"0\"} 1\ngo_gc_duration_seconds_sum 1\n" +
			"go_gc_duration_seconds_count 7\nprocess_open_fds 3\npushgateway_http_requests_total{code=\"200\",handler=\"push\",method=\"put\"} 4\n",
			want: []string{"gauge go_goroutines{} 5", "summary go_gc_duration_seconds{} 7", "gauge process_open_fds{} 3",
				"counter pushgateway_http_requests_total{code=200,handler=push,method=put} 4"}},
		{name: "two types", body: "# TYPE x counter\nx 1\n# TYPE go_info counter\ngo_info{version=\"go\"} 1\n", want: []string{"counter x{} 1", "gauge go_info{version=go} 1"}},
		// The gateway keeps no sign of a zero.
		{name: "special values", body: "x{v=\"n\"} NaN\nx{v=\"i\"} +Inf\nx{v=\"m\"} -Inf\nx{v=\"z\"} -0\n", want: []string{"untyped x{v=n} NaN", "untyped x{v=i} +Inf",
			"untyped x{v=m} -Inf", "untyped x{v=z} 0"}},
		{name: "UTF-8 metric name", body: "{\"a.b\"} 1\nx 2\n", want: []string{"untyped a_b{} 1", "untyped x{} 2"}, debian: []string{"untyped x{} 2"}},
		{name: "UTF-8 label name", body: "{\"x\",\"a.b\"=\"c\"} 1\ny 2\n", want: []string{"untyped y{} 2"}},
		{name: "empty", body: "\n", want: nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachPushGateway(t, func(t *testing.T, server string) {
				g := startPushServer(t, server)
				s, _ := startPushSink(t, pushgateway.Options{URL: g.URL})
				if test.contentType == "" {
					test.contentType = textType
				}
				f := newPushFeed(t, test.honor, "job", "a", "instance", "b:1")
				s.deliver(f.scrape(test.body, test.contentType))
				if got := s.settled(10 * time.Second); got["ok"] != 1 {
					t.Fatalf("verdicts %v", got)
				}
				want := test.want
				if server == "pushgateway-debian" && test.debian != nil {
					want = test.debian
				}
				g.waitLines(t, time.Second, group, append(slices.Clone(want), "untyped up{} 1")...)
				if test.other != nil {
					g.waitLines(t, time.Second, test.other, test.wantOther...)
				}
			})
		})
	}
}

// A Push Gateway that is scraped and pushed to itself: with honor_labels its groups are those of other targets.
func TestPushGatewayScrapedItself(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, server string) {
		g := startPushServer(t, server)
		s, _ := startPushSink(t, pushgateway.Options{URL: g.URL})
		node := newPushFeed(t, false, "job", "node", "instance", "n1")
		self := newPushFeed(t, true, "job", "pushgateway", "instance", "gw")
		for i := range 3 {
			s.deliver(node.scrape(fmt.Sprintf("x %d\n", i), textType))
			s.settled(10 * time.Second)
			_, body, err := harness.Get(g.URL+"/metrics", "Accept", textType)
			if err != nil {
				t.Fatal(err)
			}
			s.deliver(self.scrape(body, textType))
			if got := s.settled(10 * time.Second); got["ok"] != 2*(i+1) {
				t.Fatalf("verdicts %v after round %d", got, i)
			}
		}
		g.waitLines(t, time.Second, harness.Labels{"job": "node", "instance": "n1"}, "untyped x{} 2", "untyped up{} 1")
		own, err := g.lines(harness.Labels{"job": "pushgateway", "instance": "gw"})
		if err != nil || len(own) < 30 || !slices.Contains(own, "untyped up{} 1") {
			t.Errorf("the gateway's own group has %q, %v", own, err)
		}
	})
}

// A conflict with what somebody else pushed costs that metric alone.
func TestPushGatewayBesideOthers(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, server string) {
		g := startPushServer(t, server)
		other, _ := startPushSink(t, pushgateway.Options{URL: g.URL})
		other.deliver(newPushFeed(t, false, "job", "cron", "instance", "").scrape("# TYPE x histogram\nx_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n", textType))
		other.settled(10 * time.Second)
		s, _ := startPushSink(t, pushgateway.Options{URL: g.URL})
		s.deliver(newPushFeed(t, false, "job", "a", "instance", "1").scrape("# TYPE x gauge\nx 1\ny 2\n", textType))
		s.deliver(newPushFeed(t, false, "job", "a", "instance", "2").scrape("z 3\n", textType))
		if got := s.settled(10 * time.Second); got["ok"] != 2 {
			t.Fatalf("verdicts %v", got)
		}
		g.waitLines(t, time.Second, harness.Labels{"job": "a", "instance": "1"}, "untyped y{} 2", "untyped up{} 1")
		g.waitLines(t, time.Second, harness.Labels{"job": "a", "instance": "2"}, "untyped z{} 3", "untyped up{} 1")
	})
}

// The gateway hangs, dies with its state, and is down: afterwards every group has the newest scrape.
func TestPushGatewayFaults(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, server string) {
		g := startPushServer(t, server)
		s, _ := startPushSink(t, pushgateway.Options{URL: g.URL})
		feeds := make([]*pushFeed, 30)
		for i := range feeds {
			feeds[i] = newPushFeed(t, false, "job", "a", "instance", fmt.Sprint(i))
		}
		number := 0
		round := func() {
			number++
			for _, f := range feeds {
				s.deliver(f.scrape(fmt.Sprintf("x %d\n", number), textType))
			}
			time.Sleep(2 * time.Second)
		}
		current := func(what string) {
			t.Helper()
			number++
			for _, f := range feeds {
				s.deliver(f.scrape(fmt.Sprintf("x %d\n", number), textType))
			}
			for i := range feeds {
				g.waitLines(t, 6*time.Second, harness.Labels{"job": "a", "instance": fmt.Sprint(i)}, fmt.Sprintf("untyped x{} %d", number), "untyped up{} 1")
			}
			if v := s.settled(10 * time.Second); v["ok"] != number*len(feeds) {
				t.Errorf("after %s: verdicts %v, want %d ok", what, v, number*len(feeds))
			}
		}
		current("the start")
		g.Freeze()
		round()
		round()
		round()
		g.Thaw()
		current("hanging")
		g.Kill()
		g.Restart(t)
		current("a restart without state")
		g.Kill()
		round()
		round()
		g.Restart(t)
		current("being down")
	})
}

// Groups are remembered: a target that ends while the receiver is down, or never comes back, loses its group.
func TestPushGatewayRestartedReceiver(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, server string) {
		g := startPushServer(t, server)
		stale := 3 * time.Second
		dir := t.TempDir()
		o := pushgateway.Options{URL: g.URL, StateDirectory: dir, StaleAfter: &stale}
		s, stop := startPushSink(t, o)
		alive, silent, ended := newPushFeed(t, false, "job", "a", "instance", "alive"),
			newPushFeed(t, false, "job", "a", "instance", "silent"), newPushFeed(t, true, "job", "a", "instance", "ended/1")
		for _, f := range []*pushFeed{alive, silent, ended} {
			s.deliver(f.scrape("x 1\ny{job=\"split\",instance=\""+f.target.Labels.Get("instance")+"\"} 1\n", textType))
		}
		s.settled(10 * time.Second)
		stop()
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		foreign, stopForeign := startPushSink(t, pushgateway.Options{URL: g.URL})
		foreign.deliver(newPushFeed(t, false, "job", "cron", "instance", "").scrape("z 1\n", textType))
		foreign.settled(10 * time.Second)
		stopForeign()

		s, _ = startPushSink(t, o)
		s.deliver(ended.frame(&frame.Frame{Kind: frame.End, Reason: frame.Removed}))
		g.waitLines(t, 2*time.Second, harness.Labels{"job": "a", "instance": "ended/1"})
		g.waitLines(t, 2*time.Second, harness.Labels{"job": "split", "instance": "ended/1"})
		for range 6 {
			s.deliver(alive.scrape("x 2\n", textType))
			time.Sleep(time.Second)
		}
		g.waitLines(t, time.Second, harness.Labels{"job": "a", "instance": "silent"})
		g.waitLines(t, time.Second, harness.Labels{"job": "a", "instance": "alive"}, "untyped x{} 2", "untyped up{} 1")
		g.waitLines(t, time.Second, harness.Labels{"job": "cron", "instance": ""}, "untyped z{} 1", "untyped up{} 1")
	})
}

// 300 groups of 1000 series are pushed well within an interval of 15 s, to a gateway that does not check each push
// against all others.
func TestPushGatewayKeepsUp(t *testing.T) {
	for _, server := range pushGateways {
		t.Run(server, func(t *testing.T) {
			g := startPushServer(t, server, "--push.disable-consistency-check")
			s, _ := startPushSink(t, pushgateway.Options{URL: g.URL})
			const groups, series = 300, 1000
			feeds := make([]*pushFeed, groups)
			for i := range feeds {
				feeds[i] = newPushFeed(t, false, "job", "load", "instance", fmt.Sprintf("i%d", i))
				feeds[i].target.Interval = 15 * time.Second
			}
			for round := range 2 {
				var b strings.Builder
				for i := range series / 10 {
					fmt.Fprintf(&b, "# HELP m_%d_total Some help text.\n# TYPE m_%d_total counter\n", i, i)
					for j := range 10 {
						fmt.Fprintf(&b, "m_%d_total{device=\"d%d\"} %d\n", i, j, round*i*j)
					}
				}
				deliveries := make([]sink.Delivery, groups)
				for i, f := range feeds {
					deliveries[i] = f.scrape(b.String(), textType)
				}
				begin := time.Now()
				for _, d := range deliveries {
					s.deliver(d)
				}
				if got := s.settled(15 * time.Second); got["ok"] != (round+1)*groups {
					t.Fatalf("verdicts %v", got)
				}
				t.Logf("%d groups of %d series in %v", groups, series, time.Since(begin).Round(time.Millisecond))
			}
		})
	}
}
