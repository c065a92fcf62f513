package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// application is a client_golang program with metrics of all kinds, whose values stay as they are.
func application() http.Handler {
	reg := prometheus.NewRegistry()
	trace := func(i int) prometheus.Labels { return prometheus.Labels{"trace_id": fmt.Sprintf("t%d", i)} }
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "app_requests_total", Help: "Requests."}, []string{"code"})
	classic := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "app_size_bytes", Help: "Sizes.", Buckets: []float64{1, 2, 4}})
	native := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "app_native_seconds", Help: "Times.", NativeHistogramBucketFactor: 1.1,
		NativeHistogramMaxExemplars: 4})
	summary := prometheus.NewSummary(prometheus.SummaryOpts{Name: "app_summary_seconds", Help: "Times.", Objectives: map[float64]float64{0.5: 0.05}})
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "app_temperature_celsius", Help: "With \\ and \"quotes\"\nand lines."})
	reg.MustRegister(counter, classic, native, summary, gauge)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 50 {
		counter.WithLabelValues(fmt.Sprint(200+i%3)).(prometheus.ExemplarAdder).AddWithExemplar(float64(i), trace(i))
		classic.(prometheus.ExemplarObserver).ObserveWithExemplar(r.Float64()*5, trace(i))
		native.(prometheus.ExemplarObserver).ObserveWithExemplar(r.NormFloat64(), trace(i))
		summary.Observe(1)
	}
	gauge.Set(-0.1)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true, EnableOpenMetricsTextCreatedSamples: true})
}

// site is what is scraped at a site: each way of asking, and each kind of exporter.
type site struct {
	dir    string
	token  atomic.Value // that the bearer target takes
	asked  atomic.Int64 // of the bearer target, with the token that it takes
	config string
	fed    *harness.Target
	// open tells that what answers ever the same begins to.
	open atomic.Bool
	// proxied is the address that only the proxy knows.
	proxied string
}

