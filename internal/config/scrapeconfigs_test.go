package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/prometheus/config"
)

// everyScrapeKey has each key of a scrape config but those of service discovery and of authentication, which exclude each
// other.
const everyScrapeKey = `
scrape_interval: 20s
scrape_configs:
- job_name: all
  honor_labels: true
  honor_timestamps: false
  track_timestamps_staleness: false
  params: {module: [a, b]}
  scrape_interval: 10s
  scrape_timeout: 3s
  scrape_protocols: [PrometheusProto, PrometheusText0.0.4]
  fallback_scrape_protocol: PrometheusText0.0.4
  scrape_native_histograms: true
  always_scrape_classic_histograms: true
  convert_classic_histograms_to_nhcb: true
  scrape_failure_log_file: failures.log
  metrics_path: /m
  scheme: https
  enable_compression: false
  body_size_limit: 1MB
  sample_limit: 1
  target_limit: 2
  label_limit: 3
  label_name_length_limit: 4
  label_value_length_limit: 5
  native_histogram_bucket_limit: 6
  native_histogram_min_bucket_factor: 1.1
  keep_dropped_targets: 7
  metric_name_validation_scheme: legacy
  metric_name_escaping_scheme: underscores
  extra_scrape_metrics: false
  basic_auth: {username: u, password_file: pw}
  tls_config: {ca_file: ca.pem, insecure_skip_verify: true}
  follow_redirects: false
  enable_http2: false
  proxy_url: http://proxy:3128
  no_proxy: 127.0.0.1
  proxy_connect_header: {A: [b]}
  http_headers: {X-Scope: {values: [a]}}
  relabel_configs: [{source_labels: [__address__], regex: 'a(.*)', target_label: b, replacement: $1}]
  metric_relabel_configs: [{source_labels: [__name__], regex: go_.*, action: drop}]
  static_configs: [{targets: [a, 'b:1'], labels: {x: y}}]
  file_sd_configs: [{files: [targets/*.json], refresh_interval: 1m}]
`

