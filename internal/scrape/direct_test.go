package scrape

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// wire is a server that says what it is told to, byte for byte, and notes what it is asked.
type wire struct {
	address string
	// answer handles the nth request of all, the kth of its connection, both from 1. The connection is closed when it
	// says false.
	answer func(c net.Conn, n, k int) bool

	mu    sync.Mutex
	asked []string
	conns int
}

func listen(t *testing.T, answer func(c net.Conn, n, k int) bool) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: l.Addr().String(), answer: answer}
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(t.Context(), func() { _ = c.Close() })
			running.Go(func() { w.serve(c) })
		}
	})
	return w
}

func (w *wire) serve(c net.Conn) {
	defer c.Close()
	w.mu.Lock()
	w.conns++
	w.mu.Unlock()
	in := bufio.NewReader(c)
	for k := 1; ; k++ {
		var request strings.Builder
		for !strings.HasSuffix(request.String(), "\r\n\r\n") {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			request.WriteString(line)
		}
		w.mu.Lock()
		w.asked = append(w.asked, strings.ReplaceAll(request.String(), w.address, "HOST"))
		n := len(w.asked)
		w.mu.Unlock()
		if !w.answer(c, n, k) {
			return
		}
	}
}

// got is what a client made of an answer.
type got struct {
	status, body, err string
	header            http.Header
}

var addresses = regexp.MustCompile(`(127\.0\.0\.1|\[::1\]):\d+`)

// kind is what an error says, whatever the ports. Whether a reset comes to light while writing or while reading is chance.
func kind(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return addresses.ReplaceAllString(err.Error(), "HOST")
}

func ask(ctx context.Context, c *http.Client, url string) got {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return got{err: err.Error()}
	}
	r.Header.Set("User-Agent", "test")
	r.Header.Set("Accept", "text/plain")
	answer, err := c.Do(r)
	if err != nil {
		return got{err: kind(err)}
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	return got{status: answer.Status, body: string(b), err: kind(err), header: answer.Header}
}

func (g got) String() string {
	if len(g.body) > 80 {
		g.body = fmt.Sprintf("%d bytes", len(g.body))
	}
	return fmt.Sprintf("%q %q %v error %q", g.status, g.body, g.header, g.err)
}

