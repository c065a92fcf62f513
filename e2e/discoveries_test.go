package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/target/targettest"
)

// fakes are the servers that discovery asks.
type fakes struct {
	http, consul, kubernetes, puppetdb *targettest.Fake
}

func startFakes(t testing.TB, address string) *fakes {
	return &fakes{targettest.HTTP(t, address+":0"), targettest.Consul(t, address+":0"), targettest.Kubernetes(t, address+":0"), targettest.PuppetDB(t, address+":0")}
}

func (f *fakes) byKind() map[string]*targettest.Fake {
	return map[string]*targettest.Fake{"http": f.http, "consul": f.consul, "kubernetes": f.kubernetes, "puppetdb": f.puppetdb}
}

func (f *fakes) fill(text string) string {
	return strings.NewReplacer("HTTP", f.http.Address(), "CONSUL", f.consul.Address(), "KUBERNETES", f.kubernetes.Address(), "PUPPETDB", f.puppetdb.Address()).Replace(text)
}

// With every key of each discovery, a real Prometheus and we list the same, and again after what there is to find changed.
func TestDiscoveriesAreThoseOfPrometheus(t *testing.T) {
	t.Parallel()
	island := harness.NewIsland(t, 1)
	here := island.Here(0)
	server, f := startNameServer(t, here), startFakes(t, here)
	text, err := os.ReadFile(filepath.Join(harness.Root(), "internal", "target", "testdata", "everydiscovery.yml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kubeconfig := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
"clusters": [{"name": "k", "cluster": {"server": "http://%s"}}], "users": [{"name": "u", "user": {}}]}`, f.kubernetes.Address())
	for name, content := range map[string]string{"prometheus.yml": strings.ReplaceAll(f.fill(string(text)), "refresh_interval: 1m", "refresh_interval: 1s"), "kubeconfig": kubeconfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change := func(list ...string) {
		var a, srv []string
		aaaa := []string{"fd00::1", "fd00::2"}
		for i, x := range list {
			_, port, _ := strings.Cut(x, ":")
			a = append(a, fmt.Sprintf("10.200.0.%d", i+len(list)))
			srv = append(srv, fmt.Sprintf("0 0 %s h%d.test.", port, i))
		}
		server.set(map[string][]string{"a.test. A": a, "aaaa.test. AAAA": aaaa[:len(list)%2+1], "mx.test. MX": {"10 one.test."}, "_m._tcp.test. SRV": srv})
		for _, x := range f.byKind() {
			x.Set(list...)
		}
	}
	change("10.200.0.1:1", "10.200.0.2:2")
	file, resolv := filepath.Join(dir, "prometheus.yml"), "nameserver "+here+"\noptions timeout:1 attempts:1\n"
	theirs := harness.StartPrometheusOn(t, island, resolv, ports.Next(t), file)
	ours := harness.StartProductOn(t, builds, island, resolv, ports.Next(t), standaloneYAML(t, "edge", "1h", ""), "--prometheus.config", file).Ready(t)
	alike := func(targets, each int) {
		t.Helper()
		harness.Wait(t, 90*time.Second, fmt.Sprintf("%d targets are found by both", targets), func() error {
			for _, pool := range []string{"http", "consul", "consul, every key", "kubernetes", "kubernetes, file", "puppetdb"} {
				all, err := listed(theirs.URL, "?scrapePool="+strings.ReplaceAll(pool, " ", "%20"))
				if err != nil || len(all.ActiveTargets) != each {
					return fmt.Errorf("Prometheus has %d targets of %s: %v", len(all.ActiveTargets), pool, err)
				}
			}
			return same(ours.URL, theirs.URL, "", targets)
		})
	}
	alike(6*2+2+2+1+1, 2) // each kind has two; of DNS SRV two, A two, AAAA one, MX one
	change("10.200.0.2:2", "10.200.0.3:3", "10.200.0.4:4")
	alike(6*3+3+3+2+1, 3)
	change()
	alike(2, 0)
}

// What discovery adds is scraped, and what it takes away ends with stale markers, all within the time in which it looks
// again; the others do not miss a scrape.
func TestDiscoveredTargetsComeAndGo(t *testing.T) {
	t.Parallel()
	f := startFakes(t, "127.0.0.1")
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
	one, two := map[string]*harness.Target{}, map[string]*harness.Target{}
	for kind, x := range f.byKind() {
		one[kind], two[kind] = targets.New(t, kind+"1", 5), targets.New(t, kind+"2", 5)
		x.Set(one[kind].Host())
	}
	harness.StartProduct(t, builds, "standalone", ports.Next(t), standaloneYAML(t, "edge", "1s", f.fill(fmt.Sprintf(`
remote_write: [{url: '%s/api/v1/write'}]
scrape_configs:
- {job_name: http, http_sd_configs: [{url: 'http://HTTP/', refresh_interval: 1s, basic_auth: {username: u, password: p}}]}
- {job_name: consul, consul_sd_configs: [{server: CONSUL, token: hunter2, refresh_interval: 1s}]}
- job_name: kubernetes
  kubernetes_sd_configs: [{role: node, api_server: 'http://KUBERNETES'}]
  relabel_configs: [{source_labels: [__meta_kubernetes_node_annotation_address], target_label: __address__}, {source_labels: [__address__], target_label: instance}]
- job_name: puppetdb
  puppetdb_sd_configs: [{url: 'http://PUPPETDB', query: 'resources { type = "Class" }', include_parameters: true, refresh_interval: 1s}]
  relabel_configs: [{source_labels: [__meta_puppetdb_parameter_address], target_label: __address__}]
`, central.URL)))).Ready(t)

	stored := func(kind string, g *harness.Target) ([]harness.RawSample, error) {
		return central.OneRaw(harness.Labels{"__name__": harness.NumberMetric, "job": kind, "instance": g.Host()})
	}
	arrives := func(all map[string]*harness.Target) {
		t.Helper()
		for kind, g := range all {
			harness.Wait(t, 60*time.Second, kind+": a target that was found is at the centre", func() error {
				got, err := stored(kind, g)
				if err == nil && len(got) < 2 {
					err = fmt.Errorf("%d samples", len(got))
				}
				return err
			})
		}
	}
	arrives(one)
	for kind, x := range f.byKind() {
		x.Set(one[kind].Host(), two[kind].Host())
	}
	arrives(two)
	gone := time.Now()
	for kind, x := range f.byKind() {
		x.Set(two[kind].Host())
	}
	for kind, g := range one {
		var last harness.RawSample
		harness.Wait(t, 60*time.Second, kind+": a target that went is stale", func() error {
			got, err := stored(kind, g)
			if err != nil {
				return err
			}
			if last = got[len(got)-1]; !last.Stale {
				return fmt.Errorf("the last sample is %v of %v", last.Value, last.Time)
			}
			return nil
		})
		// It looks again after 1 s, changes what is scraped every 5 s, and the machine may be busy.
		if took := last.Time.Sub(gone); took > 20*time.Second {
			t.Errorf("%s: stale after %v", kind, took)
		}
	}
	time.Sleep(3 * time.Second)
	for kind, g := range one {
		got, err := stored(kind, g)
		if err != nil || !got[len(got)-1].Stale {
			t.Errorf("%s: not stale any more: %v", kind, err)
		}
		numbers(t, kind, got)
	}
	for kind, g := range two {
		got, err := stored(kind, g)
		if err != nil || got[len(got)-1].Stale || got[len(got)-1].Time.Before(gone.Add(2*time.Second)) {
			t.Errorf("%s: the target that stayed: %v, last %v", kind, err, got[len(got)-1])
		}
		numbers(t, kind, got)
	}
}

// numbers checks that each scrape of a target is there, none left out: the target numbers them.
func numbers(t *testing.T, name string, samples []harness.RawSample) {
	t.Helper()
	for i := 1; i < len(samples); i++ {
		if x := samples[i]; !x.Stale && x.Value != samples[i-1].Value+1 {
			t.Errorf("%s: scrape %v follows %v", name, x.Value, samples[i-1].Value)
		}
	}
}