func TestScrapeConfigHasEveryKey(t *testing.T) {
	c := parse(t, everyScrapeKey)
	b := c.ScrapeConfigs[0].Block
	if time.Duration(b.ScrapeInterval) != 10*time.Second || b.MetricsPath != "/m" || !b.HonorLabels || b.HonorTimestamps ||
		b.ScrapeFailureLogFile != "failures.log" || b.NativeHistogramBucketLimit != 6 || b.HTTPClientConfig.EnableHTTP2 ||
		b.HTTPClientConfig.TLSConfig.CAFile != "ca.pem" || b.KeepDroppedTargets != 7 || len(b.ServiceDiscoveryConfigs) != 2 ||
		len(b.RelabelConfigs) != 1 || len(b.MetricRelabelConfigs) != 1 || b.Params["module"][1] != "b" {
		t.Errorf("read %+v", b)
	}
	if configs, targets := c.ScrapeTargets(); configs != 1 || targets != 2 {
		t.Errorf("%d scrape configs with %d targets", configs, targets)
	}
	// Whatever keys Prometheus has, the text above has them, but for other forms of authentication and proxy.
	others := []string{"authorization", "oauth2", "bearer_token", "bearer_token_file", "proxy_from_environment"}
	for _, key := range scrapeKeys() {
		if !strings.Contains(everyScrapeKey, " "+key+":") && !strings.HasSuffix(key, "_sd_configs") && !slices.Contains(others, key) {
			t.Errorf("the key %s is not tried", key)
		}
	}
	whole, err := promconfig.Load(strings.Replace(everyScrapeKey, "scrape_interval: 20s\n", "", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(whole.ScrapeConfigs[0], parse(t, strings.Replace(everyScrapeKey, "20s", "1m", 1)).Scrape()[0]) {
		t.Errorf("Prometheus reads %+v, we %+v", whole.ScrapeConfigs[0], b)
	}
}

func TestScrapeConfigTakesGlobalSettings(t *testing.T) {
	c := parse(t, "scrape_interval: 7s\nscrape_timeout: 3s\nscrape_configs: [{job_name: a}, {job_name: b, scrape_interval: 2s}]\n")
	for i, want := range []time.Duration{7 * time.Second, 3 * time.Second, 2 * time.Second, 2 * time.Second} {
		b := c.ScrapeConfigs[i/2].Block
		if got := []time.Duration{time.Duration(b.ScrapeInterval), time.Duration(b.ScrapeTimeout)}[i%2]; got != want {
			t.Errorf("%s: %s, want %s", b.JobName, got, want)
		}
	}
}

func TestScrapeConfigErrors(t *testing.T) {
	for name, c := range map[string]struct{ block, want string }{
		"unknown key":       {"honour_labels: true", `c.yaml:3: unknown key "honour_labels" in scrape_configs[0]; did you mean "honor_labels"?`},
		"unknown inside":    {"tls_config:\n    insecure: true", `c.yaml:4: scrape_configs[0].tls_config: unknown key "insecure"`},
		"wrong type":        {"sample_limit: hunter2", `c.yaml:3: scrape_configs[0].sample_limit: cannot unmarshal`},
		"bad duration":      {"scrape_interval: 5 parsecs", `c.yaml:3: scrape_configs[0].scrape_interval: unknown unit`},
		"timeout":           {"scrape_timeout: 2m", `c.yaml:3: scrape_configs[0].scrape_timeout: scrape timeout greater than scrape interval`},
		"regex":             {"relabel_configs:\n  - {action: drop, regex: a, source_labels: [x]}\n  - {action: drop, regex: '(', source_labels: [x]}", `c.yaml:5: scrape_configs[0].relabel_configs[1]: error parsing regexp: missing closing )`},
		"empty rule":        {"metric_relabel_configs: [null]", `c.yaml:3: scrape_configs[0].metric_relabel_configs[0]: empty or null metric relabeling rule`},
		"action":            {"relabel_configs: [{action: fling}]", `relabel_configs[0]: unknown relabel action "fling"`},
		"rule without name": {"relabel_configs: [{action: replace}]", `c.yaml:3: scrape_configs[0].relabel_configs[0]: relabel configuration for replace action requires 'target_label' value`},
		"protocol":          {"scrape_protocols: [Telegraph]", `c.yaml:3: scrape_configs[0].scrape_protocols[0]: scrape_protocols: unknown scrape protocol Telegraph`},
		"fallback":          {"fallback_scrape_protocol: Telegraph", `c.yaml:3: scrape_configs[0].fallback_scrape_protocol: `},
		"two auths":         {"basic_auth: {username: a}\n  authorization: {credentials: b}", `c.yaml:2: scrape_configs[0]: at most one of basic_auth, oauth2`},
		"url as target":     {"static_configs:\n  - targets: ['http://a']", `c.yaml:4: scrape_configs[0].static_configs[0]: "http://a" is not a valid hostname`},
		"file_sd":           {"file_sd_configs: [{files: [a.txt]}]", `c.yaml:3: scrape_configs[0].file_sd_configs[0]: path name "a.txt" is not valid for file discovery`},
		"http_sd":           {"http_sd_configs: [{url: 'ftp://a'}]", `c.yaml:3: scrape_configs[0].http_sd_configs[0]: URL scheme must be 'http' or 'https'`},
		"kubernetes_sd":     {"kubernetes_sd_configs: [{role: king}]", `c.yaml:3: scrape_configs[0].kubernetes_sd_configs[0]: unknown Kubernetes SD role "king"`},
		"twice":             {"scheme: http\n  scheme: https", `c.yaml:4: duplicate key "scheme" in scrape_configs[0]`},
		"other discovery":   {"marathon_sd_configs: [{servers: [a]}]", `c.yaml:3: scrape_configs[0].marathon_sd_configs: this service discovery is not in this build, which has consul, dns, file, http, kubernetes, puppetdb, static; the build tag enable_all_sd brings in all of them`},
		"extra":             {"extra_scrape_metrics: true", `c.yaml:3: scrape_configs[0].extra_scrape_metrics: true is not in this build`},
		"secret manager":    {"scheme: http\n  basic_auth: {username: u, password_ref: x}", `c.yaml:4: scrape_configs[0].basic_auth.password_ref: there is no secret manager`},
		"its oauth2":        {"oauth2: {client_id: i, client_secret_ref: x, token_url: 'http://t'}", `c.yaml:3: scrape_configs[0].oauth2.client_secret_ref: `},
		"its tls":           {"tls_config: {ca_ref: x}", `c.yaml:3: scrape_configs[0].tls_config.ca_ref: `},
		"its discovery":     {"http_sd_configs: [{url: 'http://a'}, {url: 'http://b', authorization: {credentials_ref: x}}]", `c.yaml:3: scrape_configs[0].http_sd_configs[1].authorization.credentials_ref: `},
		"openmetrics 2":     {"scrape_protocols: [OpenMetricsText2.0.0]", `c.yaml:3: scrape_configs[0].scrape_protocols: OpenMetricsText2.0.0 is not in this build`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Parse("c.yaml", []byte("scrape_configs:\n- job_name: a\n  "+c.block+"\n"))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error\n%v\nwant\n%s", err, c.want)
			}
		})
	}
}