// equal compares what two clients got; how much of a body was read before the time was over is chance.
func (g got) equal(o got) bool {
	if g.err == "deadline" || g.err == "reset" {
		g.body, o.body = "", ""
	}
	return g.String() == o.String() && g.body == o.body
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n\r\na 1\n"

// say answers each request with text.
func say(text string, stay bool) func(net.Conn, int, int) bool {
	return func(c net.Conn, _, _ int) bool {
		_, err := io.WriteString(c, text)
		return stay && err == nil
	}
}

// behaviour is what a server may do. Each is asked the same by direct and by net/http.
type behaviour struct {
	name   string
	answer func(c net.Conn, n, k int) bool
	// conns and requests are how many there are after two scrapes; 0 is not looked at.
	conns, requests int
	// err is part of the error of the second scrape.
	err string
	// timeout ends each scrape, cancelled by us; 0 leaves it time.
	timeout time.Duration
	cancel  bool
}

func reset(c net.Conn) bool {
	_ = c.(*net.TCPConn).SetLinger(0)
	return false
}

func behaviours() []behaviour {
	head := "HTTP/1.1 200 OK\r\n"
	silence := func(t time.Duration) { time.Sleep(t) }
	return []behaviour{
		{name: "content length", answer: say(fine, true), conns: 1, requests: 2},
		{name: "chunked", answer: say(head+"Transfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n5;x=y\r\nb 22\n\r\n0\r\n\r\n", true), conns: 1, requests: 2},
		{name: "chunked with a trailer", answer: say(head+"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n4\r\na 1\n\r\n0\r\nX: y\r\n\r\n", true), conns: 1},
		{name: "until the connection closes", answer: say(head+"\r\na 1\n", false), conns: 2, requests: 2},
		{name: "connection: close", answer: say(strings.Replace(fine, "\r\n", "\r\nConnection: close\r\n", 1), true), conns: 2, requests: 2},
		{name: "HTTP/1.0", answer: say("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\na 1\n", true), conns: 2, requests: 2},
		{name: "HTTP/1.0 kept alive", answer: say("HTTP/1.0 200 OK\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\na 1\n", true), conns: 1, requests: 2},
		{name: "empty", answer: say(head+"Content-Length: 0\r\n\r\n", true), conns: 1, requests: 2},
		{name: "no content", answer: say("HTTP/1.1 204 No Content\r\n\r\n", true), conns: 1, requests: 2},
		{name: "not modified", answer: say("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", true), conns: 1, requests: 2},
		{name: "an error with a body", answer: say("HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nsorry", true), conns: 1, requests: 2},
		{name: "no reason phrase", answer: say("HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", true), conns: 1, requests: 2},
		{name: "informational before", answer: say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"+fine, true), conns: 1, requests: 2},
		{name: "switching protocols", answer: say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", false), conns: 2, requests: 2},
		{name: "large", answer: say(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, 1<<20, strings.Repeat("x", 1<<20)), true), conns: 1, requests: 2},
		{name: "folded and repeated headers", answer: say(head+"X: a\r\n b\r\nX: c\r\nContent-Length: 1\r\n\r\nx", true), conns: 1},
		{name: "truncated", answer: say(head+"Content-Length: 9\r\n\r\na 1\n", false), err: "unexpected EOF", conns: 2, requests: 2},
		{name: "truncated in a chunk", answer: say(head+"Transfer-Encoding: chunked\r\n\r\n9\r\na 1\n", false), err: "unexpected EOF", conns: 2},
		{name: "truncated after a chunk", answer: say(head+"Transfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n", false), err: "unexpected EOF", conns: 2},
		{name: "truncated in the head", answer: say(head+"Content-Length: 4\r\n", false), err: "unexpected EOF", conns: 2, requests: 2},
		{name: "bad chunk", answer: say(head+"Transfer-Encoding: chunked\r\n\r\nzz\r\na 1\n", false), err: "invalid byte in chunk length"},
		{name: "bad status", answer: say("HTTP/1.1 2x0 OK\r\n\r\n", false), err: "malformed HTTP status code"},
		{name: "not HTTP", answer: say("SSH-2.0-x\r\n", false), err: "malformed HTTP"},
		{name: "bad header", answer: say(head+"no colon\r\n\r\n", false), err: "malformed MIME header"},
		{name: "two lengths", answer: say(head+"Content-Length: 4\r\nContent-Length: 5\r\n\r\na 1\n", false), err: "multiple Content-Length"},
		{name: "negative length", answer: say(head+"Content-Length: -4\r\n\r\na 1\n", false), err: "Content-Length"},
		{name: "unknown transfer encoding", answer: say(head+"Transfer-Encoding: zip\r\n\r\na 1\n", false), err: "unsupported transfer encoding"},
		{name: "closed without an answer", answer: func(net.Conn, int, int) bool { return false }, err: "EOF", conns: 2, requests: 2},
		{name: "reset without an answer", answer: func(c net.Conn, _, _ int) bool { return reset(c) }, err: "reset", conns: 2, requests: 2},
		{name: "reset in the body", err: "reset", answer: func(c net.Conn, _, _ int) bool {
			_, _ = io.WriteString(c, head+"Content-Length: 9\r\n\r\na 1\n")
			silence(20 * time.Millisecond)
			return reset(c)
		}},
		{name: "giant header", err: "server response headers exceeded 10485760 bytes", answer: func(c net.Conn, _, _ int) bool {
			_, _ = io.WriteString(c, head+"X: ")
			for line := make([]byte, 1<<16); ; {
				if _, err := c.Write(line); err != nil {
					return false
				}
			}
		}},
		{name: "informational for ever", err: "server response headers exceeded 10485760 bytes", answer: func(c net.Conn, _, _ int) bool {
			for line := []byte(strings.Repeat("HTTP/1.1 102 Processing\r\nX: "+strings.Repeat("y", 4<<10)+"\r\n\r\n", 16)); ; {
				if _, err := c.Write(line); err != nil {
					return false
				}
			}
		}},
		{name: "closed while idle", conns: 2, requests: 2, answer: func(c net.Conn, _, _ int) bool {
			_, _ = io.WriteString(c, fine)
			return false
		}},
		{name: "closed at the next request", conns: 2, requests: 3, answer: func(c net.Conn, n, k int) bool {
			return k == 1 && say(fine, true)(c, n, k)
		}},
		{name: "reset at the next request", conns: 2, requests: 3, answer: func(c net.Conn, n, k int) bool {
			if k == 2 {
				return reset(c)
			}
			return say(fine, true)(c, n, k)
		}},
		{name: "closed in the next head", err: "unexpected EOF", conns: 1, requests: 2, answer: func(c net.Conn, n, k int) bool {
			if k == 2 {
				return say(head+"X: y\r\n", false)(c, n, k)
			}
			return say(fine, true)(c, n, k)
		}},
		{name: "more than the answer", answer: say(fine+strings.Replace(fine, "a 1", "b 2", 1), true), conns: 2, requests: 2},
		{name: "a timeout told while idle", conns: 2, requests: 2, answer: func(c net.Conn, n, k int) bool {
			_ = say(fine, true)(c, n, k)
			silence(10 * time.Millisecond)
			return say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", false)(c, n, k)
		}},
		{name: "slow but in time", conns: 1, requests: 2, answer: func(c net.Conn, _, _ int) bool {
			for i := range len(fine) {
				_, _ = io.WriteString(c, fine[i:i+1])
			}
			return true
		}},
		{name: "no answer in time", err: "deadline", timeout: 50 * time.Millisecond, answer: func(c net.Conn, n, k int) bool { return true }},
		{name: "slow drip", err: "deadline", timeout: 50 * time.Millisecond, answer: func(c net.Conn, _, _ int) bool {
			_, err := io.WriteString(c, head+"Content-Length: 100000\r\n\r\n")
			for err == nil {
				silence(5 * time.Millisecond)
				_, err = c.Write([]byte("x"))
			}
			return false
		}},
		{name: "slow drip of the head", err: "deadline", timeout: 50 * time.Millisecond, answer: func(c net.Conn, _, _ int) bool {
			_, err := io.WriteString(c, head+"X: ")
			for err == nil {
				silence(5 * time.Millisecond)
				_, err = c.Write([]byte("x"))
			}
			return false
		}},
		{name: "cancelled", err: "cancelled", timeout: 50 * time.Millisecond, cancel: true, answer: say(head+"Content-Length: 9\r\n\r\na 1\n", true)},
		{name: "redirect", conns: 1, requests: 4, answer: func(c net.Conn, n, k int) bool {
			if n%2 == 1 {
				return say("HTTP/1.1 302 Found\r\nLocation: /other?x=y\r\nContent-Length: 3\r\n\r\nyes", true)(c, n, k)
			}
			return say(fine, true)(c, n, k)
		}},
		{name: "redirect for ever", err: "stopped after 10 redirects", conns: 1, requests: 20,
			answer: say("HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", true)},
		{name: "redirect to where nobody listens", err: "connection refused", answer: say("HTTP/1.1 307 Moved\r\nLocation: https://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n", true)},
		{name: "redirect to nowhere", err: "unsupported protocol scheme", answer: say("HTTP/1.1 301 Moved\r\nLocation: gopher://x/\r\nContent-Length: 0\r\n\r\n", true)},
	}
}

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

// piped is a server at the other end of pipes.
type piped struct {
	mu     sync.Mutex
	opened int
	open   int
}

func (p *piped) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened++
	p.open++
	go func() {
		in := bufio.NewReader(there)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				break
			}
			_ = r.Body.Close()
			_, _ = io.WriteString(there, fine)
		}
		_ = there.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
	}()
	return here, nil
}

