package scrape

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// prepared is a request as it is sent. A connection keeps its last one: the next is the same, as a rule, unless its
// credentials changed.
type prepared struct {
	url    url.URL
	host   string
	header http.Header
	bytes  []byte
}

// errLeft is that of a request which net/http refuses, so that it may.
var errLeft = errors.New("a header that cannot be sent")

// prepare gives the bytes of a request: those of the last one if it is the same. The connection may be nil.
func (c *conn) prepare(r *http.Request) (*prepared, error) {
	if c != nil && c.prepared.is(r) {
		return c.prepared, nil
	}
	return prepare(r)
}

// prepare has net/http write a request.
func prepare(r *http.Request) (*prepared, error) {
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil, errLeft
		}
	}
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		return nil, err
	}
	return &prepared{url: *r.URL, host: r.Host, header: r.Header.Clone(), bytes: bytes.Clone(out.Bytes())}, nil
}

// is tells whether a request that direct takes is sent with the same bytes.
func (p *prepared) is(r *http.Request) bool {
	if p == nil || p.url != *r.URL || p.host != r.Host || len(p.header) != len(r.Header) {
		return false
	}
	for name, values := range r.Header {
		if known, ok := p.header[name]; !ok || !slices.Equal(known, values) {
			return false
		}
	}
	return true
}
