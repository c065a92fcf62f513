package scrape

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// clients are net/http's as Prometheus has it, and direct's.
func clients(t *testing.T, block string) (theirs, ours *http.Client) {
	t.Helper()
	h := settings(t, block).HTTP
	theirs, err := promconfig.NewClientFromConfig(h, "test")
	if err != nil {
		t.Fatal(err)
	}
	if ours, err = clientFor(h, "test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.CloseIdleConnections)
	t.Cleanup(ours.CloseIdleConnections)
	return theirs, ours
}

func TestDirectDoesAsNetHTTP(t *testing.T) {
	for _, b := range behaviours() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			theirs, ours := clients(t, "{}")
			var results [2][]got
			var servers [2]*wire
			for i, c := range []*http.Client{theirs, ours} {
				servers[i] = listen(t, b.answer)
				for range 2 {
					results[i] = append(results[i], b.ask(t, c, "http://"+servers[i].address+"/metrics"))
					time.Sleep(40 * time.Millisecond) // for what the server does to a connection that waits
				}
			}
			for i := range results[0] {
				if !results[0][i].equal(results[1][i]) {
					t.Errorf("scrape %d: net/http %v, direct %v", i, results[0][i], results[1][i])
				}
			}
			if last := results[1][1]; (last.err == "") != (b.err == "") || !strings.Contains(last.err, b.err) {
				t.Errorf("%v, want the error %q", last, b.err)
			}
			for i, name := range []string{"net/http", "direct"} {
				w := servers[i]
				w.mu.Lock()
				if (b.conns > 0 && w.conns != b.conns) || (b.requests > 0 && len(w.asked) != b.requests) {
					t.Errorf("%s: %d connections, %d requests, want %d and %d", name, w.conns, len(w.asked), b.conns, b.requests)
				}
				if w.mu.Unlock(); i == 1 && len(w.asked) > 0 && w.asked[0] != servers[0].asked[0] {
					t.Errorf("net/http asks %q, direct %q", servers[0].asked[0], w.asked[0])
				}
			}
		})
	}
}

func (b behaviour) ask(t *testing.T, c *http.Client, url string) got {
	ctx := t.Context()
	if b.timeout > 0 {
		var cancel context.CancelFunc
		if b.cancel {
			ctx, cancel = context.WithCancel(ctx)
			time.AfterFunc(b.timeout, cancel)
		} else {
			ctx, cancel = context.WithTimeout(ctx, b.timeout)
		}
		defer cancel()
	}
	return ask(ctx, c, url)
}

// What a target is sent is the same, byte for byte, whatever its settings and address.
func TestDirectSendsWhatNetHTTPSends(t *testing.T) {
	for block, direct := range map[string]bool{
		"{}":                                                 true,
		"follow_redirects: false":                            true,
		"enable_http2: false":                                true,
		"basic_auth: {username: u, password: p}":             true,
		"basic_auth: {username: u}":                          true,
		"authorization: {type: Token, credentials: c}":       true,
		"authorization: {type: Token}":                       true,
		"tls_config: {insecure_skip_verify: true}":           true,
		"http_headers: {X-Scope: {values: [a, b]}}":          false,
		"proxy_url: http://127.0.0.1:1\nno_proxy: 127.0.0.1": false,
	} {
		theirs, ours := clients(t, block)
		if suits := suitsDirect(settings(t, block).HTTP); suits != direct {
			t.Errorf("%s: direct is used: %v", block, suits)
		}
		for _, path := range []string{"", "/", "/metrics", "/a%2Fb?x=y&z=%20", "/metrics?"} {
			for _, user := range []string{"", "u:p@"} {
				var sent [2][]string
				for i, c := range []*http.Client{theirs, ours} {
					w := listen(t, say(fine, true))
					for range 2 {
						if g := ask(t.Context(), c, "http://"+user+w.address+path); g.err != "" {
							t.Fatal(g)
						}
					}
					sent[i] = w.asked
				}
				if !slices.Equal(sent[0], sent[1]) || len(sent[0]) != 2 {
					t.Errorf("%s, %q: net/http sends %q, direct %q", block, path, sent[0], sent[1])
				}
			}
		}
	}
}

// A connection sends its last request again only if the next one is the same.
func TestPreparedRequests(t *testing.T) {
	base := func() *http.Request {
		r, err := http.NewRequest(http.MethodGet, "http://h/x?y", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"A": {"b"}, "C": {"d", "e"}}
		return r
	}
	p, err := prepare(base())
	if err != nil || !p.is(base()) || (*prepared)(nil).is(base()) {
		t.Fatalf("the same request is another: %v", err)
	}
	for name, change := range map[string]func(*http.Request){
		"path":          func(r *http.Request) { r.URL.Path = "/z" },
		"query":         func(r *http.Request) { r.URL.RawQuery = "" },
		"host":          func(r *http.Request) { r.Host = "i" },
		"value":         func(r *http.Request) { r.Header.Set("A", "x") },
		"second value":  func(r *http.Request) { r.Header["C"][1] = "x" },
		"header":        func(r *http.Request) { r.Header.Set("Authorization", "x") },
		"less":          func(r *http.Request) { r.Header.Del("A") },
		"another":       func(r *http.Request) { r.Header.Del("A"); r.Header["B"] = []string{} },
		"another empty": func(r *http.Request) { r.Header.Del("A"); r.Header["B"] = nil },
	} {
		r := base()
		if change(r); p.is(r) {
			t.Errorf("%s: it is taken for the same", name)
		}
	}
}

