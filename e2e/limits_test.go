package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// limited are targets that keep a limit of their scrape config, until they are told to exceed it.
type limited struct {
	over atomic.Bool
	kept http.Handler // a native histogram of one bucket
	many http.Handler // one that does not become one bucket, whatever its resolution
}

func newLimited() *limited {
	native := func(values ...float64) http.Handler {
		reg := prometheus.NewRegistry()
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "native", Help: "N.", NativeHistogramBucketFactor: 1.1})
		ok := prometheus.NewGauge(prometheus.GaugeOpts{Name: "steady", Help: "S."})
		reg.MustRegister(h, ok)
		for _, v := range values {
			h.Observe(v)
		}
		return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	}
	return &limited{kept: native(1), many: native(1, -1, 1e-9, -1e-9, 1e9, -1e9)}
}

func (l *limited) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	over := l.over.Load()
	if r.URL.Path == "/native_histogram_bucket_limit" {
		if over {
			l.many.ServeHTTP(w, r)
		} else {
			l.kept.ServeHTTP(w, r)
		}
		return
	}
	w.Header().Set("Content-Type", textFormat)
	// Last, since of a scrape that fails midway a Prometheus 3 leaves alive what it has read until then.
	defer fmt.Fprintln(w, "steady 1")
	if !over {
		return
	}
	switch r.URL.Path {
	case "/body_size_limit":
		fmt.Fprintln(w, strings.Repeat("#", 3000))
	case "/sample_limit":
		fmt.Fprint(w, "a 1\nb 1\nc 1\nd 1\n")
	case "/label_limit":
		fmt.Fprintln(w, `a{b="1",c="2",d="3"} 1`)
	case "/label_name_length_limit":
		fmt.Fprintf(w, "a{%s=\"1\"} 1\n", strings.Repeat("n", 40))
	case "/label_value_length_limit":
		fmt.Fprintf(w, "a{b=\"%s\"} 1\n", strings.Repeat("v", 90))
	}
}

// Each limit, exceeded: up is 0 with the reason and both numbers, what the target had is stale, its neighbours go on, and
// it is whole again once it keeps the limit. All series say the same as those of a real Prometheus with the same file.
func TestLimitsAreThoseOfPrometheus(t *testing.T) {
	t.Parallel()
	l := newLimited()
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	// By limit, what it is set to and the words of the reason.
	limits := map[string]struct {
		set   string
		words []string
	}{
		"body_size_limit":               {"2KB", []string{"2049 bytes", "limit 2048"}},
		"sample_limit":                  {"3", []string{"5", "limit 3"}},
		"label_limit":                   {"5", []string{"6", "5"}},
		"label_name_length_limit":       {"30", []string{"40", "30"}},
		"label_value_length_limit":      {"80", []string{"90", "80"}},
		"native_histogram_bucket_limit": {"1", []string{"a histogram of 6 buckets", "limit 1"}},
	}
	var text strings.Builder
	text.WriteString("global: {scrape_interval: 1s, scrape_timeout: 900ms}\nscrape_configs:\n")
	address := server.Listener.Addr()
	for key, x := range limits {
		native := ""
		if strings.HasPrefix(key, "native") {
			native = ", scrape_native_histograms: true"
		}
		fmt.Fprintf(&text, "- {job_name: %s, metrics_path: /%s, %s: %s, static_configs: [{targets: ['%s']}]%s}\n", key, key, key, x.set, address, native)
	}
	fmt.Fprintf(&text, "- {job_name: target_limit, target_limit: 1, static_configs: [{targets: ['%s', 'localhost:1']}]}\n", address)
	fmt.Fprintf(&text, "- {job_name: neighbour, static_configs: [{targets: ['%s']}]}\n", address)
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := harness.StartPrometheusFile(t, ports.Next(t), file)
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
	p := harness.StartProduct(t, builds, "standalone", ports.Next(t), standaloneYAML(t, "edge", "1s", fmt.Sprintf(
		"remote_write: [{url: '%s/api/v1/write', send_native_histograms: true}]\n", central.URL)), "--prometheus.config", file).Ready(t)

	up := func(want float64, jobs ...string) {
		t.Helper()
		harness.Wait(t, 60*time.Second, fmt.Sprintf("up is %v for %v", want, jobs), func() error {
			for _, job := range jobs {
				for name, x := range map[string]*harness.Prometheus{"the centre": central, "Prometheus": theirs} {
					if v, err := x.One(fmt.Sprintf("min(up{job=%q})", job)); err != nil || v != want {
						return fmt.Errorf("%s at %s: up %v, %v", job, name, v, err)
					}
				}
			}
			return nil
		})
	}
	var jobs []string
	for job := range limits {
		jobs = append(jobs, job)
	}
	slices.Sort(jobs)
	up(1, append(jobs, "neighbour")...)
	up(0, "target_limit")
	reason(t, p, "target_limit", "target_limit exceeded", "2 targets", "limit 1")

	l.over.Store(true)
	up(0, jobs...)
	for _, job := range jobs {
		reason(t, p, job, append(limits[job].words, job+" exceeded")...)
		for _, name := range []string{"scrape_samples_scraped", "scrape_samples_post_metric_relabeling"} {
			alike(t, central, theirs, name, job)
		}
		for name, x := range map[string]*harness.Prometheus{"the centre": central, "Prometheus": theirs} {
			if job == "native_histogram_bucket_limit" && x == theirs {
				continue // Prometheus reads on after such a histogram, and what it reads is not stale (see docs/fidelity.md)
			}
			harness.Wait(t, 20*time.Second, job+": what the target had is stale at "+name, func() error {
				got, err := x.OneRaw(harness.Labels{"__name__": "steady", "job": job})
				if err == nil && !got[len(got)-1].Stale {
					err = fmt.Errorf("the last sample is not")
				}
				return err
			})
		}
		if v := p.Metrics(t).Sum("prometheus_streams_scrape_exceeded_limit_total", harness.Labels{"limit": job}); v == 0 {
			t.Errorf("%s is not counted", job)
		}
	}
	up(1, "neighbour")
	l.over.Store(false)
	up(1, jobs...)
	for _, job := range jobs {
		alike(t, central, theirs, "steady", job)
	}
}

// alike waits until two have the same for a series.
func alike(t *testing.T, a, b *harness.Prometheus, name, job string) {
	t.Helper()
	harness.Wait(t, 30*time.Second, name+" of "+job+" is the same", func() error {
		query := fmt.Sprintf("%s{job=%q}", name, job)
		x, err := a.One(query)
		if err != nil {
			return err
		}
		y, err := b.One(query)
		if err == nil && x != y {
			err = fmt.Errorf("%v, Prometheus' %v", x, y)
		}
		return err
	})
}

// reason checks what the API says of why the targets of a job are down.
func reason(t *testing.T, p *harness.Product, job string, words ...string) {
	t.Helper()
	harness.Wait(t, 20*time.Second, job+" has its reason", func() error {
		var all struct {
			ActiveTargets []struct{ Health, LastError string }
		}
		if err := ask(p.URL, "/api/v1/targets?scrapePool="+job, &all); err != nil {
			return err
		}
		for _, g := range all.ActiveTargets {
			for _, w := range words {
				if g.Health != "down" || !strings.Contains(g.LastError, w) {
					return fmt.Errorf("%s, %q lacks %q", g.Health, g.LastError, w)
				}
			}
		}
		return nil
	})
}
