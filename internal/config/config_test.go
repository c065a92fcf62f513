package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	pollerBlock   = "poller_stream: {urls: nats://127.0.0.1:4222, stream: METRICS}\n"
	receiverBlock = "receiver_stream: {urls: nats://127.0.0.1:4222, stream: METRICS}\n"
)

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, _, err := Parse("c.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse: %v\n%s", err, text)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := parse(t, "")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if c.Identity != host {
		t.Errorf("identity %q, want the host's name %q", c.Identity, host)
	}
	if c.ScrapeInterval.D() != time.Minute || c.ScrapeTimeout.D() != 10*time.Second {
		t.Errorf("interval %s, timeout %s; want 1m and 10s", c.ScrapeInterval, c.ScrapeTimeout)
	}
	if c.ListenAddress() != "" {
		t.Errorf("listens at %q without being told", c.ListenAddress())
	}
	if c.Poller.FlushSize != 32*KiB || c.Spool.MaxSize != GiB || c.Receiver.Limits.HoleBundles != 128 {
		t.Errorf("blocks without defaults: %+v %+v %+v", c.Poller, c.Spool, c.Receiver)
	}
}

func TestTimeoutFollowsInterval(t *testing.T) {
	if c := parse(t, "scrape_interval: 5s"); c.ScrapeTimeout.D() != 5*time.Second {
		t.Errorf("timeout %s for an interval of 5s", c.ScrapeTimeout)
	}
}