// A redirect to another host is asked without the credentials.
func TestDirectRedirectsLikeNetHTTP(t *testing.T) {
	for _, block := range []string{"basic_auth: {username: u, password: hunter2}", "authorization: {credentials: hunter2}", "{}"} {
		theirs, ours := clients(t, block)
		var sent [2][]string
		for i, c := range []*http.Client{theirs, ours} {
			other := listen(t, say(fine, true))
			first := listen(t, func(c net.Conn, n, k int) bool {
				return say("HTTP/1.1 302 Found\r\nLocation: http://localhost:"+other.address[strings.LastIndex(other.address, ":")+1:]+"/x\r\nContent-Length: 0\r\n\r\n", true)(c, n, k)
			})
			if g := ask(t.Context(), c, "http://"+first.address+"/metrics"); g.err != "" || g.body != "a 1\n" {
				t.Fatal(g)
			}
			port := regexp.MustCompile(`localhost:\d+`)
			for _, w := range []*wire{first, other} {
				for _, r := range w.asked {
					sent[i] = append(sent[i], strings.ReplaceAll(port.ReplaceAllString(r, "OTHER"), first.address, "HOST"))
				}
			}
		}
		if !slices.Equal(sent[0], sent[1]) || len(sent[1]) != 2 || strings.Contains(sent[1][1], "hunter2") || strings.Contains(sent[1][1], "Authorization") {
			t.Errorf("%s: net/http sends %q, direct %q", block, sent[0], sent[1])
		}
	}
}

// What direct leaves to net/http: each is refused there, or done.
func TestDirectLeavesTheRest(t *testing.T) {
	var left []*http.Request
	d := newDirect(roundTripper(func(r *http.Request) (*http.Response, error) {
		left = append(left, r)
		return nil, errors.New("left")
	}))
	d.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialed") }
	for _, c := range []struct {
		method, url string
		header      http.Header
		address     string // dialed; empty if left
	}{
		{"GET", "http://h/x", nil, "h:80"},
		{"GET", "http://h:9100/x", nil, "h:9100"},
		{"GET", "http://[::1]:9100/x", nil, "[::1]:9100"},
		{"GET", "http://[fe80::1%25lo]:9100/x", nil, "[fe80::1%lo]:9100"},
		{"GET", "https://h/x", nil, ""},
		{"POST", "http://h/x", nil, ""},
		{"HEAD", "http://h/x", nil, ""},
		{"GET", "http://b\u00fccher/x", nil, ""},
		{"GET", "http:///x", nil, ""},
		{"GET", "http://h/x", http.Header{"A b": {"c"}}, ""},
		{"GET", "http://h/x", http.Header{"A": {"c\r\nd: e"}}, ""},
	} {
		r, err := http.NewRequest(c.method, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.header != nil {
			r.Header = c.header
		}
		left = nil
		address, ok := takes(r)
		_, err = d.RoundTrip(r)
		if (len(left) == 0) != (c.address != "") || (len(left) == 0 && (address != c.address || !ok)) || err == nil {
			t.Errorf("%s %s %v: %q, left %d times, error %v", c.method, c.url, c.header, address, len(left), err)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Scrapers of one client at once, some cancelled, with -race.
func TestDirectAtOnce(t *testing.T) {
	w := listen(t, func(c net.Conn, n, k int) bool {
		if n%5 == 0 {
			time.Sleep(time.Millisecond)
		}
		return say(fine, n%7 != 0)(c, n, k)
	})
	shared := &Shared{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			tg := at(t, "http://"+w.address+"/metrics")
			s, err := New(tg, Options{Shared: shared})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for i := range 50 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%3 == 0 {
					time.AfterFunc(time.Duration(i)*50*time.Microsecond, cancel)
				}
				f, err := s.Scrape(ctx)
				if cancelled := ctx.Err() != nil; !cancelled && (err != nil || f.Kind != frame.Scraped) {
					t.Errorf("scrape: %v, %v", err, s.LastError())
				}
				cancel()
			}
		})
	}
	all.Wait()
	if len(shared.clients) != 0 {
		t.Errorf("%d clients stay", len(shared.clients))
	}
}

// A redirect to https leaves direct, with the settings of the client for it.
func TestDirectRedirectsToTLS(t *testing.T) {
	server := httptest.NewTLSServer(text("a 1\n"))
	defer server.Close()
	for block, want := range map[string]string{
		"tls_config: {insecure_skip_verify: true}": "",
		"{}": "certificate",
	} {
		tg := at(t, "http://"+listen(t, say("HTTP/1.1 302 Found\r\nLocation: "+server.URL+"/x\r\nContent-Length: 0\r\n\r\n", true)).address+"/metrics")
		tg.Client = settings(t, block)
		s := scraper(t, tg)
		f := scrape(t, s)
		if err := fmt.Sprint(s.LastError()); (f.Kind == frame.Scraped) != (want == "") || !strings.Contains(err, want) {
			t.Errorf("%s: %v, %s", block, f.Kind, err)
		}
	}
}
