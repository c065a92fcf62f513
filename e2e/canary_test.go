package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// canaries are secrets, each of them unlike all others, and where they stand.
type canaries struct {
	dir    string
	secret map[string]string // by where
}

// in makes a secret for a place.
func (c *canaries) in(where string) string {
	s := fmt.Sprintf("canary%dsings", 100+len(c.secret))
	c.secret[where] = s
	return s
}

// file makes a file with a secret.
func (c *canaries) file(t *testing.T, where string) string {
	t.Helper()
	return tlstest.Write(t, filepath.Join(c.dir, strings.ReplaceAll(where, " ", "-")), []byte(c.in(where)+"\n"))
}

// looked fails the test for each secret that is in a text.
func (c *canaries) looked(t *testing.T, what, text string) {
	t.Helper()
	for where, around := range c.found(text) {
		t.Errorf("%s shows the secret of %s: %q", what, where, around)
	}
}

// found are the secrets in a text, as they are, in base64 at any place, or as in a URL: where they stand, and what is
// around them in the text.
func (c *canaries) found(text string) map[string]string {
	found := map[string]string{}
	for where, secret := range c.secret {
		forms := []string{secret, url.QueryEscape(secret)}
		for shift := range 3 { // a secret may begin at any of three places of base64; its ends depend on what stands beside it
			e := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte("x"), shift), secret...))
			forms = append(forms, e[4:len(e)-4])
		}
		for _, form := range forms {
			if i := strings.Index(text, form); i >= 0 {
				found[where] = text[max(0, i-120):min(len(text), i+60)]
				break
			}
		}
	}
	return found
}

// The search finds what it is there to find.
func TestCanariesAreHeard(t *testing.T) {
	t.Parallel()
	c := &canaries{secret: map[string]string{}}
	one, _ := c.in("one"), c.in("two")
	for _, text := range []string{
		"password: " + one, "http://me:" + one + "@host/", base64.StdEncoding.EncodeToString([]byte("me:" + one)),
		base64.StdEncoding.EncodeToString([]byte("you:" + one + ":x")), base64.RawURLEncoding.EncodeToString([]byte(one)),
	} {
		if found := c.found(text); len(found) != 1 || found["one"] == "" {
			t.Errorf("%q: %v", text, found)
		}
	}
}

