package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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

func (f *fakes) set(list ...string) {
	for _, x := range []*targettest.Fake{f.http, f.consul, f.kubernetes, f.puppetdb} {
		x.Set(list...)
	}
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
		f.set(list...)
	}
	change("10.200.0.1:1", "10.200.0.2:2")
	file, resolv := filepath.Join(dir, "prometheus.yml"), "nameserver "+here+"\noptions timeout:1 attempts:1\n"
	theirs := harness.StartPrometheusOn(t, island, resolv, ports.Next(t), file)
	ours := harness.StartProductOn(t, builds, island, resolv, ports.Next(t), standaloneYAML(t, "edge", "1h", ""), "--prometheus.config", file).Ready(t)
	alike := func(targets, each int) {
		t.Helper()
		harness.Wait(t, 90*time.Second, fmt.Sprintf("%d targets are found by both", targets), func() error {
			for _, pool := range []string{"http", "consul", "consul, every key", "kubernetes", "kubernetes, file", "kubernetes, every key", "kubernetes, service",
				"kubernetes, endpoints", "kubernetes, endpointslice", "kubernetes, ingress", "puppetdb"} {
				all, err := listed(theirs.URL, "?scrapePool="+strings.ReplaceAll(pool, " ", "%20"))
				if err != nil || len(all.ActiveTargets) != each {
					return fmt.Errorf("Prometheus has %d targets of %s: %v", len(all.ActiveTargets), pool, err)
				}
			}
			return same(ours.URL, theirs.URL, "", targets)
		})
	}
	alike(11*2+2+2+1+1, 2) // each kind has two; of DNS SRV two, A two, AAAA one, MX one
	attached(t, ours.URL)
	change("10.200.0.2:2", "10.200.0.3:3", "10.200.0.4:4")
	alike(11*3+3+3+2+1, 3)
	change()
	alike(2, 0)
}

// attached checks that the metadata of pods are there to be compared: those of the first of them, which a cron job has, and
// of the other one, which a deployment has.
func attached(t *testing.T, url string) {
	t.Helper()
	all, err := listed(url, "?state=active")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, g := range all.ActiveTargets {
		for _, name := range []string{"pod_deployment_name", "pod_job_name", "pod_cronjob_name", "namespace_label_team", "node_annotation_address", "pod_ready"} {
			if g.Labels[name] != "" {
				seen[name]++
			}
		}
	}
	want := map[string]int{"pod_deployment_name": 3, "pod_job_name": 3, "pod_cronjob_name": 3, "namespace_label_team": 10, "node_annotation_address": 8, "pod_ready": 6}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("metadata of targets: %v, want %v", seen, want)
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
