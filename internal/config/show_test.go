package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// everySecret has the word canary wherever a secret may stand.
const everySecret = `
poller_stream: {urls: 'nats://user:canary@a:4222,nats://canary@b', stream: M, user: u, password: canary}
receiver_stream:
- {urls: nats://a, stream: M, token: canary, proxy_url: 'http://u:canary@p'}
- {urls: nats://a, stream: N}
push_gateway:
  url: http://u:canary@a
  basic_auth: {username: a, password: canary}
  proxy_url: http://p
  proxy_connect_header: {Authorization: [canary]}
  http_headers: {X: {secrets: [canary]}}
jobs: {a: {targets: [{name: x, url: 'http://u:canary@a/m'}]}}
scrape_configs:
- job_name: b
  basic_auth: {username: a, password: canary}
  proxy_url: http://u:canary@p
  proxy_connect_header: {A: [canary]}
- job_name: c
  oauth2: {client_id: i, client_secret: canary, token_url: 'http://u:canary@x'}
- job_name: d
  authorization: {credentials: canary}
  http_headers: {X: {secrets: [canary]}}
  consul_sd_configs: [{server: a, token: canary}]
  relabel_configs: [{source_labels: [a], regex: '((.*)@(.*))', target_label: b}]
remote_write:
- url: http://u:canary@a
  bearer_token: canary
  headers: {X-Token: canary}
- url: http://b
  sigv4: {access_key: canary, secret_key: canary}
`

func TestSecretsAreMasked(t *testing.T) {
	c := parse(t, everySecret)
	shown, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(c.PollerStream)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", c.PollerStream.Password, "url", c.PollerStream.URLs[0])
	for how, text := range map[string]string{
		"Show": shown, "%v": fmt.Sprintf("%v", *c.PollerStream), "%#v": fmt.Sprintf("%#v", *c.PollerStream), "JSON": string(asJSON), "log": log.String(),
		"targets": fmt.Sprintf("%+v", c.Jobs),
	} {
		if strings.Contains(text, "canary") {
			t.Errorf("%s shows a secret:\n%s", how, text)
		}
	}
	if strings.Count(shown, masked) < 8 {
		t.Errorf("masked secrets are missing:\n%s", shown)
	}
	if string(c.PollerStream.Password) != "canary" || string(c.Jobs[0].Targets[0].URL) != "http://u:canary@a/m" {
		t.Error("the secret itself is gone")
	}
}

func TestShowCanBeReadAgain(t *testing.T) {
	for _, text := range []string{everySecret, "", "monitor_port: 1\ngateway: {publisher_label: true, stale_after: 7m}\nspool: {sync: always}"} {
		first := parse(t, text)
		shown, err := first.Show()
		if err != nil {
			t.Fatal(err)
		}
		second, err := parse(t, shown).Show()
		if err != nil {
			t.Fatal(err)
		}
		if shown != second {
			t.Errorf("shown:\n%s\nand read again:\n%s", shown, second)
		}
	}
}

