package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
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
	const files = "tls_config: {ca_file: ca.pem, cert_file: cert.pem, key_file: key.pem}"
	s.config = fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 900ms}
scrape_configs:
- {job_name: node, static_configs: [{targets: ['%s']}]}
- {job_name: nats, static_configs: [{targets: ['%s']}]}
- {job_name: prometheus, static_configs: [{targets: ['127.0.0.1:%d']}]}
- {job_name: tls, scheme: https, %s, static_configs: [{targets: ['%s']}]}
- {job_name: basic, basic_auth: {username: scraper, password_file: password}, static_configs: [{targets: ['%s']}]}
- {job_name: bearer, authorization: {credentials_file: token}, static_configs: [{targets: ['%s']}]}
- {job_name: proxy, scheme: https, %s, proxy_url: '%s', static_configs: [{targets: ['%s']}]}
- {job_name: native, scrape_native_histograms: true, always_scrape_classic_histograms: true, static_configs: [{targets: ['%s']}]}
- {job_name: openmetrics, scrape_protocols: [OpenMetricsText1.0.0], static_configs: [{targets: ['%s']}]}
`, node, natsExporter, port, files, secure.Listener.Addr(), basic.Listener.Addr(), bearer.Listener.Addr(), files, proxy.URL("user", "hunter3"), s.proxied,
		plain.Listener.Addr(), plain.Listener.Addr())
	file := filepath.Join(s.dir, "prometheus.yml")
	text := s.config + fmt.Sprintf("- {job_name: fed, honor_timestamps: true, static_configs: [{targets: ['%s'], labels: {instance: fed, site: dc1}}]}\n", s.fed.Host())
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

// shownBy are the values of a job's series by their labels.
func shownBy(p *harness.Prometheus, expr string) (map[string]float64, error) {
	all, err := p.Query(expr)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for _, s := range all {
		text := ""
		for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
			text += fmt.Sprintf("%s=%q ", name, s.Labels[name])
		}
		out[text] = s.Value
	}
	return out, nil
}

// only lists what one of two has alone.
func only(a, b map[string]float64) (out []string) {
	for k := range a {
		if _, ok := b[k]; !ok {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// Real exporters, in each way of asking them, arrive at the centre as a real Prometheus that scrapes them by the same file
// has them; and what the site's own Prometheus has goes on to the centre through /federate, with its labels and times.
func TestRealExporters(t *testing.T) {
	t.Parallel()
	s, theirs := startSite(t)
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage")
	file := filepath.Join(s.dir, "ours.yml")
	federate := fmt.Sprintf("- {job_name: federate, honor_labels: true, metrics_path: /federate, params: {'match[]': ['{job=\"fed\"}']}, static_configs: [{targets: ['%s']}]}\n",
		strings.TrimPrefix(theirs.URL, "http://"))
	if err := os.WriteFile(file, []byte(s.config+federate), 0o600); err != nil {
		t.Fatal(err)
	}
	harness.StartProduct(t, builds, "standalone", ports.Next(t), standaloneYAML(t, "edge", "1s", fmt.Sprintf(`
remote_write: [{url: '%s/api/v1/write', send_exemplars: true, send_native_histograms: true}]
`, central.URL)), "--prometheus.config", file).Ready(t)

	const frozen = `{job="%s", __name__!~"scrape_duration_seconds|app_native_seconds"}`
	for job, least := range map[string]int{"tls": 20, "basic": 20, "bearer": 20, "proxy": 20, "native": 20, "openmetrics": 20, "node": 150, "nats": 10, "prometheus": 500} {
		expr, live := fmt.Sprintf(frozen, job), slices.Contains([]string{"node", "nats", "prometheus"}, job)
		harness.Wait(t, 90*time.Second, job+" is at the centre as Prometheus has it", func() error {
			got, err := shownBy(central, expr)
			if err != nil {
				return err
			}
			want, err := shownBy(theirs, expr)
			if err != nil {
				return err
			}
			if a, b := only(got, want), only(want, got); len(a)+len(b) > 0 || len(got) < least {
				return fmt.Errorf("%d series; only at the centre: %.5q; only at the site: %.5q", len(got), a, b)
			}
			if !live && !reflect.DeepEqual(got, want) {
				return fmt.Errorf("other values: %v, want %v", got, want)
			}
			return nil
		})
	}
	sameHistograms(t, central, theirs)
	s.rotate(t, central)
	s.federated(t, central, theirs)
}

// sameHistograms compares native histograms and exemplars.
func sameHistograms(t *testing.T, central, theirs *harness.Prometheus) {
	t.Helper()
	labels := harness.Labels{"__name__": "app_native_seconds", "job": "native"}
	a, err := central.Histograms(labels)
	if err != nil || len(a) == 0 {
		t.Fatalf("%d native histograms: %v", len(a), err)
	}
	b, err := theirs.Histograms(labels)
	if err != nil || len(b) == 0 {
		t.Fatalf("the site's: %d native histograms: %v", len(b), err)
	}
	x, y := a[len(a)-1], b[len(b)-1]
	x.Timestamp, y.Timestamp = 0, 0
	x.ResetHint, y.ResetHint = 0, 0 // what a store makes of its chunks
	if !reflect.DeepEqual(x, y) || x.GetCountInt() != 50 {
		t.Errorf("native histogram %v, Prometheus' %v", x, y)
	}
	for _, selector := range []string{`app_native_seconds{job="native"}`, `app_requests_total{job="native"}`, `app_requests_total{job="openmetrics"}`} {
		label := "code"
		got, err := central.Exemplars(selector, label)
		if err != nil {
			t.Fatal(err)
		}
		want, err := theirs.Exemplars(selector, label)
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("exemplars of %s: %v, Prometheus' %v", selector, got, want)
		}
	}
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

// federated checks that each sample which came through /federate is one that the site has, under the same labels.
func (s *site) federated(t *testing.T, central, theirs *harness.Prometheus) {
	t.Helper()
	for _, name := range []string{harness.NumberMetric, "up", "scrape_samples_scraped"} {
		labels := harness.Labels{"__name__": name, "job": "fed"}
		var got []harness.RawSample
		harness.Wait(t, 60*time.Second, "10 samples of "+name+" came through /federate", func() (err error) {
			if got, err = central.OneRaw(labels); err == nil && len(got) < 10 {
				err = fmt.Errorf("%d", len(got))
			}
			return err
		})
		all, err := central.Raw(labels)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]string{"__name__": name, "job": "fed", "instance": "fed", "site": "dc1"}; !reflect.DeepEqual(all[0].Labels, want) {
			t.Errorf("labels %v, want %v", all[0].Labels, want)
		}
		original, err := theirs.OneRaw(labels)
		if err != nil {
			t.Fatal(err)
		}
		has := map[int64]float64{}
		for _, x := range original {
			has[x.Time.UnixMilli()] = x.Value
		}
		for _, x := range got {
			if v, ok := has[x.Time.UnixMilli()]; !ok || v != x.Value || x.Stale {
				t.Errorf("%s at %d is %v (stale %t), at the site %v, %t", name, x.Time.UnixMilli(), x.Value, x.Stale, v, ok)
			}
		}
	}
}
