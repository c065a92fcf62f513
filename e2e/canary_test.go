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
	last   string            // the latest of them

	certificate *tlstest.Pair // see pair
	authority   *tlstest.CA
	operator    *harness.Operator // see seeds
	nkey        string            // the name of the latest of them
	rsa         []byte            // see rsaKey
}

func newCanaries(t *testing.T) *canaries {
	return &canaries{dir: t.TempDir(), secret: map[string]string{}}
}

// in makes a secret for a place.
func (c *canaries) in(where string) string {
	for c.secret[where] != "" {
		where += " again"
	}
	c.last = where
	s := fmt.Sprintf("canary%dsings", 100+len(c.secret))
	c.secret[where] = s
	return s
}

// file makes a file with a secret.
func (c *canaries) file(t *testing.T, where string) string {
	t.Helper()
	secret := c.in(where)
	return tlstest.Write(t, filepath.Join(c.dir, strings.ReplaceAll(c.last, " ", "-")), []byte(secret+"\n"))
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
	c := newCanaries(t)
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
	"/api/v1/status/flags", "/api/v1/status/buildinfo", "/api/v1/scrape_pools", "/api/v1/targets?state=dropped", "/style.css", "/gateway/metrics", "/gateway/targets", "/debug/pprof/", "/debug/pprof/goroutine?debug=2",
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
			c := newCanaries(t)
			path := filepath.Join(c.dir, "all.yaml")
			write(t, path, c.config(t, server, files, 0))
			t.Logf("%d secrets", len(c.secret))
			c.commands(t, path)
			for _, mode := range []string{"poller", "receiver", "standalone"} {
				t.Run(mode, func(t *testing.T) {
					t.Parallel()
					c.process(t, mode, path)
				})
			}
		})
		for way := 1; way < clientWays; way++ { // a Push Gateway there is only one of
			t.Run(fmt.Sprintf("push_gateway %d %s", way, name), func(t *testing.T) {
				t.Parallel()
				c := newCanaries(t)
				c.pushGateway(t, files, way)
			})
		}
	}
	t.Run("who we are", func(t *testing.T) {
		t.Parallel()
		newCanaries(t).identities(t, server)
	})
}

// pushGateway is looked at alone.
func (c *canaries) pushGateway(t *testing.T, files bool, way int) {
	t.Helper()
	path := filepath.Join(c.dir, "gateway.yaml")
	write(t, path, fmt.Sprintf("identity: canary\nreceiver_stream: {urls: nats://127.0.0.1:1}\npush_gateway: {url: 'http://%s@127.0.0.1:1', %s}\n",
		c.in("url"), c.clients(t, "push_gateway", files)[way]))
	for _, args := range [][]string{{"check", "config", "--show"}, {"check", "sinks"}} {
		r := harness.Run(t, builds, time.Minute, nil, append(args, "--config", path, "--log.level", "debug")...)
		c.looked(t, strings.Join(args, " "), r.Output)
		if r.Code == 2 {
			t.Errorf("%v: exit code %d:\n%s", args, r.Code, r.Output)
		}
	}
}

// commands runs all that end by themselves.
func (c *canaries) commands(t *testing.T, path string) {
	t.Helper()
	for _, args := range [][]string{
		{"check", "config"}, {"check", "config", "--show"}, {"check", "config", "--role", "standalone", "--show"}, {"check", "stream"},
		{"check", "stream", "--create"}, {"check", "sinks"}, {"check", "targets"}, {"check", "scrape", "http://me:" + c.in("check scrape") + "@127.0.0.1:1/metrics"},
		{"inspect", "--stream"}, {"inspect", path}, {"version"}, {"version", "--web.external-url", "http://me:" + c.in("external-url") + "@h/"},
		{"version", "--web.external-url", "ftp://me:" + c.in("wrong external-url") + "@h/"}, {"ctl", "info"}, {"ctl", "pause"}, {"ctl", "resume"}, {"ctl", "switch"},
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
	b = regexp.MustCompile(`(?m)^web: .*\n`).ReplaceAll(b, nil) // TestCanariesThatGetIn has it: the pages take a password then
	dir := t.TempDir()                                          // each process has directories of its own
	text := strings.NewReplacer(filepath.Join(c.dir, "spool"), filepath.Join(dir, "spool"), filepath.Join(c.dir, "embedded"), filepath.Join(dir, "embedded"),
		filepath.Join(c.dir, "state"), filepath.Join(dir, "state")).Replace(string(b))
	p := harness.StartProduct(t, builds, mode, ports.Next(t), text, "--log.level", "debug", "--web.enable-pprof", "--web.enable-lifecycle",
		"--web.external-url", "http://me:"+c.secret["external-url"]+"@127.0.0.1/")
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

// identities are all ways to say who we are to NATS, each of them refused, and files that are damaged.
func (c *canaries) identities(t *testing.T, server string) {
	all := c.everyTLS(t, server)
	for name, block := range c.pollerStreams(t, server) {
		all[name] = "identity: canary\nmonitor_port: 1\npoller_stream: {" + block + "}\n"
	}
	for name, text := range all {
		path := tlstest.Write(t, filepath.Join(c.dir, strings.ReplaceAll(name, " ", "-")+".yaml"), []byte(text))
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