func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestScrapeConfigFiles(t *testing.T) {
	dir := files(t, map[string]string{
		"c.yaml":      pollerBlock + "scrape_interval: 9s\nscrape_config_files: [more/*.yaml, none.yaml]\nscrape_configs: [{job_name: a}]\n",
		"more/b.yaml": "scrape_configs:\n- job_name: b\n  file_sd_configs: [{files: [b.json]}]\n",
		"more/c.yaml": "scrape_configs: [{job_name: c, scrape_interval: 4s}]\n",
	})
	whole, _, err := Load(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c, warnings, err := whole.ForRole(PollerRole)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range c.Scrape() {
		got = append(got, s.JobName+" "+s.ScrapeInterval.String())
	}
	if strings.Join(got, ", ") != "a 9s, b 9s, c 4s" {
		t.Errorf("scrape configs %v", got)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].String(), "none.yaml") || warnings[0].Line != 3 {
		t.Errorf("warnings %v", warnings)
	}
	if _, _, err := whole.ForRole(ReceiverRole); err != nil && strings.Contains(err.Error(), "more") {
		t.Errorf("a receiver reads them: %v", err)
	}

	for name, text := range map[string]string{
		"/more/b.yaml:1: scrape_configs[0]: the job_name \"a\" is there already: ": "scrape_configs: [{job_name: a}]",
		"/more/b.yaml:2: unknown key \"jobs\"":                                     "\njobs: {}",
		"/more/b.yaml:1: scrape_configs[0].scrape_timeout: scrape timeout":         "scrape_configs: [{job_name: x, scrape_timeout: 10s}]",
	} {
		if err := os.WriteFile(filepath.Join(dir, "more", "b.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := whole.ForRole(PollerRole); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %s", err, name)
		}
	}
}

const prometheusYAML = `
global:
  scrape_interval: 30s
  evaluation_interval: 10s
  sample_limit: 5000
  scrape_failure_log_file: fail.log
  external_labels: {site: dc1, home: "${T8_HOME}", cost: "$$1"}
rule_files: [rules/*.yaml]
alerting: {alertmanagers: [{static_configs: [{targets: [a]}]}]}
remote_write: [{url: 'http://a'}]
scrape_configs:
- job_name: node
  static_configs: [{targets: ['a:9100']}]
scrape_config_files: [more/*.yaml]
`

