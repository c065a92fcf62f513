package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

func apiOf() *API {
	active := func(pool, url, health string) ActiveTarget {
		return ActiveTarget{
			DiscoveredLabels: labels.FromStrings("__address__", "h:1", "job", pool), Labels: labels.FromStrings("instance", "h:1", "job", pool),
			ScrapePool: pool, ScrapeURL: url, Health: health, ScrapeInterval: "15s", ScrapeTimeout: "10s",
			LastScrape: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), LastScrapeDuration: 0.25,
		}
	}
	return &API{
		Pools: func() []ScrapePool {
			return []ScrapePool{
				{Name: "b", Active: []ActiveTarget{active("b", "http://h:1/metrics", "up")}, DroppedCount: 2,
					Dropped: []DroppedTarget{{DiscoveredLabels: labels.FromStrings("__address__", "x"), ScrapePool: "b"}}},
				{Name: "a", Active: []ActiveTarget{active("a", "http://127.0.0.1:9/metrics", "unknown")}},
			}
		},
		Config: func() (string, error) { return "identity: edge\n", nil },
		Flags:  map[string]string{"config": "x.yaml"},
		Build:  BuildInfo{Version: "1.2.3", GoVersion: "go1"},
	}
}

func askAPI(t *testing.T, o Options, method, path string) (int, string) {
	t.Helper()
	o.Registerer = nil // one registry of several servers
	rec := httptest.NewRecorder()
	server(t, o).Handler().ServeHTTP(rec, httptest.NewRequest(method, path, nil))
	if rec.Code != http.StatusNotFound && rec.Code != http.StatusMethodNotAllowed {
		if got := rec.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: Content-Type %q", path, got)
		}
	}
	return rec.Code, rec.Body.String()
}

func TestAPI(t *testing.T) {
	const (
		a = `{"discoveredLabels":{"__address__":"h:1","job":"a"},"labels":{"instance":"h:1","job":"a"},"scrapePool":"a",` +
			`"scrapeUrl":"http://127.0.0.1:9/metrics","globalUrl":"http://edge.example:9/metrics","lastError":"",` +
			`"lastScrape":"2026-01-02T03:04:05Z","lastScrapeDuration":0.25,"health":"unknown","scrapeInterval":"15s","scrapeTimeout":"10s"}`
		b = `{"discoveredLabels":{"__address__":"h:1","job":"b"},"labels":{"instance":"h:1","job":"b"},"scrapePool":"b",` +
			`"scrapeUrl":"http://h:1/metrics","globalUrl":"http://h:1/metrics","lastError":"",` +
			`"lastScrape":"2026-01-02T03:04:05Z","lastScrapeDuration":0.25,"health":"up","scrapeInterval":"15s","scrapeTimeout":"10s"}`
		dropped = `{"discoveredLabels":{"__address__":"x"},"scrapePool":"b"}`
		counts  = `{"a":0,"b":2}`
	)
	found := func(active, dropped, counts string) string {
		return fmt.Sprintf(`{"status":"success","data":{"activeTargets":[%s],"droppedTargets":[%s],"droppedTargetCounts":%s}}`, active, dropped, counts)
	}
	for path, want := range map[string]string{
		"/api/v1/targets":                          found(a+","+b, dropped, counts),
		"/api/v1/targets?state=any":                found(a+","+b, dropped, counts),
		"/api/v1/targets?state=ACTIVE":             found(a+","+b, "", "null"),
		"/api/v1/targets?state=dropped":            found("", dropped, counts),
		"/api/v1/targets?state=nonsense":           found("", "", "null"),
		"/api/v1/targets?scrapePool=a":             found(a, "", counts),
		"/api/v1/targets?state=active&scrapePool=": found(a+","+b, "", "null"),
		"/api/v1/targets?scrapePool=none":          found("", "", counts),
		"/api/v1/scrape_pools":                     `{"status":"success","data":{"scrapePools":["a","b"]}}`,
		"/api/v1/status/config":                    `{"status":"success","data":{"yaml":"identity: edge\n"}}`,
		"/api/v1/status/flags":                     `{"status":"success","data":{"config":"x.yaml"}}`,
		"/api/v1/status/buildinfo": `{"status":"success","data":{"version":"1.2.3","revision":"","branch":"","buildUser":"","buildDate":"",` +
			`"goVersion":"go1"}}`,
	} {
		o := options()
		o.API, o.ExternalURL, o.RoutePrefix = apiOf(), "https://edge.example/p/", "/"
		if code, got := askAPI(t, o, http.MethodGet, path); code != http.StatusOK || got != want {
			t.Errorf("%s: status %d\n got %s\nwant %s", path, code, got, want)
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
			if code, _ := askAPI(t, o, method, path); code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: status %d", method, path, code)
			}
		}
		o.RoutePrefix = "/p"
		if code, got := askAPI(t, o, http.MethodGet, "/p"+path); code != http.StatusOK || got != want {
			t.Errorf("%s with a prefix: status %d, %s", path, code, got)
		}
		if code, _ := askAPI(t, options(), http.MethodGet, path); code != http.StatusNotFound {
			t.Errorf("%s of a process that has none: status %d", path, code)
		}
	}
}

func TestAPIOfNothing(t *testing.T) {
	o := options()
	o.API = &API{Pools: func() []ScrapePool { return nil }, Config: func() (string, error) { return "", errors.New("no file") }}
	if _, got := askAPI(t, o, http.MethodGet, "/api/v1/targets"); got != `{"status":"success","data":{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":{}}}` {
		t.Errorf("no targets: %s", got)
	}
	if _, got := askAPI(t, o, http.MethodGet, "/api/v1/scrape_pools"); got != `{"status":"success","data":{"scrapePools":[]}}` {
		t.Errorf("no pools: %s", got)
	}
	if code, got := askAPI(t, o, http.MethodGet, "/api/v1/status/config"); code != http.StatusInternalServerError ||
		got != `{"status":"error","errorType":"internal","error":"no file"}` {
		t.Errorf("an error: %d %s", code, got)
	}
}

// What is on this host is told by the name under which others reach it, as in Prometheus.
func TestGlobalURL(t *testing.T) {
	o := options()
	o.Addresses, o.Hostname = []string{"127.0.0.1:0"}, "edge7"
	s := server(t, o)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	_, port, _ := strings.Cut(s.Addresses()[0], ":")
	for _, tc := range []struct{ external, url, want string }{
		{"", "http://127.0.0.1:" + port + "/metrics", "http://edge7:" + port + "/metrics"},
		{"", "http://localhost:1/x?y=1", "http://edge7:1/x?y=1"},
		{"", "https://[::1]/x", "https://edge7/x"},
		{"", "http://other:1/x", "http://other:1/x"},
		{"", "", ""},
		{"https://out.example:8443/p", "http://localhost:" + port + "/p/metrics", "https://out.example:8443/p/metrics"},
		{"https://out.example:8443/p", "http://127.0.0.1:1/metrics", "http://out.example:1/metrics"},
	} {
		s.opts.ExternalURL = tc.external
		if got := s.globalURL(tc.url, s.external()); got != tc.want {
			t.Errorf("%q outside of %q: %q, want %q", tc.url, tc.external, got, tc.want)
		}
	}
}

func TestAPIManyAtOnce(t *testing.T) {
	o := options()
	o.API = apiOf()
	h := server(t, o).Handler()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/api/v1/targets", nil))
				var answer struct{ Data targetDiscovery }
				if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil || len(answer.Data.ActiveTargets) != 2 {
					t.Errorf("%v: %s", err, rec.Body)
				}
			}
		})
	}
	wg.Wait()
}
