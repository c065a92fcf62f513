package main

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestProxyURLs(t *testing.T) {
	for raw, want := range map[string]proxyDialer{
		"http://proxy.example:3128":  {address: "proxy.example:3128"},
		"http://proxy.example":       {address: "proxy.example:80"},
		"https://[::1]":              {address: "[::1]:443", host: "::1"},
		"http://me:a%20b@proxy:8080": {address: "proxy:8080", auth: "Basic bWU6YSBi"},
	} {
		want.timeout = proxyTimeout
		if got, err := newProxyDialer(raw); err != nil || *got != want {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
	for _, raw := range []string{"socks5://a:secret@b", "http://a:secret@b:%zz"} {
		if _, err := newProxyDialer(raw); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", raw, err)
		}
	}
}

// answered is what connect makes of a proxy's answer, and what of it belongs to the server behind.
func answered(answer string) (early string, err error) {
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		defer there.Close()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		_, _ = io.WriteString(there, answer)
	}()
	_ = here.SetDeadline(time.Now().Add(5 * time.Second))
	rest, err := (&proxyDialer{}).connect(here, "nats.example:4222")
	if err != nil {
		return "", err
	}
	all, err := io.ReadAll(&proxiedConn{Conn: here, early: rest})
	return string(all), err
}

// What the server says right behind the proxy's answer is not lost, and an answer without end is not read without end.
func TestProxyAnswers(t *testing.T) {
	long := "INFO {}\r\n" + strings.Repeat("x", 2*maxProxyAnswer)
	for name, c := range map[string]struct{ answer, want, err string }{
		"early":    {"HTTP/1.1 200 OK\r\n\r\nINFO {}\r\n", "INFO {}\r\n", ""},
		"much":     {"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n" + long, long, ""},
		"refused":  {"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "", "the proxy answers 403 Forbidden"},
		"no HTTP":  {"SSH-2.0-x\r\n", "", "reading the answer of the proxy"},
		"endless":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 2*maxProxyAnswer), "", "reading the answer of the proxy"},
		"nothing":  {"", "", "reading the answer of the proxy"},
		"redirect": {"HTTP/1.1 302 Found\r\nLocation: http://x\r\n\r\n", "", "302 Found"},
	} {
		got, err := answered(c.answer)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %.40q, %v", name, got, err)
		}
	}
}

func FuzzProxyAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\n\r\nINFO {}\r\n")
	f.Add("HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")
	f.Fuzz(func(t *testing.T, answer string) {
		if early, err := answered(answer); err == nil && !strings.HasSuffix(answer, early) {
			t.Errorf("%q gives %q", answer, early)
		}
	})
}

func FuzzContext(f *testing.F) {
	f.Add([]byte(`{"url": "nats://a", "user": "b", "password": "c", "ca": "~/d"}`))
	f.Add([]byte(`{"url": ["a"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseContext(data); err == nil && c.URL == "" {
			t.Errorf("%q gives a context without a URL", data)
		}
	})
}
