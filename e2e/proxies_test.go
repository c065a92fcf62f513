package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// proxyTargets are a plain and a secure target that are known by names which only a proxy can find, and one that is
// reached without.
type proxyTargets struct {
	plain, secure, direct *httptest.Server
	caFile                string
	leaked                atomic.Int64 // requests that came with what was meant for the proxy
}

func startProxyTargets(t *testing.T) *proxyTargets {
	t.Helper()
	s := &proxyTargets{caFile: t.TempDir() + "/ca.pem"}
	ca := tlstest.NewCA(t, "ca")
	tlstest.Write(t, s.caFile, ca.PEM())
	issued := ca.Issue(t, "secure.example", time.Now().Add(time.Hour))
	pair, err := tls.X509KeyPair(issued.CertPEM, issued.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" || r.Header.Get("X-For-The-Proxy") != "" {
			s.leaked.Add(1)
		}
		w.Header().Set("Content-Type", textFormat)
		fmt.Fprintf(w, "asked_for{host=%q} 1\n", r.Host)
	})
	s.plain, s.direct = httptest.NewServer(page), httptest.NewServer(page)
	s.secure = httptest.NewUnstartedServer(page)
	s.secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.secure.StartTLS()
	for _, x := range []*httptest.Server{s.plain, s.secure, s.direct} {
		t.Cleanup(x.Close)
	}
	return s
}

// asked counts what a proxy was asked, by method and URL.
func asked(p *harness.Proxy) map[string]int {
	out := map[string]int{}
	for _, a := range p.Asked() {
		out[a.Method+" "+a.URL]++
	}
	return out
}

// Targets behind a proxy: one without TLS is asked for by its absolute URL, one with TLS through CONNECT with the headers
// of proxy_connect_header, and what no_proxy names is asked without it. proxy_from_environment does the same by the
// environment's variables. What is meant for the proxy never reaches a target.
func TestScrapesThroughProxies(t *testing.T) {
	t.Parallel()
	s := startProxyTargets(t)
	names := map[string]string{"plain.example:80": s.plain.Listener.Addr().String(), "plain.example": s.plain.Listener.Addr().String(),
		"secure.example:443": s.secure.Listener.Addr().String(), "127.0.0.1:1": s.plain.Listener.Addr().String()}
	named, environment := harness.StartProxy(t, "user", "hunter2", names), harness.StartProxy(t, "env", "hunter3", names)
	url, config := named.URL("user", "hunter2"), standaloneYAML(t, "edge", "1s", "")
	tlsConfig := "tls_config: {ca_file: " + s.caFile + "}"
	config += fmt.Sprintf(`
scrape_configs:
- {job_name: plain, proxy_url: '%[1]s', static_configs: [{targets: ['plain.example:80']}]}
- {job_name: secure, scheme: https, proxy_url: '%[1]s', %[2]s, proxy_connect_header: {X-For-The-Proxy: [hunter4]}, static_configs: [{targets: ['secure.example']}]}
- {job_name: direct, proxy_url: '%[1]s', no_proxy: 'other.example,127.0.0.0/8', static_configs: [{targets: ['%[3]s']}]}
- {job_name: refused, proxy_url: 'http://user:wrong@%[4]s', static_configs: [{targets: ['plain.example:80']}]}
- {job_name: env plain, proxy_from_environment: true, static_configs: [{targets: ['plain.example:80']}]}
- {job_name: env secure, scheme: https, proxy_from_environment: true, %[2]s, static_configs: [{targets: ['secure.example']}]}
- {job_name: env direct, proxy_from_environment: true, static_configs: [{targets: ['localhost:%[5]s']}]}
- {job_name: none, static_configs: [{targets: ['%[3]s']}]}
`, url, tlsConfig, s.direct.Listener.Addr(), strings.SplitAfter(url, "@")[1], s.direct.URL[strings.LastIndexByte(s.direct.URL, ':')+1:])
	from := environment.URL("env", "hunter3")
	p := harness.StartProductWith(t, builds, []string{"HTTP_PROXY=" + from, "HTTPS_PROXY=" + from, "NO_PROXY=localhost"}, "standalone", ports.Next(t), config).Ready(t)
	want := map[string]string{"plain": "plain.example:80", "secure": "secure.example", "direct": s.direct.Listener.Addr().String(),
		"env plain": "plain.example:80", "env secure": "secure.example", "env direct": "localhost", "none": s.direct.Listener.Addr().String()}
	harness.Wait(t, 60*time.Second, "all targets are scraped", func() error {
		page, err := p.Gateway("")
		if err != nil {
			return err
		}
		for job, host := range want {
			if up, err := page.Up(harness.Labels{"job": job}); err != nil || up != 1 {
				return fmt.Errorf("%s: up %v, %v", job, up, err)
			}
			if job != "env direct" && page.Count(harness.Labels{"job": job, "host": host}) != 1 {
				return fmt.Errorf("%s was asked for by another name than %s", job, host)
			}
		}
		up, err := page.Up(harness.Labels{"job": "refused"})
		if err == nil && up != 0 {
			err = fmt.Errorf("refused: up %v", up)
		}
		return err
	})
	for name, proxy := range map[string]*harness.Proxy{"named": named, "environment": environment} {
		got := asked(proxy)
		if len(got) != 2 || got["GET http://plain.example:80/metrics"] == 0 || got["CONNECT secure.example:443"] == 0 {
			t.Errorf("the %s proxy was asked %v", name, got)
		}
	}
	for _, a := range named.Asked() {
		if a.Method == http.MethodConnect && a.Header.Get("X-For-The-Proxy") != "hunter4" {
			t.Errorf("CONNECT with %v", a.Header)
		}
	}
	if n := s.leaked.Load(); n != 0 {
		t.Errorf("%d requests came to a target with the proxy's credentials", n)
	}
	_, body, err := harness.Get(p.URL + "/api/v1/targets?scrapePool=refused")
	if err != nil || !strings.Contains(body, "407") || strings.Contains(body, "wrong") {
		t.Errorf("%v: %s", err, body)
	}
}
