package scrape

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v2"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// settings are HTTP settings as a scrape config has them.
func settings(t *testing.T, text string) *target.Client {
	t.Helper()
	var h promconfig.HTTPClientConfig
	if err := yaml.UnmarshalStrict([]byte(text), &h); err != nil {
		t.Fatal(err)
	}
	return target.NewClient("j", h, "")
}

func TestSettingsOfTheClient(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	put := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(token, "first")
	var got http.Header
	answers := func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		got.Set("Path", r.URL.Path)
		text("a 1\n")(w, r)
	}
	for name, c := range map[string]struct{ block, header, want string }{
		"basic auth":    {"basic_auth: {username: u, password: p}", "Authorization", "Basic dTpw"},
		"authorization": {"authorization: {type: Token, credentials: c}", "Authorization", "Token c"},
		"bearer file":   {"authorization: {credentials_file: '" + token + "'}", "Authorization", "Bearer first"},
		"header":        {"http_headers: {X-Scope: {values: [a]}}", "X-Scope", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			tg := serve(t, answers)
			tg.Client = settings(t, c.block)
			s := scraper(t, tg)
			if f := scrape(t, s); f.Kind != frame.Scraped || got.Get(c.header) != c.want {
				t.Errorf("%s is %q, want %q; %v", c.header, got.Get(c.header), c.want, s.LastError())
			}
			if name == "bearer file" {
				put(token, "second")
				if scrape(t, s); got.Get("Authorization") != "Bearer second" {
					t.Errorf("after the file changed: %q", got.Get("Authorization"))
				}
			}
		})
	}
	t.Run("proxy", func(t *testing.T) {
		proxied := ""
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			proxied = r.URL.String()
			text("a 1\n")(w, r)
		}))
		defer proxy.Close()
		tg := at(t, "http://target.invalid:9100/metrics")
		tg.Client = settings(t, "proxy_url: "+proxy.URL)
		s := scraper(t, tg)
		if f := scrape(t, s); f.Kind != frame.Scraped || proxied != tg.URL {
			t.Errorf("the proxy was asked for %q: %v", proxied, s.LastError())
		}
	})
	t.Run("no redirects", func(t *testing.T) {
		tg := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) })
		tg.Client = settings(t, "follow_redirects: false")
		down(t, scraper(t, tg), "302")
	})
	t.Run("uncompressed and protocols", func(t *testing.T) {
		tg := serve(t, answers)
		tg.Uncompressed, tg.Protocols, tg.Escaping = true, append(tg.Protocols, "PrometheusText1.0.0"), "dots"
		scrape(t, scraper(t, tg))
		if got.Get("Accept-Encoding") != "identity" || got.Get("Accept") != "text/plain;version=1.0.0;escaping=dots;q=0.7,*/*;q=0.6" {
			t.Errorf("headers %v", got)
		}
	})
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: text("a 1\n"), ReadHeaderTimeout: time.Minute}}
	server.Start()
	defer server.Close()
	tg := at(t, "http://localhost/metrics")
	tg.Client = target.NewClient("j", promconfig.DefaultHTTPClientConfig, path)
	s := scraper(t, tg)
	if f := scrape(t, s); f.Kind != frame.Scraped {
		t.Error(s.LastError())
	}
}

func TestTLSOfTheClient(t *testing.T) {
	server := httptest.NewTLSServer(text("a 1\n"))
	defer server.Close()
	tg := at(t, server.URL)
	tg.Client = settings(t, "tls_config: {insecure_skip_verify: true}")
	s := scraper(t, tg)
	if f := scrape(t, s); f.Kind != frame.Scraped {
		t.Error(s.LastError())
	}
	tg = at(t, server.URL)
	tg.Client = settings(t, "tls_config: {server_name: x}")
	down(t, scraper(t, tg), "certificate")
	bad := settings(t, "tls_config: {ca_file: /nowhere/ca.pem}")
	if err := CheckClient(bad); err == nil || !strings.Contains(err.Error(), "/nowhere/ca.pem") || !strings.Contains(err.Error(), `"j"`) {
		t.Errorf("error %v", err)
	}
	if err := CheckClient(tg.Client); err != nil {
		t.Error(err)
	}
}

func TestSettingsDoNotFollowARedirectToAnotherHost(t *testing.T) {
	for block, header := range map[string]string{
		"basic_auth: {username: u, password: hunter2}": "Authorization",
		"authorization: {credentials: hunter2}":        "Authorization",
		"http_headers: {Cookie: {secrets: [hunter2]}}": "Cookie",
	} {
		leaked := "unset"
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			leaked = r.Header.Get(header)
			text("a 1\n")(w, r)
		}))
		first := ""
		tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			first = r.Header.Get(header)
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
		})
		tg.Client = settings(t, block)
		s := scraper(t, tg)
		if f := scrape(t, s); f.Kind != frame.Scraped || first == "" || leaked != "" {
			t.Errorf("%s: the target got %q, the other host %q; %v", block, first, leaked, s.LastError())
		}
		other.Close()
	}
}