// config is one that is full of secrets, for a server; the second is with secrets in files.
func (c *canaries) config(t *testing.T, server string, files bool) string {
	t.Helper()
	who := func(role string) string {
		switch {
		case files && role == "poller":
			return "user: me, password_file: " + c.file(t, "poller password_file")
		case files:
			return "token_file: " + c.file(t, "receiver token_file")
		case role == "poller":
			return "user: me, password: " + c.in("poller password") + ", proxy_url: 'http://me:" + c.in("proxy_url") + "@127.0.0.1:1'"
		}
		return "token: " + c.in("receiver token")
	}
	basic := func(at string) string {
		if files {
			return "basic_auth: {username: me, password_file: " + c.file(t, at+" basic_auth file") + "}"
		}
		return "basic_auth: {username: me, password: " + c.in(at+" basic_auth") + "}"
	}
	bearer := func(at string) string {
		if files {
			return "authorization: {credentials_file: " + c.file(t, at+" authorization file") + "}"
		}
		return "authorization: {credentials: " + c.in(at+" authorization") + "}"
	}
	oauth := func(at string) string {
		secret := "client_secret: " + c.in(at+" oauth2")
		if files {
			secret = "client_secret_file: " + c.file(t, at+" oauth2 file")
		}
		return "oauth2: {client_id: me, " + secret + ", token_url: 'http://me:" + c.in(at+" token_url") + "@127.0.0.1:1/token', endpoint_params: {assertion: '" +
			c.in(at+" endpoint_params") + "'}}"
	}
	gone := func(at string) string { return "http://me:" + c.in(at+" url") + "@127.0.0.1:1" }
	ca := tlstest.NewCA(t, "canary")
	key := ca.Issue(t, "canary", time.Now().Add(24*time.Hour))
	pem := func(at string) string {
		c.secret[at+" key"] = strings.Split(string(key.KeyPEM), "\n")[2]
		name := filepath.Join(c.dir, strings.ReplaceAll(at, " ", "-"))
		return "ca: " + tlstest.Write(t, name+"-ca.pem", ca.PEM()) + ", cert: " + tlstest.Write(t, name+".pem", key.CertPEM) + ", key: " + tlstest.Write(t, name+".key", key.KeyPEM)
	}
	return fmt.Sprintf(`
identity: canary
scrape_interval: 1s
debug: true
management: {tls: {scheme: manual, %s}, identity: canary, brokers: ["127.0.0.1:1"]}
spool: {directory: %s}
embedded: {directory: %s}
receiver: {state_directory: %s}
poller_stream: {urls: 'nats://%s', %s}
receiver_stream:
  - {urls: 'nats://%s', %s, stream: A}
  - {urls: 'nats://me:%s@%s', stream: B}
jobs:
  one:
    targets:
      - {name: gone, url: '%s/metrics'}
scrape_configs:
  - {job_name: two, %s, static_configs: [{targets: ["127.0.0.1:1"]}], proxy_url: '%s'}
  - {job_name: three, %s, static_configs: [{targets: ["127.0.0.1:1"]}]}
  - {job_name: four, %s, static_configs: [{targets: ["127.0.0.1:1"]}], http_headers: {X-Key: {secrets: ["%s"]}}}
  - {job_name: five, bearer_token: '%s', consul_sd_configs: [{server: "127.0.0.1:1", token: '%s'}], proxy_url: 'http://127.0.0.1:1', proxy_connect_header: {X-Key: ['%s']}}
  - {job_name: six, http_sd_configs: [{url: '%s/sd', authorization: {credentials: '%s'}}], tls_config: {cert: "%s", key: "%s"}}
  - {job_name: seven, puppetdb_sd_configs: [{url: '%s/pdb', query: 'x', %s}], kubernetes_sd_configs: [{role: pod, api_server: '%s', %s}]}
  - {job_name: eight, kubernetes_sd_configs: [{role: node, kubeconfig_file: '%s'}]}
push_gateway: {url: '%s', %s, http_headers: {X-Key: {secrets: ["%s"]}}, tls_config: {cert: "%s", key: "%s"}}
remote_write:
  - {name: basic, url: '%s/write', %s, headers: {X-Key: '%s'}, tls_config: {cert: "%s", key: "%s"}}
  - {name: bearer, url: 'http://127.0.0.1:1/write', %s, proxy_url: '%s'}
  - {name: oauth, url: 'http://127.0.0.1:1/write', %s}
  - {name: sigv4, url: 'http://127.0.0.1:1/write', sigv4: {region: x, access_key: me, secret_key: '%s'}}
  - {name: azuread, url: 'http://127.0.0.1:1/write', azuread: {oauth: {client_id: 00000000-0000-0000-0000-000000000000, tenant_id: x, client_secret: '%s'}}}
gateway: {}
`, pem("management"), filepath.Join(c.dir, "spool"), filepath.Join(c.dir, "embedded"), filepath.Join(c.dir, "state"),
		server, who("poller"), server, who("receiver"), c.in("receiver urls"), server,
		gone("jobs"), basic("scrape"), gone("scrape proxy"), bearer("scrape"), oauth("scrape"), c.in("scrape header"),
		c.in("bearer_token"), c.in("consul token"), c.in("proxy_connect_header"), gone("http_sd"), c.in("http_sd authorization"), flat(key.CertPEM), flat(key.KeyPEM),
		gone("puppetdb"), basic("puppetdb"), gone("kubernetes"), basic("kubernetes"), c.kubeconfig(t),
		gone("push_gateway"), basic("push_gateway"), c.in("push_gateway header"), flat(key.CertPEM), flat(key.KeyPEM),
		gone("remote_write"), basic("remote_write"), c.in("remote_write header"), flat(key.CertPEM), flat(key.KeyPEM), bearer("remote_write"), gone("remote_write proxy"),
		oauth("remote_write"), c.in("remote_write sigv4"), c.in("remote_write azuread"))
}

// kubeconfig is that of a cluster that is not there.
func (c *canaries) kubeconfig(t *testing.T) string {
	t.Helper()
	return tlstest.Write(t, filepath.Join(c.dir, "kubeconfig"), fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: me, user: {token: %s}}]
`, c.in("kubeconfig")))
}

// prometheus is a Prometheus' own configuration, with secrets of its own.
func (c *canaries) prometheus(t *testing.T) string {
	t.Helper()
	return tlstest.Write(t, filepath.Join(c.dir, "prometheus.yml"), fmt.Appendf(nil, `
scrape_configs:
  - {job_name: theirs, basic_auth: {username: me, password: %s}, static_configs: [{targets: ["127.0.0.1:1"]}]}
