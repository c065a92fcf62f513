package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse: whatever the bytes, Parse ends with a configuration or with errors, and what it took can be shown, used for
// every role and read again.
func FuzzParse(f *testing.F) {
	seed, err := os.ReadFile(filepath.Join("testdata", "seed.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		string(seed), everySecret, pollerBlock, receiverBlock, "", "---\n", "a: &a [*a]", "gateway: &g {<<: *g}", "jobs: &j {a: *j}",
		"push_gateway: {url: 'http://a', http_headers: &h {x: *h}}", "scrape_configs: [&s {job_name: a, b: *s}]",
		everyScrapeKey, "scrape_configs: [{job_name: a, static_configs: [&g {targets: [a]}, *g], relabel_configs: [{action: drop, regex: '('}]}]",
		"scrape_configs: [{job_name: a, <<: {tls_config: {x: [1, {y: z}]}}}]", "scrape_configs: [{job_name: a, params: !!binary x}]",
		"!!binary x: y", "max_age: !!float 1", "debug: !!bool x", "identity: !!int x", "? {a: b}\n: c", "monitor_port: 0x1f",
		"receiver_stream: [&a {urls: nats://a, stream: b}, *a, {<<: [*a, *a], topic: c}]",
		"push_gateway: {url: 'http://a', oauth2: {client_id: a, token_url: b, claims: &c {a: *c}}}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, _, err := Parse("c.yaml", data)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without words")
			}
			return
		}
		for _, role := range append(c.Roles(), PollerRole, ReceiverRole, StandaloneRole) {
			_, _, _ = c.ForRole(role)
		}
		shown, err := c.Show()
		if err != nil {
			t.Fatalf("Show: %v", err)
		}
		if _, _, err := Parse("c.yaml", []byte(shown)); err != nil {
			t.Fatalf("what was shown cannot be read again: %v\n%s", err, shown)
		}
	})
}

// FuzzPrometheus takes over files of a Prometheus, whatever they hold: its own, and one that it names.
func FuzzPrometheus(f *testing.F) {
	f.Add([]byte("global: {scrape_interval: 5s, external_labels: {a: b}}\nscrape_configs: [{job_name: a, static_configs: [{targets: [b]}]}]"), []byte("scrape_configs: [{job_name: b}]"))
	f.Add([]byte("scrape_config_files: [more.yml, '*.yml']\nremote_write: [{url: 'http://a'}]"), []byte("scrape_configs: [{job_name: b, scrape_interval: 1ms}]"))
	f.Add([]byte("global: &g {scrape_interval: *g}"), []byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, main, more []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "prometheus.yml")
		for file, data := range map[string][]byte{path: main, filepath.Join(dir, "more.yml"): more} {
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, _, err := Parse(filepath.Join(dir, "c.yaml"), []byte("scrape_config_files: [more.yml]\ngateway: {}\nmonitor_port: 1\n"))
		if err == nil {
			_, err = c.AddPrometheus(path)
		}
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without words")
			}
			return
		}
		for _, role := range []Role{PollerRole, StandaloneRole} {
			_, _, _ = c.ForRole(role)
		}
		if _, err := c.Show(); err != nil {
			t.Fatalf("Show: %v", err)
		}
	})
}
