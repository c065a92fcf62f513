package scrape

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
)

// FuzzDirect has a server say anything, to direct and to net/http: both make the same of it, or both refuse it, with the
// same words.
func FuzzDirect(f *testing.F) {
	log.SetOutput(io.Discard) // net/http tells of bytes after an answer
	for _, b := range behaviours() {
		c := &taken{}
		if b.timeout == 0 && !strings.Contains(b.name, "giant") && !strings.Contains(b.name, "for ever") && !strings.Contains(b.name, "reset") {
			b.answer(c, 1, 1)
			f.Add(c.said)
		}
	}
	f.Add([]byte("HTTP/1.1 200 OK\nContent-Length: 1\n\nx"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\nx\r\n0\r\nX: y\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		answer = answer[:min(len(answer), 1<<16)] // what is longer has nothing new to say, and takes long
		dial := func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				if _, err := http.ReadRequest(bufio.NewReader(there)); err == nil {
					_, _ = there.Write(answer)
				}
			}()
			return here, nil
		}
		theirs := &http.Transport{DialContext: dial, DisableCompression: true}
		ours := newDirect(theirs)
		ours.dial = dial
		var results [2]got
		for i, rt := range []http.RoundTripper{theirs, ours} {
			c := &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			results[i] = ask(t.Context(), c, "http://h/x")
			c.CloseIdleConnections()
		}
		if strings.HasPrefix(results[0].status, "101") {
			results[0].body, results[0].err = "", "" // net/http gives the connection away, direct closes it
		}
		if !results[0].equal(results[1]) {
			t.Errorf("net/http %v, direct %v", results[0], results[1])
		}
	})
}

// taken is a connection that keeps what is said to it.
type taken struct {
	net.Conn
	said []byte
}

func (t *taken) Write(p []byte) (int, error) {
	t.said = append(t.said, p...)
	return len(p), nil
}
