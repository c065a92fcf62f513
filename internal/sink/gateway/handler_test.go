package gateway

import (
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

func TestFilters(t *testing.T) {
	w := newWorld(t, Options{})
	w.take(site("A", "job", "a", "env", "prod"), scraped(t, gauge("m", 1), gauge("n", 2, "x", "1"), gauge("o", 3, "env", "own")))
	w.take(site("A", "job", "b", "env", "test"), scraped(t, gauge("m", 4), gauge("n", 5, "x", "1"), gauge("o", 6, "env", "own")))
	w.take(site("B&C", "job", "c"), scraped(t, gauge("m", 7)))
	for query, want := range map[string][]float64{
		"":                                      {1, 2, 3, 4, 5, 6, 7},
		"?publisher=A":                          {1, 2, 3, 4, 5, 6},
		"?publisher=B%26C":                      {7},
		"?publisher=A&publisher=B%26C":          {1, 2, 3, 4, 5, 6, 7},
		"?publisher=nobody":                     {},
		"?job=b&job=c":                          {4, 5, 6, 7},
		"?publisher=A&job=c":                    {},
		"?match[]=m":                            {1, 4, 7},
		"?match[]={job=\"a\"}":                  {1, 2, 3},
		"?match[]={env=\"prod\"}":               {1, 2},
		"?match[]={env=\"own\"}":                {3, 6},
		"?match[]={env=\"\",__name__=~%22.%22}": {7},
		"?match[]=m{job=~\"a|b\"}":              {1, 4},
		"?match[]=n{x=\"1\",env!=\"prod\"}":     {5},
		"?match[]=n&match[]=m{env=\"prod\"}":    {1, 2, 5},
		"?match[]={job=\"a\"}&match[]={job=\"a\"}&match[]=m": {1, 2, 3, 4, 7},
		"?match[]=m&publisher=A&job=b":                       {4},
		"?match[]={x!=\"\"}":                                 {2, 5},
		"?unknown=1":                                         {1, 2, 3, 4, 5, 6, 7},
	} {
		got := make(map[float64]int)
		for _, v := range without(w.series(query, acceptText)) {
			got[v]++
		}
		ok := len(got) == len(want)
		for _, v := range want {
			ok = ok && got[v] == 1
		}
		if !ok {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	if got := w.series("?match[]=up{job=~\"a|c\"}", acceptText); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t, Options{})
	for query, want := range map[string]string{
		"?match[]=m{":                           `match[]="m{": `,
		"?match[]=rate(m)":                      `match[]="rate(m)": `,
		"?match[]={a=~\"(\"}":                   `match[]="{a=~\"(\"}": `,
		"?match[]=":                             `match[]="": `,
		"?publisher=%zz":                        "query: ",
		"?" + strings.Repeat("match[]=m&", 101): "101 match[] selectors, the limit is 100",
		"?match[]=" + strings.Repeat("m", maxSelectorBytes+1): "match[] selectors of more than 65536 bytes",
	} {
		r := httptest.NewRequest(http.MethodGet, MetricsPath, nil)
		r.URL.RawQuery = query[1:]
		rec := httptest.NewRecorder()
		w.Metrics().ServeHTTP(rec, r)
		if rec.Code != http.StatusBadRequest || !strings.HasPrefix(rec.Body.String(), want) {
			t.Errorf("%.50s: %d %q, want %q", query, rec.Code, rec.Body, want)
		}
	}
	if n := testutil.ToFloat64(w.metrics.scrapes.WithLabelValues("400")); n != 7 {
		t.Errorf("%v counted", n)
	}
	for _, h := range []http.Handler{w.Metrics(), w.Targets()} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, MetricsPath, strings.NewReader("a=b")))
		if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("POST: %d, %v", rec.Code, rec.Header())
		}
	}
}

func TestNegotiation(t *testing.T) {
	w := newWorld(t, Options{})
	for accept, want := range map[string]string{
		"":    "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"*/*": "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"text/html, application/xhtml+xml, */*;q=0.8": "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"application/openmetrics-text; version=9.0.0": "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"application/openmetrics-text; version=1.0.0": "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2": "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=allow-utf-8",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited":                                                                             "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=underscores",
		"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5": "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
	} {
		if got := w.get("", accept).Header().Get("Content-Type"); got != want {
			t.Errorf("%q: got %q, want %q", accept, got, want)
		}
	}
}

