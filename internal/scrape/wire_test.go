package scrape

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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
