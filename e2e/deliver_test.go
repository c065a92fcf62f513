package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// One process: what is scraped is at /gateway/metrics with job and instance, and a Prometheus that scrapes it has what the
// targets' own pages said.
func TestStandaloneToPrometheus(t *testing.T) {
	t.Parallel()
	alpha, beta := targets.New(t, "alpha", 20), targets.New(t, "beta", 30)
	p := startStandalone(t, standaloneYAML(t, "site", "1s", harness.JobsYAML("edge", alpha, beta)))
	for _, g := range []*harness.Target{alpha, beta} {
		g.WaitShown(t, 15*time.Second, p, harness.Labels{"job": "edge", "instance": g.Name}, 0)
	}
	checkPrometheus(t, p, alpha, beta)
	checkOwnPages(t, p)
}

// Separate processes, as on different machines.
func TestSeparateProcessesToPrometheus(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	receiver := startReceiver(t, receiverYAML(t, server, "  publisher_label: true"))
	alpha, beta := targets.New(t, "alpha", 20), targets.New(t, "beta", 30)
	startPoller(t, pollerYAML(server, "site.example.net", "1s", harness.JobsYAML("edge", alpha, beta))).Ready(t)
	for _, g := range []*harness.Target{alpha, beta} {
		g.WaitShown(t, 15*time.Second, receiver, harness.Labels{"job": "edge", "instance": g.Name, "publisher": "site.example.net"}, 0)
	}
	checkPrometheus(t, receiver, alpha, beta)
	checkFilters(t, receiver, alpha, beta)
}

// checkPrometheus has a real Prometheus scrape a gateway and compares what it then answers with the targets' pages.
func checkPrometheus(t *testing.T, p *harness.Product, all ...*harness.Target) {
	t.Helper()
	prom := harness.StartPrometheus(t, ports.Next(t), fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: gateway
    honor_labels: true
    metrics_path: /gateway/metrics
    static_configs: [{targets: [%q]}]
`, strings.TrimPrefix(p.URL, "http://")))
	for _, g := range all {
		harness.Wait(t, 20*time.Second, "Prometheus has what "+g.Name+" showed", func() error { return compareWithPage(prom, g) })
		seen := func() float64 {
			v, err := prom.One(fmt.Sprintf(`%s{job="edge",instance=%q}`, harness.NumberMetric, g.Name))
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		first := seen()
		harness.Wait(t, 15*time.Second, "Prometheus follows "+g.Name, func() error {
			if now := seen(); now <= first {
				return fmt.Errorf("scrape %v is the newest, it was before", now)
			}
			return nil
		})
	}
}

// compareWithPage compares all that Prometheus has of a target at one moment with the page that the target served.
func compareWithPage(prom *harness.Prometheus, g *harness.Target) error {
	up, err := prom.One(fmt.Sprintf(`up{job="edge",instance=%q}`, g.Name))
	if err != nil {
		return err
	}
	if up != 1 {
		return fmt.Errorf("up is %v", up)
	}
	series, err := prom.Query(fmt.Sprintf(`{job="edge",instance=%q,__name__=~"e2e_.*"}`, g.Name))
	if err != nil {
		return err
	}
	number := 0
	for _, s := range series {
		if s.Labels["__name__"] == harness.NumberMetric {
			number = int(s.Value)
		}
	}
	served := g.Served()
	if number < 1 || number > len(served) {
		return fmt.Errorf("Prometheus shows scrape %d, the target served %d", number, len(served))
	}
	page, err := harness.ParsePage(served[number-1].Page)
	if err != nil {
		return err
	}
	if want := page.Count(nil); len(series) != want {
		return fmt.Errorf("Prometheus has %d series of scrape %d, the target's page %d", len(series), number, want)
	}
	for _, s := range series {
		own := harness.Labels{}
		if i, ok := s.Labels["series"]; ok {
			own["series"] = i
		}
		values := page.Values(s.Labels["__name__"], own)
		if len(values) != 1 {
			return fmt.Errorf("%v: %d such series on the target's page", s.Labels, len(values))
		}
		for _, want := range values {
			if s.Value != want {
				return fmt.Errorf("%v is %v, on the target's page %v", s.Labels, s.Value, want)
			}
		}
	}
	return nil
}

// checkOwnPages looks at what is beside the gateway.
func checkOwnPages(t *testing.T, p *harness.Product) {
	t.Helper()
	harness.WaitReady(t, time.Second, p.URL+"/-/healthy")
	own := p.Metrics(t)
	for _, name := range []string{"prometheus_streams_build_info", "prometheus_streams_poller_jobs", "prometheus_streams_receiver_received"} {
		if own[name] == nil {
			t.Errorf("%s is not on our own page", name)
		}
	}
	if got := own.Count(harness.Labels{"job": "edge"}); got != 0 {
		t.Errorf("our own page has %d series of the targets", got)
	}
}

// checkFilters looks at parts of the page, and at the list of publishers that http_sd_configs reads.
func checkFilters(t *testing.T, p *harness.Product, alpha, beta *harness.Target) {
	t.Helper()
	for _, test := range []struct {
		query       string
		alpha, beta bool
	}{
		{"job=edge", true, true},
		{"job=other", false, false},
		{"publisher=site.example.net", true, true},
		{"publisher=site", false, false},
		{"match[]=%7Binstance%3D%22alpha%22%7D", true, false},
	} {
		page, err := p.Gateway(test.query)
		if err != nil {
			t.Errorf("?%s: %v", test.query, err)
			continue
		}
		for g, want := range map[*harness.Target]bool{alpha: test.alpha, beta: test.beta} {
			if got := page.Count(harness.Labels{"instance": g.Name}) > 0; got != want {
				t.Errorf("?%s shows %s: %v, want %v", test.query, g.Name, got, want)
			}
		}
	}
	_, body, err := harness.Get(p.URL + "/gateway/targets")
	if err != nil {
		t.Fatal(err)
	}
	var groups []struct {
		Targets []string
		Labels  map[string]string
	}
	if err := json.Unmarshal([]byte(body), &groups); err != nil {
		t.Fatalf("/gateway/targets: %v in %s", err, body)
	}
	if len(groups) != 1 || !slices.Equal(groups[0].Targets, []string{strings.TrimPrefix(p.URL, "http://")}) {
		t.Errorf("/gateway/targets: %s, want one group that leads to %s", body, p.URL)
	}
}
