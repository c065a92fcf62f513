package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// doorman serves all that asks for a secret, lets in who has the right one, and notes where that was.
type doorman struct {
	*httptest.Server
	secure *httptest.Server // the same by TLS: a client of Kubernetes keeps its token to itself otherwise
	host   string
	mu     sync.Mutex
	in     map[string]int // by path
}

// entry is a path of a doorman: who is let in, and what is answered.
type entry struct {
	allowed func(*http.Request) bool
	answer  http.HandlerFunc
}

func (d *doorman) serve(t *testing.T, entries map[string]entry) {
	t.Helper()
	d.in = map[string]int{}
	mux := http.NewServeMux()
	for path, e := range entries {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if !e.allowed(r) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			d.mu.Lock()
			d.in[path]++
			d.mu.Unlock()
			e.answer(w, r)
		})
	}
	d.Server, d.secure = httptest.NewServer(mux), httptest.NewTLSServer(mux)
	t.Cleanup(d.Close)
	t.Cleanup(d.secure.Close)
	d.host = strings.TrimPrefix(d.URL, "http://")
}

// missing lists the paths where nobody was let in.
func (d *doorman) missing(entries map[string]entry) (paths []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range entries {
		if d.in[path] == 0 {
			paths = append(paths, path)
		}
	}
	return paths
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

func leads(status int, to func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to())
		w.WriteHeader(status)
	}
}

func basic(password string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		user, got, _ := r.BasicAuth()
		return user == "me" && got == password
	}
}

func has(header, value string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Header.Get(header) == value }
}

func anybody(*http.Request) bool { return true }

// entries are the doors of a site, by path: targets, discoveries, a Push Gateway, remote write servers, and who gives out
// tokens.
func (c *canaries) entries(d *doorman) map[string]entry {
	const metrics = "# TYPE a gauge\na 1\n"
	stored := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	token := c.in("issued token")
	tokens := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, token)
	}
	secret := func(r *http.Request) bool {
		_, got, _ := r.BasicAuth()
		return got == url.QueryEscape(c.secret["client_secret"]) || r.FormValue("client_secret") == c.secret["client_secret"]
	}
	found := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `[{"targets": [%q], "labels": {"__metrics_path__": "/open"}}]`, d.host)
	}
	consul := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "1")
		if r.FormValue("index") == "1" { // nothing new
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Second):
			}
		}
		_, _ = io.WriteString(w, "{}")
	}
	nodes := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.FormValue("watch") != "" {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, `{"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}`)
	}
	inURL := func(password, path string) func() string {
		return func() string { return "http://me:" + password + "@" + d.host + path }
	}
	kept := c.in("redirect to a password")
	return map[string]entry{
		"/open": {anybody, says(metrics)}, "/url": {basic(c.in("target url")), says(metrics)},
		"/basic": {basic(c.in("target basic_auth")), says(metrics)}, "/bearer": {has("Authorization", "Bearer "+c.in("target authorization")), says(metrics)},
		"/header": {has("X-Key", c.in("target header")), says(metrics)}, "/oauth": {has("Authorization", "Bearer "+token), says(metrics)},
		"/redirected": {anybody, leads(302, inURL(kept, "/there"))}, "/there": {basic(kept), says(metrics)},
		"/lost":    {anybody, leads(302, func() string { return "http://me:" + c.secret["redirect to nowhere"] + "@127.0.0.1:1/" })},
		"/garbled": {anybody, leads(302, func() string { return "http://me:" + c.secret["garbled redirect"] + "@%zz/" })},
		"/token":   {secret, tokens}, "/google": {anybody, tokens},
		"/sd": {basic(c.in("http_sd basic_auth")), found}, "/v1/catalog/services": {has("X-Consul-Token", c.in("consul token")), consul},
		"/pdb/pdb/query/v4": {has("Authorization", "Bearer "+c.in("puppetdb authorization")), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "[]")
		}},
		"/api/v1/nodes":     {has("Authorization", "Bearer "+c.in("cluster token")), nodes},
		"PUT /metrics/job/": {basic(c.in("push_gateway url")), func(w http.ResponseWriter, _ *http.Request) {}},
		"/write/basic":      {basic(c.in("remote_write password_file")), stored}, "/write/header": {has("X-Token", c.in("remote_write headers")), stored},
		"/write/oauth": {has("Authorization", "Bearer "+token), stored}, "/write/google": {has("Authorization", "Bearer "+token), stored},
		"/write/sigv4":      {func(r *http.Request) bool { return strings.Contains(r.Header.Get("Authorization"), "Credential=me/") }, stored},
		"/write/redirected": {anybody, leads(307, inURL(kept, "/write/there"))}, "/write/there": {basic(kept), stored},
		"/write/lost":    {anybody, leads(307, func() string { return "http://me:" + c.secret["redirect to nowhere"] + "@127.0.0.1:1/" })},
		"/write/garbled": {anybody, leads(307, func() string { return "http://me:" + c.secret["garbled redirect"] + "@%zz/" })},
		"/write/echo": {anybody, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, "a refusal that repeats the request: Authorization: %s", r.Header.Get("Authorization"))
		}},
	}
}