remote_write:
  - {url: 'http://127.0.0.1:1/write', basic_auth: {username: me, password: %s}}
`, c.in("prometheus scrape"), c.in("prometheus remote_write")))
}

// flat is PEM as it stands in a quoted string of YAML.
func flat(pem []byte) string { return strings.ReplaceAll(string(pem), "\n", "\\n") }

// pages are all that a process serves; query strings are of those that take some.
var canaryPages = []string{
	"/", "/metrics", "/-/healthy", "/-/ready", "/targets", "/service-discovery", "/config", "/api/v1/targets", "/api/v1/status/config",
	"/api/v1/status/flags", "/api/v1/status/buildinfo", "/api/v1/scrape_pools", "/api/v1/targets?state=dropped", "/style.css", "/gateway/metrics", "/gateway/targets", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2",
	"/debug/pprof/heap?debug=1", "/debug/pprof/symbol", "/nowhere",
}

// No secret of a configuration is on any page, in any log, error or crash, nor in what a command prints.
func TestCanaries(t *testing.T) {
	t.Parallel()
	port := ports.Next(t)
	harness.StartServer(t, port, fmt.Sprintf(`
listen: 127.0.0.1:%d
authorization { user: somebody, password: "of which nobody has heard" }
`, port))
	server := fmt.Sprintf("127.0.0.1:%d", port)
	for name, files := range map[string]bool{"in the file": false, "in files": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &canaries{dir: t.TempDir(), secret: map[string]string{}}
			path := filepath.Join(c.dir, "all.yaml")
			write(t, path, c.config(t, server, files))
			t.Logf("%d secrets", len(c.secret))
			c.commands(t, path)
			for _, mode := range []string{"poller", "receiver", "standalone"} {
				t.Run(mode, func(t *testing.T) {
					t.Parallel()
					c.process(t, mode, path)
				})
			}
		})
	}
	t.Run("who we are", func(t *testing.T) {
		t.Parallel()
		c := &canaries{dir: t.TempDir(), secret: map[string]string{}}
		c.identities(t, server)
	})
}

// commands runs all that end by themselves.
func (c *canaries) commands(t *testing.T, path string) {
	t.Helper()
	for _, args := range [][]string{
		{"check", "config"}, {"check", "config", "--show"}, {"check", "config", "--role", "standalone", "--show"}, {"check", "stream"},
		{"check", "stream", "--create"}, {"check", "sinks"}, {"check", "targets"}, {"check", "scrape", "http://me:" + c.in("check scrape") + "@127.0.0.1:1/metrics"},
		{"inspect", "--stream"}, {"inspect", path}, {"version"}, {"ctl", "info"}, {"ctl", "pause"}, {"ctl", "resume"}, {"ctl", "switch"},
		{"receiver", "--forget", "nobody"}, {"help"}, {"check", "config", "--show", "--prometheus.config", c.prometheus(t)}, {"check", "targets", "--prometheus.config", c.prometheus(t)},
		{"enroll", "canary.example.net", "--ca", "puppet.example.net:8140", "--wait", "1s", "--dir", filepath.Join(c.dir, "ssl")},
	} {
		r := harness.Run(t, builds, time.Minute, []string{"HTTPS_PROXY=http://me:" + c.in("HTTPS_PROXY") + "@127.0.0.1:1"}, append(args, "--config", path, "--log.level", "debug")...)
		c.looked(t, strings.Join(args, " "), r.Output)
		if slices.Contains(args, "--show") && (r.Code == 2 || !strings.Contains(r.Output, "push_gateway:")) {
			t.Errorf("%v shows nothing, exit code %d:\n%s", args, r.Code, r.Output)
		}
	}
}

// process runs one until it had trouble with everything, looks at all pages, makes it read its configuration again, well
// and wrong, and lets it crash.
func (c *canaries) process(t *testing.T, mode, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = regexp.MustCompile(`(?m)^  - \{name: sigv4.*\n`).ReplaceAll(b, nil) // which a receiver refuses
	b = regexp.MustCompile(`(?m)^  - \{name: azuread.*\n`).ReplaceAll(b, nil)
	dir := t.TempDir() // each process has directories of its own
	text := strings.NewReplacer(filepath.Join(c.dir, "spool"), filepath.Join(dir, "spool"), filepath.Join(c.dir, "embedded"), filepath.Join(dir, "embedded"),
		filepath.Join(c.dir, "state"), filepath.Join(dir, "state")).Replace(string(b))
	p := harness.StartProduct(t, builds, mode, ports.Next(t), text, "--log.level", "debug", "--web.enable-pprof", "--web.enable-lifecycle")
	harness.WaitReady(t, 30*time.Second, p.URL+"/-/healthy")
	want := map[string]string{"poller": "proxy", "receiver": "Authorization Violation", "standalone": "127.0.0.1:1"}[mode]
	p.WaitOutput(30*time.Second, want)
	pages := func() {
		t.Helper()
		got := 0
		for _, page := range canaryPages {
			status, body, err := harness.Get(p.URL + page)
			if err != nil {
				t.Fatal(err)
			}
			if status == http.StatusOK {
				got++
			}
			c.looked(t, mode+" "+page, body)
		}
		if got < 8 {
			t.Errorf("only %d pages are there", got)
		}
	}
	pages()
	for _, path := range []string{"/-/pause", "/-/resume", "/-/switch"} {
		resp, err := http.Post(p.URL+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		resp.Body.Close()
		c.looked(t, mode+" "+path, body.String())
	}
	for _, again := range []string{text, text + "\nnobody_knows: {password: 1}\n", strings.Replace(text, "poller_stream: {", "poller_stream: {nobody: [, ", 1)} {
		p.Reload(t, again)
		resp, err := http.Post(p.URL+"/-/reload", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		resp.Body.Close()
		c.looked(t, mode+" /-/reload", body.String())
	}
	time.Sleep(3 * time.Second) // some rounds of trouble
	pages()
	p.Signal(syscall.SIGQUIT)
	if code := p.ExitCode(30 * time.Second); code == 0 {
		t.Errorf("SIGQUIT ended %s with 0", mode)
	}
	out := p.Output()
	c.looked(t, "the log of "+mode, out)
	if !strings.Contains(out, "goroutine ") || !strings.Contains(out, "level=DEBUG") {
		t.Errorf("no crash or no debugging in the log of %s:\n%s", mode, out)
	}
}

// identities are wrong seeds, credentials and contexts, whole and damaged.
func (c *canaries) identities(t *testing.T, server string) {
	_, seed := harness.NKey(t)
	c.secret["nkey"] = string(seed)
	creds := harness.NewOperator(t).Credentials(t, "canary", time.Time{})
	for line := range strings.Lines(string(creds)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "SU") {
			c.secret["creds seed"] = line
		} else if strings.Count(line, ".") == 2 {
			c.secret["creds jwt"] = line
		}
	}
	if len(c.secret) != 3 {
		t.Fatalf("%d secrets in the credentials", len(c.secret)-1)
	}
	file := func(name string, data []byte) string { return tlstest.Write(t, filepath.Join(c.dir, name), data) }
	file("config/nats/context/bad.json", fmt.Appendf(nil, `{"url": "nats://%s", "user": "me", "password": %q}`, server, c.in("context")))
	file("config/nats/context/broken.json", fmt.Appendf(nil, `{"url": "nats://%s", "user": "me", "password": %q`, server, c.in("broken context")))
	file("config/nats/context/url.json", fmt.Appendf(nil, `{"url": "nats://me:%s@%s"}`, c.in("context url"), server))
	for name, block := range map[string]string{
		"nkey": "urls: 'nats://" + server + "', nkey_seed_file: " + file("nk", seed), "creds": "urls: 'nats://" + server + "', credentials: " + file("creds", creds),
		"half an nkey": "urls: 'nats://" + server + "', nkey_seed_file: " + file("nk2", seed[:len(seed)-1]), "half creds": "urls: 'nats://" + server + "', credentials: " + file("creds2", creds[:len(creds)/2]),
		"context": "context: bad", "broken": "context: broken", "url": "context: url", "gone": "urls: 'nats://me:" + c.in("urls") + "@127.0.0.1:1'",
		"no url": "urls: 'nats://me:" + c.in("bad urls") + "@127.0.0.1:x'",
	} {
		path := file(strings.ReplaceAll(name, " ", "-")+".yaml", []byte("identity: canary\nmonitor_port: 1\npoller_stream: {"+block+"}\n"))
		for _, args := range [][]string{{"check", "config", "--show"}, {"check", "stream"}} {
			r := harness.Run(t, builds, time.Minute, []string{"XDG_CONFIG_HOME=" + filepath.Join(c.dir, "config")},
				append(args, "--config", path, "--log.level", "debug")...)
			c.looked(t, name+" "+strings.Join(args, " "), r.Output)
			if args[1] == "stream" && r.Code == 0 {
				t.Errorf("%s: it connects", name)
			}
		}
	}
}
