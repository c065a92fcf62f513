package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/crypto/bcrypt"
)

func hello(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", text, r.URL.Path) })
}

func options() Options {
	registry := prometheus.NewRegistry()
	return Options{Addresses: []string{"127.0.0.1:0"}, Gatherer: registry, Registerer: registry}
}

func server(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPaths(t *testing.T) {
	reloaded := 0
	full := func(o *Options) {
		o.Profiling, o.EnableLifecycle = true, true
		o.Reload = func() error { reloaded++; return nil }
		o.Handlers = map[string]http.Handler{"/extra": hello("extra")}
	}
	for name, c := range map[string]struct {
		change       func(*Options)
		method, path string
		header       string
		status       int
		want         string
	}{
		"own metrics":            {nil, "GET", "/metrics", "", 200, "# TYPE promhttp_metric_handler_requests_total counter"},
		"own metrics, written":   {nil, "POST", "/metrics", "", 405, "method not allowed"},
		"healthy":                {nil, "GET", "/-/healthy", "", 200, "prometheus-streams is healthy."},
		"healthy, head":          {nil, "HEAD", "/-/healthy", "", 200, ""},
		"ready":                  {nil, "GET", "/-/ready", "", 200, "prometheus-streams is ready."},
		"not ready":              {func(o *Options) { o.Ready = func() error { return errors.New("no connection") } }, "GET", "/-/ready", "", 503, "prometheus-streams is not ready: no connection."},
		"reload disabled":        {nil, "POST", "/-/reload", "", 403, "--web.enable-lifecycle"},
		"reload by GET":          {full, "GET", "/-/reload", "", 405, "method not allowed"},
		"reload by another site": {full, "POST", "/-/reload", "cross-site", 403, "cross-origin"},
		"reload":                 {full, "POST", "/-/reload", "", 200, "read again"},
		"reload fails": {func(o *Options) {
			o.EnableLifecycle, o.Reload = true, func() error { return errors.New("config.yaml:3: bad") }
		}, "POST", "/-/reload", "", 500, "reload: config.yaml:3: bad"},
		"profiles disabled":            {nil, "GET", "/debug/pprof/", "", 404, ""},
		"profiles":                     {full, "GET", "/debug/pprof/", "", 200, "goroutine"},
		"one profile":                  {full, "GET", "/debug/pprof/heap?debug=1", "", 200, "heap profile"},
		"extra handler":                {full, "GET", "/extra", "", 200, "extra /extra"},
		"status page":                  {full, "GET", "/", "", 200, `<a href="/extra">/extra</a>`},
		"style":                        {nil, "GET", "/style.css", "", 200, "body {"},
		"nothing":                      {nil, "GET", "/nothing", "", 404, "404"},
		"with a prefix":                {func(o *Options) { full(o); o.RoutePrefix = "/a/b/" }, "GET", "/a/b/extra", "", 200, "extra /extra"},
		"beside the prefix":            {func(o *Options) { full(o); o.RoutePrefix = "/a/b/" }, "GET", "/extra", "", 404, ""},
		"links with a prefix":          {func(o *Options) { full(o); o.RoutePrefix = "a/b" }, "GET", "/a/b/", "", 200, `<a href="/a/b/extra">`},
		"profiles with a prefix":       {func(o *Options) { full(o); o.RoutePrefix = "a/b" }, "GET", "/a/b/debug/pprof/", "", 200, "goroutine"},
		"prefix of the external URL":   {func(o *Options) { full(o); o.ExternalURL = "https://x.example/p" }, "GET", "/p/-/ready", "", 200, "ready"},
		"prefix over the external URL": {func(o *Options) { o.ExternalURL, o.RoutePrefix = "https://x.example/p", "/" }, "GET", "/-/ready", "", 200, "ready"},
		"to the prefix":                {func(o *Options) { o.RoutePrefix = "/a" }, "GET", "/", "", 302, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			if c.change != nil {
				c.change(&o)
			}
			r := httptest.NewRequest(c.method, c.path, nil)
			if c.header != "" {
				r.Header.Set("Sec-Fetch-Site", c.header)
			}
			rec := httptest.NewRecorder()
			server(t, o).Handler().ServeHTTP(rec, r)
			if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
				t.Errorf("status %d, want %d; body %q, want %q", rec.Code, c.status, rec.Body, c.want)
			}
			if rec.Header().Get("X-Content-Type-Options") != "nosniff" || rec.Header().Get("X-Frame-Options") != "DENY" {
				t.Errorf("headers %v", rec.Header())
			}
		})
	}
	if reloaded != 1 {
		t.Errorf("reloaded %d times", reloaded)
	}
}