// guests are NATS servers that let in who has the secrets, with streams for a poller and for a receiver.
func (c *canaries) guests(t *testing.T) (poller string, receiver []string) {
	t.Helper()
	nkey, creds := c.seeds(t)
	server := c.authority.Issue(t, "nats.example", time.Now().Add(time.Hour))
	name := func(n string) string { return filepath.Join(c.dir, n) }
	tlstest.Write(t, name("server.pem"), server.CertPEM)
	tlstest.Write(t, name("server.key"), server.KeyPEM)
	start := func(more string) string {
		port := ports.Next(t)
		harness.StartServer(t, port, fmt.Sprintf("listen: 127.0.0.1:%d\njetstream { store_dir: %q }\n%s", port, t.TempDir(), more))
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	password, token, stan := c.in("nats password"), c.in("nats token"), c.in("stan password")
	users := start(fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\nauthorization { users: [ {user: me, password: %s}, {nkey: %s} ] }\n",
		name("server.pem"), name("server.key"), c.certified(t, "ca"), password, c.nkey))
	tokens := start("authorization { token: " + token + " }\n")
	operator := start(c.operator.Config())
	plain := start("authorization { users: [ {user: me, password: " + stan + "} ] }\n")
	harness.StartStreamingOn(t, "nats://me:"+stan+"@"+plain)
	proxyPassword := c.in("proxy of NATS")
	proxy := harness.StartProxy(t, "me", proxyPassword, map[string]string{"nats.example:4222": users})
	at := func(address, more string) string { return "urls: 'nats://" + address + "', " + more }
	with := ", tls: " + c.tls(t)
	through := at("nats.example:4222", "proxy_url: '"+proxy.URL("me", proxyPassword)+"', user: me, password_file: "+tlstest.Write(t, name("password"), []byte(password))+with)
	return through, []string{
		through, at("me:"+password+"@"+users, "topic: urls"+with), at(users, "topic: nkey, nkey_seed_file: "+nkey+with),
		at(operator, "topic: creds, credentials: "+creds), at(tokens, "topic: token, token_file: "+tlstest.Write(t, name("token"), []byte(token))),
		at(token+"@"+tokens, "topic: tokenurl"), at(plain, "topic: stan, user: me, password: "+stan+", cluster_id: "+harness.ClusterID),
	}
}

