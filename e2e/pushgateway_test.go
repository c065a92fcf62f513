package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// pushYAML is the configuration of a receiver that pushes; more is added at the top level, keys to push_gateway.
func pushYAML(server *harness.NATS, url, state, keys, more string) string {
	return fmt.Sprintf(`
identity: centre
receiver_stream:
  urls: %s
  topic: prometheus
  stream: PROMETHEUS
receiver:
  state_directory: %s
push_gateway:
  url: %s
%s
%s
`, server.URL, state, url, keys, more)
}

// namedJob is a job whose targets' names need quotes.
func namedJob(job string, all ...*harness.Target) string {
	var b strings.Builder
	fmt.Fprintf(&b, "jobs:\n  %q:\n    targets:\n", job)
	for _, g := range all {
		fmt.Fprintf(&b, "      - {name: %q, url: %q}\n", g.Name, g.URL())
	}
	return b.String()
}

// waitPushed waits until a Push Gateway shows a whole scrape of the target that is later than after.
func waitPushed(t testing.TB, limit time.Duration, g *pushServer, target *harness.Target, want harness.Labels, after int) (number int) {
	t.Helper()
	harness.Wait(t, limit, fmt.Sprintf("the Push Gateway shows %q after scrape %d", target.Name, after), func() error {
		page, err := harness.Scrape(g.URL + "/metrics")
		if err != nil {
			return err
		}
		if number, err = target.Shown(page, want); err != nil {
			return err
		}
		if number <= after {
			return fmt.Errorf("scrape %d is shown", number)
		}
		if up, err := page.Up(want); err != nil || up != 1 {
			return fmt.Errorf("up is %v, %v", up, err)
		}
		return nil
	})
	return number
}

func waitGone(t testing.TB, limit time.Duration, g *pushServer, want harness.Labels) {
	t.Helper()
	harness.Wait(t, limit, fmt.Sprintf("the group %v is gone", want), func() error {
		page, err := harness.Scrape(g.URL + "/metrics")
		if err == nil && page.Count(want) > 0 {
			err = fmt.Errorf("it has %d series", page.Count(want))
		}
		return err
	})
}

func edge(g *harness.Target) harness.Labels {
	return harness.Labels{"job": "edge", "instance": g.Name}
}

