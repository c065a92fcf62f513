package scrape

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxHead bounds the head of an answer, with the informational ones before it, as net/http does.
	maxHead = 10 << 20
	// readAtOnce is how much is asked of a connection at a time: the head of an answer and most compressed bodies.
	readAtOnce = 32 << 10
)

// direct is an http.RoundTripper for GETs over plain http without a proxy. What the target gets and what it may answer
// is as with http.Transport, which reads the answers with the same code. But one goroutine does all, the caller's, where
// http.Transport has two more for each connection to wake up; and a connection that waits for its next scrape has no
// buffers. Everything else goes to rest.
//
// It is safe for concurrent use. The body of an answer belongs to one goroutine.
type direct struct {
	rest http.RoundTripper
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	idle idle
	// readers are *bufio.Reader of the scrapes that run.
	readers sync.Pool
}

func newDirect(rest http.RoundTripper) *direct {
	return &direct{
		rest: rest, dial: (&net.Dialer{}).DialContext, idle: idle{keep: keepIdle},
		readers: sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readAtOnce) }},
	}
}

// CloseIdleConnections closes the connections that wait for a request, as http.Client asks of its transport.
func (d *direct) CloseIdleConnections() {
	d.idle.close()
	if c, ok := d.rest.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip does a request. One that a connection from before did not take, since the server had closed it, is made
// again over a new one.
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	address, ok := takes(r)
	if !ok {
		return d.rest.RoundTrip(r)
	}
	ctx := r.Context()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c := d.idle.get(address)
	p, err := c.prepare(r)
	if err != nil {
		if c != nil {
			d.idle.put(c, c.since)
		}
		if err == errLeft {
			return d.rest.RoundTrip(r)
		}
		return nil, err
	}
	for ; ; c = nil {
		used := c != nil
		if !used {
			made, err := d.dial(ctx, "tcp", address)
			if err != nil {
				return nil, causeOr(ctx, err)
			}
			c = newConn(made, address)
		}
		c.prepared = p
		answer, err := d.exchange(c, r)
		if err == nil {
			return answer, nil
		}
		_ = c.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		stale := (*staleError)(nil)
		if !errors.As(err, &stale) {
			return nil, fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", err) // in the words that are known
		}
		if !used {
			return nil, stale.err
		}
	}
}

// takes tells whether direct does a request, and whom to ask.
func takes(r *http.Request) (address string, ok bool) {
	u := r.URL
	if u == nil || u.Scheme != "http" || u.Opaque != "" || r.Method != http.MethodGet || r.Close ||
		(r.Body != nil && r.Body != http.NoBody) || len(r.TransferEncoding)+len(r.Trailer) > 0 {
		return "", false
	}
	host, port := u.Hostname(), u.Port()
	if host == "" {
		return "", false
	}
	for i := range len(host) {
		if host[i] >= 0x80 { // a name that has to be spelled in ASCII first
			return "", false
		}
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(host, port), true
}

// exchange sends a request and reads the head of the answer, whose body gives the connection back.
func (d *direct) exchange(c *conn, r *http.Request) (*http.Response, error) {
	in := d.readers.Get().(*bufio.Reader)
	in.Reset(c)
	b := &answerBody{direct: d, conn: c, in: in, ctx: r.Context()}
	// It ends whatever the connection waits for. A connection to which this happened is not used again.
	b.stop = context.AfterFunc(b.ctx, c.interrupt)
	c.left, c.request = maxHead, c.prepared.bytes
	answer, err := head(in, r)
	if err != nil {
		if c.left <= 0 {
			err = fmt.Errorf("net/http: server response headers exceeded %d bytes; aborted", maxHead)
		}
		b.stop()
		d.putReader(in)
		return nil, err
	}
	c.left = 1<<63 - 1
	b.reusable = !answer.Close && answer.StatusCode > 199
	if answer.ContentLength == 0 || answer.StatusCode == http.StatusSwitchingProtocols {
		answer.Body = http.NoBody
		b.finish(true)
		return answer, nil
	}
	b.ReadCloser, answer.Body = answer.Body, b
	return answer, nil
}

// head reads the head of the answer that is not informational, or switches protocols.
func head(in *bufio.Reader, r *http.Request) (*http.Response, error) {
	if _, err := in.Peek(1); err != nil {
		return nil, &staleError{err}
	}
	for {
		answer, err := http.ReadResponse(in, r)
		if err != nil {
			return nil, err
		}
		if code := answer.StatusCode; code < 100 || code > 199 || code == http.StatusSwitchingProtocols {
			return answer, nil
		}
	}
}

func (d *direct) putReader(in *bufio.Reader) {
	in.Reset(nil) // it must not hold on to the connection
	d.readers.Put(in)
}

// staleError is that of a connection which ended before it gave a byte of an answer: it may have been closed before it
// was asked.
type staleError struct{ err error }

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

// causeOr is why ctx ended, if it did, else err.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// answerBody is the body of an answer. Read to its end it leaves the connection to the next request; closed before, it closes
// the connection.
type answerBody struct {
	io.ReadCloser
	direct   *direct
	conn     *conn
	in       *bufio.Reader // nil when finished
	ctx      context.Context
	stop     func() bool
	reusable bool
	err      error // after the end
}

var errBodyClosed = errors.New("http: read on closed response body")

func (b *answerBody) Read(p []byte) (int, error) {
	if b.in == nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.err = err
		if err != io.EOF {
			b.err = causeOr(b.ctx, err)
		}
		b.finish(err == io.EOF)
	}
	return n, b.err
}

func (b *answerBody) Close() error {
	if b.in != nil {
		b.finish(false)
	}
	b.err = errBodyClosed
	return nil
}

// finish lets go of the connection. whole tells that the answer was read to its end.
func (b *answerBody) finish(whole bool) {
	c, quiet := b.conn, b.in.Buffered() == 0
	b.direct.putReader(b.in)
	b.in = nil
	// Bytes after the answer are nobody's: what they say must not become the answer to the next request.
	if b.stop() && whole && b.reusable && quiet && !c.ended {
		b.direct.idle.put(c, time.Now())
		return
	}
	_ = c.Close()
}