func TestSeedReadme(t *testing.T) {
	c, _, err := Load(filepath.Join("testdata", "seed.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Identity != "USDC1" || !c.Verbose || c.Logfile != "/var/log/prometheus-streams.log" || c.MaxAge.D() != 80*time.Second {
		t.Errorf("top level: %+v", c)
	}
	if c.ListenAddress() != ":10000" {
		t.Errorf("listen address %q", c.ListenAddress())
	}
	if p := c.PollerStream; p.ClusterID != "dc1_stream" || p.ClientID != "prometheus_streams_poller_USDC1" || string(p.URLs[0]) != "nats://nats.dc1.example.net:4222" {
		t.Errorf("poller_stream: %+v", p)
	}
	if r := c.ReceiverStreams[0]; r.ClientID != "prometheus_receiver" || r.Topic != "prometheus" {
		t.Errorf("receiver_stream: %+v", r)
	}
	if c.PushGateway.PublisherLabel != "publisher" || c.PushGateway.Method != "put" || !c.PushGateway.HTTP.FollowRedirects {
		t.Errorf("push_gateway: %+v", c.PushGateway)
	}
	if m := c.Management; m.Identity != "prom.example.net" || m.Collective != "prometheus" || len(m.Brokers) != 1 {
		t.Errorf("management: %+v", m)
	}
	if len(c.Jobs) != 1 || c.Jobs[0].Name != "choria" || len(c.Jobs[0].Targets) != 3 || c.Jobs[0].Targets[2].Name != "choria3" {
		t.Errorf("jobs: %+v", c.Jobs)
	}
}

func TestKeysOfAllForms(t *testing.T) {
	c := parse(t, `
IDENTITY: edge
Scrape_Interval: 1d
scrape_timeout: 1.5s
max_age: 2h30m
external_labels: {site: dc1, "größe": "1"}
Poller_Stream:
  urls: nats://a:4222, tls://b , c:4333
  stream: M
  user: me
  password: hunter2
  stream_config: {max_age: 3600, max_bytes: 2 GiB, replicas: 3}
receiver_stream:
  - &one
    urls: [nats://a, nats://b]
    stream: M
    token_file: secrets/token
  - <<: *one
    stream: N
    subject: hub.{publisher}.frames.*
spool: {sync: always, max_size: 64MiB}
poller: {flush_age: 100ms}
push_gateway:
  url: http://push:9091
  stale_after: 0
  Basic_Auth: {Username: u, password_file: pw}
  http_headers: {X-Scope: {values: [a]}}
gateway:
management: {auth: {RO: [a], full: [b], insecure: true}, name: x}
tls: {scheme: file, ca: a, cert: b, key: c, cache: d}
`)
	if c.Identity != "edge" || c.ScrapeInterval.D() != 24*time.Hour || c.ScrapeTimeout.D() != 1500*time.Millisecond || c.MaxAge.D() != 150*time.Minute {
		t.Errorf("top level: %+v", c)
	}
	if got := c.Labels().String(); got != `{"größe"="1", site="dc1"}` {
		t.Errorf("external labels %s", got)
	}
	p := c.PollerStream
	if len(p.URLs) != 3 || p.URLs[1] != "tls://b" || p.Password != "hunter2" || p.StreamConfig != (StreamConfig{MaxAge: Age(time.Hour), MaxBytes: 2 * GiB, Replicas: 3}) {
		t.Errorf("poller_stream: %+v", p)
	}
	r := c.ReceiverStreams
	if len(r) != 2 || r[1].Name != "N" || len(r[1].URLs) != 2 || r[1].TokenFile != filepath.Join("secrets", "token") {
		t.Errorf("receiver_stream: %+v", r)
	}
	if r[0].Subject != "prometheus.frames.{publisher}.*" || r[0].SchemasStream != "M_SCHEMAS" || r[1].Subject != "hub.{publisher}.frames.*" {
		t.Errorf("receiver_stream subjects: %+v", r)
	}
	if c.Spool.Sync != 0 || c.Poller.FlushAge.D() != 100*time.Millisecond {
		t.Errorf("spool %+v, poller %+v", c.Spool, c.Poller)
	}
	g := c.PushGateway
	if g.StaleAfter == nil || *g.StaleAfter != 0 || g.HTTP.BasicAuth.Username != "u" || g.HTTP.BasicAuth.PasswordFile != "pw" || g.HTTP.HTTPHeaders.Headers["X-Scope"].Values[0] != "a" {
		t.Errorf("push_gateway: %+v", g)
	}
	if c.Gateway == nil {
		t.Error("gateway without keys is not a gateway")
	}
	if c.TLS.Scheme != "manual" || c.Management.Auth.ReadOnly[0] != "a" {
		t.Errorf("tls %+v, auth %+v", c.TLS, c.Management.Auth)
	}
}

// TestBad has one case for each kind of mistake: what the message must have, the line among it.
func TestBad(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"unknown key":             {"jbos: {}", []string{`c.yaml:1: unknown key "jbos"; did you mean "jobs"?`}},
		"unknown key in a block":  {"\npoller_stream:\n  topc: x\n", []string{`c.yaml:3: unknown key "topc" in poller_stream; did you mean "topic"?`}},
		"unknown key in a target": {"jobs: {a: {targets: [{url: 'http://a', job: x}]}}", []string{`unknown key "job" in jobs.a.targets[0]`}},
		"unknown HTTP key":        {"push_gateway:\n  url: http://a\n  basic_auth:\n    user: a\n", []string{`c.yaml:4: unknown key "user" in push_gateway.basic_auth; did you mean "username"?`}},
		"duplicate key":           {"identity: a\nIdentity: b", []string{`c.yaml:2: duplicate key "Identity"; it is on line 1`}},
		"duplicate job":           {"jobs:\n  a: {targets: [{url: 'http://a'}]}\n  a: {targets: [{url: 'http://b'}]}", []string{`c.yaml:3: duplicate job "a"; it is on line 2`}},
		"not YAML":                {"a: [", []string{"c.yaml:1: not YAML"}},
		"two documents":           {"identity: a\n---\nidentity: b\n", []string{"c.yaml:2: a second YAML document"}},
		"not a mapping":           {"- a", []string{"c.yaml:1: a configuration is a mapping", "not a list"}},
		"list for text":           {"identity: [a]", []string{"c.yaml:1: identity: must be text, not a list"}},
		"bool for text":           {"logfile: yes\nidentity: true", []string{"c.yaml:2: identity: must be text, not true or false"}},
		"text for bool":           {"debug: 'true'", []string{"debug: must be true or false, not text"}},
		"text for number":         {"monitor_port: '80'", []string{"monitor_port: must be a whole number, not text"}},
		"huge number":             {"monitor_port: 99999999999999999999", []string{"monitor_port: must be a whole number"}},
		"port":                    {"monitor_port: 70000", []string{"monitor_port: not a port: 70000"}},
		"negative port":           {"monitor_port: -1", []string{"monitor_port: not a port: -1"}},
		"duration":                {"scrape_interval: soon", []string{`c.yaml:1: scrape_interval: not a duration: "soon"`}},
		"duration without unit":   {"scrape_interval: 5", []string{"scrape_interval: not a duration", "5s?"}},
		"no interval":             {"scrape_interval: 0s", []string{"scrape_interval: must be above 0"}},
		"negative interval":       {"scrape_interval: -5s", []string{"scrape_interval: not a duration"}},
		"long timeout":            {"scrape_interval: 5s\nscrape_timeout: 6s", []string{"c.yaml:2: scrape_timeout: 6s is longer than the scrape_interval of 5s"}},
		"max_age":                 {"max_age: 99999999999999999", []string{"max_age: more seconds than fit"}},
		"size":                    {"poller: {flush_size: lots}", []string{`poller.flush_size: not a size: "lots"`}},
		"size too large":          {"spool: {max_size: 999999999999TiB}", []string{"spool.max_size: more bytes than fit"}},
		"empty urls":              {"poller_stream: {urls: '', stream: M}", []string{"poller_stream.urls: empty URL"}},
		"empty url among urls":    {"poller_stream: {urls: 'nats://a,', stream: M}", []string{"poller_stream.urls: empty URL"}},
		"no urls":                 {"poller_stream: {stream: M}", []string{"poller_stream: without urls"}},
		"url without host":        {"poller_stream: {urls: 'nats://', stream: M}", []string{"poller_stream.urls: a URL without a host"}},
		"url scheme":              {"poller_stream: {urls: 'http://a', stream: M}", []string{"poller_stream.urls: not a nats://"}},
		"url port":                {"poller_stream: {urls: 'nats://a:99999', stream: M}", []string{`the port "99999"`}},
		"both streams":            {"poller_stream: {urls: 'nats://a', stream: a, cluster_id: b}", []string{"exclude each other"}},
		"topic":                   {"poller_stream: {urls: 'nats://a', stream: a, topic: 'a..b'}", []string{`poller_stream.topic: illegal topic "a..b"`, "empty token"}},
		"topic with wildcard":     {"poller_stream: {urls: 'nats://a', stream: a, topic: 'a.>'}", []string{"poller_stream.topic", "wildcards"}},
		"topic with blank":        {"poller_stream: {urls: 'nats://a', stream: a, topic: 'a b'}", []string{"poller_stream.topic", "blanks"}},
		"stream name":             {"poller_stream: {urls: 'nats://a', stream: a.b}", []string{`illegal name of a stream "a.b"`}},
		"client id":               {"receiver_stream: {urls: 'nats://a', stream: a, client_id: a.b}", []string{`illegal client id "a.b"`}},
		"client id, Streaming":    {"receiver_stream: {urls: 'nats://a', cluster_id: a, client_id: 'a:b'}", []string{`illegal client id "a:b"`}},
		"cluster id":              {"receiver_stream: {urls: 'nats://a', cluster_id: 'a b'}", []string{`illegal cluster id "a b"`}},
		"subject":                 {"receiver_stream: {urls: 'nats://a', stream: a, subject: a.b}", []string{"receiver_stream.subject", "{publisher}"}},
		"schemas subject":         {"receiver_stream: [{urls: 'nats://a', stream: a, schemas_subject: 'a.{publisher}'}]", []string{"receiver_stream[0].schemas_subject", "must end in .*"}},
		"no blocks":               {"receiver_stream: []", []string{"receiver_stream: must be a block or a list of blocks"}},
		"credentials":             {"poller_stream: {urls: 'nats://a', stream: a, user: b, token: c}", []string{"token and user exclude each other"}},
		"password twice":          {"poller_stream: {urls: 'nats://a', stream: a, user: b, password: c, password_file: d}", []string{"password and password_file exclude"}},
		"replicas":                {"poller_stream: {urls: 'nats://a', stream: a, stream_config: {replicas: 9}}", []string{"replicas: must be 1 to 5"}},
		"label name":              {"external_labels: {__x: a}", []string{`external_labels: illegal label name "__x"`}},
		"label value":             {"external_labels: {x: [a]}", []string{"external_labels.x: must be text"}},
		"publisher label":         {"gateway: {publisher_label: 9x}", []string{`gateway.publisher_label: illegal label name "9x"`}},
		"publisher label job":     {"gateway: {publisher_label: job}", []string{"gateway.publisher_label"}},
		"job without targets":     {"jobs:\n  a: {}", []string{"c.yaml:2: jobs.a: a job without targets"}},
		"job without anything":    {"jobs:\n  a:\n", []string{"c.yaml:2: jobs.a: a job without targets"}},
		"job with no targets":     {"jobs: {a: {targets: []}}", []string{"jobs.a: a job without targets"}},
		"job without name":        {"jobs: {'': {targets: [{url: 'http://a'}]}}", []string{"illegal name of a job, it is empty"}},
		"target without url":      {"jobs: {a: {targets: [{name: x}]}}", []string{"jobs.a.targets[0]: a target without url"}},
		"target with empty url":   {"jobs: {a: {targets: [{url: ''}]}}", []string{"jobs.a.targets[0].url: empty URL"}},
		"target scheme":           {"jobs: {a: {targets: [{url: 'ftp://a'}]}}", []string{"not an http:// or https:// URL"}},
		"target url":              {"jobs: {a: {targets: [{url: 'http://a:b'}]}}", []string{"jobs.a.targets[0].url: not a URL"}},
		"one name, two URLs": {
			"jobs:\n  a:\n    targets:\n    - {name: x, url: 'http://a/1'}\n    - {name: x, url: 'http://a/2'}\n",
			[]string{`c.yaml:5: jobs.a: two targets are named "x": "http://a/1" on line 4 and "http://a/2" on line 5`},
		},
		"one host, two URLs": {
			"jobs: {a: {targets: [{url: 'http://a/1'}, {url: 'http://a/2'}]}}",
			[]string{`two targets are named "a:80"`, "give them a name"},
		},
		"push gateway without url": {"push_gateway: {}", []string{"push_gateway: without url"}},
		"push gateway method":      {"push_gateway: {url: 'http://a', method: patch}", []string{`push_gateway.method: not put or post: "patch"`}},
		"push gateway auth twice":  {"push_gateway: {url: 'http://a', basic_auth: {username: a}, authorization: {credentials: b}}", []string{"push_gateway: at most one of basic_auth"}},
		"push gateway auth type":   {"push_gateway: {url: 'http://a', basic_auth: text}", []string{"push_gateway.basic_auth: must be a mapping"}},
		"tls scheme":               {"tls: {scheme: vault}", []string{`tls.scheme: not puppet or manual: "vault"`}},
		"tls puppet":               {"tls: {scheme: puppet}", []string{"needs ssl_dir"}},
		"remote write":             {"remote_write: [{name: a}]", []string{"remote_write[0]: remote write without url"}},
		"remote write form":        {"remote_write: {url: 'http://a'}", []string{"remote_write: must be a list"}},
		"scrape config":            {"scrape_configs: [{job_name: a}, {job_name: a}]", []string{`scrape_configs[1]: the job_name "a" is on line 1 already`}},
		"spool":                    {"spool: {when_full: panic}", []string{"spool.when_full: not drop_oldest or stop_scraping"}},
		"listen address":           {"web: {listen_address: here}", []string{"web.listen_address: not an address"}},
		"identity":                 {"identity: \"a\\nb\"", []string{"identity: illegal name of a publisher, it has control characters"}},
		"long identity":            {"identity: " + strings.Repeat("x", 300), []string{"it has 300 bytes, at most 200"}},
		"several": {
			"jbos: 1\nmonitor_port: x\nscrape_interval: y\n",
			[]string{"c.yaml:1: ", "c.yaml:2: ", "c.yaml:3: "},
		},
		"merge of text": {"gateway: {<<: 5}", []string{"a merge key (<<) in gateway takes a mapping"}},
		"key is a list": {"? [a]\n: b", []string{"a key must be text, not a list"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := Parse("c.yaml", []byte(c.text))
			if err == nil {
				t.Fatalf("no error; parsed %+v", got)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error\n%v\nlacks %q", err, want)
				}
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "nokey%d: 1\n", i)
	}
	_, _, err := Parse("c.yaml", []byte(b.String()))
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxErrors+1 || lines[maxErrors] != "c.yaml: and 980 more problems" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestAliasesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("external_labels: &l {a: b}\nspool: {max_age: &t 5s}\n")
	b.WriteString("jobs:\n  j0: &j {targets: [")
	for i := range 3000 {
		fmt.Fprintf(&b, "{name: n%d, url: 'http://h:%d'},", i, i+1)
	}
	b.WriteString("]}\n")
	for i := 1; i < 3000; i++ {
		fmt.Fprintf(&b, "  j%d: *j\n", i)
	}
	start := time.Now()
	_, _, err := Parse("c.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "more than 1000000 values") {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := Parse("c.yaml", []byte("jobs:\n  a:\n    targets:\n    - {name: x, url: 'http://a'}\n    - {name: x, url: 'http://a'}\n  prometheus_streams:\n    targets: [{url: 'http://b'}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0].String(), `c.yaml:5: jobs.a: the target "x" is there twice, first on line 4`) {
		t.Errorf("warnings %v", warnings)
	}
}

func TestDefaultClientIDs(t *testing.T) {
	a, b := defaultClientID("poller", "a.b"), defaultClientID("poller", "a_b")
	if a == b || !wordOnly(a) || b != "prometheus_streams_poller_a_b" {
		t.Errorf("%q and %q", a, b)
	}
	if long := defaultClientID("receiver", strings.Repeat("ü", 200)); !wordOnly(long) {
		t.Errorf("%q is not a legal client id", long)
	}
}

func TestDefaultStream(t *testing.T) {
	c := parse(t, "receiver_stream: {urls: nats://a, topic: site.prom}")
	if r := c.ReceiverStreams[0]; r.Name != "SITE_PROM" || r.SchemasStream != "SITE_PROM_SCHEMAS" {
		t.Errorf("stream %q, schemas in %q", r.Name, r.SchemasStream)
	}
}

func TestSubjects(t *testing.T) {
	c := parse(t, "receiver_stream: {urls: nats://a, subject: 'hub.{publisher}.f.>', schemas_subject: 'hub.s.{publisher}.*'}")
	r := c.ReceiverStreams[0]
	if r.Filter() != "hub.*.f.>" || r.PublisherIndex() != 1 || r.SchemaSubject("edge%2E1", "00ff") != "hub.s.edge%2E1.00ff" {
		t.Errorf("filter %q, publisher at %d, schema at %q", r.Filter(), r.PublisherIndex(), r.SchemaSubject("edge%2E1", "00ff"))
	}
}

func TestLoadMissing(t *testing.T) {
	if _, _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v is not one of the file system", err)
	}
}
