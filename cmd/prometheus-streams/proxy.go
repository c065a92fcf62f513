package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	// proxyTimeout bounds what it takes to get through a proxy.
	proxyTimeout = 5 * time.Second
	// maxProxyAnswer bounds the header of its answer.
	maxProxyAnswer = 64 << 10
)

// proxyDialer opens connections through an HTTP proxy, which is asked to CONNECT.
type proxyDialer struct {
	address string // host and port
	host    string // for TLS to the proxy; "" is none
	auth    string // the value of Proxy-Authorization, or ""
	timeout time.Duration
}

func newProxyDialer(raw string) (*proxyDialer, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("not a URL") // the error would show its password
	}
	d := &proxyDialer{timeout: proxyTimeout}
	port := "80"
	switch u.Scheme {
	case "http":
	case "https":
		port, d.host = "443", u.Hostname()
	default:
		return nil, fmt.Errorf("the scheme is http or https, not %q", u.Scheme)
	}
	d.address = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	if u.User != nil {
		password, _ := u.User.Password()
		d.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	return d, nil
}

// Dial opens a connection to an address, which the proxy looks up.
func (d *proxyDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, d.address)
	if err != nil {
		return nil, fmt.Errorf("connecting to proxy: %w", err)
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if d.host != "" {
		conn = tls.Client(conn, &tls.Config{ServerName: d.host, MinVersion: tls.VersionTLS12})
	}
	early, err := d.connect(conn, address)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connecting to %s through proxy %s: %w", address, d.address, err)
	}
	_ = conn.SetDeadline(time.Time{})
	return &proxiedConn{Conn: conn, early: early}, nil
}

// connect asks for a way to an address. It gives what the server there has said already, for in NATS it speaks first.
func (d *proxyDialer) connect(conn net.Conn, address string) (early *bytes.Reader, err error) {
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if d.auth != "" {
		request.Header.Set("Proxy-Authorization", d.auth)
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxProxyAnswer))
	answer, err := http.ReadResponse(r, request)
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the proxy: %w", err)
	}
	if answer.StatusCode/100 != 2 {
		_ = answer.Body.Close()
		return nil, fmt.Errorf("the proxy answers %s", answer.Status)
	}
	rest, err := r.Peek(r.Buffered())
	return bytes.NewReader(rest), err
}

// proxiedConn is a connection of which something was read already.
type proxiedConn struct {
	net.Conn
	early *bytes.Reader
}

func (c *proxiedConn) Read(p []byte) (int, error) {
	if c.early.Len() > 0 {
		return c.early.Read(p)
	}
	return c.Conn.Read(p)
}