// From targets with awkward names to a Prometheus that scrapes the Push Gateway.
func TestPushGatewayToPrometheus(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		server, g := startNATS(t, ""), startPushServer(t, name)
		startReceiver(t, pushYAML(server, g.URL+"/", t.TempDir(), "", ""))
		var all []*harness.Target
		for _, n := range []string{"web/1", "a b", "ü", "dot/../x", "x?y#z", "c:9100", "%2F", ".."} {
			all = append(all, targets.New(t, n, 10))
		}
		poller := startPoller(t, pollerYAML(server, "site", "1s", namedJob("edge", all...))).Ready(t)
		for _, target := range all {
			waitPushed(t, 20*time.Second, g, target, edge(target), 0)
		}
		prom := harness.StartPrometheus(t, ports.Next(t), fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: pushgateway
    honor_labels: true
    static_configs: [{targets: [%q]}]
`, strings.TrimPrefix(g.URL, "http://")))
		for _, target := range all {
			harness.Wait(t, 20*time.Second, fmt.Sprintf("Prometheus has what %q showed", target.Name), func() error { return compareWithPage(prom, target) })
		}
		// One is down, one is removed: up is 0, or there is nothing.
		poller.Reload(t, pollerYAML(server, "site", "1s", namedJob("edge", slices.Delete(slices.Clone(all), 1, 2)...)))
		harness.Wait(t, 20*time.Second, "Prometheus sees nothing of the target that was removed", func() error {
			left, err := prom.Query(fmt.Sprintf(`{job="edge",instance=%q}`, all[1].Name))
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("%d series", len(left))
			}
			return err
		})
		all[0].Down()
		harness.Wait(t, 10*time.Second, "Prometheus sees the target down", func() error {
			up, err := prom.One(fmt.Sprintf(`up{job="edge",instance=%q}`, all[0].Name))
			if err == nil && up != 0 {
				err = fmt.Errorf("up is %v", up)
			}
			return err
		})
		if left, err := prom.Query(fmt.Sprintf(`%s{job="edge",instance=%q}`, harness.NumberMetric, all[0].Name)); err != nil || len(left) != 0 {
			t.Errorf("series of the target that is down: %v, %v", left, err)
		}
		all[0].Up(t)
		waitPushed(t, 10*time.Second, g, all[0], edge(all[0]), 0)
	})
}

// Targets that are removed, while the receiver runs and while it does not, and a publisher that falls silent.
func TestPushGatewayEnds(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		server, g := startNATS(t, ""), startPushServer(t, name)
		receiver := startReceiver(t, pushYAML(server, g.URL, t.TempDir(), "  publisher_label: true\n  stale_after: 8s", ""))
		alpha, beta, gamma, other := targets.New(t, "alpha", 5), targets.New(t, "beta/1", 5), targets.New(t, "gamma", 5), targets.New(t, "other", 5)
		at := func(publisher string, target *harness.Target) harness.Labels {
			return harness.Labels{"job": "edge", "instance": target.Name, "publisher": publisher}
		}
		poller := startPoller(t, pollerYAML(server, "site", "1s", namedJob("edge", alpha, beta, gamma)))
		silent := startPoller(t, pollerYAML(server, "silent", "1s", namedJob("edge", other)))
		for _, target := range []*harness.Target{alpha, beta, gamma} {
			waitPushed(t, 20*time.Second, g, target, at("site", target), 0)
		}
		waitPushed(t, 20*time.Second, g, other, at("silent", other), 0)

		poller.Reload(t, pollerYAML(server, "site", "1s", namedJob("edge", beta, gamma)))
		waitGone(t, 6*time.Second, g, at("site", alpha))

		stopWell(t, receiver.Process)
		poller.Reload(t, pollerYAML(server, "site", "1s", namedJob("edge", gamma)))
		time.Sleep(2 * time.Second)
		receiver.Restart(t)
		waitGone(t, 15*time.Second, g, at("site", beta))

		silent.Kill()
		waitGone(t, 25*time.Second, g, at("silent", other))
		waitPushed(t, 10*time.Second, g, gamma, at("site", gamma), gamma.Numbers()-3)
	})
}

// proxy stands before a Push Gateway and does to pushes what a test asks for.
type proxy struct {
	*httptest.Server
	// bad is asked for each request; it may answer.
	bad atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	// over is closed when the test ends: a server does not notice that a client is gone whose body nobody reads.
	over chan struct{}
}

func startProxy(t testing.TB, to string) *proxy {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(u)
	forward.ErrorLog = log.New(io.Discard, "", 0)
	p := &proxy{over: make(chan struct{})}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if bad := p.bad.Load(); bad == nil || !(*bad)(w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		close(p.over)
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

func (p *proxy) do(bad func(http.ResponseWriter, *http.Request) bool) { p.bad.Store(&bad) }
func (p *proxy) heal()                                                { p.bad.Store(nil) }

// Nothing is acknowledged that the gateway has not: a receiver that is killed while the gateway is down pushes the newest
// scrape when it is back, though no poller sends any more.
func TestPushGatewayKilledReceiver(t *testing.T) {
	t.Parallel()
	server, g := startNATS(t, ""), startPushServer(t, "pushgateway")
	receiver := startReceiver(t, pushYAML(server, g.URL, t.TempDir(), "", ""))
	all := targets.Many(t, "node", 5, 20)
	poller := startPoller(t, pollerYAML(server, "site", "1s", namedJob("edge", all...)))
	for _, target := range all {
		waitPushed(t, 20*time.Second, g, target, edge(target), 0)
	}
	g.Kill()
	time.Sleep(3 * time.Second)
	stopWell(t, poller.Process)
	last := lastNumbers(all)
	time.Sleep(time.Second)
	receiver.Kill()
	g.Restart(t)
	receiver.Restart(t)
	for _, target := range all {
		waitPushed(t, 45*time.Second, g, target, edge(target), last[target]-2) // the last scrape may have been given up
	}
}

// A receiver that was stopped for two minutes, with scrapes every 10 s in the stream and a max_age of 80 s: the four that
// are older are counted, and of the eight others the newest is pushed, once.
func TestPushGatewayMaxAge(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		server, g := startNATS(t, ""), startPushServer(t, name)
		p := startProxy(t, g.URL)
		var pushes atomic.Int64
		p.do(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/job/forged/") {
				pushes.Add(1)
			}
			return false
		})
		// The receiver makes the stream and its durable, and is stopped.
		receiver := startReceiver(t, pushYAML(server, p.URL, t.TempDir(), "", "max_age: 80"))
		js := server.JetStream(t)
		harness.Wait(t, 20*time.Second, "the receiver has its durable", func() error {
			_, err := harness.Durable(t, js, "PROMETHEUS")
			return err
		})
		stopWell(t, receiver.Process)
		forge, conn := harness.NewForge(t, "site", 7), server.Connect(t)
		harness.Publish(t, conn, forge.SchemaSubject(), forge.Schema.Marshal())
		for i := range 12 {
			ago := 115*time.Second - time.Duration(i)*10*time.Second
			harness.Publish(t, conn, forge.Subject(), forge.BundleAt(t, time.Now().Add(-ago), float64(i)))
		}
		receiver.Restart(t)
		receiver.Ready(t)
		g.waitLines(t, 20*time.Second, harness.Labels{"job": "forged", "instance": "site"}, "untyped forged{by=site} 11", "untyped up{} 1")
		time.Sleep(2 * time.Second) // what else would be pushed now
		own := receiver.Metrics(t)
		if aged := own.Sum("prometheus_streams_receiver_aged_discards", harness.Labels{"receiver_job": "forged"}); aged != 4 {
			t.Errorf("%v scrapes counted as aged, want the 4 of 12 that are older than 80 s", aged)
		}
		if n := own.Sum("prometheus_streams_pushgateway_superseded_total", nil); n != 7 {
			t.Errorf("%v scrapes counted as superseded, want 7", n)
		}
		if n := pushes.Load(); n != 1 {
			t.Errorf("%d pushes, want the newest alone", n)
		}
	})
}