// What is used to get in is not shown either: by nobody who got in, nor where a redirect leads that has a secret in its URL.
func TestCanariesThatGetIn(t *testing.T) {
	t.Parallel()
	c, d := newCanaries(t), &doorman{}
	c.pair(t)
	client, lost, garbled := c.in("client_secret"), c.in("redirect to nowhere"), c.in("garbled redirect")
	entries := c.entries(d)
	d.serve(t, entries)
	poller, receiver := c.guests(t)
	oauth := "oauth2: {client_id: me, client_secret: " + client + ", token_url: '" + d.URL + "/token'}"
	job := func(path, more string) string {
		return fmt.Sprintf("job_name: %s, metrics_path: /%s, static_configs: [{targets: ['%s']}]%s", path, path, d.host, more)
	}
	secret := func(where string) string { return c.secret[where] }
	write := func(name, more string) string {
		return fmt.Sprintf("name: %s, url: '%s/write/%s', protocol: 1%s", name, d.URL, name, more)
	}
	web, password := c.web(t, true)
	ours := fmt.Sprintf(`
identity: canary
scrape_interval: 1s
web: {config_file: '%s'}
poller_stream: {%s}
receiver_stream:%s
spool: {directory: '%s'}
receiver: {state_directory: '%s'}
jobs: {one: {targets: [{name: url, url: 'http://me:%s@%s/url'}]}}
scrape_configs:%s
push_gateway: {url: 'http://me:%s@%s'}
remote_write:%s
gateway: {}
`, web, poller, list(2, receiver), filepath.Join(c.dir, "spool"), filepath.Join(c.dir, "state"), secret("target url"), d.host, list(2, []string{
		job("basic", ", basic_auth: {username: me, password: "+secret("target basic_auth")+"}"), job("bearer", ", authorization: {credentials: "+secret("target authorization")+"}"),
		job("header", ", http_headers: {X-Key: {secrets: ["+secret("target header")+"]}}"), job("oauth", ", "+oauth), job("redirected", ""), job("lost", ""), job("garbled", ""),
		"job_name: discovered, http_sd_configs: [{url: '" + d.URL + "/sd', basic_auth: {username: me, password: " + secret("http_sd basic_auth") + "}}], consul_sd_configs: [{server: '" + d.host +
			"', datacenter: d, token: " + secret("consul token") + "}], puppetdb_sd_configs: [{url: '" + d.URL + "/pdb', query: x, authorization: {credentials: " + secret("puppetdb authorization") +
			"}}], kubernetes_sd_configs: [{role: node, kubeconfig_file: '" + c.kubeconfig(t, d.secure.URL, secret("cluster token")) + "'}]",
	}), secret("push_gateway url"), d.host, list(2, []string{
		write("basic", ", basic_auth: {username: me, password_file: "+tlstest.Write(t, filepath.Join(c.dir, "write"), []byte(secret("remote_write password_file")))+"}"),
		write("header", ", headers: {X-Token: "+secret("remote_write headers")+"}"), write("oauth", ", "+oauth), write("google", ", google_iam: {credentials_file: "+c.google(t, d.URL+"/google")+"}"),
		write("sigv4", ", sigv4: {region: x, access_key: me, secret_key: "+c.in("sigv4")+"}"), write("redirected", ""), write("lost", ""), write("garbled", ""),
		write("echo", ", authorization: {credentials: "+c.in("echoed authorization")+"}"),
	}))
	t.Logf("%d secrets, %s and %s among them", len(c.secret), lost, garbled)
	path := tlstest.Write(t, filepath.Join(c.dir, "in.yaml"), []byte(ours))
	visitor := &visitor{name: "me", password: password, client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	started := map[string]*harness.Product{}
	for _, mode := range []string{"receiver", "poller"} {
		p := harness.StartProduct(t, builds, mode, ports.Next(t), ours, "--log.level", "debug", "--web.enable-pprof", "--web.enable-lifecycle")
		started[mode] = p
		p.URL = strings.Replace(p.URL, "http:", "https:", 1)
		harness.Wait(t, time.Minute, mode+" is ready", func() error { return visitor.ready(p.URL) })
	}
	harness.Wait(t, time.Minute, "all doors were passed", func() error {
		if missing := d.missing(entries); len(missing) > 0 {
			return fmt.Errorf("nobody came through %v", missing)
		}
		return nil
	})
	for _, args := range [][]string{{"check", "config"}, {"check", "stream"}, {"check", "sinks"}, {"check", "targets"}, {"check", "scrape", "http://me:" + secret("target url") + "@" + d.host + "/url"}, {"inspect", "--stream"}} {
		c.looked(t, strings.Join(args, " "), harness.Run(t, builds, time.Minute, nil, append(args, "--config", path, "--log.level", "debug")...).Output)
	}
	for mode, p := range started {
		for _, page := range canaryPages {
			body, err := visitor.get(p.URL + page)
			if err != nil {
				t.Fatal(err)
			}
			c.looked(t, mode+" "+page, body)
		}
		stranger := *visitor
		stranger.password = c.in("wrong password of a visitor")
		if err := stranger.ready(p.URL); err == nil {
			t.Errorf("%s lets everybody in", mode)
		}
		p.Signal(syscall.SIGHUP)
		p.WaitOutput(30*time.Second, "reload")
		p.Signal(syscall.SIGQUIT)
		p.ExitCode(30 * time.Second)
		c.looked(t, "the log of "+mode, p.Output())
		if !strings.Contains(p.Output(), "goroutine ") {
			t.Errorf("no crash in the log of %s", mode)
		}
	}
}

// visitor reads pages that take a password.
type visitor struct {
	name, password string
	client         *http.Client
}

func (v *visitor) get(url string) (string, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	r.SetBasicAuth(v.name, v.password)
	resp, err := v.client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(resp.Body)
	return resp.Status + "\n" + body.String(), err
}

func (v *visitor) ready(base string) error {
	text, err := v.get(base + "/-/ready")
	if err == nil && !strings.HasPrefix(text, "200 ") {
		err = fmt.Errorf("it answers %s", text)
	}
	return err
}
