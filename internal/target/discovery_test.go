package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/target/targettest"
)

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func TestFileDiscovery(t *testing.T) {
	name := filepath.Join(t.TempDir(), "targets.json")
	write(t, name, `[{"targets": ["a:1"], "labels": {"__meta_x": "1"}}]`)
	w := newWorld(t)
	block := "scrape_configs:\n- {job_name: s, static_configs: [{targets: ['s:1']}]}\n- job_name: f\n  file_sd_configs: [{files: ['" + name + "']}]\n"
	w.apply(block)
	if got := w.urls(); got != "s:1/metrics" {
		t.Errorf("before Run: %q", got)
	}
	w.run()
	w.await("a:1/metrics s:1/metrics")
	write(t, name, `[{"targets": ["a:1", "b:2"]}]`)
	w.await("a:1/metrics b:2/metrics s:1/metrics")
	write(t, name, `[{"targets": ["b:2"]}]`)
	w.await("b:2/metrics s:1/metrics")

	// Another configuration of the same discovery: what it found goes on until it is found anew.
	w.mu.Lock()
	seen, before := map[string]bool{}, w.updates
	update := w.m.update
	w.m.update = func(all []*Target) { update(all); seen[w.urls()] = true }
	w.mu.Unlock()
	w.apply(strings.Replace(block, "files: [", "refresh_interval: 7m, files: [", 1))
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		n := w.updates
		w.mu.Unlock()
		if n >= before+3 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no updates after a reload")
		}
		if n == before+1 {
			write(t, name, `[{"targets": ["b:2"]}]`)
			time.Sleep(300 * time.Millisecond)
		}
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if len(seen) != 1 || !seen["b:2/metrics s:1/metrics"] {
		t.Errorf("a reload told %v", seen)
	}
}

func TestDiscoveryEndsWithItsConfiguration(t *testing.T) {
	name := filepath.Join(t.TempDir(), "targets.json")
	write(t, name, `[{"targets": ["a:1"]}]`)
	w := newWorld(t)
	w.run()
	block := "scrape_configs:\n- job_name: f\n  file_sd_configs: [{files: ['" + name + "']}]\n"
	for range 2 { // it can begin again
		w.apply(block)
		w.await("a:1/metrics")
		w.apply("scrape_configs: [{job_name: f, static_configs: [{targets: ['s:1']}]}]")
		if got := w.urls(); got != "s:1/metrics" {
			t.Errorf("targets %q", got)
		}
		w.m.mu.Lock()
		if w.m.finder != nil {
			t.Error("discovery runs without anything to discover")
		}
		w.m.mu.Unlock()
	}
}

// follow applies a configuration and changes what the fake lists.
func follow(t *testing.T, f *targettest.Fake, block string) {
	t.Helper()
	w := newWorld(t)
	f.Set("a:1")
	w.run()
	w.apply("scrape_configs:\n- job_name: f\n  " + strings.ReplaceAll(block, "ADDRESS", f.Address()) + "\n")
	w.await("a:1/metrics")
	f.Set("a:1", "b:2")
	w.await("a:1/metrics b:2/metrics")
	f.Set("b:2")
	w.await("b:2/metrics")
	f.Set()
	w.await("")
}

const anyPort = "127.0.0.1:0"

func TestHTTPDiscovery(t *testing.T) {
	follow(t, targettest.HTTP(t, anyPort), "http_sd_configs: [{url: 'http://ADDRESS/', refresh_interval: 200ms, basic_auth: {username: u, password: p}}]")
}

func TestPuppetDBDiscovery(t *testing.T) {
	follow(t, targettest.PuppetDB(t, anyPort), `puppetdb_sd_configs: [{url: 'http://ADDRESS', query: 'resources { type = "Class" }', include_parameters: true, refresh_interval: 200ms}]
  relabel_configs: [{source_labels: [__meta_puppetdb_parameter_address], target_label: __address__}]`)
}

func TestConsulDiscovery(t *testing.T) {
	follow(t, targettest.Consul(t, anyPort), "consul_sd_configs: [{server: 'ADDRESS', token: hunter2, refresh_interval: 200ms}]")
}

func TestKubernetesDiscovery(t *testing.T) {
	annotated := func(role string) string {
		return "relabel_configs: [{source_labels: [__meta_kubernetes_" + role + "_annotation_address], target_label: __address__}]"
	}
	// A pod and those endpoints have addresses that can be scraped; the others have names that only a cluster knows.
	for role, relabel := range map[string]string{"node": annotated("node"), "pod": "", "service": annotated("service"), "endpoints": "",
		"endpointslice": "", "ingress": annotated("ingress") + "\n  metrics_path: /metrics"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			follow(t, targettest.Kubernetes(t, anyPort), "kubernetes_sd_configs: [{role: "+role+", api_server: 'http://ADDRESS'}]\n  "+relabel)
		})
	}
}
