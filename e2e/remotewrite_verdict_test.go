package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/sink/remotewrite"
)

// busy stands before a server and, while it is, sends clients away for two seconds each time.
type busy struct {
	*httputil.ReverseProxy

	mu   sync.Mutex
	is   bool
	sent []time.Time // clients that were sent away
}

func (b *busy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	is := b.is
	if is {
		b.sent = append(b.sent, time.Now())
	}
	b.mu.Unlock()
	if is {
		w.Header().Set("Retry-After", "2")
		http.Error(w, "slowly", http.StatusTooManyRequests)
		return
	}
	b.ReverseProxy.ServeHTTP(w, r)
}

func (b *busy) set(is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.is = is
}

// A Prometheus behind something that answers 429 for a while has every sample afterwards, and was asked no sooner than it said.
func TestRemoteWriteBusy(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		central := startWritten(t)
		u, err := url.Parse(central.URL)
		if err != nil {
			t.Fatal(err)
		}
		front := &busy{ReverseProxy: httputil.NewSingleHostReverseProxy(u)}
		server := httptest.NewServer(front)
		t.Cleanup(server.Close)
		g := targets.New(t, "alpha", 20)
		p := startStandalone(t, standaloneYAML(t, "site", "1s", harness.JobsYAML("edge", g)+
			"remote_write:\n- url: "+server.URL+"/api/v1/write\n  name: central\n"+protocol))
		harness.Wait(t, 20*time.Second, "scrapes are in Prometheus", func() error { return checkTarget(central, g, 2) })
		front.set(true)
		before := g.Numbers()
		harness.Wait(t, 30*time.Second, "scrapes go on", func() error {
			if n := g.Numbers(); n < before+9 {
				return fmt.Errorf("%d scrapes", n-before)
			}
			return nil
		})
		front.set(false)
		want := g.Numbers()
		harness.Wait(t, 30*time.Second, "every sample of every series is in Prometheus", func() error { return checkTarget(central, g, want) })
		front.check(t)
		if n := p.Metrics(t).Sum("prometheus_streams_remote_write_dropped_samples_total", nil); n != 0 {
			t.Errorf("%v samples dropped", n)
		}
	})
}

// check looks at when clients were sent away. Several requests may be on their way when it begins; from then on nothing is asked
// for two seconds.
func (b *busy) check(t *testing.T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	waves := 0
	for i, at := range b.sent {
		if i == 0 || at.Sub(b.sent[i-1]) > time.Second {
			waves++
		}
	}
	if waves < 2 || waves > 7 {
		t.Errorf("asked %d times in %d waves while it was busy for nine seconds", len(b.sent), waves)
	}
}

// counted adds up a metric of a registry, by the values of a label.
func counted(t *testing.T, reg *prometheus.Registry, name, label string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			out[labelOf(m, label)] += m.GetCounter().GetValue()
		}
	}
	return out
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// A Prometheus that is restarted with another out-of-order window takes what it can by then; every sample that it does not
// take is counted once, by its reason.
func TestRemoteWriteAnotherWindow(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		version := remotewrite.V1
		if strings.Contains(protocol, "2") {
			version = remotewrite.V2
		}
		const config = "global: {scrape_interval: 1m}\nstorage: {tsdb: {out_of_order_time_window: %s}}\n"
		central := harness.StartPrometheus(t, ports.Next(t), fmt.Sprintf(config, "0s"), "--web.enable-remote-write-receiver")
		reg := prometheus.NewRegistry()
		w, _ := startWriter(t, remotewrite.Options{
			Name: "central", URL: central.URL + "/api/v1/write", Protocol: version, Registerer: reg,
		}, 10)
		const rows = 10 + sink.ReportSeries
		now := time.Now().Truncate(time.Second)
		restart := func(window string) {
			if code, _ := central.Stop(30 * time.Second); code != 0 {
				t.Fatalf("Prometheus ended with %d", code)
			}
			central.Rewrite(t, fmt.Sprintf(config, window))
			central.Restart(t)
		}
		// give delivers a scrape of some time ago, and looks for its reason, or none, and at what is counted since.
		counts := map[string]float64{}
		var stored []time.Duration
		give := func(ago time.Duration, want string) {
			t.Helper()
			reason, _ := sink.Rejected(w.give(now.Add(-ago), frame.Column{}))
			if want == "" {
				stored = append(stored, ago)
			} else {
				counts[want] += rows
			}
			if got := counted(t, reg, "prometheus_streams_remote_write_dropped_samples_total", "reason"); reason != want || fmt.Sprint(got) != fmt.Sprint(counts) {
				t.Fatalf("the scrape of %v ago: %q, dropped %v; want %q and %v", ago, reason, got, want, counts)
			}
		}
		give(0, "")
		give(time.Minute, "out_of_order")
		restart("10m")
		give(2*time.Minute, "")
		give(5*time.Minute, "")
		give(20*time.Minute, "too_old")
		restart("1h")
		give(30*time.Minute, "")
		restart("0s")
		give(3*time.Minute, "out_of_order")
		give(-time.Second, "")

		checkStored(t, central, now, stored, rows)
	})
}

// checkStored checks that each series of the job a has a sample of each of these times ago, and no other.
func checkStored(t *testing.T, central *harness.Prometheus, now time.Time, stored []time.Duration, series int) {
	t.Helper()
	all, err := central.Raw(harness.Labels{"job": "a"})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != series {
		t.Errorf("%d series, want %d", len(all), series)
	}
	for _, one := range all {
		got := map[time.Duration]int{}
		for _, s := range one.Samples {
			got[now.Sub(s.Time)]++
		}
		for _, ago := range stored {
			if got[ago] != 1 {
				t.Errorf("%v: the scrape of %v ago is there %d times", one.Labels, ago, got[ago])
			}
		}
		if len(one.Samples) != len(stored) {
			t.Errorf("%v: %d samples, want %d", one.Labels, len(one.Samples), len(stored))
		}
	}
}