func TestErrorsShowNoSecrets(t *testing.T) {
	for _, text := range []string{
		"poller_stream: {urls: 'nats://user:canary@a:99999', stream: M}",
		"poller_stream: {urls: 'nats://user:canary@a b', stream: M}",
		"poller_stream: {urls: 'user:canary@', stream: M}",
		"poller_stream: {urls: 'nats://user:canary@a,,nats://x:canary@b', stream: M}",
		"poller_stream: {urls: nats://a, stream: M, password: [canary]}",
		"push_gateway: {url: 'http://u:canary@%zz'}",
		"push_gateway: {url: 'http://a', basic_auth: 'u:canary'}",
		"push_gateway: {url: 'http://a', basic_auth: {password: [canary]}}",
		"jobs: {a: {targets: [{name: x, url: 'http://u:canary@a'}, {name: x, url: 'http://u:canary@b'}]}}",
	} {
		_, _, err := Parse("c.yaml", []byte(text))
		if err == nil {
			t.Errorf("no error for %s", text)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"nats://u:p@h:1":             "nats://u:xxxxx@h:1",
		"nats://tok@h":               "nats://xxxxx@h",
		"nats://a,nats://u:p@b":      "nats://a,nats://u:xxxxx@b",
		"http://h/path?mail=me@x.de": "http://h/path?mail=me@x.de",
		"plain":                      "plain",
	} {
		if got := redact(in); got != want {
			t.Errorf("redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestReadSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Stream{PasswordFile: file, Token: "tok"}
	if got, err := s.ReadPassword(); got != "hunter2" || err != nil {
		t.Errorf("password %q, %v", got, err)
	}
	if got, err := s.ReadToken(); got != "tok" || err != nil {
		t.Errorf("token %q, %v", got, err)
	}
	if _, err := (&Stream{TokenFile: file + "x"}).ReadToken(); err == nil || !strings.Contains(err.Error(), "token_file") {
		t.Errorf("error %v does not name token_file", err)
	}
}

func TestFiles(t *testing.T) {
	c := parse(t, "monitor_port: 1\npoller_stream:\n  urls: nats://a\n  stream: M\n  credentials: /does/not/exist.creds\n")
	err := c.Files(PollerRole)
	if err == nil || !strings.HasPrefix(err.Error(), "c.yaml:5: poller_stream.credentials: open /does/not/exist.creds") {
		t.Errorf("error %v", err)
	}
	if err := c.Files(StandaloneRole); err != nil {
		t.Errorf("standalone does not use that file: %v", err)
	}
}

func TestKeys(t *testing.T) {
	keys := Keys()
	for _, want := range []string{
		"identity", "jobs.NAME.targets.url", "poller_stream.stream_config.max_bytes", "receiver_stream.schemas_subject", "receiver_stream.urls",
		"push_gateway.stale_after", "remote_write.protocol", "management.auth.read_only", "receiver.limits.lanes", "tls.ssl_dir", "spool.sync",
	} {
		if !slices.Contains(keys, want) {
			t.Errorf("%s is not among the keys %v", want, keys)
		}
	}
	if slices.Contains(keys, "push_gateway.basic_auth") {
		t.Error("Prometheus' own keys are listed")
	}
}

// What other files bring is shown too, with their settings in effect, and can be read again without them.
func TestShowHasTheScrapeConfigsOfOtherFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("more.yaml", "scrape_configs: [{job_name: more, basic_auth: {username: u, password: canary}, static_configs: [{targets: [m]}]}]")
	prometheus := put("prometheus.yml", `
global: {scrape_interval: 40s, sample_limit: 77, external_labels: {site: dc1}}
scrape_configs:
- job_name: taken over
  params: {token: [canary]}
  proxy_url: http://u:canary@p
  tls_config: {ca_file: ca.pem}
  file_sd_configs: [{files: [t.json]}]
- {job_name: other, static_configs: [{targets: [o]}]}
`)
	ours := put("poller.yaml", "scrape_interval: 20s\nidentity: x\npoller_stream: {urls: nats://a, stream: S}\nscrape_configs: [{job_name: own, static_configs: [{targets: [x]}]}]\nscrape_config_files: [more.yaml]\n")
	c, _, err := Load(ours)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddPrometheus(prometheus); err != nil {
		t.Fatal(err)
	}
	if c, _, err = c.ForRole(PollerRole); err != nil {
		t.Fatal(err)
	}
	shown, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"job_name: own", "job_name: more", "job_name: taken over", "job_name: other", "site: dc1", "scrape_interval: 40s", "sample_limit: 77",
		"# from " + prometheus, "# from " + filepath.Join(dir, "more.yaml"), filepath.Join(dir, "ca.pem"), filepath.Join(dir, "t.json"),
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not in\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "canary") || strings.Contains(shown, "scrape_config_files") || strings.Count(shown, "# from ") != 3 {
		t.Errorf("shown:\n%s", shown)
	}
	again := parse(t, shown)
	if n := len(again.Scrape()); n != 4 {
		t.Errorf("%d scrape configs when read again", n)
	}
	for i, block := range c.Scrape() {
		if got := again.Scrape()[i]; got.JobName != block.JobName || got.ScrapeInterval != block.ScrapeInterval || got.SampleLimit != block.SampleLimit {
			t.Errorf("%s is %s, interval %s, when read again", block.JobName, got.JobName, got.ScrapeInterval)
		}
	}
}

// A file that is no secret takes no memory, however large it is.
func TestSecretOfAnySize(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Stream{PasswordFile: file}).ReadPassword(); err == nil || !strings.Contains(err.Error(), "is no secret: more than 65536 bytes") {
		t.Errorf("error %v", err)
	}
}