func TestStatusPage(t *testing.T) {
	o := options()
	o.Ready = func() error { return errors.New("stream <x> is missing") }
	o.Page = func() Page {
		return Page{
			Role: "receiver", Version: "1.2.3", Facts: []Fact{{"Stream", "\"PROM\" & co"}},
			Tables: []Table{
				{Title: "Targets", Columns: []string{"job", "instance"}, Note: "10 more", Rows: []Row{
					{Cells: []string{"<script>alert(1)</script>", "b"}}, {Cells: []string{"c", "d"}, Bad: true}}},
				{Title: "Empty", Columns: []string{"a", "b", "c"}},
			},
		}
	}
	rec := httptest.NewRecorder()
	server(t, o).Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	page := rec.Body.String()
	for _, want := range []string{
		"<title>prometheus-streams receiver</title>", "<dd>1.2.3</dd>", "no: stream &lt;x&gt; is missing", "<dd>&#34;PROM&#34; &amp; co</dd>",
		"<td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td>b</td>", `<tr class="bad"><td>c</td>`, "<p>10 more</p>", `<td colspan="3">none</td>`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "http://") || strings.Contains(page, "https://") {
		t.Errorf("the page has scripts or links to elsewhere\n%s", page)
	}
}

func TestBadOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte("tls_server_confg: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"no address":                     func(o *Options) { o.Addresses = nil },
		"web configuration file " + file: func(o *Options) { o.ConfigFile = file },
		"no such file":                   func(o *Options) { o.ConfigFile = file + ".not" },
		"--web.external-url":             func(o *Options) { o.ExternalURL = "x.example/p" },
		"--web.route-prefix":             func(o *Options) { o.RoutePrefix = "/a b" },
	} {
		o := options()
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	o := options()
	o.Addresses = append(o.Addresses, l.Addr().String())
	s := server(t, o)
	err = s.Listen()
	if err == nil {
		t.Fatal("listens on a port that is taken")
	}
	for _, want := range []string{l.Addr().String(), "monitor_port", "--web.listen-address", "in use"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if len(s.Addresses()) != 0 {
		t.Errorf("still listens on %v", s.Addresses())
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("runs without its addresses")
	}
}

// start runs a server and gives a function that stops it and waits.
func start(t *testing.T, s *Server) (stop func() error) {
	t.Helper()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

func get(t *testing.T, client *http.Client, url, user, password string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestRun(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	o := options()
	o.Addresses = []string{"127.0.0.1:0", "127.0.0.1:0"}
	o.Handlers = map[string]http.Handler{"/slow": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-release
		fmt.Fprint(w, "done")
	})}
	s := server(t, o)
	stop := start(t, s)
	for _, a := range s.Addresses() {
		if code, text := get(t, http.DefaultClient, "http://"+a+"/-/healthy", "", ""); code != 200 {
			t.Errorf("%s: %d %s", a, code, text)
		}
	}
	// A request that is under way when the server is to stop ends well.
	address := s.Addresses()[0]
	answer := make(chan string)
	go func() {
		_, text := get(t, http.DefaultClient, "http://"+address+"/slow", "", "")
		answer <- text
	}()
	<-began
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := <-answer; got != "done" {
		t.Errorf("got %q", got)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		_ = c.Close()
		t.Error("still listens")
	}
}

func TestRunFailsIfServingFails(t *testing.T) {
	s := server(t, options())
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.listeners {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "HTTP server: ") {
		t.Errorf("got %v", err)
	}
}

func TestTLSAndUsers(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "web.yaml")
	text := fmt.Sprintf("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\nbasic_auth_users: {joe: '%s'}\n", hash)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.ConfigFile = file
	o.Addresses = []string{"127.0.0.1:0", "127.0.0.1:0"}
	s := server(t, o)
	stop := start(t, s)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	for _, a := range s.Addresses() {
		for _, c := range []struct {
			user, password string
			want           int
		}{{"", "", 401}, {"joe", "wrong", 401}, {"joe", "secret", 200}} {
			if code, _ := get(t, client, "https://"+a+"/metrics", c.user, c.password); code != c.want {
				t.Errorf("%s as %q: %d, want %d", a, c.user, code, c.want)
			}
		}
	}
	client.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// certificate writes one for 127.0.0.1.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	return pool
}

func TestMetricsLint(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := options()
	o.Gatherer, o.Registerer = registry, registry
	s := server(t, o)
	for _, path := range []string{"/metrics", "/-/ready", "/metrics"} {
		s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP prometheus_streams_http_requests_total Requests that the HTTP server answered, by path and HTTP status code.
# TYPE prometheus_streams_http_requests_total counter
prometheus_streams_http_requests_total{code="200",handler="/-/ready"} 1
prometheus_streams_http_requests_total{code="200",handler="/metrics"} 2
`), "prometheus_streams_http_requests_total"); err != nil {
		t.Error(err)
	}
}

func FuzzPaths(f *testing.F) {
	o := options()
	o.RoutePrefix = "/p"
	o.Handlers = map[string]http.Handler{"/extra": hello("extra")}
	s, err := New(o)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GET", "/p/metrics")
	f.Add("POST", "/p/-/reload")
	f.Add("GET", "//p/../..%2f/etc/passwd?a=b")
	f.Fuzz(func(t *testing.T, method, target string) {
		r, err := http.NewRequest(method, "http://x"+target, nil)
		if err != nil {
			return
		}
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, r)
		if rec.Code < 200 || rec.Code >= 500 {
			t.Errorf("status %d", rec.Code)
		}
	})
}
