package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// replace puts a file in the place of another, as those who write files for discovery do.
func replace(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// fileSD is a file of file_sd_configs with these targets.
func fileSD(all ...*harness.Target) string {
	var list []string
	for _, g := range all {
		list = append(list, fmt.Sprintf(`{"targets": [%q], "labels": {"__meta_name": %q}}`, g.Host(), g.Name))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// gone waits until nothing is shown of a target.
func gone(t testing.TB, p *harness.Product, want harness.Labels) {
	t.Helper()
	harness.Wait(t, 30*time.Second, "a target that was removed is not shown any more", func() error {
		page, err := p.Gateway("")
		if err != nil {
			return err
		}
		if n := page.Count(want); n != 0 {
			return fmt.Errorf("%d series are shown", n)
		}
		return nil
	})
}

// The scrape part of a Prometheus file is taken over, and what its discovery adds and removes is scraped and ends.
func TestDiscoveryOfAPrometheusFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list, file := filepath.Join(dir, "targets.json"), filepath.Join(dir, "prometheus.yml")
	one, two := targets.New(t, "one", 5), targets.New(t, "two", 5)
	replace(t, list, fileSD(one))
	replace(t, file, `
global: {scrape_interval: 1s, external_labels: {site: dc1}}
rule_files: [rules.yml]
scrape_configs:
- job_name: found
  file_sd_configs: [{files: [targets.json]}]
  relabel_configs: [{source_labels: [__meta_name], target_label: instance}]
`)
	p := harness.StartProduct(t, builds, "standalone", ports.Next(t), standaloneYAML(t, "edge", "1h", ""), "--prometheus.config", file).Ready(t)
	p.WaitOutput(30*time.Second, `sections of the Prometheus file that mean nothing here are ignored.*rule_files`)
	shown := func(name string) harness.Labels {
		return harness.Labels{"job": "found", "instance": name, "site": "dc1"}
	}
	one.WaitShown(t, 60*time.Second, p, shown("one"), 0)
	replace(t, list, fileSD(one, two))
	two.WaitShown(t, 60*time.Second, p, shown("two"), 0)
	replace(t, list, fileSD(two))
	gone(t, p, shown("one"))
	two.WaitShown(t, 30*time.Second, p, shown("two"), two.Numbers())

	// A reload reads the Prometheus file again; one that is broken changes nothing.
	replace(t, file, "scrape_configs: [{job_name: x, no_such_key: 1}]")
	p.Signal(1)
	p.WaitOutput(30*time.Second, `configuration not reloaded.*no_such_key`)
	if v := p.Metrics(t).Sum("prometheus_streams_config_last_reload_successful", nil); v != 0 {
		t.Errorf("prometheus_streams_config_last_reload_successful is %v after a broken file", v)
	}
	two.WaitShown(t, 30*time.Second, p, shown("two"), two.Numbers())
	replace(t, file, fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs: [{job_name: other, static_configs: [{targets: ['%s'], labels: {instance: one}}]}]\n", one.Host()))
	p.Signal(1)
	one.WaitShown(t, 60*time.Second, p, harness.Labels{"job": "other", "instance": "one"}, 0)
	gone(t, p, shown("two"))
}

// A reload of scrape_configs: what stays misses no scrape, what is labelled anew ends under its old labels.
func TestReloadOfScrapeConfigs(t *testing.T) {
	t.Parallel()
	stays, renamed := targets.New(t, "stays", 5), targets.New(t, "renamed", 5)
	jobs := fmt.Sprintf(`
scrape_configs:
- {job_name: stays, static_configs: [{targets: ['%s'], labels: {instance: stays}}]}
- {job_name: renamed, static_configs: [{targets: ['%s'], labels: {instance: OLD}}]}
`, stays.Host(), renamed.Host())
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
	config := standaloneYAML(t, "edge", "1s", fmt.Sprintf("gateway: {}\nremote_write: [{url: '%s/api/v1/write'}]\n", central.URL))
	p := startStandalone(t, config+jobs)
	stays.WaitShown(t, 60*time.Second, p, harness.Labels{"job": "stays"}, 1)
	renamed.WaitShown(t, 60*time.Second, p, harness.Labels{"job": "renamed", "instance": "OLD"}, 0)
	p.Reload(t, config+strings.Replace(jobs, "OLD", "NEW", 1))
	renamed.WaitShown(t, 60*time.Second, p, harness.Labels{"job": "renamed", "instance": "NEW"}, 0)
	gone(t, p, harness.Labels{"job": "renamed", "instance": "OLD"})
	stays.WaitShown(t, 30*time.Second, p, harness.Labels{"job": "stays"}, stays.Numbers()+1)
	stored := func(job, instance string) []harness.RawSample {
		t.Helper()
		got, err := central.OneRaw(harness.Labels{"__name__": harness.NumberMetric, "job": job, "instance": instance})
		if err != nil {
			t.Fatal(err)
		}
		numbers(t, job+" "+instance, got)
		return got
	}
	last := float64(stays.Numbers())
	harness.Wait(t, 30*time.Second, "the centre has the target that stayed", func() error {
		got := stored("stays", "stays")
		if x := got[len(got)-1]; x.Value < last {
			return fmt.Errorf("scrape %v of %v", x.Value, last)
		}
		return nil
	})
	harness.Wait(t, 20*time.Second, "what was labelled anew is stale under its old labels", func() error {
		if got := stored("renamed", "OLD"); !got[len(got)-1].Stale {
			return errors.New("not yet")
		}
		return nil
	})
	if got := stored("renamed", "NEW"); got[len(got)-1].Stale {
		t.Error("what was labelled anew is stale")
	}
	served := stays.Served()
	for i := 1; i < len(served); i++ {
		if gap := served[i].Asked.Sub(served[i-1].Asked); gap > 1900*time.Millisecond {
			t.Errorf("no scrape for %s between the %d. and the next", gap, i)
		}
	}
}