func TestGzip(t *testing.T) {
	for header, want := range map[string]bool{
		"": false, "gzip": true, "deflate, GZIP;q=0.5": true, "gzip;q=0": false, "br": false, "gzip;q=x": false,
	} {
		if got := acceptsGzip([]string{header}); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
	w := newWorld(t, Options{})
	w.take(site("A", "job", "a"), scraped(t, gauge("m", 1)))
	server := httptest.NewServer(w.Metrics())
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	zr, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := body(t, zr); got != w.text("", "") {
		t.Errorf("got\n%s", got)
	}
	if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
		t.Errorf("encoding %q", got)
	}
	if testutil.ToFloat64(w.metrics.bytes) == 0 || testutil.ToFloat64(w.metrics.scrapes.WithLabelValues("200")) != 2 {
		t.Error("not counted")
	}
}

func TestTooManyScrapesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{})
		for range maxAnswers {
			g.answers <- struct{}{}
		}
		ask := func() *httptest.ResponseRecorder {
			rec := httptest.NewRecorder()
			g.Metrics().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, MetricsPath, nil))
			return rec
		}
		began := time.Now()
		if rec := ask(); rec.Code != http.StatusServiceUnavailable || time.Since(began) != answerWait {
			t.Errorf("status %d after %s", rec.Code, time.Since(began))
		}
		time.AfterFunc(time.Second, func() { <-g.answers })
		if rec := ask(); rec.Code != http.StatusOK {
			t.Errorf("status %d", rec.Code)
		}
	})
}

func TestTargetsForHTTPSD(t *testing.T) {
	for name, c := range map[string]struct {
		options            Options
		https              bool
		scheme, host, path string
	}{
		"host of the request": {Options{}, false, "http", "gw.example:9797", "/gateway/metrics"},
		"over TLS":            {Options{}, true, "https", "gw.example:9797", "/gateway/metrics"},
		"with a prefix":       {Options{RoutePrefix: "/streams/"}, false, "http", "gw.example:9797", "/streams/gateway/metrics"},
		"external address":    {Options{ExternalURL: "https://ext.example/p/", RoutePrefix: "/other"}, false, "https", "ext.example", "/p/gateway/metrics"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.options)
			ask := func() string {
				address := "http://gw.example:9797" + TargetsPath
				if c.https {
					address = "https://gw.example:9797" + TargetsPath
				}
				rec := httptest.NewRecorder()
				w.Targets().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, address, nil))
				if got := rec.Header().Get("Content-Type"); rec.Code != 200 || got != "application/json; charset=utf-8" {
					t.Fatalf("%d, %s", rec.Code, got)
				}
				return rec.Body.String()
			}
			if got := ask(); got != "[]\n" {
				t.Errorf("without targets: %s", got)
			}
			w.take(site("DC 2", "job", "b"), scraped(t, gauge("m", 1)))
			w.take(site("DC1", "job", "a"), scraped(t, gauge("m", 1)))
			w.now = w.now.Add(time.Hour) // both are silent, and stay listed
			var got []targetGroup
			if err := json.Unmarshal([]byte(ask()), &got); err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 {
				t.Fatalf("got %v", got)
			}
			for i, publisher := range []string{"DC 2", "DC1"} {
				l := got[i].Labels
				if len(got[i].Targets) != 1 || got[i].Targets[0] != c.host || len(l) != 3 || l["__scheme__"] != c.scheme ||
					l["__metrics_path__"] != c.path || l["__param_publisher"] != publisher {
					t.Errorf("got %v", got[i])
				}
			}
		})
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t, Options{})
	w.take(site("B", "job", "a"), scraped(t, gauge("m", 1)))
	w.take(site("A", "job", "b"), scraped(t, gauge("m", 1), gauge("n", 1)))
	w.take(site("B", "job", "c"), down())
	w.now = w.now.Add(7 * time.Second)
	var got []string
	for _, p := range w.Publishers() {
		if p.Age != 7*time.Second {
			t.Errorf("age %s", p.Age)
		}
		got = append(got, p.Name+" "+string(rune('0'+p.Targets))+" "+string(rune('0'+p.Series)))
	}
	if s := strings.Join(got, ", "); s != "A 1 2, B 2 1" {
		t.Errorf("publishers %s", s)
	}
	shown, total := w.Shown(2)
	if total != 3 || len(shown) != 2 || shown[0].Up || shown[0].Labels.Get("job") != "c" || shown[1].Publisher != "A" || shown[1].Age != 7*time.Second {
		t.Errorf("%d targets, first %+v", total, shown)
	}
}