// startSite starts the exporters of a site, and its own Prometheus, which scrapes them and fed besides.
func startSite(t *testing.T) (*site, *harness.Prometheus) {
	t.Helper()
	s := &site{dir: t.TempDir(), fed: targets.New(t, "fed", 5), proxied: "behind.example:443"}
	s.token.Store("first")
	app := application()
	ca := tlstest.NewCA(t, "ca")
	client, server := ca.Issue(t, "edge", time.Now().Add(time.Hour)), ca.Issue(t, "behind.example", time.Now().Add(time.Hour))
	for name, data := range map[string][]byte{"ca.pem": ca.PEM(), "cert.pem": client.CertPEM, "key.pem": client.KeyPEM, "token": []byte("first"), "password": []byte("hunter2")} {
		tlstest.Write(t, filepath.Join(s.dir, name), data)
	}
	secure := httptest.NewUnstartedServer(app)
	pair, err := tls.X509KeyPair(server.CertPEM, server.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	secure.StartTLS()
	basic := httptest.NewServer(lockedBy(app, func(r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		return user == "scraper" && password == "hunter2"
	}))
	bearer := httptest.NewServer(lockedBy(app, func(r *http.Request) bool {
		ok := r.Header.Get("Authorization") == "Bearer "+s.token.Load().(string)
		if ok {
			s.asked.Add(1)
		}
		return ok
	}))
	plain := httptest.NewServer(app)
	for _, x := range []*httptest.Server{secure, basic, bearer, plain} {
		t.Cleanup(x.Close)
	}
	proxy := harness.StartProxy(t, "user", "hunter3", map[string]string{s.proxied: secure.Listener.Addr().String()})
	node := fmt.Sprintf("127.0.0.1:%d", ports.Next(t))
	harness.Start(t, "node_exporter", harness.Server(t, "node_exporter"), "--web.listen-address="+node,
		"--collector.disable-defaults", "--collector.cpu", "--collector.meminfo", "--collector.loadavg", "--collector.stat", "--collector.uname", "--collector.os", "--collector.vmstat", "--collector.filesystem")
	harness.WaitReady(t, 30*time.Second, "http://"+node+"/metrics")
	natsExporter := s.startNATSExporter(t)
	port := ports.Next(t)
	own := fmt.Sprintf("127.0.0.1:%d", port)
	const files = "tls_config: {ca_file: ca.pem, cert_file: cert.pem, key_file: key.pem}"
	s.config = fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 900ms}
scrape_configs:
- {job_name: node, static_configs: [{targets: ['%s']}]}
- {job_name: nats, static_configs: [{targets: ['%s']}]}
- {job_name: prometheus, static_configs: [{targets: ['%s']}]}
- {job_name: same-node, static_configs: [{targets: ['%s']}]}
- {job_name: same-nats, static_configs: [{targets: ['%s']}]}
- {job_name: same-prometheus, scrape_native_histograms: true, always_scrape_classic_histograms: true, static_configs: [{targets: ['%s']}]}
- {job_name: tls, scheme: https, %s, static_configs: [{targets: ['%s']}]}
- {job_name: basic, basic_auth: {username: scraper, password_file: password}, static_configs: [{targets: ['%s']}]}
- {job_name: bearer, authorization: {credentials_file: token}, static_configs: [{targets: ['%s']}]}
- {job_name: proxy, scheme: https, %s, proxy_url: '%s', static_configs: [{targets: ['%s']}]}
- {job_name: native, scrape_native_histograms: true, always_scrape_classic_histograms: true, static_configs: [{targets: ['%s']}]}
- {job_name: openmetrics, scrape_protocols: [OpenMetricsText1.0.0], static_configs: [{targets: ['%s']}]}
`, node, natsExporter, own, s.same(t, node), s.same(t, natsExporter), s.same(t, own), files, secure.Listener.Addr(), basic.Listener.Addr(), bearer.Listener.Addr(), files, proxy.URL("user", "hunter3"), s.proxied,
		plain.Listener.Addr(), plain.Listener.Addr())
	file := filepath.Join(s.dir, "prometheus.yml")
	text := s.config + fmt.Sprintf(`
- {job_name: fed, honor_timestamps: true, static_configs: [{targets: ['%s'], labels: {instance: fed, site: dc1}}]}
- {job_name: fed-app, scrape_native_histograms: true, always_scrape_classic_histograms: true, static_configs: [{targets: ['%s'], labels: {instance: app, site: dc1}}]}
`, s.fed.Host(), plain.Listener.Addr())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, harness.StartPrometheusFile(t, port, file, "--enable-feature=exemplar-storage")
}

// startNATSExporter runs the exporter of NATS' own command line, which asks a nats-server at each scrape, and returns its
// address.
func (s *site) startNATSExporter(t *testing.T) string {
	t.Helper()
	server, port := startNATS(t, ""), ports.Next(t)
	file, context := filepath.Join(s.dir, "checks.yaml"), filepath.Join(s.dir, "context.json")
	for name, text := range map[string]string{
		file:    "context: " + context + "\nchecks: [{name: jetstream, kind: jetstream, properties: {}}, {name: connection, kind: connection, properties: {}}]\n",
		context: fmt.Sprintf(`{"url": %q}`, server.URL),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	harness.Start(t, "nats_exporter", harness.Server(t, "nats"), "server", "check", "exporter", "--config", file, "--port", fmt.Sprint(port))
	address := fmt.Sprintf("127.0.0.1:%d", port)
	harness.Wait(t, 30*time.Second, "the exporter reaches the server", func() error {
		page, err := harness.Scrape("http://" + address + "/metrics")
		if err == nil && page.Count(harness.Labels{"status": "OK"}) < 2 {
			err = fmt.Errorf("%d checks are OK", page.Count(harness.Labels{"status": "OK"}))
		}
		return err
	})
	return address
}

func lockedBy(h http.Handler, good func(*http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !good(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// only lists what one of two has alone, or otherwise if values count.
func only(a, b map[string]string, values bool) (out []string) {
	for k, v := range a {
		if w, ok := b[k]; !ok || values && v != w {
			out = append(out, k+" "+v)
		}
	}
	slices.Sort(out)
	return out
}

// Real exporters, in each way of asking them, arrive at the centre as a real Prometheus that scrapes them by the same file
// has them: values, native histograms, exemplars, types and help.
func TestRealExporters(t *testing.T) {
	t.Parallel()
	s, theirs := startSite(t)
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage")
	relay, said := startRelay(t, theirs.URL), startTold(t)
	file := filepath.Join(s.dir, "ours.yml")
	if err := os.WriteFile(file, []byte(s.config+relay.config()), 0o600); err != nil {
		t.Fatal(err)
	}
	harness.StartProduct(t, builds, "standalone", ports.Next(t), standaloneYAML(t, "edge", "1s", fmt.Sprintf(`
remote_write:
- {url: '%s/api/v1/write', send_exemplars: true, send_native_histograms: true}
- {name: told, url: '%s', protobuf_message: io.prometheus.write.v2.Request}
`, central.URL, said.URL)), "--prometheus.config", file).Ready(t)

	for job, least := range map[string]int{"node": 150, "nats": 10, "prometheus": 500} {
		alikeStored(t, central, theirs, job, least, false)
	}
	s.open.Store(true)
	for job, least := range map[string]int{"tls": 20, "basic": 20, "bearer": 20, "proxy": 20, "native": 20, "openmetrics": 20,
		"same-node": 150, "same-nats": 10, "same-prometheus": 500} {
		alikeStored(t, central, theirs, job, least, true)
		said.compare(t, theirs, job)
	}
	for job, least := range map[string]int{"native": 1, "same-prometheus": 5} {
		if n := histograms(t, central, job); n < least {
			t.Errorf("%s: %d series of native histograms were compared", job, n)
		}
	}
	sameExemplars(t, central, theirs)
	s.rotate(t, central)
	relay.compare(t, central, theirs)
}

// rotate gives the bearer target another token: it is scraped on as soon as the file has it.
func (s *site) rotate(t *testing.T, central *harness.Prometheus) {
	t.Helper()
	up := func(want float64) func() error {
		return func() error {
			v, err := central.One(`up{job="bearer"}`)
			if err == nil && v != want {
				err = fmt.Errorf("up is %v", v)
			}
			return err
		}
	}
	s.token.Store("second")
	harness.Wait(t, 30*time.Second, "the old token is refused", up(0))
	before := s.asked.Load()
	replace(t, filepath.Join(s.dir, "token"), "second")
	harness.Wait(t, 30*time.Second, "the new token is taken", up(1))
	if s.asked.Load() == before {
		t.Error("nobody asked with the new token")
	}
}