func (p *piped) counts() (opened, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened, p.open
}

func TestConnectionsDoNotStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &piped{}
		d := newDirect(http.DefaultTransport)
		d.dial = p.dial
		c := &http.Client{Transport: d}
		want := func(what string, opened, open int) {
			t.Helper()
			synctest.Wait()
			d.idle.mu.Lock()
			defer d.idle.mu.Unlock()
			if o, n := p.counts(); o != opened || n != open || d.idle.n != open {
				t.Errorf("%s: %d connections made, %d open, %d known, want %d and %d", what, o, n, d.idle.n, opened, open)
			}
			if open == 0 && len(d.idle.conns) != 0 {
				t.Errorf("%s: addresses are known: %v", what, d.idle.conns)
			}
		}
		get := func(url string) {
			t.Helper()
			if g := ask(t.Context(), c, url); g.body != "a 1\n" {
				t.Fatal(g)
			}
		}
		for range 3 {
			get("http://a/x")
			get("http://b/x")
		}
		want("two targets", 2, 2)
		time.Sleep(3 * time.Minute)
		get("http://a/x")
		time.Sleep(keepIdle - 3*time.Minute)
		want("one is gone for its time", 2, 1)
		time.Sleep(keepIdle)
		want("both are gone", 2, 0)
		get("http://a/x")
		c.CloseIdleConnections()
		want("the client is released", 3, 0)

		// One that is in use then is closed when it comes back.
		r, err := c.Get("http://a/x")
		if err != nil {
			t.Fatal(err)
		}
		c.CloseIdleConnections()
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Error(err)
		}
		want("it came back after that", 4, 0)
		if r, err = c.Get("http://a/x"); err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		want("a body that was not read", 5, 0)
		if _, err := r.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("reading a closed body: %v", err)
		}
		time.Sleep(2 * keepIdle)
		d.idle.mu.Lock()
		defer d.idle.mu.Unlock()
		if d.idle.sweeping {
			t.Error("a timer runs for nothing")
		}
	})
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	p := &piped{}
	i := &idle{keep: time.Hour}
	for n := range maxIdleAddress + 2 {
		c, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if i.put(newConn(c, "a"), time.Now()); i.n != min(n+1, maxIdleAddress) {
			t.Fatalf("%d of %d wait", i.n, n+1)
		}
	}
	i.close()
	if c := i.get("a"); c != nil || i.n != 0 {
		t.Error("a connection is there after all were closed")
	}
}

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