// Whatever a client asks, it gets a page that can be read or a clear refusal.
func FuzzRequest(f *testing.F) {
	w := newWorld(f, Options{PublisherLabel: "publisher"})
	w.take(site("A", "job", "a", "env", "é"), scraped(f, gauge("m", 1), gauge("my.metric", 2, "a.b", "x"), gauge("o", 3, "job", "own")))
	w.take(site("B", "job", "a"), down())
	f.Add("", "")
	f.Add("publisher=A&job=a&match[]=m{env=\"x\"}", acceptOM)
	f.Add("match[]={__name__=~\".+\"}&match[]={a!=\"\"}", "text/plain;version=1.0.0;escaping=allow-utf-8")
	f.Add("match[]=%7B%22a.b%22=%22x%22%7D&%zz", "*/*;q=x,")
	f.Fuzz(func(t *testing.T, query, accept string) {
		r := httptest.NewRequest(http.MethodGet, MetricsPath, nil)
		r.URL = &url.URL{Path: MetricsPath, RawQuery: query}
		r.Header.Set("Accept", accept)
		rec := httptest.NewRecorder()
		w.Metrics().ServeHTTP(rec, r)
		switch rec.Code {
		case http.StatusOK:
			parse(t, rec.Body.Bytes(), rec.Header().Get("Content-Type"))
		case http.StatusBadRequest:
			if rec.Body.Len() == 0 {
				t.Error("a refusal without a reason")
			}
		default:
			t.Errorf("status %d", rec.Code)
		}
	})
}

// Whatever a schema that passed its checks is made of, it does not make the page unreadable.
func FuzzSchema(f *testing.F) {
	f.Add("m", "a", "b", "help", "gauge", "seconds", 1.5, "job", "j")
	f.Add("my.metric", "a.b", "\"\\\n", "h\"\\\n", "info", "\n", 0.0, "é", "\xf0\x9f\x98\x80")
	f.Add("up", "job", "x", "", "counter", "total", -1.0, "__x", "")
	f.Add("", "__name__", "", "# EOF", "x y", "", 1e300, "job", "}")
	f.Fuzz(func(t *testing.T, name, label, value, help, kind, unit string, v float64, targetLabel, targetValue string) {
		series := map[string]string{model.MetricNameLabel: name, label: value}
		s, err := frame.NewSchema(
			[]frame.Family{{Name: name, Type: model.MetricType(kind), Help: help, Unit: unit}, {Name: help, Type: model.MetricTypeCounter, Help: name}},
			[]frame.Series{{Labels: labels.FromMap(series), Family: 0}, {Labels: labels.FromStrings("__name__", "m2", "a", value), Family: 1}}, frame.DefaultLimits())
		if err != nil {
			return
		}
		w := newWorld(t, Options{PublisherLabel: "publisher"})
		fr := &frame.Frame{Kind: frame.Scraped, Schema: s, Column: frame.Column{Values: []float64{v, v}}}
		w.give(source{name, labels.FromMap(map[string]string{targetLabel: targetValue, "job": "j"}), 0}, fr)
		w.take(site("B", "job", "k"), scraped(t, gauge("m", 1)))
		for _, accept := range []string{acceptText, acceptOM, "text/plain;version=1.0.0;escaping=allow-utf-8", "application/openmetrics-text"} {
			if got := w.series("", accept); got[`{__name__="m", job="k", publisher="B"}`] != 1 {
				t.Errorf("%s: the other target's series is missing in %v", accept, got)
			}
		}
	})
}
