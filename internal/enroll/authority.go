package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// requestLimit is how long one request to the CA may take.
const requestLimit = 30 * time.Second

// How much a CA may answer. A list of revoked certificates has some 40 bytes for each; tlsconf reads as much.
const (
	maxBundle      = 1 << 20
	maxLists       = 32 << 20
	maxCertificate = 64 << 10
	maxKey         = 64 << 10
	maxText        = 4 << 10
)

// laterError is what waiting may change: the CA is not reached, has trouble of its own, or nobody has signed yet.
type laterError struct{ err error }

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// refusalError is an answer of the CA with another status than 200.
type refusalError struct {
	status int
	text   string
}

func (e *refusalError) Error() string {
	return fmt.Sprintf("the CA answers %d: %s", e.status, e.text)
}

// is tells whether err is an answer of the CA with that status.
func is(err error, status int) bool {
	var r *refusalError
	return errors.As(err, &r) && r.status == status
}

// authority is the CA's HTTP interface. Until it is told whom to trust it believes everybody.
type authority struct {
	host string // host:port
	http *http.Client
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// transport, unless it is nil, stands for the network.
	transport http.RoundTripper
}

func newAuthority(host string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *authority {
	a := &authority{host: host, dial: dial}
	a.believe(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // first contact: what comes is not used before it is verified
	return a
}

// believe sets which servers are talked to from now on.
func (a *authority) believe(c *tls.Config) {
	a.close()
	c.MinVersion = tls.VersionTLS12
	var transport http.RoundTripper = &http.Transport{
		DialContext: a.dial, TLSClientConfig: c, DisableKeepAlives: true, DisableCompression: true,
		TLSHandshakeTimeout: requestLimit, MaxResponseHeaderBytes: 64 << 10,
	}
	if a.transport != nil {
		transport = a.transport
	}
	a.http = &http.Client{Transport: transport, CheckRedirect: a.redirect}
}

func (a *authority) close() {
	if a.http != nil {
		a.http.CloseIdleConnections()
	}
}

// errRedirect marks an answer that leads elsewhere.
var errRedirect = errors.New("the CA sends us elsewhere")

// redirect follows to the same server only.
func (a *authority) redirect(next *http.Request, before []*http.Request) error {
	switch first := before[0]; {
	case next.URL.Scheme != "https" || next.URL.Host != a.host || first.Method != http.MethodGet:
		return fmt.Errorf("%w, which is not followed: %s", errRedirect, printable(next.URL.Scheme+"://"+next.URL.Host+next.URL.Path))
	case len(before) > 3:
		return fmt.Errorf("%w more than 3 times", errRedirect)
	}
	return nil
}

func (a *authority) get(ctx context.Context, what string, limit int64) ([]byte, error) {
	return a.do(ctx, http.MethodGet, what, nil, limit)
}

// do asks the CA and returns the answer of at most limit bytes. The error is a *refusalError if the CA refuses, and a
// *laterError if it is worth trying again.
func (a *authority) do(ctx context.Context, method, what string, body []byte, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	address := url.URL{Scheme: "https", Host: a.host, Path: "/puppet-ca/v1/" + what}
	req, err := http.NewRequestWithContext(ctx, method, address.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the CA for %s: %w", what, err)
	}
	req.Header.Set("Accept", "text/plain")
	if body != nil {
		req.Header.Set("Content-Type", "text/plain")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, a.unreached(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxText))
		return nil, refusal(resp.StatusCode, text)
	}
	if resp.ContentLength > limit {
		return nil, tooLong(what, limit)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, &laterError{fmt.Errorf("the CA %s breaks off its answer: %w", a.host, err)}
	}
	if int64(len(data)) > limit {
		return nil, tooLong(what, limit)
	}
	return data, nil
}

func tooLong(what string, limit int64) error {
	return fmt.Errorf("the CA's answer for %s has more than %d bytes", what, limit)
}

// refusal is the error of a status that is not 200.
func refusal(status int, text []byte) error {
	r := &refusalError{status, printable(string(text))}
	if r.text == "" {
		r.text = http.StatusText(status)
	}
	if status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		return &laterError{r}
	}
	return r
}

// unreached is the error of a request without an answer. A server that is not the right one does not become it.
func (a *authority) unreached(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	var certificate *tls.CertificateVerificationError
	var revoked *revokedError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, errRedirect):
		return err
	case errors.As(err, &revoked):
		return fmt.Errorf("the server %s cannot be the CA: %w", a.host, err)
	case errors.As(err, &certificate):
		return fmt.Errorf("the server %s is not the CA that we trust: %w", a.host, certificate.Err)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch), strings.Contains(err.Error(), "malformed HTTP"):
		return fmt.Errorf("what answers at %s is no Puppet CA: %w", a.host, err)
	}
	return &laterError{fmt.Errorf("the CA %s is not reached: %w", a.host, err)}
}
