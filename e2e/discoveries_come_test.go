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

// finders are the ways to find targets that TestDiscoveredTargetsComeAndGo uses, each with targets of its own.
type finders struct {
	// set says by its name what there is to find.
	set map[string]func(...*harness.Target)
	// configs are the scrape configs.
	configs string
	// nameServer is what they ask.
	nameServer string
}

func startFinders(t *testing.T) *finders {
	t.Helper()
	f := &finders{set: map[string]func(...*harness.Target){}}
	add := func(name, config string, set func(...*harness.Target)) {
		f.set[name] = set
		f.configs += "- job_name: " + name + "\n  " + config + "\n"
	}
	fake := func(name string, x *targettest.Fake, config string) {
		add(name, strings.ReplaceAll(config, "ADDRESS", x.Address()), func(all ...*harness.Target) {
			var list []string
			for _, g := range all {
				list = append(list, g.Host())
			}
			x.Set(list...)
		})
	}
	const here = "127.0.0.1:0"
	fake("http", targettest.HTTP(t, here), "http_sd_configs: [{url: 'http://ADDRESS/', refresh_interval: 1s, basic_auth: {username: u, password: p}}]")
	fake("consul", targettest.Consul(t, here), "consul_sd_configs: [{server: ADDRESS, token: hunter2, refresh_interval: 1s}]")
	fake("puppetdb", targettest.PuppetDB(t, here), `puppetdb_sd_configs: [{url: 'http://ADDRESS', query: 'resources { type = "Class" }', include_parameters: true, refresh_interval: 1s}]
  relabel_configs: [{source_labels: [__meta_puppetdb_parameter_address], target_label: __address__}]`)
	for _, role := range []string{"node", "pod", "service", "endpoints", "endpointslice", "ingress"} {
		config := "kubernetes_sd_configs: [{role: " + role + ", api_server: 'http://ADDRESS'}]"
		if role == "node" || role == "service" || role == "ingress" { // what they have for an address is known in a cluster alone
			config += "\n  metrics_path: /metrics\n  relabel_configs:\n" +
				"  - {source_labels: [__meta_kubernetes_" + role + "_annotation_address], target_label: __address__}\n" +
				"  - {source_labels: [__address__], target_label: instance}"
		}
		fake(role, targettest.Kubernetes(t, here), config)
	}
	list := filepath.Join(t.TempDir(), "targets.json")
	add("file", "file_sd_configs: [{files: ["+list+"]}]", func(all ...*harness.Target) { replace(t, list, fileSD(all...)) })
	// A network of this process, so that tests side by side have their own.
	f.nameServer = fmt.Sprintf("127.%d.%d.53", 1+os.Getpid()>>8%250, os.Getpid()%256)
	server := startNameServer(t, f.nameServer)
	add("dns", `dns_sd_configs: [{names: [_m._tcp.test], refresh_interval: 1s}]
  relabel_configs: [{source_labels: [__meta_dns_srv_record_port], regex: (.*), replacement: '127.0.0.1:$1', target_label: instance}]`, func(all ...*harness.Target) {
		var srv []string
		for _, g := range all {
			_, port, _ := strings.Cut(g.Host(), ":")
			srv = append(srv, "0 0 "+port+" host.test.")
		}
		server.set(map[string][]string{"host.test. A": {"127.0.0.1"}, "_m._tcp.test. SRV": srv})
	})
	return f
}

// What discovery adds is scraped, and what it takes away ends with stale markers, all within the time in which it looks
// again; the others do not miss a scrape.
func TestDiscoveredTargetsComeAndGo(t *testing.T) {
	t.Parallel()
	f := startFinders(t)
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
	one, two := map[string]*harness.Target{}, map[string]*harness.Target{}
	for kind, set := range f.set {
		one[kind], two[kind] = targets.New(t, kind+"1", 5), targets.New(t, kind+"2", 5)
		set(one[kind])
	}
	harness.StartBefore(t, builds, harness.Resolving(t, "nameserver "+f.nameServer+"\noptions timeout:1 attempts:1\n"), "standalone", ports.Next(t),
		standaloneYAML(t, "edge", "1s", fmt.Sprintf("remote_write: [{url: '%s/api/v1/write'}]\nscrape_configs:\n%s", central.URL, f.configs))).Ready(t)

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
	for kind, set := range f.set {
		set(one[kind], two[kind])
	}
	arrives(two)
	stalled := watchStalls(t)
	gone := time.Now()
	var longest time.Duration
	for kind, set := range f.set {
		set(two[kind])
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
		// It looks again after 1 s (in Kubernetes the fake says it 1 s later), changes what is scraped every 5 s, and the
		// marker has the time of the next scrape.
		took := last.Time.Sub(gone)
		if longest = max(longest, took); took > 9*time.Second+2*stalled() {
			t.Errorf("%s: stale after %v", kind, took)
		}
	}
	t.Logf("all are stale after %v at most; this process stood still for %v", longest, stalled())
	time.Sleep(3 * time.Second)
	for kind, g := range one {
		all, err := ends(central, kind)
		if err != nil || len(all) < 2*(1+5+5) {
			t.Errorf("%s: %d series: %v", kind, len(all), err)
		}
		for series, stale := range all { // each series of the target, and of no other
			if stale != strings.HasPrefix(series, g.Host()+" ") {
				t.Errorf("%s: %s: stale %t", kind, series, stale)
			}
		}
		got, err := stored(kind, g)
		if err != nil {
			t.Error(err)
		}
		numbers(t, kind, got)
	}
	for kind, g := range two {
		got, err := stored(kind, g)
		if err != nil || got[len(got)-1].Time.Before(gone.Add(2*time.Second)) {
			t.Errorf("%s: the target that stayed: %v, last %v", kind, err, got[len(got)-1])
		}
		numbers(t, kind, got)
	}
}