func TestSharedClientsLiveAsLongAsTheirScrapers(t *testing.T) {
	shared := &Shared{}
	log := filepath.Join(t.TempDir(), "fail.log")
	var all []*Scraper
	for _, password := range []string{"a", "a", "b", "b"} {
		tg := at(t, "http://127.0.0.1:1/x")
		tg.Client = settings(t, "basic_auth: {username: u, password: "+password+"}")
		tg.FailureLog = log
		s, err := New(tg, Options{Shared: shared})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if all[0].client != all[1].client || all[0].client == all[2].client || all[2].client != all[3].client {
		t.Error("targets of one configuration do not share one client")
	}
	for i, want := range []int{2, 1, 1, 0} {
		if err := all[i].Close(); err != nil {
			t.Fatal(err)
		}
		_ = all[i].Close() // twice does no harm
		if i == 0 {
			continue
		}
		if len(shared.clients) != want {
			t.Errorf("%d clients after scraper %d, want %d", len(shared.clients), i, want)
		}
	}
	if len(shared.logs) != 0 {
		t.Error("a failure log is open after its scrapers")
	}
}

func TestFailureLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "fail.log")
	tg := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	tg.FailureLog, tg.Pool = log, "pool"
	tg.URL = strings.Replace(tg.URL, "http://", "http://u:hunter2@", 1)
	shared := &Shared{}
	s, err := New(tg, Options{Shared: shared})
	if err != nil {
		t.Fatal(err)
	}
	down(t, s, "503")
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	if err := shared.Reopen(); err != nil {
		t.Fatal(err)
	}
	down(t, s, "503")
	for _, name := range []string{log, log + ".1"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var line map[string]string
		if err := json.Unmarshal(b, &line); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if line["job_name"] != "pool" || !strings.Contains(line["msg"], "503") || strings.Contains(string(b), "hunter2") || line["target"] == "" {
			t.Errorf("logged %s", b)
		}
	}
	tg.FailureLog = filepath.Join(log, "no")
	if _, err := New(tg, Options{Shared: shared}); err == nil {
		t.Error("a failure log that cannot be written was taken")
	}
}

func TestRefusedIsNotAsked(t *testing.T) {
	asked := false
	tg := serve(t, func(http.ResponseWriter, *http.Request) { asked = true })
	tg.Refused = "target_limit exceeded: 3 targets, limit 2"
	down(t, scraper(t, tg), "target_limit", "3", "2")
	if asked {
		t.Error("it was asked")
	}
}

func TestGuardRefusesTheTargetThatGrows(t *testing.T) {
	n := map[string]int{"small": 30, "wild": 20}
	guard := NewGuard(100)
	metrics := NewMetrics(nil, guard)
	make1 := func(name string) *Scraper {
		tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			var b strings.Builder
			for i := range n[name] {
				fmt.Fprintf(&b, "m{i=\"%d\"} 1\n", i)
			}
			text(b.String())(w, r)
		})
		s, err := New(tg, Options{Guard: guard, Metrics: metrics})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	small, wild := make1("small"), make1("wild")
	for range 2 {
		if scrape(t, small).Kind != frame.Scraped || scrape(t, wild).Kind != frame.Scraped {
			t.Fatal(small.LastError(), wild.LastError())
		}
	}
	if guard.Held() != 50 {
		t.Errorf("held %d", guard.Held())
	}
	n["wild"] = 71
	var e *SeriesError
	down(t, wild, "series_limit", "71", "30", "100")
	if !errors.As(wild.LastError(), &e) || guard.Held() != 30 {
		t.Errorf("error %v, held %d", wild.LastError(), guard.Held())
	}
	if f := scrape(t, small); f.Kind != frame.Scraped {
		t.Errorf("the other target: %v", small.LastError())
	}
	n["wild"] = 60
	if f := scrape(t, wild); f.Kind != frame.Scraped || guard.Held() != 90 {
		t.Errorf("after it shrank: %v, held %d", wild.LastError(), guard.Held())
	}
	if err := wild.Close(); err != nil || guard.Held() != 30 {
		t.Errorf("after it went: %v, held %d", err, guard.Held())
	}
}

func TestExternalLabelsNeverReplace(t *testing.T) {
	tg := serve(t, text("a{site=\"own\",job=\"x\"} 1\nb 2\n"))
	made, err := target.FromJob("j", "i", tg.URL, target.Schedule{Interval: 5 * time.Second}, labels.FromStrings("site", "dc1", "zone", "z"))
	if err != nil {
		t.Fatal(err)
	}
	made.LabelLimit = 5
	s := scraper(t, made)
	got := samples(scrape(t, s))
	for _, want := range []string{
		`{__name__="a", exported_job="x", instance="i", job="j", site="own", zone="z"}`,
		`{__name__="b", instance="i", job="j", site="dc1", zone="z"}`,
	} {
		if _, ok := got[want]; !ok {
			t.Errorf("%s is missing in %v, %v", want, got, s.LastError())
		}
	}
}