func TestAddPrometheus(t *testing.T) {
	t.Setenv("T8_HOME", "here")
	dir := files(t, map[string]string{"prometheus.yml": prometheusYAML, "more/a.yaml": "scrape_configs: [{job_name: other, scrape_interval: 1m}]"})
	whole := parse(t, pollerBlock+"external_labels: {site: ours}\nscrape_interval: 5s\nscrape_configs: [{job_name: own}]")
	warnings, err := whole.AddPrometheus(filepath.Join(dir, "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].String(), `prometheus.yml:2: global.external_labels: "site" is "ours" in c.yaml, which goes first`) {
		t.Errorf("warnings %v", warnings)
	}
	c, _, err := whole.ForRole(PollerRole)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range c.Scrape() {
		got = append(got, s.JobName+" "+s.ScrapeInterval.String())
	}
	if strings.Join(got, ", ") != "own 5s, node 30s, other 1m" {
		t.Errorf("scrape configs %v", got)
	}
	if s := c.Scrape()[1]; s.SampleLimit != 5000 || s.ScrapeFailureLogFile != filepath.Join(dir, "fail.log") {
		t.Errorf("without the global settings: %+v", s)
	}
	if want := `{cost="$1", home="here", site="ours"}`; c.Labels().String() != want {
		t.Errorf("external labels %s, want %s", c.Labels(), want)
	}
	if got := strings.Join(c.Ignored, " "); got != "rule_files alerting remote_write" {
		t.Errorf("ignored %q", got)
	}

	for text, want := range map[string]string{
		"global: {scrape_intervall: 5s}":                       `p.yml:1: global: unknown key "scrape_intervall"`,
		"global:\n  scrape_interval: 5s\n  scrape_timeout: 1m": "p.yml:2: global: global scrape timeout greater than scrape interval",
		"scrape_confgs: []":                                    `p.yml:1: unknown key "scrape_confgs"; did you mean "scrape_configs"?`,
		"scrape_configs:\n- job_name: a\n  x: 1":               `p.yml:3: unknown key "x" in scrape_configs[0]`,
	} {
		dir := files(t, map[string]string{"p.yml": text})
		if _, err := parse(t, pollerBlock).AddPrometheus(filepath.Join(dir, "p.yml")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
	var path *fs.PathError
	if _, err := parse(t, pollerBlock).AddPrometheus(filepath.Join(dir, "no.yml")); !errors.As(err, &path) {
		t.Errorf("error %v of a file that is not there", err)
	}
	if _, err := parse(t, pollerBlock).AddPrometheus(dir); err == nil {
		t.Error("a directory was read")
	}
}

func TestJobNamesAreUnique(t *testing.T) {
	c := parse(t, pollerBlock+"jobs: {a: {targets: [{url: 'http://x'}]}}\nscrape_configs: [{job_name: a}]")
	if _, _, err := c.ForRole(PollerRole); err == nil || !strings.Contains(err.Error(), `c.yaml:3: scrape_configs[0]: the job_name "a" is there already: jobs, c.yaml:2`) {
		t.Errorf("error %v", err)
	}
}

func TestDiscoveryFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good.json": `[{"targets": ["a:1"], "labels": {"b": "c"}}]`, "good.yml": "- targets: [a]\n", "bad.json": `[{"targets": `, "null.json": "[null]",
		"keys.yml": "- {targets: [a], lables: {}}\n",
		"c.yaml":   "scrape_configs:\n- job_name: a\n  file_sd_configs: [{files: ['*.json', '*.yml', none.yml, 'x*.json']}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _, err := Load(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	warnings, err := c.DiscoveryFiles()
	if len(warnings) != 2 || !strings.Contains(warnings[0].Text, "there is no file") || !strings.Contains(warnings[1].Text, "x*.json") {
		t.Errorf("warnings %v", warnings)
	}
	var list *Errors
	if !errors.As(err, &list) || len(list.List) != 3 {
		t.Fatalf("errors %v", err)
	}
	for _, bad := range []string{"bad.json", "null.json", "keys.yml"} {
		if !strings.Contains(err.Error(), filepath.Join(dir, bad)+": ") || !strings.Contains(err.Error(), "c.yaml:2: scrape_configs[0].file_sd_configs: ") {
			t.Errorf("%s is not in %v", bad, err)
		}
	}
}
